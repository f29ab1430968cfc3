"""Any module as a `torch.export` program, and any such program or ONNX file as a network."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from .checkpoint import CheckpointConfig, CheckpointError
from .models import ModelConfig, MultiHeadNet, Normalization
from .models.adapters import LogitsOf, fails, frozen_copy, unusual
from .models.exported import Program
from .models.onnx_network import OnnxNetwork
from .models.program_archive import ProgramError
from .models.registry import archived_network
from .preprocessing import Preprocessing
from .versions import installed_version

Archived = Literal["exported", "onnx"]

MOST_DIFFERENCE = 1e-4
"""By how much a program's logits may differ from the module's, as part of the largest. Chosen: float32's rounding in a
deep network, a thousandth of what a wrong operator would change."""

_CHECKED_ROWS = 5  # on which a program is compared. Chosen: another batch size than the two it was traced with


def program_network(
    module: nn.Module, input_shape: Sequence[int], normalization: Normalization | None = None
) -> tuple[MultiHeadNet, ModelConfig]:
    """A module in eval mode as a network that a checkpoint can hold: its code comes along as a program.

    Args:
        module: x_BCHW float32 -> logits_BK, a list of L of them, or either as `.logits` or under "logits".
        input_shape: (C, H, W).
        normalization: of the pixels in [0, 1] before the module; None: none.

    Raises:
        CheckpointError: it cannot be exported, is not one fixed function, or returns something else.
    """
    channels, height, width = input_shape
    try:
        classifier = LogitsOf(frozen_copy(module)).eval().cpu()
    except TypeError as error:
        raise CheckpointError(str(error)) from error
    classifier.to(memory_format=torch.contiguous_format)  # torch.export.save warns of others
    x_BCHW = torch.rand(_CHECKED_ROWS, channels, height, width, generator=torch.Generator().manual_seed(0))
    x_BCHW = x_BCHW.to(next((p.dtype for p in classifier.parameters() if p.is_floating_point()), torch.float32))
    expected = _heads_of(classifier, x_BCHW)
    net, model = network_of(exported(classifier, x_BCHW[:2]), "The module", normalization or Normalization())
    found = net.backbone(x_BCHW).unbind(1)
    most = MOST_DIFFERENCE * max(float(z_BK.abs().max()) for z_BK in expected)

    def differ(logits: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
        return any(float((a - b).abs().max()) > most for a, b in zip(logits, others, strict=True))

    if differ(found, expected):
        raise CheckpointError(
            "The exported module answers otherwise than the module itself: let its answer depend on the images alone, "
            "and not on chance, on dropout in eval mode, or on Python's state."
        )
    if differ(net.backbone(x_BCHW[:2]).unbind(1), [z_BK[:2] for z_BK in found]):
        raise CheckpointError(
            "The module answers otherwise about an image in another batch: have its normalisation keep and use running "
            "statistics in eval mode (track_running_stats=True), so that it is one fixed function."
        )
    return net, model


def described(
    model: ModelConfig,
    *,
    sigma: float,
    method: str,
    class_names: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
) -> CheckpointConfig:
    """What a checkpoint says of a network from elsewhere.

    Args:
        model: see `program_network`.
        sigma: noise sd, in units of [0, 1] pixels.
        method: where it came from.
        class_names: one a class; None numbers them.
        preprocessing: what brought pictures to the network's input.

    Raises:
        CheckpointError: there are more or fewer names than classes, or sigma is no noise level.
    """
    names = tuple(map(str, range(model.num_classes)) if class_names is None else class_names)
    if len(names) != model.num_classes:
        raise CheckpointError(f"The model has {model.num_classes} classes: give as many class names, not {len(names)}.")
    versions = {name: installed_version(name) for name in ("spacte-core", "torch")}
    about: dict[str, Any] = {"method": method, "versions": versions, "preprocessing": preprocessing}
    try:
        return CheckpointConfig(model=model, class_names=names, sigma=sigma, **about)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CheckpointError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}.") from error


def exported(classifier: nn.Module, x_BCHW: Tensor) -> bytes:
    """The archive of a module's program, for batches of any size.

    Raises:
        CheckpointError: torch cannot export it.
    """
    archive = io.BytesIO()
    try:
        with torch.no_grad():
            batch = torch.export.Dim("batch")
            program = torch.export.export(classifier, (x_BCHW,), dynamic_shapes=({0: batch},))
        torch.export.save(program, archive)
    except Exception as error:  # the module's own code, traced, fails in any way it likes
        first = str(error).strip().partition("\n")[0].partition(" For more information")[0].rstrip(".:!")
        raise CheckpointError(
            f"The module cannot be exported for batches of any size ({type(error).__name__}: {first[:200]}): keep "
            "Python branches on values and fixed batch sizes out of its forward, or certify it with LocalCertifier."
        ) from error
    return archive.getvalue()


def network_of(
    archive: bytes,
    name: Path | str,
    normalization: Normalization,
    *,
    arch: Archived = "exported",
    size: int | None = None,
) -> tuple[MultiHeadNet, ModelConfig]:
    """The classifier in the bytes of a file: x_BCHW -> logits_BK, or several of them, one a head.

    Args:
        archive: what `torch.export.save` wrote, or an ONNX file.
        name: what sentences call it.
        normalization: of the pixels in [0, 1] before it.
        arch: which of the two.
        size: height and width, where an ONNX file leaves them open.

    Raises:
        CheckpointError: it holds more than a classifier needs, or takes or returns other things.
    """
    backbone = Program() if arch == "exported" else OnnxNetwork()
    try:
        backbone.load_archive(archive)
    except ProgramError as error:
        raise CheckpointError(
            f"{name} is not taken for a classifier, since {error}: export the plain network again."
        ) from error
    shape = backbone.input_shape if isinstance(backbone, Program) else backbone.shape_at(size)
    if shape is None or len(shape) != 3:
        raise CheckpointError(
            f"{name} does not take one batch of float32 images of one size: export a network with one 4-d input"
            f"{'' if arch == 'exported' else ', or give --size where it leaves height and width open'}."
        )
    try:
        _, logits = (backbone.logits(torch.zeros(batch, *shape)) for batch in (2, 3))
    except Exception as error:  # each runtime has exceptions of its own
        raise CheckpointError(
            f"{name} does not run on batches of 2 and 3: export it with a dynamic first dimension."
        ) from error
    num_classes = classes_of(logits, name)
    if normalization.mean and len(normalization.mean) != shape[0]:
        raise CheckpointError(f"{name} takes {shape[0]} channels: give as many means, not {len(normalization.mean)}.")
    heads: dict[str, Any] = {"heads": len(logits), "num_classes": num_classes}
    config = ModelConfig(arch=arch, input_shape=(shape[0], shape[1], shape[2]), normalization=normalization, **heads)
    return archived_network(config, backbone).eval(), config


def classes_of(logits: Sequence[Tensor], name: Path | str, batch: int = 3) -> int:
    """How many classes the heads' logits have.

    Raises:
        CheckpointError: they are not logits of `batch` rows.
    """
    shapes = {tuple(z_BK.shape) for z_BK in logits}
    if len(shapes) != 1 or len(first := shapes.pop()) != 2 or first[0] != batch or first[1] < 2:
        raise CheckpointError(f"{name} does not return logits: let it return one [batch, classes].")
    return first[1]


def _heads_of(classifier: nn.Module, x_BCHW: Tensor) -> list[Tensor]:
    """What the module returns, as one tensor a head."""
    try:
        with torch.no_grad():
            output = classifier(x_BCHW)
    except Exception as error:  # the module's own code fails in any way it likes
        raise CheckpointError(fails(x_BCHW, error)) from error
    logits = [output] if isinstance(output, Tensor) else list(output)
    classes_of(logits, "The module", len(x_BCHW))
    if what := unusual(logits):
        raise CheckpointError(what)
    if not all(bool(z_BK.isfinite().all()) for z_BK in logits):
        raise CheckpointError("The module gives NaN or infinite logits: train it, or load its weights.")
    return logits
