"""Every hyper-parameter of a training run, and how a command line changes some of them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, Field, ValidationError, model_validator

from spacte_core.data.base import DataConfig
from spacte_core.errors import UserError
from spacte_core.hardware import NO_BF16, computes_bf16, has_bf16
from spacte_core.models import ModelConfig, ensemble_of

from .objectives import Objective
from .schedules import GrowingCrops, OneCycleSchedule, StepSchedule

SIGMA_LEAST, SIGMA_MOST = 0.001, 10
"""Noise levels that can be trained with. Chosen: a quarter of a grey level, and ten times the range of pixels."""

THREADS_MOST = 1_024
"""Threads of a CPU that can be asked for. Chosen: more than the cores of any machine that this is run on."""


class ConfigError(UserError):
    """A setting that does not exist or cannot be; the message is one sentence that names the remedy."""


class MuonConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Muon (METHODS section 10); the defaults are those of the CIFAR-10 speed record, for batches of 2,000."""

    lr: float = Field(
        default=0.24, gt=0, lt=1, description="Peak rate: the length of a step beside that of the weight."
    )
    momentum: float = Field(default=0.6, ge=0, lt=1, description="Nesterov's.")
    steps: int = Field(default=3, ge=1, le=20, description="Newton-Schulz steps of an orthogonalisation.")


class OptimizerConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """SGD; the defaults are SPACTE's (METHODS 3.7)."""

    lr: float = Field(default=0.1, gt=0, description="Peak learning rate.")
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0, description="On every parameter of SGD.")
    nesterov: bool = False
    muon: MuonConfig | None = Field(
        default=None, description="Muon for convolutions and hidden linear layers, SGD for the rest; null: SGD for all."
    )

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum: raise optimizer.momentum, or set optimizer.nesterov=false")
        return self


class InitConfig(BaseModel, frozen=True, extra="forbid"):
    """What a run starts from in place of fresh weights."""

    model: str = Field(description="A checkpoint folder, timm:NAME or torchvision:NAME.")
    version: str | None = Field(default=None, description="Of the checkpoint: SHA-256.")
    weights: str = Field(default="random", description="Of a library's network: random, hub or a file.")
    split: str | None = Field(default=None, description="Module at which heads begin; null: as usual for its family.")


class TrainConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """A whole training run. The same configuration on the same machine gives the same weights."""

    recipe: str = Field(description="The recipe it came from.")
    method: str = Field(description="Label of the method, for tables and checkpoints.")
    data: DataConfig
    model: ModelConfig
    objective: Objective
    sigma: float = Field(ge=SIGMA_LEAST, le=SIGMA_MOST, description="Noise sd in units of [0, 1] pixels.")
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Annotated[StepSchedule | OneCycleSchedule, Field(discriminator="name")] = StepSchedule()
    ema: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Decay, per step, of a moving average of the weights that is kept in their place; 0: none.",
    )
    whitening: bool = Field(
        default=False, description="The first convolution starts from the principal directions of noisy patches."
    )
    progressive: GrowingCrops | None = Field(
        default=None, description="The run begins with crops of its images, which cost less; null: they are whole."
    )
    epochs: int = Field(ge=1)
    batch: int = Field(default=256, ge=1, description="Images a loader batch; the objective cuts it into steps.")
    seed: int = Field(default=666, ge=0, lt=2**63)
    precision: Literal["auto", "float32", "bf16"] = Field(
        default="auto", description="bf16: autocast, weights and losses in float32; auto: where the hardware has it."
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=THREADS_MOST,
        description="Of a CPU (None: all cores); sums depend on their number in the last digit.",
    )
    channels_last: bool = True
    compile: bool | Literal["auto"] = Field(
        default="auto", description="torch.compile the network; auto: on one GPU, where it has repeated blocks."
    )
    cuda_graphs: bool = Field(default=True, description="On one GPU: record and replay a step. Changes speed alone.")
    deterministic: bool = Field(default=True, description="cuDNN's deterministic algorithms.")
    store: Literal["float32", "bf16"] = Field(default="float32", description="Type of the checkpoint's weights.")
    validate_every: int = Field(default=1, ge=0, description="Epochs between passes over the test split; 0: none.")
    members: int = Field(default=1, ge=1, description="Networks that differ only by seed; their summed logits answer.")
    init: InitConfig | None = Field(default=None, description="Weights and network to start from; null: fresh ones.")
    pretrain: "TrainConfig | None" = Field(default=None, description="A run whose weights this one starts from.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.members > 1 and self.pretrain is not None:
            raise ValueError("members and pretrain exclude each other: give the members to pretrain")
        if self.pretrain is not None and self.model != self.pretrain.trained_model:
            raise ValueError("the run and its pretrain have other networks: change pretrain.model like model")
        if self.init is not None and (self.members > 1 or self.pretrain is not None):
            raise ValueError("a run from a given network has no members and no pretrain: choose another recipe")
        if self.model.arch == "ensemble" and self.model.heads != len(self.model.members):
            raise ValueError("an ensemble has one head a member: leave model.heads as it is")
        if self.objective.base.name == "drt" and self.model.arch != "ensemble":
            raise ValueError("drt trains the members of an ensemble together: use the recipe of a drt")
        if self.whitening and self.model.arch in ("ensemble", "denoised"):
            raise ValueError("whitening is for one network: whiten the members or the classifier by themselves")
        if self.whitening and (self.init is not None or self.pretrain is not None):
            raise ValueError("whitening is for fresh weights, and this run starts from others: set whitening=false")
        if (self.model.arch == "denoised") != (self.objective.base.name == "denoise"):
            raise ValueError("a denoiser is trained by `denoise`, and nothing else is: use the recipe of a denoiser")
        if self.model.arch == "denoised" and self.optimizer.muon is not None:
            raise ValueError("a denoiser has no batch normalisation behind every convolution: set optimizer.muon=null")
        if self.objective.teaching is not None and (self.model.heads < 2 or self.epochs < 2):
            raise ValueError(
                "circular teaching needs at least 2 heads and 2 epochs: raise them, or set objective.teaching=null"
            )
        return self

    @property
    def trained_model(self) -> ModelConfig:
        """The network that the run leaves: `model`, or the ensemble of its members."""
        return ensemble_of((self.model,) * self.members) if self.members > 1 else self.model


def rate_setting(config: TrainConfig) -> str:
    """The setting that lowers the rate of most weights."""
    return "optimizer.lr" if config.optimizer.muon is None else "optimizer.muon.lr"


EXECUTION_SETTINGS = {"compile", "cuda_graphs", "store"}
"""How a run is carried out and kept, not what it computes: these may change when it is resumed."""


def identifying_settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that identify a run for resuming: all but `EXECUTION_SETTINGS`, also in `pretrain`."""
    found = config.model_dump(exclude=EXECUTION_SETTINGS)
    if config.pretrain is not None:
        found["pretrain"] = identifying_settings(config.pretrain)
    return found


def computes(config: TrainConfig) -> dict[str, Any]:
    """What a run computes: the settings that identify it, without the names of its recipe and method."""
    found = identifying_settings(config)
    if config.pretrain is not None:
        found["pretrain"] = computes(config.pretrain)
    return {name: value for name, value in found.items() if name not in ("recipe", "method")}


def differing(
    before: Mapping[str, Any], now: Mapping[str, Any], *, shared: bool = False, prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, old and new value of each setting that differs; with `shared`, of those that both have alone."""
    for key, new in now.items():
        if shared and key not in before:
            continue
        old = before.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differing(old, new, shared=shared, prefix=f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new


def resolve_precision(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The configuration and its `pretrain`, with `precision="auto"` decided for the device that trains.

    Raises:
        ConfigError: bf16 is asked for, and the device has no instructions for it.
    """
    if config.precision == "bf16" and not computes_bf16(device):
        raise ConfigError(f"{NO_BF16}: leave precision at auto, or set precision=float32.")
    decided: dict[str, object] = {}
    if config.precision == "auto":
        decided["precision"] = "bf16" if has_bf16(device) else "float32"
    if config.pretrain is not None:
        decided["pretrain"] = resolve_precision(config.pretrain, device)
    return config.model_copy(update=decided)


SHARED = ("data", "sigma", "seed")
"""Fields that a run and its `pretrain` have in common; also `model`, where it is the same network."""


def override(config: TrainConfig, changes: Mapping[str, object]) -> TrainConfig:
    """The configuration with fields such as `{"model.heads": 3}` replaced, checked as a whole.

    Changing `epochs` moves what waits for an epoch in proportion, unless it is changed too: the drops of a step
    schedule, and the start of a method's deferred term. A `SHARED` field is changed in `pretrain` as well, unless that
    one's own (`pretrain.seed`) is given. A whole setting is replaced before its parts, in whichever order they come.

    Raises:
        ConfigError: a field does not exist or a value does not fit it.
    """
    raw = _changed(config, changes)
    try:
        found = TrainConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_sentence(error)) from error
    if misread := _misread(raw, found.model_dump()):
        raise ConfigError(f"Setting {misread} is a number: give it one, and neither true nor false.")
    return found


def _changed(config: TrainConfig, changes: Mapping[str, object], prefix: str = "") -> dict[str, Any]:
    """The fields of the configuration, and of its `pretrain`, after `changes`; nothing is checked yet."""
    derived: dict[str, object] = {}
    epochs = changes.get("epochs")
    if isinstance(epochs, int | float | str):
        with suppress(ValueError, OverflowError):  # what is no number is refused later
            ratio = int(epochs) / config.epochs
            derived["schedule"] = config.schedule.stretched(ratio)
            derived["objective.base"] = config.objective.base.stretched(ratio)
    if (before := config.pretrain) is not None and "pretrain" not in changes:
        common = (*SHARED, "model") if before.trained_model == before.model == config.model else SHARED
        shared = {key: value for key, value in changes.items() if key.split(".")[0] in common}
        own = {key.removeprefix("pretrain."): value for key, value in changes.items() if key.startswith("pretrain.")}
        derived["pretrain"] = _changed(before, shared | own, f"{prefix}pretrain.")
        changes = {key: value for key, value in changes.items() if not key.startswith("pretrain.")}
    raw = config.model_dump()
    parts_last = sorted(changes.items(), key=lambda change: change[0].count("."))
    for name, value in (*derived.items(), *parts_last):
        given = any(name.startswith(f"{whole}.") for whole in changes)
        _assign(raw, name, value.model_dump() if isinstance(value, BaseModel) else value, prefix, within_given=given)
    return raw


def _sentence(error: ValidationError) -> str:
    """The first fault that was found."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"Setting {where} is missing: give it a value."
    if first["type"] == "extra_forbidden":
        return f"There is no setting {where!r}: leave it out."
    reason = first["msg"].removeprefix("Value error, ")
    if isinstance(first["input"], dict | BaseModel):
        said = f"The settings of {where} do not fit together" if where else "These settings do not fit together"
    else:
        said = f"Setting {where} cannot be {first['input']!r}"
    return f"{said}: {reason}."


def _misread(given: object, taken: object, name: str = "") -> str | None:
    """The first setting for which true or false was given and a number was taken, as pydantic does."""
    if isinstance(given, Mapping) and isinstance(taken, Mapping):
        parts = (_misread(value, taken[key], f"{name}.{key}") for key, value in given.items() if key in taken)
        return next(filter(None, parts), None)
    number = isinstance(taken, int | float) and not isinstance(taken, bool)
    return name.removeprefix(".") if isinstance(given, bool) and number else None


def parse_setting(text: str) -> tuple[str, object]:
    """A command line's `key=value`; the value is read as JSON where it is JSON, else as a string.

    Raises:
        ConfigError: there is no `=`, or nothing before it.
    """
    key, equals, value = text.partition("=")
    if not key.strip():
        raise ConfigError(f"--set {text} names no setting: write --set KEY=VALUE.")
    if not equals:
        raise ConfigError(f"--set {text} has no value: write --set {text}=VALUE.")
    try:
        return key.strip(), json.loads(value)
    except json.JSONDecodeError:
        return key.strip(), value


def _assign(raw: dict[str, Any], name: str, value: object, prefix: str, *, within_given: bool) -> None:
    """Replace the field with a dotted name in nested dictionaries.

    `prefix` is what errors say before the name; what is given whole (`within_given`) leaves out what has a default.
    """
    *parents, last = name.split(".")
    level: Any = raw
    for parent in parents:
        level = level.get(parent) if isinstance(level, dict) else None
        if level is None and parent == parents[-1]:
            whole = prefix + ".".join(parents)
            raise ConfigError(
                f"There is no setting {prefix + name!r} where {whole} is not set: write {whole}='{{\"{last}\": ...}}'."
            )
    if not isinstance(level, dict) or (last not in level and not within_given):
        siblings = f": the fields here are {', '.join(level)}" if isinstance(level, dict) else ""
        raise ConfigError(f"There is no setting {prefix + name!r}{siblings}.")
    if last == "name" and parents and level.get("name", value) != value:  # its other fields would stay
        whole = prefix + ".".join(parents)
        raise ConfigError(
            f"Setting {prefix + name} cannot be changed alone, as another one has other settings: write "
            f"{whole}='{json.dumps({'name': value})}', with those that it needs."
        )
    level[last] = value
