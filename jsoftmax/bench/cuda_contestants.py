"""The contestants of the benchmark that are CUDA kernels for torch.

Each is called as its users call it, with its own choice of blocks and precision: Liger accumulates
the weight's gradient in the dtype of the weight, and Apple's leaves out the smallest gradients.
"""

from importlib import import_module

from jsoftmax.bench import torch_contestants
from jsoftmax.bench.measure import Runner
from jsoftmax.bench.problem import Data, Problem


def liger(problem: Problem, data: Data) -> Runner:
    """Prepare Liger's fused linear cross-entropy, whose gradients are computed in its forward."""
    functional = import_module("liger_kernel.transformers.functional")
    return _runner(problem, data, functional.liger_fused_linear_cross_entropy)


def apple_cce(problem: Problem, data: Data) -> Runner:
    """Prepare Apple's cut cross-entropy, which holds no logits."""
    return _runner(problem, data, import_module("cut_cross_entropy").linear_cross_entropy)


def quack(problem: Problem, data: Data) -> Runner:
    """Prepare QuACK's linear cross-entropy in chunks of rows."""
    module = import_module("quack.linear_cross_entropy")
    return _runner(problem, data, module.chunked_linear_cross_entropy)


def _runner(problem, data, function):
    if not import_module("torch").cuda.is_available():
        raise RuntimeError("torch does not see the CUDA device")
    tensors = torch_contestants.tensors(data)
    # On CUDA, running out of memory is an ordinary exception: no size is needed before.
    found = torch_contestants.runner(problem, function, tensors, arrays=0)

    def temporary():
        found.step()  # the first call also compiles and tunes, in memory of its own
        return found.temporary()

    return found._replace(temporary=temporary)
