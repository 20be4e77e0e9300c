"""Arithmetic, dtypes, shapes, masks and devices.

In: arrays and the options of a call. Out: the same, checked, or a value computed without loss of
precision. Knows no map, margin, statistic or loss. May import jax, numpy and chex.
"""
