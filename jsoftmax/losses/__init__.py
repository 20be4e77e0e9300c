"""`LogitStats`, or logits and labels -> one loss per example.

`of_stats` has every single-label loss as a function of `LogitStats`, `on_logits` the same losses on
logits and labels; the other losses compare whole distributions. May import core, checks, maps,
margins and stats.
"""
