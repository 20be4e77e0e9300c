"""Features, class vectors, labels -> logits, `LogitStats` or a loss; on one device or over a mesh.

What users call. In: arrays and options as the user gave them. Out: a loss, statistics, or a sample
of the classes. May import core, checks, margins, stats, losses and blockwise.
"""
