"""Promise: folding, fusing and quantising change a network's speed, and its values no more than they say."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from spacte_core.forms import logits_of, plain
from spacte_core.hardware import computes_bf16, cpu_flags
from spacte_core.kernels.cpu.onednn import OneDnnConv, to_onednn
from spacte_core.kernels.cpu.targets import target_for
from spacte_core.kernels.graph.folding import fold_batch_norm
from spacte_core.kernels.graph.fusing import FusedConv, fuse, fused_convs
from spacte_core.kernels.graph.tracing import trace
from spacte_core.kernels.int8 import layers
from spacte_core.kernels.int8.layers import Codes, Decode, Encode, codes_for, pack
from spacte_core.kernels.int8.quantiser import Quantiser
from spacte_core.kernels.int8.ranges import RangeObserver
from spacte_core.kernels.int8.rounding import Rounded, WeightRounder, round_weights
from spacte_core.kernels.int8.windows import Windows
from spacte_workers.engine.calibration import noisy_rows
from spacte_workers.engine.decomposition import decompose
from spacte_workers.engine.forms import forms
from spacte_workers.engine.self_checks import is_one_function


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Block(nn.Module):
    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.short = nn.Sequential()
        if stride > 1:
            self.short = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride), nn.BatchNorm2d(channels))

    def forward(self, x):
        h = nn.functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return nn.functional.relu(self.bn2(self.conv2(h)) + self.short(x), inplace=True)


class Residual(nn.Module):
    """A stem, an identity and a downsampling block, pooling, and a residual that is used again later."""

    def __init__(self, groups=1):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.pool = nn.MaxPool2d(2)
        self.same = Block(8, 8, 1)
        self.down = Block(8, 16, 2)
        self.tied = nn.Conv2d(16, 16, 3, 1, 1, groups=groups)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        h = self.same(self.pool(torch.relu(self.stem(x))))
        h = self.down(h)
        kept = torch.relu(self.tied(h))
        h = torch.relu(self.tied(kept) + h)  # the same layer twice; h is read here for the last time
        h = h + kept
        return self.fc(h.mean((2, 3)))


def settled(net, seed=0):
    """Seeded weights, and batch normalisation with statistics far from the neutral ones."""
    torch.manual_seed(seed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return net.eval().requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def net():
    return settled(Residual())


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(3)
    return torch.randn(8, 3, 12, 12).contiguous(memory_format=torch.channels_last)


def test_folding_keeps_the_function(net, batch):
    folded = fold_batch_norm(trace(net))
    assert not [layer for layer in folded.modules() if isinstance(layer, nn.BatchNorm2d)]
    torch.testing.assert_close(folded(batch), net(batch), rtol=1e-4, atol=1e-4)


def test_folding_leaves_the_module_alone(net, batch):
    before = net(batch)
    fold_batch_norm(trace(net))
    assert torch.equal(net(batch), before)


def test_batch_norm_that_learns_from_the_batch_is_not_folded():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in fold_batch_norm(trace(net)).modules())


@pytest.mark.parametrize("backend", [False, True])
def test_fusing_keeps_the_function_and_its_inputs(net, batch, backend):
    fused = fuse(fold_batch_norm(trace(net)))
    steps = [step for _, step in fused_convs(fused)]
    assert len(steps) == 8
    assert any(step.in_place for step in steps)
    if backend:
        fused = to_onednn(fused, batch[:2], len(batch))
    given = batch.clone()
    for _ in range(2):
        torch.testing.assert_close(fused(batch), net(batch), rtol=1e-4, atol=1e-4)
    assert torch.equal(batch, given)


def test_a_residual_that_is_read_again_is_not_overwritten(net):
    fused = fuse(fold_batch_norm(trace(net)))
    for node, step in fused_convs(fused):
        if len(node.args) == 2 and step.in_place:
            assert max(node.args[1].users, key=list(fused.graph.nodes).index) is node


def exact(step: FusedConv, weights: Rounded, source: Codes, x, other, other_codes, made):
    """What codes the step should give, in float64 from the codes it gets."""
    conv = step.conv
    weight = weights.codes.double() * weights.scale_O.double()[:, None, None, None]
    value = (x.double() - source.zero) * source.scale
    y = nn.functional.conv2d(value, weight, conv.bias.double(), conv.stride, conv.padding, conv.dilation, conv.groups)
    if other is not None:
        y = y + (Decode(other_codes)(other).double() if other_codes else other.double())
    y = y.relu() if step.relu else y
    if made is None:
        return y
    lift = 0 if made.lift_C is None else made.lift_C[:, None, None]
    return ((y + lift) / made.scale + made.zero).round().clamp(0, 255)


@pytest.mark.parametrize("saturates", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
def test_every_int8_step_is_exact(batch, groups, saturates, monkeypatch):
    """Each step's codes are the rounded exact values for its input codes; ties may fall either way.

    Also where oneDNN cuts sums of codes off, which is either true here or is said to be.
    """
    if saturates:
        monkeypatch.setattr(layers, "onednn_saturates", lambda: True)
    fused = fuse(fold_batch_norm(trace(settled(Residual(groups)))))
    observer = RangeObserver(fused)
    observer.run(batch)
    pixels = next(iter(fused.graph.nodes)).name
    ranges = observer.ranges()
    given = codes_for(ranges[pixels].low, ranges[pixels].high)
    rounder = WeightRounder(fused)
    rounder.round(batch)
    quantiser = Quantiser(fused, ranges, given, len(batch), rounder.rounded)
    coded, _ = quantiser.run()
    pack(coded)
    kernels = {str(quantiser.new[node].target): step for node, step in fused_convs(fused)}
    targets = {str(quantiser.new[node].target): str(node.target) for node, _ in fused_convs(fused)}
    seen, lifted = 0, 0

    class Comparing(torch.fx.Interpreter):
        def run_node(self, n):
            nonlocal seen, lifted
            args = [a.clone() for a in self.fetch_args_kwargs_from_env(n)[0] if isinstance(a, torch.Tensor)]
            result = super().run_node(n)
            if n.target in kernels:
                kernel = coded.get_submodule(n.target)
                weights, other = rounder.rounded[targets[n.target]], args[1] if len(args) > 1 else None
                wanted = exact(kernels[n.target], weights, kernel.source, args[0], other, kernel.other, kernel.result)
                tolerance = 1 if result.dtype == torch.uint8 else 1e-3
                assert (result.double() - wanted).abs().max() <= tolerance
                assert (result.double() - wanted).abs().mean() < 0.01
                seen += 1
                lifted += kernel.result is not None and kernel.result.lift_C is not None
            return result

    Comparing(coded).run(Encode(given)(batch).contiguous(memory_format=torch.channels_last))
    assert seen == 8
    assert lifted == 1


def test_whether_sums_of_codes_are_cut_off_is_seen():
    """By a sum, whatever the name of the processor; its flags say the same where oneDNN may use all of them."""
    assert layers.onednn_saturates() in (True, False)
    flags = cpu_flags()
    if "avx2" in flags and "ONEDNN_MAX_CPU_ISA" not in os.environ:
        exact = {"avx512_vnni", "avx_vnni", "amx_int8"} & flags
        assert layers.onednn_saturates() == (not exact)
        command = "from spacte_core.kernels.int8.layers import onednn_saturates; print(onednn_saturates())"
        held = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
        done = subprocess.run([sys.executable, "-c", command], env=held, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "True"


@pytest.mark.parametrize("geometry", [(3, 1, 1, 1), (3, 2, 1, 1), (1, 2, 0, 1), (3, 1, 2, 2)])
def test_errors_of_rounding_make_up_for_each_other(geometry):
    """The layer's results are nearer to the exact ones than with the nearest codes, also for other inputs."""
    kernel, stride, padding, dilation = geometry
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, kernel, stride, padding, dilation).double()
    mix = torch.randn(8, 8, dtype=torch.float64)  # inputs are correlated, as those of real layers are

    def inputs(seed):
        x = torch.randn(16, 8, 10, 9, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return torch.einsum("ij,bjhw->bihw", mix, x).relu()

    def error(weight):
        wanted = conv(inputs(2))
        y = nn.functional.conv2d(inputs(2), weight, conv.bias, conv.stride, conv.padding, conv.dilation)
        return (y - wanted).square().mean().sqrt().item()

    made = round_weights(conv, Windows(conv, inputs(1)))
    scale = made.scale_O.double()[:, None, None, None]
    assert made.codes.dtype == torch.int8
    assert made.codes.abs().max() <= 127
    nearest = (conv.weight / scale).round() * scale
    assert (made.codes * scale - conv.weight).abs().max() < 10 * scale.max()
    assert error(made.codes * scale) < 0.85 * error(nearest)


def test_rounding_by_blocks_is_rounding_one_weight_after_the_other():
    """With the patches of PyTorch's own unfolding, and the factor of the inverse by its definition."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 10, (3, 5), (2, 1), (1, 2), (1, 2)).double()  # 90 weights: two blocks and a part
    x = torch.randn(32, 6, 12, 33, dtype=torch.float64).relu()
    seen_NK = nn.functional.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride).mT.flatten(0, 1)
    seen_NK = seen_NK[:: len(seen_NK) // 2048]
    moment_KK = seen_NK.T @ seen_NK
    moment_KK += (0.01 * moment_KK.diagonal().mean() + 1e-12) * torch.eye(90)
    order = moment_KK.diagonal().argsort(descending=True, stable=True)
    spread_KK = torch.linalg.cholesky(moment_KK[order][:, order].inverse(), upper=True)
    made = round_weights(conv, Windows(conv, x))
    left_KO = (conv.weight.detach().flatten(1) / made.scale_O[:, None])[:, order].T.contiguous()
    for k in range(90):
        code_O = left_KO[k].round().clamp(-127, 127)
        error_O = (left_KO[k] - code_O) / spread_KK[k, k]
        left_KO[k] = code_O
        left_KO[k + 1 :] -= spread_KK[k, k + 1 :, None] * error_O
    assert torch.equal(made.codes.flatten(1).double()[:, order], left_KO.T)


def test_filters_in_groups_are_rounded_to_the_nearest():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, groups=4)
    made = round_weights(conv, None)
    assert torch.equal(made.codes.float(), (conv.weight / made.scale_O[:, None, None, None]).round())


def test_codes_reach_beyond_the_rows_that_they_were_fitted_to(batch):
    """Images to come have larger values than those of calibration: they are coded, not cut off."""
    fused = fuse(fold_batch_norm(trace(settled(Residual()))))
    observer = RangeObserver(fused)
    observer.run(batch)
    ranges = observer.ranges()
    pixels = next(iter(fused.graph.nodes)).name
    codes = codes_for(ranges[pixels].low, ranges[pixels].high)
    lowest, highest = Decode(codes)(torch.tensor([0.0, 255.0]))
    assert lowest <= 1.4 * batch.min()
    assert highest >= 1.4 * batch.max()


def test_codes_are_the_nearest():
    codes = codes_for(-1.3, 2.2)
    assert 0 <= codes.zero <= 255
    values = torch.linspace(-1.3, 2.2, 1_001)
    assert (Decode(codes)(Encode(codes)(values)) - values).abs().max() <= codes.scale * 0.5001
    assert Decode(codes)(Encode(codes)(torch.zeros(1))).item() == 0
    assert Encode(codes)(torch.tensor([-99.0, 99.0])).tolist() == [0, 255]


class Normalised(nn.Module):
    """Normalisation, backbone and heads, as the trainer's networks have them."""

    def __init__(self, normalize, heads=2):
        super().__init__()
        self.normalize = normalize
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
            for _ in range(heads)
        )

    def forward(self, x):
        h = self.backbone(self.normalize(x))
        return [head(h) for head in self.heads]


class Affine(nn.Module):
    def forward(self, x):
        return (x - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.25, 0.3])[:, None, None]


class Instance(nn.Module):
    def forward(self, x):
        return x - x.mean((1, 2, 3), keepdim=True)


def test_an_affine_normalisation_joins_the_noise_step(batch):
    net = settled(Normalised(Affine()))
    network = decompose(net, batch, 5)
    assert network.encoding.scale_C == pytest.approx((5, 4, 10 / 3))
    assert network.encoding.shift_C == pytest.approx((-2, -2, -2))
    torch.testing.assert_close(logits_of(plain(network, 8), batch), sum(net(batch)), rtol=1e-4, atol=1e-4)


def test_another_normalisation_stays_in_the_trunk(batch):
    net = settled(Normalised(Instance()))
    network = decompose(net, batch, 5)
    assert network.encoding.scale_C == (1, 1, 1)
    torch.testing.assert_close(logits_of(plain(network, 8), batch), sum(net(batch)), rtol=1e-4, atol=1e-4)


class OtherForward(Normalised):
    def forward(self, x):
        return [-z for z in super().forward(x)]


def test_parts_are_used_only_if_they_make_up_the_whole(batch):
    net = settled(OtherForward(Affine()))
    network = decompose(net, batch, 5)
    assert len(network.heads) == 2
    torch.testing.assert_close(logits_of(plain(network, 8), batch), sum(net(batch)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("whole", [False, True])
def test_every_form_is_one_function_close_to_the_plain_one(precision, whole):
    net = settled(Normalised(Affine()))
    rows = noisy_rows((3, 12, 12), 0.25, 256)
    module = nn.Sequential(net.normalize, net.backbone, net.heads[0]) if whole else net
    network = decompose(module, rows[:2], 5)
    reference = logits_of(plain(network, 16), rows)
    made = list(forms(network, precision, 16, rows))
    target = target_for({"bf16": torch.bfloat16}.get(precision, torch.uint8))
    chains = {target.form} if precision != "fp32" and target is not None and target.multiple <= 8 else set()
    assert {form.name for form in made} - chains == {
        "fp32": {"onednn", "folded", "plain"},
        "bf16": {"onednn", "folded"} if computes_bf16(rows.device) else {"folded"},
        "int8": {"int8"},
    }[precision]
    spread = (reference - reference.mean(1, keepdim=True)).square().mean().sqrt()
    for form in made:
        assert is_one_function(form, rows)
        error = (logits_of(form, rows) - reference).square().mean().sqrt() / spread
        assert error < {"fp32": 1e-4, "bf16": 0.03, "int8": 0.06}[precision]


def test_an_ensemble_has_an_identity_for_a_trunk(batch):
    from spacte_core.models import ModelConfig, build
    from spacte_core.models.normalization import Normalization

    member = ModelConfig(
        arch="digits_cnn", num_classes=5, input_shape=(3, 12, 12), normalization=Normalization.of("cifar10")
    )
    config = ModelConfig(arch="ensemble", heads=2, num_classes=5, input_shape=(3, 12, 12), members=(member, member))
    net = build(config).eval()
    network = decompose(net, batch, 5)
    reference = logits_of(plain(network, 8), batch)
    for precision, limit in (("fp32", 1e-4), ("bf16", 0.05), ("int8", 0.2)):
        form = next(forms(network, precision, 8, batch))
        error = (logits_of(form, batch) - reference).square().mean().sqrt()
        assert error < limit * (reference - reference.mean(1, keepdim=True)).square().mean().sqrt()


def test_a_form_that_fails_when_it_runs_is_not_offered(monkeypatch):
    def fails(self, *_):
        raise RuntimeError("no such post-operation")

    net, rows = settled(Normalised(Affine())), noisy_rows((3, 12, 12), 0.25, 16)
    classifier = decompose(net, rows[:2], 5)
    monkeypatch.setattr(OneDnnConv, "forward", fails)
    assert [form.name for form in forms(classifier, "fp32", 8, rows)] == ["folded", "plain"]
