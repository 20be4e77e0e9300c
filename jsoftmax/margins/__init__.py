"""Cosines of features and class vectors -> scores with a margin, of the true class or of all.

In: the cosine of the angle between a feature and its class vector, and those of the other classes.
Out: the scores that replace them. `form` says what a margin is, and what the engine asks of it;
`angular` has the formula of most, `presets` its published parameters; then come those that depend
on norms, on hard classes, on other similarities, and what goes around a margin. May import core,
and maps for straight-through gradients.
"""
