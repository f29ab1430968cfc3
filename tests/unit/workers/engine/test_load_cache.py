"""Promise: a model that was loaded before is loaded fast, is checked all the same, and votes as it did."""

import pytest
import torch
from tests.small_engine import CLASSES, SHAPE, SOURCE, Heads, an_image, heads_net
from torch import nn

from spacte_workers.engine import Engine
from spacte_workers.engine import engine as engine_module
from spacte_workers.engine import load_cache as cache
from spacte_workers.shards import Phase, Shard

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(cache.VARIABLE)
    return tmp_path / "spacte" / "loads"


@pytest.fixture
def chosen(monkeypatch):
    """How often a form was chosen by measurement."""
    times = []

    def select_form(*arguments, **options):
        times.append(options["precision"])
        return select(*arguments, **options)

    select = engine_module.select_form
    monkeypatch.setattr(engine_module, "select_form", select_form)
    return times


def load(net, **options):
    return Engine(net, input_shape=SHAPE, num_classes=CLASSES, device="cpu", **{"min_agreement": 0.8} | options)


def counts(engine):
    return engine.votes(an_image(), Shard(SOURCE, Phase.ESTIMATION, 0, 1_000)).counts


@pytest.mark.usefixtures("bf16_anywhere")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "auto"])
def test_the_second_load_takes_what_the_first_one_chose(folder, chosen, precision):
    first, second = load(heads_net(), precision=precision), load(heads_net(), precision=precision)
    assert chosen == [precision]
    assert len(list(folder.iterdir())) == 1
    for name in ("kernels", "precision", "batch", "vote_agreement"):
        assert getattr(second, name) == getattr(first, name)
    assert [form.batch for form in second.forms] == [form.batch for form in first.forms]
    assert counts(second) == counts(first)


def other_weights():
    net = heads_net()
    with torch.no_grad():
        net.out[0].bias[0] += 1e-3
    return net


def other_code():
    class Scaled(Heads):
        def forward(self, x):
            return super().forward(x * 1.01)

    net = Scaled()
    net.load_state_dict(heads_net().state_dict())
    return net.eval()


@pytest.mark.parametrize(
    ("net", "options", "environment"),
    [
        (other_weights, {}, {}),
        (other_code, {}, {}),
        (heads_net, {"sigma": 0.5}, {}),
        (heads_net, {"min_agreement": 0.81}, {}),
        (heads_net, {"batch": 32}, {}),
        (heads_net, {}, {"SPACTE_KERNELS": "-winograd"}),
    ],
)
def test_whatever_the_choice_hangs_on_makes_it_anew(folder, chosen, monkeypatch, net, options, environment):
    load(heads_net())
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    load(net(), **options)
    assert len(chosen) == len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("damage", [b"", b"no entry", "cut", "edited"])
def test_a_damaged_entry_is_no_entry(folder, chosen, damage):
    first = load(heads_net(), precision="int8")
    (file,) = folder.iterdir()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "edited":
        entry = torch.load(file, weights_only=True)
        next(iter(entry["fit"]["rounded"][0].values()))["codes"].add_(1)
        torch.save(entry, file)
    else:
        file.write_bytes(damage)
    second = load(heads_net(), precision="int8")
    assert len(chosen) == 2
    assert second.kernels == first.kernels
    load(heads_net(), precision="int8")
    assert len(chosen) == 2


def test_a_form_that_is_no_function_now_is_not_taken(folder, chosen, monkeypatch):
    load(heads_net())
    monkeypatch.setattr(cache, "is_one_function", lambda *_: False)
    load(heads_net())
    assert len(chosen) == 2


def test_the_latest_entries_are_kept(folder, monkeypatch):
    monkeypatch.setattr(cache, "_KEPT", 2)
    for bias in range(3):
        net = nn.Sequential(nn.Flatten(), nn.Linear(60, CLASSES))
        nn.init.constant_(net[1].bias, bias)
        load(net, precision="fp32", batch=8)
    assert len(list(folder.iterdir())) == 2


def test_no_cache_where_it_is_off_or_cannot_be_written(folder, chosen, monkeypatch, caplog):
    monkeypatch.setenv(cache.VARIABLE, "off")
    load(heads_net())
    assert not folder.exists()
    monkeypatch.setenv(cache.VARIABLE, "on")
    folder.parent.mkdir(parents=True)
    folder.write_text("no folder")
    load(heads_net())
    assert len(chosen) == 2
    assert "the next load of this model is as slow as this one" in caplog.text
