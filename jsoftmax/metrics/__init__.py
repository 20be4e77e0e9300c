"""Logits, labels -> how good the logits are, and how far to believe them.

May import core, checks, maps, stats and losses.
"""
