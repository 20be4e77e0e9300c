"""Logits, labels -> `LogitStats`.

In: logits and integer labels, all classes at once or some. Out: the few numbers per example that
every single-label loss is a function of. May import core, checks, and maps for `logsumexp`.
"""
