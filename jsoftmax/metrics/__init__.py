"""Logits, labels -> accuracy, perplexity, calibration errors, and the temperature that mends them.

Scores of trials -> error rates of verification.

May import core, checks, maps, stats and losses.
"""
