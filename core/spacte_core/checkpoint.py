"""A trained network on disk: a folder with `model.safetensors` and `config.json`; nothing in it is unpickled.

Its version is the SHA-256 over the bytes of `config.json` followed by those of `model.safetensors`.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save

from .errors import UserError
from .files import replace_file
from .models import ModelConfig, MultiHeadNet, build
from .preprocessing import IMAGENET, Preprocessing

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class CheckpointError(UserError):
    """A checkpoint folder that cannot be used; one sentence that names the remedy."""


class CheckpointConfig(BaseModel):
    """What `config.json` holds: enough to rebuild the network, and to run its training again."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    schema_version: Literal[1] = 1
    model: ModelConfig
    class_names: tuple[str, ...]
    sigma: float = Field(ge=0, description="Noise sd it was trained at, in units of [0, 1] pixels.")
    method: str = Field(description="How it was trained, e.g. `spacte-gaussian`.")
    dataset: str | None = None
    epochs: int | None = None
    seed: int | None = None
    preprocessing: Preprocessing | None = Field(
        default=None, description="How pictures became its input; null where they were taken as they are."
    )
    train: dict[str, Any] = Field(default_factory=dict, description="Every hyper-parameter of the run.")
    metrics: dict[str, float] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict, description="Of the software that made it.")

    @model_validator(mode="after")
    def _every_class_has_its_name(self) -> Self:
        names, classes = len(self.class_names), self.model.num_classes
        if names != classes:
            raise ValueError(f"there are {names} class_names for {classes} classes")
        return self

    @property
    def pictures(self) -> Preprocessing:
        """How pictures become its input; for checkpoints that do not state it, from their hyper-parameters."""
        data = self.train.get("data", {})
        if self.preprocessing is not None:
            return self.preprocessing
        if str(data.get("source") or self.dataset).startswith("imagenet"):
            return IMAGENET
        return Preprocessing(resize=data.get("image_size"), convert=("channels",) if data.get("channels") else ())


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the network in eval mode, its configuration, version (hex) and folder."""

    net: MultiHeadNet
    config: CheckpointConfig
    version: str
    folder: Path


def save_checkpoint(
    folder: Path | str, net: torch.nn.Module, config: CheckpointConfig, *, dtype: torch.dtype | None = None
) -> str:
    """Write the folder, replacing a checkpoint that is there, and return its version.

    Each file is replaced as a whole; a reader between the two replacements sees weights that do not belong to the
    configuration's version, never half a file.

    Args:
        folder: made if missing.
        net: what `build(config.model)` gives, trained.
        config: see `CheckpointConfig`.
        dtype: of the stored floating-point weights, e.g. `torch.bfloat16` for half the size; None keeps theirs.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # safetensors wants plain contiguous CPU tensors, which channels_last weights are not.
    state = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    if dtype is not None:
        state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    weights = save(state)
    text = (config.model_dump_json(indent=2) + "\n").encode()
    for name, data in ((WEIGHTS_FILE, weights), (CONFIG_FILE, text)):
        replace_file(folder / name, data)
    return _version(text, weights)


def load_checkpoint(folder: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
    """Rebuild the network of a checkpoint folder in eval mode.

    Raises:
        CheckpointError: the folder, a file in it or a weight is missing, damaged or of another kind.
    """
    folder = Path(folder)
    text, config = _config(folder)
    with _opened(folder, WEIGHTS_FILE) as file:
        weights = file.read()
    try:
        state = load(weights)
    except SafetensorError as error:
        raise CheckpointError(f"{folder / WEIGHTS_FILE} is damaged ({error}): copy or train it again.") from error
    try:
        net = build(config.model)
        net.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"The weights in {folder} do not fit its {CONFIG_FILE} ({_first_line(error)}): "
            "use the two files of one run."
        ) from error
    return Checkpoint(net.to(device).eval(), config, _version(text, weights), folder)


def read_config(folder: Path | str) -> tuple[CheckpointConfig, str]:
    """Configuration and version of a checkpoint folder, without building the network.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    folder = Path(folder)
    text, config = _config(folder)
    with _opened(folder, WEIGHTS_FILE) as file:
        return config, hashlib.file_digest(file, lambda: hashlib.sha256(text)).hexdigest()


def _version(text: bytes, weights: bytes) -> str:
    digest = hashlib.sha256(text)
    digest.update(weights)
    return digest.hexdigest()


def _config(folder: Path) -> tuple[bytes, CheckpointConfig]:
    with _opened(folder, CONFIG_FILE) as file:
        text = file.read()
    try:
        return text, CheckpointConfig.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        reason = first["msg"].removeprefix("Value error, ")
        raise CheckpointError(
            f"{folder / CONFIG_FILE} is not a configuration that this version reads "
            f"({where}: {reason}): write it with `spacte train` or `spacte import`."
        ) from error


@contextmanager
def _opened(folder: Path, name: str) -> Iterator[BufferedReader]:
    try:
        with (folder / name).open("rb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(
            f"{folder} is no checkpoint, for {name} cannot be read ({error.strerror}): "
            "name a folder that `spacte train` or `spacte import` wrote."
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 else lines[0]).rstrip(". ")
