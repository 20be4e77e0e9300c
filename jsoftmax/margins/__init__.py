"""The cosine of the true class -> its score with a margin.

In: the cosine of the angle between a feature and its class vector. Out: the score that replaces it.
`angular` has the one formula, `presets` the parameters of the published margins. May import core,
and maps for straight-through gradients.
"""
