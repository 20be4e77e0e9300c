"""Logits -> probabilities.

In: logits with a class axis, of any real dtype. Out: probabilities, or their logarithms, in the
shape and dtype of the logits. May import core.
"""
