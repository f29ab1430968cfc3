"""Promise: an exported program is computed by the same kernels as the module that it was made of."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from spacte_core.forms import logits_of, plain
from spacte_core.hardware import computes_bf16
from spacte_core.kernels.graph.programs import layers_of_program
from spacte_core.kernels.graph.tracing import trace
from spacte_core.kernels.inference import optimized_forms
from spacte_core.kernels.rates import winograd_shares
from spacte_core.programs import program_network
from spacte_workers.engine import Engine
from spacte_workers.engine.calibration import noisy_rows
from spacte_workers.engine.decomposition import decompose

pytestmark = pytest.mark.slow

SHAPE = (3, 12, 12)
CLASSES = 4


class Residual(nn.Module):
    """What residual networks are made of, as libraries write it: ReLU and sums in place, a pool that is made flat."""

    def __init__(self, *, last_relu=True):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.deep = nn.Sequential(
            nn.Conv2d(16, 32, 3, 2, 1, groups=4), nn.BatchNorm2d(32), nn.ReLU(True), nn.Conv2d(32, 32, 3, padding=1)
        )
        self.down = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(32, CLASSES)
        self.last_relu = last_relu

    def forward(self, x):
        h = self.stem(x)
        y = self.deep(h)
        y += self.down(h)
        if self.last_relu:
            y = functional.relu_(y)
        return self.out(self.drop(torch.flatten(self.pool(y), 1)))


class Twice(Residual):
    """Two tensors of logits, from a mean that is written as one."""

    def forward(self, x):
        h = self.stem(x).mean((-1, -2), keepdim=True).flatten(1)
        return [self.out(torch.cat([h, h], 1)), self.out(torch.cat([h, -h], 1))]


class OverAView(nn.Module):
    """A ReLU in place of a view, whose base is read afterwards."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        flat = functional.relu_(y.flatten(1))
        return y.mean((2, 3)) + flat[:, :4]


class OverAResult(OverAView):
    """A sum in place, whose first term is read before and after."""

    def forward(self, x):
        y = self.conv(x)
        before = y.mean((2, 3))
        z = y.add_(self.conv(-x))
        return before + (y * z).mean((2, 3))


def settled(module):
    """The module with statistics of noisy rows, in eval mode."""
    torch.manual_seed(2)
    with torch.no_grad():
        module.train()(noisy_rows(SHAPE, 0.25, 64))
    return module.eval()


def program_of(module):
    """The classifier that a checkpoint of the module holds."""
    return program_network(module, SHAPE)[0]


@pytest.fixture(scope="module", params=[Residual, lambda: Residual(last_relu=False), Twice], ids=["relu", "sum", "two"])
def module(request):
    torch.manual_seed(1)
    return settled(request.param())


def test_layers_are_found_again_and_compute_the_same_bits(module):
    program, rows = program_of(module).backbone, noisy_rows(SHAPE, 0.25, 5)
    traced = trace(program)
    with torch.inference_mode():
        assert torch.equal(traced(rows), program(rows))
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    wanted = {kind: sum(isinstance(layer, kind) for layer in module.modules()) for kind in kinds}
    if isinstance(module, Twice):
        wanted = {nn.Conv2d: 1, nn.BatchNorm2d: 1, nn.Linear: 2}
    assert {kind: sum(isinstance(layer, kind) for layer in traced.modules()) for kind in kinds} == wanted
    assert not [node for node in traced.graph.nodes if "pool" in str(node.target) or "dropout" in str(node.target)]


@pytest.mark.parametrize("kind", [OverAView, OverAResult])
def test_what_is_written_over_in_place_is_read_as_the_module_reads_it(kind):
    torch.manual_seed(3)
    program, rows = program_of(kind().eval()).backbone, noisy_rows(SHAPE, 0.25, 5)
    with torch.inference_mode():
        assert torch.equal(trace(program)(rows), program(rows))


def test_a_program_that_reads_a_result_by_its_old_name_keeps_its_own_form():
    program = program_of(OverAResult().eval()).backbone
    graph = program.graph_module.graph
    written = next(node for node in graph.nodes if "add_" in str(node.target))
    for user in list(written.users):
        user.replace_input_with(written, written.args[0])
    with pytest.raises(ValueError, match="old name"):
        layers_of_program(program.graph_module)
    assert trace(program) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_form_is_close_to_the_plain_one(module, precision):
    rows = noisy_rows(SHAPE, 0.25, 40)
    with torch.inference_mode():
        classifier = decompose(program_of(module).eval(), rows[:2], CLASSES)
        expected = logits_of(plain(classifier, 8), rows)
        found = {form.name: logits_of(form, rows) for form in optimized_forms(classifier, precision, 8, rows)}
    wanted = {"folded"} if precision == "bf16" and not computes_bf16(rows.device) else {"folded", "onednn"}
    assert wanted <= set(found)
    allowed = {"fp32": 1e-4, "bf16": 0.05}[precision] * expected.abs().max().item()
    for name, logits in found.items():
        assert torch.allclose(logits, expected, atol=allowed, rtol=0), name


def test_an_engine_takes_them(module):
    engine = Engine(program_of(module), input_shape=SHAPE, num_classes=CLASSES, precision="fp32", batch=16)
    assert engine.form.name not in ("plain", "folded")
    assert engine.vote_agreement > 0.98


def test_precisions_are_ranked_by_the_layers_of_a_program(module):
    rows = noisy_rows(SHAPE, 0.25, 2)
    with torch.inference_mode():
        shares = [winograd_shares(decompose(net.eval(), rows, CLASSES), rows) for net in (module, program_of(module))]
    assert shares[0] == shares[1]
