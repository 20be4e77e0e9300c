"""The implementations of a linear head's loss and gradients that the benchmark compares.

Each function that calls a library returns a function `(features, weight, labels) -> mean loss`,
written as the library's users would write it. Those of torch are in torch_contestants.py, those of
CUDA kernels in cuda_contestants.py.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

import jsoftmax as js
from jsoftmax.bench import cuda_contestants, torch_contestants
from jsoftmax.bench.measure import Runner, compiled
from jsoftmax.bench.problem import DISTILLATION, WITH_OWN_LOSS, Data, Problem

TEMPERATURE = 2.0  # of the distillation
_MODULES = {"quack-kernels": "quack"}  # not named as what is installed
_COMPILER = ("torch._dynamo", "torch._inductor.utils")  # torch imports them when they are needed
# Where what is called is.
_PARTS = {
    "liger-kernel": ("liger_kernel.transformers.functional",),
    "quack-kernels": ("quack.linear_cross_entropy",),
}


class Contestant(NamedTuple):
    """One implementation; `prepare` makes it ready to run on given data.

    Its step returns the loss, or (loss, (gradient of the features, gradient of the weight)).
    `packages` are the packages that it needs, by the names under which they are installed; those
    of `on_cuda` contestants run nowhere else.
    """

    name: str
    prepare: Callable[[Problem, Data], Runner]
    offered: Callable[[Problem], bool] = lambda problem: True
    packages: tuple[str, ...] = ()
    on_cuda: bool = False

    def missing(self) -> list[str]:
        """Return the packages that are not installed."""
        return [name for name in self.packages if find_spec(_module(name)) is None]

    @property
    def in_torch(self) -> bool:
        """Whether it runs in torch, so that nothing is compiled before its first step."""
        return "torch" in self.packages

    def imported(self) -> "Contestant":
        """Import its packages; if that fails, `prepare` of what is returned raises the error.

        To be called for one after the other before they are prepared in several threads, where
        torch finds its own modules half imported.
        """
        failures = [failure for name in self.packages if (failure := import_failure(name))]
        return self._replace(prepare=partial(_raising, failures[0])) if failures else self


def _raising(error, problem, data):
    raise error


def _module(package):
    return _MODULES.get(package, package.replace("-", "_"))


@cache
def import_failure(package: str) -> Exception | None:
    """Import a package and what it would import later; return why that fails, or None.

    It is tried once: a second time the error would be that of something half imported.
    """
    try:
        import_module(_module(package))
        if package == "torch":  # not in every version, nor needed by every contestant
            for part in _COMPILER:
                with suppress(Exception):
                    import_module(part)
        for part in _PARTS.get(package, ()):
            import_module(part)
    except Exception as failure:
        return failure
    return None


def matrix_products(problem: Problem, data: Data) -> Runner:
    """Compile the matrix products that every exact implementation needs: the floor."""
    teacher = problem.teacher() if problem.loss == DISTILLATION else None

    def products(x, w, labels):
        if teacher is not None:  # whose products are not computed if nobody reads them
            others = lax.optimization_barrier(_dot(teacher.features, teacher.weight, 1, 1))
            x = x + (0 * others[0, 0]).astype(x.dtype)
        w, shape = w.reshape(-1, w.shape[-1]), w.shape  # of sub-centers: each is a vector
        # The barriers stand where the loss would be computed: no operation moves across them.
        z = lax.optimization_barrier(_dot(x, w, 1, 1))
        if not problem.backward:
            return z[0, 0]
        dz = lax.optimization_barrier(z.astype(x.dtype))
        dx, dw = _dot(dz, w, 1, 0).astype(x.dtype), _dot(dz, x, 0, 0).astype(w.dtype)
        return z[0, 0], (dx, dw.reshape(shape))

    return compiled(products, *data)


def _dot(a, b, axis_a, axis_b):
    axes = (((axis_a,), (axis_b,)), ((), ()))
    return lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def in_jax(
    make: Callable[[Problem], Callable], problem: Problem, data: Data, *, transposed: bool = False
) -> Runner:
    """Compile the loss that `make` returns, with its gradients if the problem asks for them."""
    loss_fn = make(problem)
    if problem.backward:
        loss_fn = jax.value_and_grad(loss_fn, (0, 1))
    # A library gets the weight in the layout it expects, copied before timing starts.
    weight = data.weight.T if transposed else data.weight
    runner = compiled(loss_fn, data.features, weight, data.labels)
    return runner._replace(transposed=transposed)


def jsoftmax_blocks(problem: Problem, *, by: str | None = None) -> Callable:
    """`linear_loss`, with the blocks that it chooses, or by rows, or by classes."""
    rows, classes, pieces = problem.rows, problem.classes, problem.blocks
    options: dict[str, int] = {}
    if by == "rows" or (pieces and by is None):
        options["row_block"] = -(-rows // pieces) if pieces else max(256, 4 * problem.features // 5)
    if by == "classes" or pieces:
        options["class_block"] = -(-classes // pieces) if pieces else max(1024, 2**22 // rows)
    return in_blocks(problem, **options)


def in_blocks(
    problem: Problem, *, row_block: int | None = None, class_block: int | None = None
) -> Callable:
    """`linear_loss` with the given blocks, or `linear_distillation_loss`."""
    blocks = {"row_block": row_block, "class_block": class_block}
    if problem.loss == DISTILLATION:
        teacher = problem.teacher()[:2]
        return lambda x, w, labels: js.linear_distillation_loss(
            x, w, *teacher, temperature=TEMPERATURE, **blocks
        )
    return partial(
        js.linear_loss,
        loss=problem.loss_function(),
        loss_args=problem.loss_args(),
        margin=problem.head_margin(),
        bias=problem.bias(),
        **blocks,
    )


def jsoftmax_dense(problem: Problem) -> Callable:
    """`linear_logits`, then a loss on logits."""
    if problem.loss == DISTILLATION:
        teacher = problem.teacher()[:2]

        def distil(x, w, labels):
            logits = js.linear_logits(x, w), js.linear_logits(*teacher)
            return js.distillation_loss(*logits, temperature=TEMPERATURE).mean()

        return distil

    def loss_fn(x, w, labels):
        given = {"margin": problem.head_margin(), "bias": problem.bias()}
        logits = js.linear_logits(x, w, labels, **given)
        if problem.loss == "nll" and problem.margin not in WITH_OWN_LOSS:
            return js.cross_entropy(logits, labels).mean()
        return problem.loss_function()(js.logit_stats(logits, labels), *problem.loss_args()).mean()

    return loss_fn


def optax_dense(problem: Problem) -> Callable:
    """Logits and the formula of the margin in plain JAX, then optax's loss."""
    optax = import_module("optax")

    def unit(vectors):
        return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)

    def loss_fn(x, w, labels):
        if problem.margin == "none":
            logits = x @ w.T
        else:
            cosine = unit(x) @ unit(w).T
            hot = jax.nn.one_hot(labels, len(w), dtype=cosine.dtype)
            if problem.margin == "arcface":
                cosine = jnp.cos(jnp.arccos(jnp.clip(cosine, -1, 1)) + problem.number("m2") * hot)
            else:
                cosine = cosine - problem.number("m3") * hot
            logits = problem.number("scale") * cosine
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return loss_fn


def jax_cce(problem: Problem) -> Callable:
    """jax-cce, with its default block sizes."""
    return import_module("jax_cce").linear_cross_entropy


def tokamax(problem: Problem, *, implementation: str | None = None) -> Callable:
    """Tokamax, with its default implementation for the device or the given one."""
    function = import_module("tokamax").linear_softmax_cross_entropy_loss
    flags = import_module("absl.flags").FLAGS
    if not flags.is_parsed():  # otherwise it would parse our command line
        flags([sys.argv[0]])
    options = {"reduction": "mean", "implementation": implementation}
    return lambda x, w, labels: function(x, labels, w, **options)


def _plain(problem):
    return problem.loss == "nll" and problem.margin == "none"


def _face(problem):
    return problem.loss == "nll" and problem.margin in ("arcface", "cosface")


def _in_metric_learning(problem):
    return problem.loss == "nll" and problem.margin in torch_contestants.METRIC_LEARNING


def _plain_or_face(problem):
    return _plain(problem) or _face(problem)


FLOOR = "matrix-products"
_by_rows, _by_classes = (partial(jsoftmax_blocks, by=by) for by in ("rows", "classes"))
_tokamax_chunked = partial(tokamax, implementation="chunked_xla")
CONTESTANTS = [
    Contestant(FLOOR, matrix_products),
    Contestant("jsoftmax", partial(in_jax, jsoftmax_blocks)),
    Contestant("jsoftmax-rows", partial(in_jax, _by_rows)),
    Contestant("jsoftmax-classes", partial(in_jax, _by_classes)),
    Contestant("jsoftmax-dense", partial(in_jax, jsoftmax_dense)),
    Contestant("optax-dense", partial(in_jax, optax_dense), _plain_or_face, ("optax",)),
    Contestant("jax-cce", partial(in_jax, jax_cce), _plain, ("jax-cce",)),
    Contestant("tokamax", partial(in_jax, tokamax, transposed=True), _plain, ("tokamax",)),
    Contestant(
        "tokamax-chunked", partial(in_jax, _tokamax_chunked, transposed=True), _plain, ("tokamax",)
    ),
    Contestant("torch-chunked", torch_contestants.chunked, _plain, ("torch",)),
    Contestant("torch-dense", torch_contestants.dense, _plain, ("torch",)),
    Contestant(
        "torch-metric-learning",
        torch_contestants.metric_learning,
        _in_metric_learning,
        ("torch", "pytorch-metric-learning"),
    ),
    Contestant("liger", cuda_contestants.liger, _plain, ("torch", "liger-kernel"), on_cuda=True),
    Contestant(
        "apple-cce",
        cuda_contestants.apple_cce,
        _plain,
        ("torch", "cut-cross-entropy"),
        on_cuda=True,
    ),
    Contestant("quack", cuda_contestants.quack, _plain, ("torch", "quack-kernels"), on_cuda=True),
]


def entrants(problem: Problem, wanted: list[Contestant]) -> tuple[list[Contestant], list[str]]:
    """Return those that can take part, and notes on the others."""
    offered = [c for c in wanted if c.offered(problem)]
    notes = []
    if others := [c.name for c in wanted if not c.offered(problem)]:
        notes.append(f"Not for this loss and margin: {', '.join(others)}")
    if jax.default_backend() != "gpu":
        if others := [c.name for c in offered if c.on_cuda]:
            notes.append(f"Only on a CUDA device: {', '.join(others)}")
        offered = [c for c in offered if not c.on_cuda]
    if packages := list(dict.fromkeys(name for c in offered for name in c.missing())):
        notes.append(f"Not installed: {', '.join(packages)} (pip install {' '.join(packages)})")
    return [c for c in offered if not c.missing()], notes
