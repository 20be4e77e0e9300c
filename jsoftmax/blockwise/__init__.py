"""The linear head by blocks of rows and classes: never `rows x classes` at once.

In: features, class vectors and labels, checked, and a loss as a function of `LogitStats`. Out: the
statistics, or a weighted sum of losses with its gradients. May import core, margins and stats;
never losses: here a loss is an argument.
"""
