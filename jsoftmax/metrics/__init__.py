"""Logits, labels -> accuracy, perplexity, calibration errors, and the temperature that mends them.

Scores of trials, or embeddings and labels, -> rates of verification and identification.

May import core, checks, maps, stats, losses and blockwise.
"""
