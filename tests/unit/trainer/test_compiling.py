"""Promise: a deep network is compiled block by block and computes what it did; its twin stays plain."""

import pytest
import torch

from spacte_core.models import ModelConfig, build
from spacte_core.models.multihead import shared_copy
from spacte_trainer.compiling import blocks_of, compile_network, uncompiled


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the tracer looks at it
def test_blocks_are_compiled_in_a_copy_that_shares_the_weights() -> None:
    torch.manual_seed(0)
    net = build(ModelConfig(arch="cifar_resnet14", heads=2, num_classes=3, input_shape=(3, 8, 8)))
    x_BCHW = torch.rand(4, 3, 8, 8)
    names = list(net.state_dict())
    net.eval()
    wanted = torch.stack(net(x_BCHW))
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    twin = shared_copy(net)
    assert compile_network(twin) is twin
    assert list(twin.state_dict()) == names
    with uncompiled(True):
        assert torch.equal(torch.stack(twin(x_BCHW)), wanted)
    assert counters["unique_graphs"] == before
    assert torch.allclose(torch.stack(twin(x_BCHW)), wanted, rtol=1e-3, atol=1e-4)
    # 2 + 2 blocks of the backbone and 2 of each head, in five shapes: what is compiled is shared.
    assert len(blocks_of(twin)) == 8
    compiled = counters["unique_graphs"]
    assert 0 < compiled - before <= 5
    assert torch.equal(torch.stack(net(x_BCHW)), wanted), "the network itself is compiled"
    assert counters["unique_graphs"] == compiled
