"""Promise: a deep network is compiled block by block, computes what it did, and can be had back as it was written."""

import pytest
import torch

from spacte_core.models import ModelConfig, build
from spacte_trainer.compiling import blocks_of, compile_network, release, uncompiled


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # the tracer looks at it
def test_blocks_are_compiled_in_place_and_released() -> None:
    torch.manual_seed(0)
    net = build(ModelConfig(arch="cifar_resnet14", heads=2, num_classes=3, input_shape=(3, 8, 8)))
    x_BCHW = torch.rand(4, 3, 8, 8)
    names = list(net.state_dict())
    net.eval()
    wanted = torch.stack(net(x_BCHW))
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    assert compile_network(net) is net
    assert list(net.state_dict()) == names
    with uncompiled(True):
        assert torch.equal(torch.stack(net(x_BCHW)), wanted)
    assert counters["unique_graphs"] == before
    assert torch.allclose(torch.stack(net(x_BCHW)), wanted, rtol=1e-3, atol=1e-4)
    # 2 + 2 blocks of the backbone and 2 of each head, in five shapes: what is compiled is shared.
    assert len(blocks_of(net)) == 8
    assert 0 < counters["unique_graphs"] - before <= 5
    release(net)
    assert torch.equal(torch.stack(net(x_BCHW)), wanted)
