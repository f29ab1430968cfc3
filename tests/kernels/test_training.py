"""Promise: `optimize` gives a network over the same weights that learns the same; the network itself stays plain."""

import copy

import pytest
import torch
from torch import Tensor, nn

from spacte_core.kernels import optimize
from spacte_core.kernels.cpu import batch_norm
from spacte_core.kernels.gpu.parallel_heads import ParallelHeadsNet
from spacte_core.models import ModelConfig, MultiHeadNet, build

CPU = torch.device("cpu")
MEMBER = ModelConfig(arch="digits_cnn", heads=1, num_classes=10, input_shape=(1, 8, 8))
CONFIGS = {
    "digits_cnn": ModelConfig(arch="digits_cnn", heads=3, num_classes=10, input_shape=(1, 8, 8)),
    "cifar_resnet20": ModelConfig(arch="cifar_resnet20", heads=2, num_classes=10, input_shape=(3, 8, 8)),
    "cifar_fast16": ModelConfig(arch="cifar_fast16", heads=2, num_classes=10, input_shape=(3, 16, 16)),
    "imagenet_resnet50": ModelConfig(arch="imagenet_resnet50", heads=1, num_classes=10, input_shape=(3, 32, 32)),
    "ensemble": ModelConfig(arch="ensemble", heads=2, num_classes=10, input_shape=(1, 8, 8), members=(MEMBER, MEMBER)),
}


def network(arch: str) -> MultiHeadNet:
    torch.manual_seed(0)
    return build(CONFIGS[arch]).to(memory_format=torch.channels_last)


def fused(net: nn.Module) -> list[nn.Module]:
    return [module for module in net.modules() if isinstance(module, batch_norm.FusedBatchNorm)]


def learned(net: nn.Module, weights: MultiHeadNet, x_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, gradients and running statistics of `weights` after one pass through `net`."""
    logits = torch.stack(net(x_BCHW))
    logits.square().mean().backward()
    gradients = [p.grad for p in weights.parameters() if p.grad is not None]
    assert len(gradients) == len(list(weights.parameters()))
    joined = (
        torch.cat([part.detach().double().flatten() for part in parts]) for parts in (gradients, weights.buffers())
    )
    return logits.detach().double(), *joined


@pytest.mark.slow
@pytest.mark.parametrize("arch", CONFIGS)
def test_it_shares_its_weights_with_the_network_which_stays_plain(arch: str) -> None:
    net = network(arch)
    layers = list(map(type, net.modules()))
    names, order = list(net.state_dict()), [id(p) for p in net.parameters()]
    twin = optimize(net, CPU)
    assert fused(twin)
    assert isinstance(twin, MultiHeadNet)
    assert len(twin.heads) == len(net.heads)
    assert list(map(type, net.modules())) == layers
    assert list(net.state_dict()) == names
    assert [id(p) for p in net.parameters()] == order
    assert [id(p) for p in twin.parameters()] == order
    assert {id(b) for b in twin.buffers()} == {id(b) for b in net.buffers()}
    twin.eval()
    assert net.training
    assert not any(step.training for step in twin.modules())


@pytest.mark.slow
@pytest.mark.parametrize("arch", CONFIGS)
def test_it_learns_what_the_plain_network_learns(arch: str) -> None:
    """As near to float64 as PyTorch's own operations are; a deep network amplifies roundings."""
    net = network(arch)
    plain, exact = copy.deepcopy(net), copy.deepcopy(net).double()
    x_BCHW = torch.rand(8, *CONFIGS[arch].input_shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = learned(optimize(net, CPU), net, x_BCHW), learned(plain, plain, x_BCHW)
    for found, plain_found, true in zip(ours, theirs, learned(exact, exact, x_BCHW.double()), strict=True):
        error, plain_error = ((value - true).norm() / true.norm() for value in (found, plain_found))
        print(arch, error.item(), plain_error.item())
        assert error < 3 * plain_error + 1e-6


def test_what_cannot_be_traced_stays_as_it_is() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(16)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) if x.sum() != 1e30 else x

    net = MultiHeadNet(nn.Identity(), Branching(), [nn.Sequential(nn.BatchNorm2d(16), nn.ReLU())])
    twin = optimize(net, CPU)
    assert type(twin.backbone) is Branching
    assert len(fused(twin)) == 1
    x = torch.randn(4, 16, 4, 4)
    assert torch.allclose(twin(x)[0], net(x)[0], atol=1e-6)


def test_on_a_gpu_convolutions_and_heads_are_exchanged() -> None:
    """Nothing is computed there yet, and what is not captured on a GPU is PyTorch's."""
    pytest.importorskip("triton")
    from spacte_core.kernels.gpu.narrow_conv import NarrowConv2d

    net = network("cifar_resnet20")
    twin = optimize(net, torch.device("cuda"))
    convolutions = [module for module in twin.modules() if isinstance(module, nn.Conv2d)]
    assert {type(conv) for conv in convolutions} == {NarrowConv2d}
    assert type(twin) is ParallelHeadsNet
    assert type(net) is MultiHeadNet
    x_BCHW = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(torch.stack(twin.eval()(x_BCHW)), torch.stack(net.eval()(x_BCHW)))


@pytest.mark.parametrize(
    ("device", "switched_off"),
    [("cpu", "-batch_norm,-max_pool,-strided,-winograd"), ("cuda", "-triton_conv,-parallel_heads")],
)
def test_each_kernel_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, device: str, switched_off: str) -> None:
    monkeypatch.setenv("SPACTE_KERNELS", switched_off)
    net = network("digits_cnn")
    assert list(map(type, optimize(net, torch.device(device)).modules())) == list(map(type, net.modules()))
