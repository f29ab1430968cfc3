"""Promises of the recipes: the published settings to the letter, complete configurations, checked overrides."""

import math
import re

import pytest
import torch

from spacte_core.data.digits import load_digits
from spacte_core.models import build as build_network
from spacte_trainer.config import ConfigError, InitConfig, TrainConfig, override, parse_setting
from spacte_trainer.objectives import CircularTeaching, Consistency, Gaussian, SmoothAdv, SmoothMix
from spacte_trainer.recipes import ENTRIES, RecipeError, load_recipe
from spacte_trainer.recipes.fine_tuning import RATE, from_init
from spacte_trainer.schedules import OneCycleSchedule, StepSchedule

PUBLISHED = {
    # base, sigma: lambda_T and what belongs to the base, from the table of the published SPACTE commands.
    ("gaussian", 0.25): (1.2, {}),
    ("gaussian", 0.5): (0.8, {}),
    ("gaussian", 1.0): (0.8, {}),
    ("consistency", 0.25): (1.0, {"lbd": 20.0, "eta": 0.5}),
    ("consistency", 0.5): (0.8, {"lbd": 10.0, "eta": 0.5}),
    ("consistency", 1.0): (1.0, {"lbd": 10.0, "eta": 0.5}),
    ("smoothmix", 0.25): (1.6, {"steps": 4, "alpha": 0.5, "mix_step": 0, "eta": 5.0}),
    ("smoothmix", 0.5): (1.0, {"steps": 4, "alpha": 1.0, "mix_step": 1, "eta": 5.0}),
    ("smoothmix", 1.0): (1.6, {"steps": 4, "alpha": 2.0, "mix_step": 1, "eta": 5.0}),
}


@pytest.mark.parametrize(("base", "sigma"), PUBLISHED)
def test_the_nine_published_spacte_settings(base: str, sigma: float):
    config = load_recipe(f"cifar10-resnet110-spacte-{base}-{sigma}")
    lambda_last, extra = PUBLISHED[base, sigma]
    assert config.sigma == sigma
    assert (config.model.arch, config.model.heads) == ("cifar_resnet110", 5)
    assert config.objective.teaching == CircularTeaching(lambda_last=lambda_last)
    found = config.objective.base.model_dump()
    assert found["name"] == base
    assert found["draws"] == 2
    assert {key: found[key] for key in extra} == extra
    assert (config.epochs, config.batch, config.seed) == (150, 256, 666)
    o = config.optimizer
    assert (o.lr, o.momentum, o.weight_decay, o.nesterov) == (0.1, 0.9, 1e-4, False)
    assert (config.data.crop, config.data.flip) == (4, True)
    rates = [config.schedule.scale(epoch, 150, 0.0) for epoch in (1, 50, 51, 100, 101, 150)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_spacte_forms_differ_from_the_single_ones_where_published():
    consistency = load_recipe("cifar10-resnet110-spacte-consistency-0.5").objective.base
    smoothmix = load_recipe("cifar10-resnet110-spacte-smoothmix-0.5").objective.base
    assert isinstance(consistency, Consistency)
    assert consistency.constant_mean
    assert isinstance(smoothmix, SmoothMix)
    assert not smoothmix.only_correct
    single = load_recipe("cifar10-resnet110-gaussian-0.5")
    assert single.objective.base == Gaussian(draws=1)
    assert single.objective.teaching is None
    assert single.model.heads == 1


def test_macer_keeps_its_own_set_up():
    config = load_recipe("cifar10-resnet110-macer-0.25")
    assert config.model.normalization.kind == "none"
    assert (config.epochs, config.batch, config.optimizer.lr) == (440, 64, 0.01)
    assert config.optimizer.weight_decay == 5e-4
    # METHODS section 10: 199 epochs, then 200, then 41.
    rates = [config.schedule.scale(epoch, 440, 0.0) for epoch in range(1, 441)]
    assert [round(r, 4) for r in (1, 0.1, 0.01)] == sorted({round(r, 4) for r in rates}, reverse=True)
    assert [sum(round(r, 4) == level for r in rates) for level in (1, 0.1, 0.01)] == [199, 200, 41]


@pytest.mark.parametrize("name", ENTRIES)
def test_every_recipe_is_complete_and_survives_json(name: str):
    config = load_recipe(name)
    assert config.recipe == name
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config
    assert ENTRIES[name].summary.endswith(".")
    if name.startswith("digits"):
        assert len(build_network(config.model).heads) == config.model.heads


def test_a_deferred_term_begins_at_the_same_part_of_a_shorter_run():
    """MACER at sigma 1 has its robustness term after the first drop of the rate (METHODS section 7)."""
    config = load_recipe("cifar10-resnet110-macer-1.0")
    assert config.objective.base.defer_epochs == 199  # type: ignore[union-attr]
    short = override(config, {"epochs": 110})
    assert short.objective.base.defer_epochs == 50  # type: ignore[union-attr]
    assert short.schedule.drops_after[0] == 50  # type: ignore[union-attr]
    chosen = override(config, {"epochs": 110, "objective.base.defer_epochs": 7})
    assert chosen.objective.base.defer_epochs == 7  # type: ignore[union-attr]


@pytest.mark.parametrize("sigma", [0.0, -0.25, float("nan"), float("inf")])
def test_a_noise_level_that_is_none_is_refused(sigma: float):
    with pytest.raises(RecipeError, match=r"give --sigma one from 0\.001 to 10"):
        load_recipe("digits-gaussian", sigma)


def test_the_fast_networks_have_what_makes_more_of_an_epoch_and_no_other_recipe_has():
    """Consistency, which goes on from them, has both optimisers at a lower rate."""
    for name in ENTRIES:
        config, fast = load_recipe(name), name.startswith("cifar10-fast-")
        assert (config.optimizer.muon is not None, config.data.flip == "alternate") == (fast, fast), name
        assert getattr(config.objective.base, "label_smoothing", 0.0) == config.ema == 0
    for kind in ("", "spacte-"):
        after, before = (load_recipe(f"cifar10-fast-{kind}{method}-0.25") for method in ("consistency", "gaussian"))
        assert after.pretrain == before
        assert after.optimizer.muon is not None
        assert before.optimizer.muon is not None
        assert (before.optimizer.muon.lr, after.optimizer.muon.lr) == (0.035, 0.0125)
        assert after.optimizer.lr == before.optimizer.lr / 40
        assert isinstance(after.objective.base, Consistency)
        assert after.objective.base.lbd == 4


def test_a_recipe_that_starts_from_a_network_has_sgd():
    """Its rate is for what is there already; Muon's would undo it."""
    config = load_recipe("cifar10-fast-gaussian-0.25")
    found = from_init(config, config.model, InitConfig(model="somewhere", version="1"))
    assert (found.optimizer.muon, found.optimizer.lr) == (None, RATE)


def test_drt_starts_from_an_ensemble_of_its_own_shape():
    config = load_recipe("cifar10-resnet110-drt-gaussian-0.5")
    assert config.pretrain is not None
    assert config.model.members == (config.pretrain.model,) * config.pretrain.members
    assert config.pretrain.sigma == 0.5


def test_sigma_selects_the_settings_that_belong_to_it():
    config = load_recipe("cifar10-resnet110-spacte-gaussian-0.25", sigma=0.5)
    assert config == load_recipe("cifar10-resnet110-spacte-gaussian-0.5")
    with pytest.raises(RecipeError, match=r"settings for sigma 0\.25, 0\.5, 1\.0 and none for 0\.3.*--set sigma"):
        load_recipe("cifar10-resnet110-spacte-gaussian-0.25", sigma=0.3)


def test_a_family_of_recipes_and_a_sigma_are_a_recipe():
    assert load_recipe("cifar10-resnet20-gaussian", 0.5) == load_recipe("cifar10-resnet20-gaussian-0.5")
    with pytest.raises(RecipeError, match=r"add --sigma with one of 0\.25, 0\.5, 1\.0"):
        load_recipe("cifar10-resnet20-gaussian")
    with pytest.raises(RecipeError, match=r"settings for sigma 0\.25, 0\.5, 1\.0 and none for 0\.3"):
        load_recipe("cifar10-resnet20-gaussian", 0.3)


# The digits


@pytest.mark.parametrize("method", ["gaussian", "consistency", "smoothmix", "smoothadv", "macer"])
@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_a_digits_method_has_one_setting_for_both_forms(method: str, sigma: float):
    """What the taught form changes is what its publication changes: the second draw of Gaussian among it."""
    single = load_recipe(f"digits-{method}", sigma)
    taught = load_recipe(f"digits-spacte-{method}", sigma)
    draws = taught.objective.base.draws
    assert taught.objective.base == single.objective.base.model_copy(update={"draws": draws}).under_teaching()
    assert draws == single.objective.base.draws or method == "gaussian"
    assert (taught.batch, taught.epochs, taught.optimizer) == (single.batch, single.epochs, single.optimizer)


def test_strengths_of_the_digits_are_their_own():
    def base(method: str, sigma: float) -> dict[str, object]:
        return load_recipe(f"digits-{method}", sigma).objective.base.model_dump()

    assert [base("consistency", sigma)["lbd"] for sigma in (0.25, 0.5)] == [5.0, 2.5]
    assert [base("macer", sigma)["lbd"] for sigma in (0.25, 0.5)] == [3.0, 1.0]
    thresholds = [
        load_recipe(f"digits-spacte-{method}", sigma).objective.teaching
        for method in ("gaussian", "smoothadv", "macer")
        for sigma in (0.25, 0.5)
    ]
    assert thresholds == [CircularTeaching(lambda_last=last) for last in (1.2, 0.8, 2.2, 1.2, 1.8, 1.1)]
    assert load_recipe("digits-macer", 0.5).batch == 32
    assert base("smoothmix", 0.25) == base("smoothmix", 0.5)
    assert base("smoothadv", 0.25) == base("smoothadv", 0.5)
    assert base("smoothmix", 0.75) == base("smoothmix", 0.5)  # the nearest


@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_no_attack_carries_a_digit_half_way_to_another_class(sigma: float):
    """Beyond it a label says nothing any more, and a network that is trained on it learns to answer one class."""
    images_NCHW, labels_N = load_digits("train")
    x_NP = torch.from_numpy(images_NCHW).flatten(1).double() / 255
    y_N = torch.from_numpy(labels_N)
    other_NN = torch.cdist(x_NP, x_NP).masked_fill(y_N[:, None] == y_N, torch.inf)
    half = float(other_NN.amin(dim=1).median()) / 2
    smoothadv = load_recipe("digits-smoothadv", sigma).objective.base
    smoothmix = load_recipe("digits-smoothmix", sigma).objective.base
    assert isinstance(smoothadv, SmoothAdv)
    assert isinstance(smoothmix, SmoothMix)
    assert 0.9 < half < 1.0
    assert smoothadv.attack.epsilon < half
    # SmoothMix keeps the label of its clean side alone; the other side's target is already part of the way to uniform.
    assert smoothmix.alpha * smoothmix.mix_step < half


def test_an_unknown_recipe_suggests_its_neighbours():
    with pytest.raises(RecipeError, match=r"did you mean .*digits-gaussian"):
        load_recipe("digits-gausian")


# Overrides


def base() -> TrainConfig:
    return load_recipe("digits-spacte-gaussian")


def test_any_field_can_be_overridden():
    config = override(
        base(), dict(map(parse_setting, ["model.heads=3", "optimizer.lr=0.05", "objective.base.draws=4"]))
    )
    assert config.model.heads == 3
    assert config.optimizer.lr == 0.05
    assert config.objective.base.draws == 4
    assert override(base(), dict([parse_setting("data.source=parquet:../x")])).data.source == "parquet:../x"


def test_schedules_can_be_exchanged_whole():
    changes = dict([parse_setting('schedule={"name": "step", "drops_after": [3, 5]}')])
    assert override(base(), changes).schedule == StepSchedule(drops_after=(3, 5))


def test_epochs_move_the_drops_in_proportion():
    published = load_recipe("cifar10-resnet110-gaussian-0.25")
    for thirty in (30, "30", 30.0):  # as a YAML file may have it
        assert override(published, {"epochs": thirty}).schedule == StepSchedule(drops_after=(10, 20))
    both = override(published, {"epochs": 30, "schedule.drops_after": [5]})
    assert both.schedule == StepSchedule(drops_after=(5,))


def test_shared_fields_reach_what_a_run_starts_from():
    config = override(load_recipe("digits-drt-gaussian"), {"seed": 7, "sigma": 0.5, "epochs": 4})
    assert config.pretrain is not None
    assert (config.pretrain.seed, config.pretrain.sigma) == (7, 0.5)
    assert config.pretrain.epochs == load_recipe("digits-drt-gaussian").pretrain.epochs  # type: ignore[union-attr]


def test_what_a_run_starts_from_has_the_same_network():
    recipe = load_recipe("cifar10-fast-spacte-consistency-0.25")
    three = override(recipe, {"model.heads": 3}).pretrain
    assert three is not None
    assert three.model.heads == 3
    single = {"model.heads": 1, "objective.teaching": None}
    with pytest.raises(ConfigError, match=r"The settings of pretrain .* needs at least 2 heads"):
        override(recipe, single)
    assert override(recipe, single | {"pretrain.objective.teaching": None}).model.heads == 1
    with pytest.raises(ConfigError, match=r"change pretrain\.model like model"):
        override(recipe, {"pretrain.model.heads": 3})
    with pytest.raises(ConfigError, match=r"change pretrain\.model like model"):
        override(load_recipe("digits-drt-gaussian"), {"pretrain.members": 4})


def test_settings_of_what_a_run_starts_from():
    recipe = load_recipe("cifar10-resnet110-drt-gaussian-0.25")
    before = override(recipe, {"pretrain.epochs": 30, "pretrain.seed": 3, "seed": 4}).pretrain
    assert before is not None
    assert before.schedule == StepSchedule(drops_after=(10, 20)), "the drops move in proportion there, too"
    assert before.seed == 3
    with pytest.raises(ConfigError, match=r"There is no setting 'pretrain\.epoch': the fields here are recipe"):
        override(recipe, {"pretrain.epoch": 30})


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("model.head=3", "There is no setting 'model.head': the fields here are arch, heads"),
        ("nothing.at.all=3", "There is no setting 'nothing.at.all'"),
        ("optimizer.muon.lr=0.1", "where optimizer.muon is not set: write optimizer.muon='{\"lr\": ...}'."),
        (
            "data.flip=alternating",
            "Setting data.flip cannot be 'alternating': Input should be True, False or 'alternate'",
        ),
        ("epochs=zero", "Setting epochs cannot be 'zero'"),
        ("sigma=-1", "Setting sigma cannot be -1"),
        ("model.heads=1", "circular teaching needs at least 2 heads"),
        ("precision=int8", "Setting precision cannot be 'int8'"),
        ('optimizer={"nesterov": true, "momentum": 0}', "raise optimizer.momentum, or set optimizer.nesterov=false"),
        ('objective={"base": {"name": "drt"}}', "drt trains the members of an ensemble together"),
        ("optimizer.lr=Infinity", "Setting optimizer.lr cannot be inf"),
        ("optimizer.weight_decay=1e400", "Setting optimizer.weight_decay cannot be inf"),
        ("seed=9223372036854775808", "Setting seed cannot be 9223372036854775808"),
        ("threads=100000", "Setting threads cannot be 100000"),
        ("objective.teaching.lambda_last=true", "Setting objective.teaching.lambda_last is a number"),
        ('objective.teaching={"lambda_last": true}', "Setting objective.teaching.lambda_last is a number"),
        ("objective.teaching={}", "Setting objective.teaching.lambda_last is missing"),
        ('objective.base={"name": ["gaussian"]}', "there is no method of that name"),
        ("objective.base.name=macer", 'write objective.base=\'{"name": "macer"}\', with those that it needs'),
        ("schedule.name=step", 'write schedule=\'{"name": "step"}\''),
        ("data.image_size=4", "images and labels of digits are taken as they are: leave out data.image_size"),
        ("data.label_column=coarse", "leave out data.label_column"),
    ],
)
def test_wrong_settings_are_named(setting: str, sentence: str):
    with pytest.raises(ConfigError, match=re.escape(sentence)) as error:
        override(base(), dict([parse_setting(setting)]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
@pytest.mark.parametrize(
    ("recipe", "setting"),
    [
        ("digits-consistency", "lbd"),
        ("digits-consistency", "eta"),
        ("digits-smoothmix", "eta"),
        ("digits-smoothmix", "alpha"),
        ("digits-smoothmix", "radius"),
        ("digits-smoothadv", "attack.epsilon"),
        ("digits-macer", "lbd"),
        ("digits-macer", "beta"),
        ("digits-macer", "gamma"),
        ("digits-drt-gaussian", "rho1"),
        ("digits-drt-gaussian", "rho2"),
    ],
)
def test_strengths_are_finite_and_none_is_negative(recipe: str, setting: str, value: float):
    with pytest.raises(ConfigError, match=rf"Setting objective\.base\.{re.escape(setting)} cannot be"):
        override(load_recipe(recipe), {f"objective.base.{setting}": value})


@pytest.mark.parametrize("fraction", ["1/0", "1e400"])
def test_a_fraction_that_is_no_number_is_refused(fraction: str):
    with pytest.raises(ConfigError, match="no such number: write it like 255/256"):
        override(load_recipe("digits-smoothadv"), {"objective.base.attack.epsilon": fraction})


def test_a_whole_setting_is_replaced_before_its_parts():
    changes = dict(map(parse_setting, ["objective.teaching.cosine=0", 'objective.teaching={"lambda_last": 1}']))
    teaching = override(base(), changes).objective.teaching
    assert teaching is not None
    assert (teaching.lambda_last, teaching.cosine) == (1, 0)


def test_a_bare_off_of_yaml_is_off():
    teaching = override(base(), {"objective.teaching.pace": False}).objective.teaching
    assert teaching is not None
    assert teaching.pace == "off"


def test_a_part_of_a_setting_that_is_empty_is_set():
    settings = ["optimizer.muon={}", "optimizer.muon.lr=0.1"]
    muon = override(base(), dict(map(parse_setting, settings))).optimizer.muon
    assert muon is not None
    assert (muon.lr, muon.steps) == (0.1, 3)


def test_what_does_not_fit_the_data_is_said_in_short():
    with pytest.raises(ConfigError, match=r"^The settings of data do not fit together: .*: set data\.flip=true\.$"):
        override(load_recipe("cifar10-fast-gaussian-0.25"), {"data.source": "imagenet:/x"})


def test_a_setting_needs_a_name_and_a_value():
    with pytest.raises(ConfigError, match="write --set KEY=VALUE"):
        parse_setting("=3")
    with pytest.raises(ConfigError, match="write --set seed=VALUE"):
        parse_setting("seed")


def test_one_cycle_rises_and_falls_in_straight_lines():
    schedule = OneCycleSchedule(rise=0.25, start=0.2)
    values = [schedule.scale(epoch, 8, part) for epoch in range(1, 9) for part in (0.0, 0.5)]
    assert values[0] == pytest.approx(0.2)
    assert max(values) == values[4] == pytest.approx(1.0)
    assert schedule.scale(8, 8, 1.0) == pytest.approx(0.0)
    assert values[2] - values[1] == pytest.approx(values[1] - values[0])
    assert values[7] - values[6] == pytest.approx(values[10] - values[9])
