"""From a configuration to a network, and the list of what can be built."""

import re
from collections.abc import Callable
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from . import cifar_fast, cifar_resnet, digits_cnn
from .denoisers import Denoised, DenoiserConfig
from .endpoint import EndpointConfig, EndpointNetwork
from .ensemble import Ensemble
from .multihead import MultiHeadNet, Pick
from .normalization import Normalization


class ModelConfig(BaseModel):
    """Everything that a network is, except its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    arch: str = Field(
        description="`cifar_resnetD` (D = 6n+2), `cifar_fastW` (W channels, a multiple of 4), `imagenet_resnet50`, "
        "`digits_cnn`, `ensemble`, `exported`, `onnx`, `endpoint`, `denoised`."
    )
    heads: int = Field(default=1, ge=1)
    num_classes: int = Field(ge=2)
    input_shape: tuple[int, int, int] = Field(description="(C, H, W)")
    normalization: Normalization = Normalization()
    members: tuple["ModelConfig", ...] = Field(
        default=(), description="Of an ensemble, one head each; of `denoised`, the classifier."
    )
    denoiser: DenoiserConfig | None = Field(
        default=None, description="Of `denoised`: what comes before the classifier."
    )
    endpoint: EndpointConfig | None = Field(default=None, description="Of `endpoint`: where the model is.")

    @model_validator(mode="after")
    def _one_head_a_member(self) -> Self:
        if (self.arch == "denoised") != (self.denoiser is not None):
            raise ValueError("`denoised` has a denoiser, and nothing else has one")
        if (self.arch == "endpoint") != (self.endpoint is not None):
            raise ValueError("`endpoint` has an endpoint, and nothing else has one")
        if self.arch == "denoised":
            if [member.heads for member in self.members] != [self.heads]:
                raise ValueError("`denoised` has one member, the classifier, and as many heads as that")
        elif len(self.members) != (self.heads if self.arch == "ensemble" else 0):
            raise ValueError("an ensemble has one head a member, and nothing else has members")
        return self

    @property
    def asked(self) -> EndpointConfig | None:
        """The endpoint that the network asks, itself or in one of its members; None where it asks none."""
        return self.endpoint or next((found for member in self.members if (found := member.asked)), None)


def build(config: ModelConfig) -> MultiHeadNet:
    """A freshly initialised network in train mode; torch's global generator decides its weights.

    Raises:
        ValueError: the architecture is unknown, or its depth or members do not fit.
    """
    match = re.fullmatch(r"([a-z_]+)(\d*)", config.arch)
    if match is None or match[1] not in FAMILIES:
        raise ValueError(
            f"There is no architecture {config.arch!r}: use cifar_resnet20 (or another depth 6n+2), "
            "cifar_fast256 (or another width), imagenet_resnet50 or digits_cnn."
        )
    return FAMILIES[match[1]](config, int(match[2] or 0))


def denoised_of(denoiser: DenoiserConfig, classifier: ModelConfig) -> ModelConfig:
    """The configuration of a denoiser before a classifier."""
    same = classifier.model_dump(include={"heads", "num_classes", "input_shape"})
    return ModelConfig(arch="denoised", denoiser=denoiser, members=(classifier,), **same)


def ensemble_of(members: tuple[ModelConfig, ...]) -> ModelConfig:
    """The configuration of an ensemble.

    Raises:
        ValueError: there are no members, or they differ in their classes or input shape.
    """
    shapes = {(m.num_classes, m.input_shape) for m in members}
    if len(shapes) != 1:
        raise ValueError("An ensemble needs members with the same classes and input shape: choose such checkpoints.")
    num_classes, input_shape = shapes.pop()
    return ModelConfig(
        arch="ensemble", heads=len(members), num_classes=num_classes, input_shape=input_shape, members=members
    )


def _multi_head(config: ModelConfig, backbone: nn.Module, head: Callable[[], nn.Module]) -> MultiHeadNet:
    return MultiHeadNet(config.normalization.build(), backbone, [head() for _ in range(config.heads)])


def _cifar(config: ModelConfig, depth: int) -> MultiHeadNet:
    backbone = cifar_resnet.backbone(depth, config.input_shape[0])
    return _multi_head(config, backbone, lambda: cifar_resnet.head(depth, config.num_classes))


def _cifar_fast(config: ModelConfig, width: int) -> MultiHeadNet:
    backbone = cifar_fast.backbone(width, config.input_shape[0])
    return _multi_head(config, backbone, lambda: cifar_fast.head(width, config.num_classes))


def _imagenet(config: ModelConfig, depth: int) -> MultiHeadNet:
    from . import imagenet_resnet  # torchvision takes a second to import

    if depth != 50:
        raise ValueError(f"Of the ImageNet ResNets only depth 50 is built, not {depth}: use imagenet_resnet50.")
    if config.input_shape[0] != 3:
        raise ValueError("The ImageNet ResNet takes three channels: convert the images, or use a CIFAR ResNet.")
    return _multi_head(config, imagenet_resnet.backbone(), lambda: imagenet_resnet.head(config.num_classes))


def _digits(config: ModelConfig, _depth: int) -> MultiHeadNet:
    backbone = digits_cnn.backbone(config.input_shape[0])
    return _multi_head(config, backbone, lambda: digits_cnn.head(config.num_classes))


def _ensemble(config: ModelConfig, _depth: int) -> MultiHeadNet:
    return Ensemble(map(build, config.members))


def _denoised(config: ModelConfig, _depth: int) -> MultiHeadNet:
    if config.denoiser is None:
        raise ValueError("A denoised classifier needs a denoiser: give one.")
    return Denoised(config.denoiser.build(config.input_shape[0]), build(config.members[0]))


def _exported(config: ModelConfig, _depth: int) -> MultiHeadNet:
    from .exported import Program  # torch.export takes a second to import

    return archived_network(config, Program())


def _onnx(config: ModelConfig, _depth: int) -> MultiHeadNet:
    from .onnx_network import OnnxNetwork

    return archived_network(config, OnnxNetwork())


def _endpoint(config: ModelConfig, _depth: int) -> MultiHeadNet:
    if config.endpoint is None:
        raise ValueError("A model behind an endpoint needs its address: give one.")
    return archived_network(config, EndpointNetwork(config.endpoint))


def archived_network(config: ModelConfig, backbone: nn.Module) -> MultiHeadNet:
    """The network over an `ArchivedNetwork`, whose heads pick their part of what that computes."""
    return MultiHeadNet(config.normalization.build(), backbone, map(Pick, range(config.heads)))


FAMILIES: dict[str, Callable[[ModelConfig, int], MultiHeadNet]] = {
    "cifar_resnet": _cifar,
    "cifar_fast": _cifar_fast,
    "imagenet_resnet": _imagenet,
    "digits_cnn": _digits,
    "ensemble": _ensemble,
    "exported": _exported,
    "onnx": _onnx,
    "endpoint": _endpoint,
    "denoised": _denoised,
}
