"""torch's loss of logits whose classes are sharded, and ours; docs/coming_from/torch.md."""

import jax
import numpy as np
import pytest
from page_code import names_of

torch = pytest.importorskip("torch")


@pytest.fixture
def mesh():
    from torch.distributed import HashStore, destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh

    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    destroy_process_group()


def test_classes_over_devices(mesh):
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.distributed.tensor.parallel import loss_parallel

    page = names_of("docs/coming_from/torch.md")
    logits = torch.tensor(np.asarray(page["logits"]))
    logits = distribute_tensor(logits, mesh, [Shard(1)]).requires_grad_()
    with loss_parallel():
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(np.asarray(page["labels"])))
        loss.backward()
    np.testing.assert_allclose(page["loss"], loss.full_tensor().item(), rtol=1e-6)
    np.testing.assert_allclose(page["slopes"], logits.grad.full_tensor(), atol=1e-7)
    assert len(page["slopes"].sharding.device_set) == jax.device_count()
