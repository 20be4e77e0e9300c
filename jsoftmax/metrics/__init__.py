"""Logits, labels -> accuracy, perplexity, calibration errors, and the temperature that mends them.

May import core, checks, maps, stats and losses.
"""
