"""Arithmetic, dtypes, shapes, masks and devices.

In: arrays and what a caller wrote for an option. Out: the same checked, or a number computed such
that no digit is lost. Knows no map, margin, statistic or loss. May import jax, numpy and chex.
"""
