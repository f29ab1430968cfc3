"""From an address, or a file that describes an endpoint, to a checkpoint: what it is, and what it answers to probes."""

import tomllib
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from spacte_core.checkpoint import CheckpointConfig, CheckpointError
from spacte_core.models import ModelConfig, MultiHeadNet, Normalization, build
from spacte_core.models.endpoint import EndpointConfig, EndpointNetwork, answers_archive, probe_rows
from spacte_core.programs import described
from spacte_workers.errors import EndpointError, EndpointFaultError

from .protocols import checked
from .session import Session

_MOST_ROUNDING = 2.0**-6
"""As part of what rows differ by. Chosen: a few roundings of bfloat16, each of which is up to 2**-9."""

_MARGIN = 4  # of the rounding that was seen. Chosen: rows that were not asked may show more


class EndpointFile(BaseModel):
    """A TOML file: the fields of `EndpointConfig` under `[endpoint]`, and what is done to pixels before they leave."""

    model_config = ConfigDict(extra="forbid")
    endpoint: EndpointConfig
    normalization: Normalization = Normalization()


def import_endpoint(
    address: str,
    *,
    sigma: float,
    input_shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
) -> tuple[MultiHeadNet, CheckpointConfig]:
    """The network over an endpoint, and what to save it with.

    Args:
        address: `http(s)://HOST/v2/models/NAME`, or a TOML file.
        sigma: noise sd it is to be certified at, in units of [0, 1] pixels.
        input_shape: (C, H, W); None is what it says itself.
        classes: how many, where it does not say.
        class_names: one a class; None numbers them.

    Raises:
        CheckpointError: it does not answer, is no classifier of such images, or not one function.
    """
    file = _described(address)
    count = classes or len(class_names or ())
    try:
        net, model = _imported(file, input_shape, count)
    except (EndpointError, EndpointFaultError) as error:
        raise CheckpointError(str(error)) from error
    return net, described(model, sigma=sigma, method="endpoint", class_names=class_names)


def _imported(file: EndpointFile, shape: tuple[int, int, int] | None, classes: int) -> tuple[MultiHeadNet, ModelConfig]:
    config = file.endpoint
    if config.protocol == "v2":
        session = Session(config, classes)
        try:
            config, shape, classes = _from_metadata(config, session.metadata(), shape, classes)
        finally:
            session.close()
    if shape is None:
        raise CheckpointError(f"{config.url} does not say which images it takes: give --input-shape C,H,W.")
    normalization = file.normalization
    if normalization.mean and len(normalization.mean) != shape[0]:
        raise CheckpointError(
            f"The images have {shape[0]} channels: give as many means, not {len(normalization.mean)}."
        )
    config, expected_PK = _probed(config, shape, classes)
    size: dict[str, Any] = {"num_classes": expected_PK.shape[1], "input_shape": shape}
    model = ModelConfig(arch="endpoint", endpoint=config, normalization=normalization, **size)
    net = build(model).eval()
    cast("EndpointNetwork", net.backbone).load_archive(answers_archive(torch.from_numpy(expected_PK)))
    return net, model


def _described(address: str) -> EndpointFile:
    try:
        if not address.endswith(".toml"):
            return EndpointFile(endpoint=EndpointConfig(url=address))
        return EndpointFile.model_validate(tomllib.loads(Path(address).read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CheckpointError(f"{address} cannot be read as TOML ({error}): name a file that describes one.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise CheckpointError(
            f"{address} describes no endpoint ({where}: {first['msg'].removeprefix('Value error, ')}): correct that."
        ) from error


def _from_metadata(
    config: EndpointConfig, told: dict[str, Any], shape: tuple[int, int, int] | None, classes: int
) -> tuple[EndpointConfig, tuple[int, int, int] | None, int]:
    """The names, the shape and the classes that a user left out, as the protocol's metadata has them."""
    source = _tensor(config, told.get("inputs"), config.input, "input")
    if source.get("datatype") != "FP32":
        raise CheckpointError(
            f"{config.url} takes {source.get('datatype')}, and noisy pixels are FP32: serve it with such an input."
        )
    target = _tensor(config, told.get("outputs"), config.output, "output")
    found = _fixed(source.get("shape"))
    if shape is None and len(found) >= 3 and min(found[-3:]) > 0:
        height, width, channels = found[-3:]
        shape = (channels, height, width) if config.layout == "NHWC" else (height, width, channels)
    last = (_fixed(target.get("shape")) or [-1])[-1]
    if config.kind == "logits" and not classes and last > 1:
        classes = last
    versions = told.get("versions") or []
    named = {"input": source["name"], "output": target["name"], "model_name": config.model_name or told.get("name", "")}
    if len(versions) == 1 and not config.model_version:
        named["model_version"] = str(versions[0])
    return config.model_copy(update=named), shape, classes


def _tensor(config: EndpointConfig, tensors: Any, name: str, which: str) -> dict[str, Any]:
    """The only one, or the one of that name."""
    there = {str(t.get("name")): t for t in tensors or [] if isinstance(t, dict)}
    if not name and len(there) == 1:
        return next(iter(there.values()))
    if name in there:
        return there[name]
    names = ", ".join(there) or "none"
    raise CheckpointError(
        f"{config.url} has the {which}s {names}: name one of them as `{which}` in a TOML file that describes the "
        "endpoint."
    )


def _fixed(shape: Any) -> list[int]:
    return shape if isinstance(shape, list) and all(isinstance(n, int) for n in shape) else []


def _probed(
    config: EndpointConfig, shape: tuple[int, int, int], classes: int
) -> tuple[EndpointConfig, NDArray[np.float32]]:
    """What it answers to the probes, the version that it states, and by how much answers vary from place to place."""
    x_PCHW = probe_rows(config.probes, shape).numpy()
    session = Session(config, classes)
    try:
        first = session.answer(x_PCHW[: config.rows])
        if not classes and config.kind == "logits" and first.values.ndim == 2:
            classes = first.values.shape[1]
        if classes < 2:
            raise CheckpointError(f"{config.url} does not say how many classes it has: give --classes.")
        checked(config, first.values, config.rows, classes)
    finally:
        session.close()
    stated = {"model_name": first.name or config.model_name, "model_version": first.version or config.model_version}
    config = config.model_copy(update=stated)
    session = Session(config, classes)
    try:
        runs = [session.logits(x_PCHW), session.logits(x_PCHW), session.logits(x_PCHW[::-1].copy())[::-1]]
    finally:
        session.close()
    spread = float(np.abs(runs[0] - runs[0].mean(0)).max())
    seen = max(float(np.abs(runs[0] - run).max()) for run in runs[1:])
    if seen * _MARGIN > _MOST_ROUNDING * spread or spread == 0:
        raise CheckpointError(
            f"{config.url} gives the same rows other answers from one request to the next, or all rows the same one: "
            "serve one fixed classifier, without dropout, batch statistics or sampling."
        )
    return config.model_copy(update={"rounding": max(config.rounding, _MARGIN * seen / spread)}), runs[0]
