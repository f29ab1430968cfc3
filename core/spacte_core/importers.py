"""Checkpoints from elsewhere: published `.pth` files of three layouts, `torch.export` programs and ONNX files.

Weights only: a file whose pickle holds anything but tensors and plain containers is refused without being run. What a
file does not say is inferred from its weights (depth, heads, classes) or is an argument (the normalisation, which none
of the layouts stores). METHODS section 1 describes the layouts.
"""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .checkpoint import CheckpointConfig, CheckpointError
from .models import ModelConfig, MultiHeadNet, Normalization, build
from .models.onnx_network import with_weights
from .models.program_archive import ProgramError
from .models.registry import archived_network
from .preprocessing import IMAGENET
from .programs import Archived, network_of
from .stated_transforms import stated_transforms

Layout = Literal["spacte", "cohen", "macer"]
Format = Literal["spacte", "cohen", "macer", "torch-export", "onnx"]
Kind = Literal["standard", "center", "none"]


def import_checkpoint(
    file: Path | str,
    format: Format,  # noqa: A002 - the option's name
    *,
    sigma: float,
    normalization: Kind | None = None,
    dataset: str | None = None,
    class_names: tuple[str, ...] | None = None,
    size: int | None = None,
) -> tuple[MultiHeadNet, CheckpointConfig]:
    """A network from elsewhere with the configuration to save it under.

    Args:
        file: `.pth`, `.pth.tar`, `.pt2` or `.onnx`.
        format: `spacte` (a state dict with heads), `cohen` (also Consistency, SmoothMix, SmoothAdv: one network),
            `macer` (keys without a prefix), `torch-export` (what `torch.export.save` wrote), or `onnx`.
        sigma: noise sd it was trained at, in units of [0, 1] pixels.
        normalization: None is what the format's authors use: standard for spacte and cohen, else none.
        dataset: whose mean and sd the normalisation uses; None: CIFAR-10's for 10 classes, ImageNet's for 1,000.
        class_names: one a class; None numbers them.
        size: height and width in pixels, where an ONNX file leaves them open.

    Raises:
        CheckpointError: the file is missing, damaged, of another layout, or not safe to read.
        TransformError: a file beside it states transforms of pictures that are not done here.
    """
    file = Path(file)
    if format in ("torch-export", "onnx"):
        arch: Archived = "onnx" if format == "onnx" else "exported"
        net, model = import_program(file, normalization or "none", dataset, arch=arch, size=size)
    else:
        net, model = import_state(read_state(file, format), format, normalization, dataset)
    _check_defined(net.eval(), model, file)
    names = class_names or tuple(map(str, range(model.num_classes)))
    if len(names) != model.num_classes:
        raise CheckpointError(f"{file} has {model.num_classes} classes: give as many names, not {len(names)}.")
    _, height, width = model.input_shape
    stated = stated_transforms(file.parent, (height, width))
    config = CheckpointConfig(
        model=model,
        class_names=names,
        sigma=sigma,
        method=format,
        dataset=dataset,
        preprocessing=stated or (IMAGENET if model.arch.startswith("imagenet") else None),
    )
    return net, config


def _check_defined(net: MultiHeadNet, model: ModelConfig, file: Path) -> None:
    """Raise CheckpointError where a network gives no defined logits on random pixels."""
    dtype = torch.float32 if model.arch in ("exported", "onnx") else next(net.parameters()).dtype
    x_BCHW = torch.rand(2, *model.input_shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    with torch.no_grad():
        defined = all(bool(z_BK.isfinite().all()) for z_BK in net(x_BCHW))
    if not defined:
        raise CheckpointError(
            f"The network of {file} gives NaN or infinite logits: import one from before its training diverged."
        )


def read_state(file: Path, layout: Layout) -> dict[str, Tensor]:
    """The state dict in a published file.

    Raises:
        CheckpointError: see `import_checkpoint`.
    """
    content = read_weights(file)
    key = "net" if layout == "macer" else "state_dict"
    state = content.get(key, content) if isinstance(content, dict) else None  # a bare state dict is one, too
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{file} has no {key!r} with weights in it: choose the --format that it was saved in.")
    return state


def read_weights(file: Path) -> Any:
    """What a .safetensors file or one of `torch.save` holds: tensors and plain containers, or it is refused.

    Raises:
        CheckpointError: see `import_checkpoint`.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old pickle protocols and storages, which are read all the same
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): name a file that can.") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds more than weights, and unpickling the rest could run anything: have its owner "
            "save the state dict alone, torch.save(net.state_dict(), FILE)."
        ) from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        TypeError,
        IndexError,
        SafetensorError,
    ) as error:
        raise CheckpointError(f"{file} is not a file of torch.save, or is damaged: copy it again.") from error


def import_state(
    state: Mapping[str, Tensor], layout: Layout, normalization: Kind | None = None, dataset: str | None = None
) -> tuple[MultiHeadNet, ModelConfig]:
    """The network of a reference-layout state dict, in the precision of its weights (at least float32).

    Raises:
        CheckpointError: the weights are of another layout or incomplete.
    """
    prefix = _prefix(state)
    weights = {key.removeprefix(prefix): value for key, value in state.items()}
    config = _infer(weights, layout, normalization or ("none" if layout == "macer" else "standard"), dataset)
    net = build(config).to(torch.promote_types(weights["conv1.weight"].dtype, torch.float32))
    names = {key: reference_name(key, config, multihead=layout == "spacte") for key in net.state_dict()}
    for key, name in names.items():  # not written before PyTorch 0.4.1, and of no effect in eval mode
        if key.endswith("num_batches_tracked"):
            weights.setdefault(name, torch.tensor(0))
    differing = sorted(set(names.values()) ^ set(weights))
    if differing and all(name.rpartition(".")[2] in ("running_mean", "running_var") for name in differing):
        raise CheckpointError(
            f"The file has no running statistics of {len(differing) // 2} batch normalisations (first "
            f"{prefix}{differing[0]}), without which an answer hangs on the batch: save the whole state_dict()."
        )
    if differing:
        raise CheckpointError(
            f"{len(differing)} weights are missing or too many for {config.arch} (first "
            f"{prefix}{differing[0]}): choose the --format that the file was saved in."
        )
    try:
        net.load_state_dict({key: weights[name] for key, name in names.items()})
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip().rstrip(".")
        raise CheckpointError(
            f"The weights do not fit {config.arch} ({first}): only the published widths are read."
        ) from error
    return net, config


def reference_name(key: str, config: ModelConfig, *, multihead: bool) -> str:
    """What the published layouts call a weight of ours, less their prefix (`1.`, `1.module.` or none).

    In a multi-head file, `heads.3.blocks.0.bn1.weight` is `heads.3.0.0.bn1.weight` and `heads.3.fc.bias` is
    `heads.3.1.bias`. In a single network they are the last layer (3 for CIFAR, 4 for ImageNet) and `fc`.
    Weights of the backbone have the same names everywhere.
    """
    if multihead:
        key = re.sub(r"^heads\.(\d+)\.blocks\.", r"heads.\1.0.", key)
        key = re.sub(r"^heads\.(\d+)\.fc\.", r"heads.\1.1.", key)
    else:
        last = "layer4." if config.arch.startswith("imagenet") else "layer3."
        key = key.replace("heads.0.blocks.", last).replace("heads.0.fc.", "fc.")
    return key.removeprefix("backbone.")


def import_program(
    file: Path,
    normalization: Kind = "none",
    dataset: str | None = None,
    *,
    arch: Archived = "exported",
    size: int | None = None,
) -> tuple[MultiHeadNet, ModelConfig]:
    """The classifier that `torch.export.save` wrote, or an ONNX file: pixels_BCHW -> logits_BK, one a head.

    Raises:
        CheckpointError: the file cannot be read, holds more than a classifier needs, or takes or returns other things.
    """
    try:
        archive = file.read_bytes()
        if arch == "onnx":
            archive = with_weights(archive, file.parent)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}): name a file that can.") from error
    except ProgramError as error:
        raise CheckpointError(f"{file} is not taken for a classifier, since {error}: export it again.") from error
    net, config = network_of(archive, file, Normalization(), arch=arch, size=size)
    if normalization == "none":
        return net, config
    config = config.model_copy(update={"normalization": _constants(config.num_classes, normalization, dataset)})
    return archived_network(config, net.backbone).eval(), config


def _prefix(state: Mapping[str, Tensor]) -> str:
    stems = [key.removesuffix("conv1.weight") for key in state if key.endswith("conv1.weight")]
    if not stems:
        raise CheckpointError("The file holds no ResNet: only the published ResNets are read.")
    return min(stems, key=len)


def _infer(weights: Mapping[str, Tensor], layout: Layout, kind: Kind, dataset: str | None) -> ModelConfig:
    heads = {match[1] for key in weights if (match := re.match(r"heads\.(\d+)\.", key))}
    if bool(heads) != (layout == "spacte"):
        other, has = ("spacte", "has") if heads else ("cohen or macer", "has no")
        raise CheckpointError(f"The file {has} heads: import it with --format {other}.")
    linear = weights.get("heads.0.1.weight" if heads else "fc.weight")
    if linear is None or linear.dim() != 2:
        raise CheckpointError("The file has no linear layer at the end: only the published ResNets are read.")
    blocks = len({match[1] for key in weights if (match := re.match(r"layer1\.(\d+)\.", key))})
    imagenet = "layer1.0.conv3.weight" in weights
    return ModelConfig(
        arch="imagenet_resnet50" if imagenet else f"cifar_resnet{6 * blocks + 2}",
        heads=max(1, len(heads)),
        num_classes=len(linear),
        input_shape=(3, 224, 224) if imagenet else (weights["conv1.weight"].shape[1], 32, 32),
        normalization=_constants(len(linear), kind, dataset),
    )


def _constants(num_classes: int, kind: Kind, dataset: str | None) -> Normalization:
    usual = {10: "cifar10", 100: "cifar100", 1000: "imagenet"}
    try:
        return Normalization.of(dataset or usual.get(num_classes, "cifar10"), kind)
    except ValueError as error:
        raise CheckpointError(f"{str(error).rstrip('.')} with --dataset.") from error
