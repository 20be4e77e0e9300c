"""The contestants of the benchmark that run in torch, on a CUDA device if there is one."""

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

from jsoftmax.bench.measure import Runner
from jsoftmax.bench.problem import Data, Problem


def _arcface(problem):  # in degrees
    return {"margin": math.degrees(problem.number("m2")), "scale": problem.number("scale")}


def _cosface(problem):
    return {"margin": problem.number("m3"), "scale": problem.number("scale")}


def _multiplied(problem):
    return {"margin": round(problem.number("m1")), "scale": 1}


# The losses of pytorch-metric-learning, and their arguments for a problem.
METRIC_LEARNING: dict[str, tuple[str, Callable[[Problem], dict[str, Any]]]] = {
    "normface": ("NormalizedSoftmaxLoss", lambda p: {"temperature": 1 / p.number("scale")}),
    "l_softmax": ("LargeMarginSoftmaxLoss", _multiplied),
    "a_softmax": ("SphereFaceLoss", _multiplied),
    "am_softmax": ("CosFaceLoss", _cosface),
    "cosface": ("CosFaceLoss", _cosface),
    "arcface": ("ArcFaceLoss", _arcface),
    "sub_center": ("SubCenterArcFaceLoss", lambda p: _arcface(p) | {"sub_centers": p.centers}),
    "p2sgrad": ("P2SGradLoss", lambda p: {}),
}


def dense(problem: Problem, data: Data) -> Runner:
    """Prepare a matrix product and `cross_entropy`."""
    functional = import_module("torch").nn.functional

    def loss_fn(x, w, labels):
        return functional.cross_entropy(x @ w.T, labels)

    # Log-probabilities, their gradient and that of the logits.
    return runner(problem, loss_fn, tensors(data), arrays=3)


def chunked(problem: Problem, data: Data) -> Runner:
    """Prepare `linear_cross_entropy` with torch's default chunks."""
    nn = import_module("torch").nn
    if not hasattr(nn.functional, "linear_cross_entropy"):
        raise ImportError("needs torch 2.13 or newer")
    options = nn.LinearCrossEntropyOptions()

    def loss_fn(x, w, labels):
        return nn.functional.linear_cross_entropy(x, w, labels, options=options)

    return runner(problem, loss_fn, tensors(data), arrays=0)


def metric_learning(problem: Problem, data: Data) -> Runner:
    """Prepare the loss module of pytorch-metric-learning with our weight."""
    torch, losses = import_module("torch"), import_module("pytorch_metric_learning.losses")
    x, w, labels = tensors(data)
    name, options = METRIC_LEARNING[problem.margin]
    features = "descriptors_dim" if problem.margin == "p2sgrad" else "embedding_size"
    size = {"num_classes": problem.classes, features: problem.features}
    module = getattr(losses, name)(**size, **options(problem))
    held = "weight" if problem.margin == "p2sgrad" else "W"
    vectors = torch.nn.Parameter(w.reshape(-1, w.shape[-1]).T.contiguous())  # [features, vectors]
    setattr(module, held, vectors)

    def loss_fn(x, w, labels):
        return module(x, labels)

    # Cosines, the label mask, its product, logits, log-probabilities, and gradients; of all
    # sub-centers, their cosines and their gradients.
    arrays = 7 + 2 * ((problem.centers or 1) - 1)
    found = runner(problem, loss_fn, (x, vectors, labels), arrays=arrays)
    return found._replace(transposed=True)


def device_in_words() -> str:
    """Say which torch runs where."""
    torch = import_module("torch")
    cuda, threads = torch.cuda.is_available(), torch.get_num_threads()
    place = torch.cuda.get_device_name() if cuda else f"the CPU, {threads} threads"
    return f"torch {torch.__version__} runs on {place}."


def tensor(array: Any) -> Any:
    """Return a JAX array where torch runs."""
    torch = import_module("torch")
    return torch.from_dlpack(array).to("cuda" if torch.cuda.is_available() else "cpu")


def tensors(data: Data) -> tuple[Any, Any, Any]:
    """Return features, weight and labels where torch runs."""
    x, w, labels = map(tensor, data)
    return x, w, labels.long()


def runner(problem: Problem, loss_fn: Callable, given: Any, *, arrays: int) -> Runner:
    """Return the step of a loss; on a CPU it holds `arrays` arrays of rows x classes at once.

    On a CPU torch does not report its memory, and the system may kill a process that asks for too
    much. On CUDA it reports it, and running out is an ordinary exception.
    """
    torch = import_module("torch")
    x, w, labels = given
    results = 0
    if problem.backward:
        x, w = x.requires_grad_(), w.requires_grad_()
        results = x.nbytes + w.nbytes
    on_cuda = x.is_cuda
    before = 0

    def step():
        nonlocal before
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        with torch.set_grad_enabled(problem.backward):
            found = loss_fn(x, w, labels)
        if problem.backward:
            found = (found.detach(), torch.autograd.grad(found, (x, w)))
        if on_cuda:
            torch.cuda.synchronize()
        return found

    def temporary():
        return max(0, torch.cuda.max_memory_allocated() - before - results) if on_cuda else None

    logits = problem.rows * problem.classes * x.element_size()
    return Runner(step, temporary, 0 if on_cuda else arrays * logits + results)


def on_logits(function: Callable, logits: Any, cotangent: Any) -> Runner:
    """Prepare a map of logits, or its vector-Jacobian product if `cotangent` is not None."""
    torch = import_module("torch")
    z = tensor(logits)
    g = None if cotangent is None else tensor(cotangent)
    z = z if g is None else z.requires_grad_()

    def step():
        with torch.set_grad_enabled(g is not None):
            found = function(z)
        if g is not None:
            found = torch.autograd.grad(found, z, g)
        if z.is_cuda:
            torch.cuda.synchronize()
        return found

    return Runner(step, lambda: None)
