"""The cosine of the true class -> its score with a margin.

In: a cosine, or an angle. Out: the score that takes its place. `angular` has the one formula,
`presets` the numbers of the published margins. May import core, and maps for straight-through
gradients.
"""
