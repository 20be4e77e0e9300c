"""Logits, labels -> accuracy, perplexity, calibration errors, and the temperature that mends them.

Scores of trials, or embeddings and labels, -> rates of verification and identification.
Confidences -> curves of open sets and of abstention. Any metric -> its confidence interval.

May import core, checks, maps, stats, losses and blockwise.
"""
