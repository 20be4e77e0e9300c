"""The arrays that the rows are about, with what is hard in them: ties, offsets, zeros, -inf."""

import jax
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

N, C, D = 8, 6, 4  # examples, classes, features
SIZES = {"n": N, "c": C, "d": D}
DIFFERENTIABLE = {"logits", "x", "w", "centers"}


def floats(*shape, low=-10, high=10):
    """Draw numbers of few digits, many of them equal, or zero."""
    return arrays(np.float64, shape, elements=st.floats(low, high, width=16))


def bools(*shape):
    return arrays(bool, shape)


class Drawn:
    """Arrays by name, each drawn when it is asked for, and the same one for all who ask."""

    def __init__(self, draw, *, mild=False, generic=False):
        self.draw, self.mild, self.generic, self.made = draw, mild, generic, {}

    def __getitem__(self, name):
        if name not in self.made:
            self.made[name] = getattr(self, name)()
        return self.made[name]

    def _normal(self, *shape):
        return np.random.default_rng(self.draw(st.integers(0, 2**32 - 1))).normal(size=shape)

    def _one_of(self, *values):
        return self.draw(st.sampled_from(values))

    # --- logits and labels ---

    def labels(self):
        return self.draw(arrays(int, N, elements=st.integers(0, C - 1)))

    def ignored(self):
        return np.where(self.draw(bools(N)), self["labels"], -100)

    def where(self):
        """All labels' classes are left."""
        return self.draw(bools(N, C)) | (self["labels"][:, None] == np.arange(C))

    def logits(self):
        if self.mild:
            return self.draw(floats(N, C, low=-3, high=3))
        if self.generic or self.draw(st.booleans()):
            return 3 * self._normal(N, C)
        z = self.draw(floats(N, C)) * self._one_of(1, 8) + self._one_of(0, 1e3)
        return np.where(self["where"], z, -np.inf) if self.draw(st.booleans()) else z

    def teacher(self):
        return self.draw(floats(N, C, low=-5, high=5))

    def q(self):
        """Distributions; many probabilities are 0, among them those of what is left out."""
        counts = self["where"] * self.draw(arrays(int, (N, C), elements=st.integers(0, 4)))
        counts = counts + (self["labels"][:, None] == np.arange(C)) + self.mild
        return counts / counts.sum(-1, keepdims=True)

    def targets(self):
        """For each class of an example whether it holds, or how probable it is."""
        return self.draw(arrays(np.float64, (N, C), elements=st.sampled_from([0, 0.25, 1])))

    def binary(self):
        return self.draw(bools(N, C)).astype(float)

    def sample_weight(self):
        """Many are 0, but not all."""
        return self.draw(floats(N, low=0, high=2)) + (np.arange(N) == N // 2)

    def class_weight(self):
        return self.draw(floats(C, low=0, high=2))

    def bias(self):
        return self.draw(floats(C))

    def advantages(self):
        return self.draw(floats(N, low=-2, high=2))

    def key(self):
        return jax.random.key(self.draw(st.integers(0, 2**32 - 1)))

    # --- heads: away from cosines of ±1, where an inverse cosine has no digits left ---

    def x(self):
        return self._normal(N, D) * self._one_of(0.1, 1, 10)

    def w(self):
        return self._apart(self._normal(C, D) * self._one_of(0.1, 1, 10))

    def centers(self):
        return self._apart(self._normal(C, 3, D))

    def _apart(self, w):
        cosines = unit(self["x"]) @ unit(w).reshape(-1, D).T
        assume(np.abs(cosines).max() < 0.999)
        return w

    # --- trials ---

    def scores(self):
        """Some are equal."""
        return self.draw(arrays(int, 3 * N, elements=st.integers(1, 31))) / 32

    def same(self):
        """Both kinds occur."""
        first = self.draw(st.booleans())
        return np.concatenate([[first, not first], self.draw(bools(3 * N - 2))])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


NAMES = {name for name in vars(Drawn) if not name.startswith("_")}
