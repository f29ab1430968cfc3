"""What a run starts from: fresh weights, a checkpoint's, or a network of another library cut into heads."""

import copy
from pathlib import Path

from torch import nn

from spacte_core.checkpoint import Checkpoint, CheckpointError, load_checkpoint, read_config
from spacte_core.models import ModelConfig, MultiHeadNet, build
from spacte_core.models.denoisers import Denoised
from spacte_core.models.exported import Program
from spacte_core.programs import program_network
from spacte_core.sources import SourceOptions, is_source, load_source
from spacte_core.trainable import WithoutNormalization, perturbed, trainable_network

from .config import InitConfig, TrainConfig

EXPORTED = "exported"


def model_of(
    init: InitConfig, recipe: ModelConfig | None, heads: int | None, *, trains: bool = True
) -> tuple[ModelConfig, InitConfig]:
    """The network that a run from `init` trains, and `init` with what identifies it.

    Args:
        init: what to start from.
        recipe: the network that a recipe has; a library's network takes its classes, images and normalisation.
        heads: as many as asked for; None: a checkpoint's own, or the recipe's.
        trains: whether the network itself is trained, and not a denoiser before it.

    Raises:
        CheckpointError: it cannot be read, or is no network that can be trained.
    """
    if is_source(init.model):
        if recipe is None:
            raise CheckpointError(f"How many classes {init.model} is to have is not known: name a RECIPE, too.")
        return recipe.model_copy(update={"arch": EXPORTED, "members": (), "heads": heads or recipe.heads}), init
    config, version = read_config(init.model)
    if trains and config.model.arch in ("onnx", "endpoint", "ensemble", "denoised"):
        raise CheckpointError(f"{init.model} is {config.model.arch}, which cannot be trained on: name another model.")
    return config.model.model_copy(update={"heads": heads or config.model.heads}), init.model_copy(
        update={"version": version}
    )


def initial_network(config: TrainConfig) -> MultiHeadNet:
    """The network of a configuration, as its run begins; torch's global generator draws fresh weights.

    Raises:
        CheckpointError: what it starts from cannot be read, is not what it was, or cannot be cut.
        ValueError: there is no such architecture.
    """
    init = config.init
    if init is None:
        return build(config.model)
    if is_source(init.model):
        options = SourceOptions(init.weights, config.model.num_classes, config.model.input_shape[1])
        source = load_source(init.model, options)
        if source.input_shape != config.model.input_shape:
            raise CheckpointError(
                f"{init.model} takes images of {list(source.input_shape)}, and the data are "
                f"{list(config.model.input_shape)}: choose another network."
            )
        program, _ = program_network(source.module, source.input_shape)
        return _cut(program, config, init)
    checkpoint = load_checkpoint(Path(init.model))
    if checkpoint.version != init.version:
        raise CheckpointError(f"{init.model} has changed since this run began: put the old one back, or start anew.")
    if config.model.denoiser is not None:
        return Denoised(config.model.denoiser.build(config.model.input_shape[0]), checkpoint.net)
    if config.model.arch == EXPORTED:
        return _cut(checkpoint.net, config, init)
    return _with_heads(checkpoint, config)


def storable(net: MultiHeadNet, config: TrainConfig) -> MultiHeadNet:
    """The trained network as its checkpoint holds it: of another library's network a program, else itself."""
    if config.model.arch != EXPORTED:
        return net
    device = next(net.parameters()).device
    stored, _ = program_network(WithoutNormalization(net), config.model.input_shape, config.model.normalization)
    return stored.to(device)


def _cut(net: MultiHeadNet, config: TrainConfig, init: InitConfig) -> MultiHeadNet:
    program = net.backbone
    if not isinstance(program, Program):
        raise CheckpointError(f"{init.model} is no program: name a model that `spacte import` wrote.")
    return trainable_network(program, config.model, split=init.split, seed=config.seed)


def _with_heads(checkpoint: Checkpoint, config: TrainConfig) -> MultiHeadNet:
    """A network of our own; more heads than the checkpoint's one are copies, perturbed."""
    if config.model.normalization != checkpoint.config.model.normalization:
        raise CheckpointError(
            f"{checkpoint.folder} was trained on pixels normalised otherwise: leave model.normalization as it is, or "
            "start from another checkpoint."
        )
    here, wanted = len(checkpoint.net.heads), config.model.heads
    net = checkpoint.net
    if here != wanted:
        if here != 1:
            raise CheckpointError(f"The checkpoint has {here} heads: leave --heads out, or start from one of one head.")
        net.heads = nn.ModuleList(
            [net.heads[0], *(perturbed(copy.deepcopy(net.heads[0]), config.seed + k) for k in range(1, wanted))]
        )
    fresh = build(config.model)
    try:
        fresh.load_state_dict(net.state_dict())
    except RuntimeError as error:  # a line for each layer
        raise CheckpointError(
            f"{checkpoint.folder} is {checkpoint.config.model.arch}, with other layers than {config.model.arch}: "
            "leave the settings of model as they are, or start from another checkpoint."
        ) from error
    return fresh
