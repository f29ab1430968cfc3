"""Trains one network: for each batch, for each mini-batch that the objective cuts from it, one optimiser step.

    spacte train digits-spacte-gaussian --out runs/digits
    spacte train cifar10-resnet20-spacte-gaussian-0.25 --data parquet:PATH --out runs/cifar
    the same with --resume, after it was interrupted

The methods are in `objectives/`. Within an epoch the loop reads nothing back from the device, except for the
progress bar, about once a second.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from spacte_core.allocator import keep_freed_memory
from spacte_core.data.base import Batch, ImageData, alternating, shuffled, stream
from spacte_core.hardware import has_triton
from spacte_core.kernel_switch import kernels_enabled
from spacte_core.models import MultiHeadNet
from spacte_core.models.multihead import shared_copy

from .averaging import WeightAverage
from .callbacks import Callback
from .compiling import blocks_of, compile_network, uncompiled
from .config import ConfigError, TrainConfig, rate_setting, resolve_precision
from .evaluation import Accuracy, accuracy, check_fit
from .initial import initial_network
from .metrics import EpochReport, LossMeter
from .objectives import Loss, SeededDraws, Step
from .optimizers import optimizer_of
from .process_group import ProcessGroup
from .progressive import check_crops, crop
from .state import State, load_state, save_state
from .whitening import whiten


class Trainer:
    """A network in training.

    Attributes:
        net: the network itself.
        model: the same as the objective sees it: perhaps compiled, perhaps shared by a process group.
        average: of the weights that `net` has had, where the configuration asks for one; it is what is validated.
        done: epochs finished.
        seconds: spent on them, validation left out.
    """

    def __init__(
        self,
        config: TrainConfig,
        train_data: ImageData,
        device: torch.device,
        group: ProcessGroup,
        start: dict[str, Tensor] | None = None,
    ) -> None:
        """`start` gives the first weights in place of random ones; for the rest, and what is raised, see `train`."""
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        torch.backends.cudnn.deterministic = config.deterministic
        torch.backends.cudnn.benchmark = not config.deterministic
        torch.manual_seed(config.seed)
        self.done, self.seconds = 0, 0.0
        self.config, self.data, self.device, self.group = config, train_data, device, group
        self.objective = config.objective
        self.net = checked_network(config, train_data, group.size)
        if config.whitening:
            whiten(self.net, train_data, config.sigma, config.seed)
        if start is not None:
            self.net.load_state_dict(start)
        self.net.to(device)
        if config.channels_last:
            self.net.to(memory_format=torch.channels_last)
        one_gpu = device.type == "cuda" and group.size == 1
        self.compiled = _compiled(config, self.net, one_gpu)
        self.model = group.wrap(_fast(self.net, device, self.compiled))
        graphs = one_gpu and config.cuda_graphs and kernels_enabled("cuda_graphs")
        self.take: Callable[[Tensor, Tensor, Step], Loss] = self.step
        if graphs:  # a captured step reads the rate from the device
            from .cuda_graphs import GraphedSteps

            self.take = GraphedSteps(self.step, device)
        options = config.optimizer
        self.rate = torch.tensor(options.lr, device=device) if graphs else options.lr
        self.shape: torch.Size | None = None
        self.optimizer = optimizer_of(config, self.net, self.rate)
        self.average = WeightAverage(self.net, config.ema) if config.ema else None

    def epoch(self, epoch: int, callbacks: Sequence[Callback]) -> LossMeter:
        """Train for epoch t, 1-based; what that does depends on the weights, the momentum, the seed and t."""
        config, rank, world = self.config, self.group.rank, self.group.size
        plan = shuffled(len(self.data), config.batch, seed=config.seed, epoch=epoch, rank=rank, world=world)
        augment, noise = (
            stream(config.seed, epoch=epoch, purpose=purpose, rank=rank, device=self.device)
            for purpose in ("augment", "noise")
        )
        place = stream(config.seed, epoch=epoch, purpose="crop", rank=rank)
        draws = SeededDraws(noise, self.device)
        step = Step(epoch, config.epochs, config.sigma, config.model.num_classes, draws)
        meter = LossMeter()
        self.model.train()
        mirrored_N = None
        if config.data.flip == "alternate":
            mirrored_N = alternating(len(self.data), seed=config.seed, epoch=epoch)
        side, self.shape = self.crop_side(epoch), None
        for index, batch in enumerate(self.data.batches(plan, self.device, augment, mirrored_N)):
            if side is not None:
                batch = Batch(crop(batch.x_BCHW, side, place), batch.y_B)
            scale = config.schedule.scale(epoch, config.epochs, index / len(plan))
            self.batch(batch, step, config.optimizer.lr * scale, meter)
            for callback in callbacks:
                callback.on_batch_end(epoch, index + 1, len(plan), meter)
        return meter

    def crop_side(self, epoch: int) -> int | None:
        """Pixels a side of the crops of an epoch; None: images are whole."""
        crops, whole = self.config.progressive, max(self.data.input_shape[1:])
        side = whole if crops is None else crops.at(epoch, self.config.epochs, whole)
        return side if side < whole else None

    def batch(self, batch: Batch, step: Step, rate: float, meter: LossMeter) -> None:
        """The steps of one loader batch."""
        self.rate = self.rate.fill_(rate) if isinstance(self.rate, Tensor) else rate
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        for x_BCHW, y_B in self.objective.mini_batches(batch.x_BCHW, batch.y_B):
            meter.add(self.take(x_BCHW, y_B, step))
            if self.average:
                self.average.add(self.net)

    def step(self, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Loss:
        """One step of the optimiser; the loss has no graph."""
        self.shape = self.shape or x_BCHW.shape  # the first of an epoch; another one is the epoch's rest
        with self.autocast(), uncompiled(self.compiled and x_BCHW.shape != self.shape):
            loss = self.objective.loss(self.model, x_BCHW, y_B, step)
        self.optimizer.zero_grad()
        loss.total.backward()
        self.optimizer.step()
        return Loss(loss.total.detach(), loss.parts)

    def autocast(self) -> torch.autocast:
        """bf16 where the configuration says so; does nothing otherwise."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16")

    def state(self) -> State:
        """What the run is resumed from."""
        average = self.average.state_dict() if self.average else None
        return State(self.done, self.seconds, self.net.state_dict(), self.optimizer.state_dict(), average)

    def validate(self, data: ImageData, epoch: int) -> Accuracy | None:
        """Accuracy on noisy images, one draw each; None after epochs that `validate_every` leaves out."""
        every = self.config.validate_every
        if not every or (epoch % every and epoch != self.config.epochs):
            return None
        net = self.net
        if self.average:
            net = copy.deepcopy(net)
            net.load_state_dict(self.average.values)
        with self.autocast(), uncompiled(self.compiled):
            return accuracy(net, data, self.device, sigma=self.config.sigma, seed=self.config.seed, epoch=epoch)


def train(
    config: TrainConfig,
    folder: Path,
    train_data: ImageData,
    test_data: ImageData,
    *,
    device: torch.device,
    callbacks: Sequence[Callback] = (),
    start: dict[str, Tensor] | None = None,
    group: ProcessGroup | None = None,
) -> Trainer:
    """Train the network of `config` to the end, going on from the state in `folder` where there is one.

    Args:
        config: everything but where it happens.
        folder: keeps the state after each epoch.
        train_data: one split, shuffled and augmented here.
        test_data: looked at once an epoch, never trained on and never used to choose anything.
        device: of the network, the noise and, for small sets, the data.
        callbacks: see `Callback`.
        start: the first weights, in place of random ones.
        group: the processes that train the same network.

    Returns:
        What trained; its `net` is in train mode, and has the average of its weights where there is one.

    Raises:
        ConfigError: the data do not fit the model, the method cannot be compiled, or the loss stopped being a number.
        StateError: the state in `folder` is of another run.
    """
    group = group or ProcessGroup()
    keep_freed_memory()
    config = resolve_precision(config, device)
    trainer = Trainer(config, train_data, device, group, start)
    if state := load_state(folder, config, device):
        trainer.net.load_state_dict(state.model)
        trainer.optimizer.load_state_dict(state.optimizer)
        if trainer.average and state.average:
            trainer.average.load_state_dict(state.average)
        trainer.done, trainer.seconds = state.epoch, state.seconds
    for epoch in range(trainer.done + 1, config.epochs + 1):
        began = time.monotonic()
        meter = trainer.epoch(epoch, callbacks)
        losses = group.mean(meter.means())
        if not math.isfinite(losses["loss"][0]):
            raise ConfigError(
                f"The loss is no longer a number in epoch {epoch}: lower --set {rate_setting(config)} or start anew."
            )
        seconds = time.monotonic() - began
        trainer.done, trainer.seconds = epoch, trainer.seconds + seconds
        if group.rank == 0:
            validation, rate = trainer.validate(test_data, epoch), float(trainer.rate)
            report = EpochReport(epoch, config.epochs, rate, meter.steps, seconds, losses, validation)
            for callback in callbacks:
                callback.on_epoch_end(report)
            save_state(folder, config, trainer.state())
    trainer.take = trainer.step  # frees a recording's memory
    if trainer.average:
        trainer.net.load_state_dict(trainer.average.values)
    return trainer


def checked_network(config: TrainConfig, data: ImageData, workers: int) -> MultiHeadNet:
    """The network as a run begins, after a look at what would fail later; torch's global generator draws its weights.

    Raises:
        DataError, ConfigError, CheckpointError: see `train`.
    """
    check_fit(config.model, data)
    check_padding(config, data)
    check_batch(config, len(data), workers)
    if config.compile is True and config.objective.base.double_backward:
        raise ConfigError(
            f"{config.method} differentiates a gradient, which a compiled network cannot: leave out compile=true."
        )
    try:
        net = initial_network(config)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if config.progressive is not None:
        check_crops(net, config.model, config.progressive)
    return net


def check_batch(config: TrainConfig, images: int, workers: int) -> None:
    """Raise ConfigError where a worker's share of a loader batch cannot be cut into the objective's mini-batches."""
    batch, steps = min(config.batch, images), config.objective.base.steps_per_batch
    if batch // workers < steps:
        shared = f"shared by {workers} workers and cut into {steps}" if workers > 1 else f"cut into {steps}"
        raise ConfigError(f"A batch of {batch} images cannot be {shared}: raise --set batch, or add images.")


def check_padding(config: TrainConfig, data: ImageData) -> None:
    """Raise ConfigError where a padded crop may hold nothing of its image."""
    height, width = data.input_shape[1:]
    if config.data.kind != "imagenet" and config.data.crop >= min(height, width):
        raise ConfigError(
            f"A padding of {config.data.crop} pixels leaves nothing of some images of {height} x {width}: "
            "lower --set data.crop."
        )


def _compiled(config: TrainConfig, net: MultiHeadNet, one_gpu: bool) -> bool:
    if config.compile != "auto":
        return config.compile
    return one_gpu and has_triton() and not config.objective.base.double_backward and bool(blocks_of(net))


def _fast(net: MultiHeadNet, device: torch.device, compiled: bool) -> nn.Module:
    """A network over the same weights with our kernels, where they are, or compiled; `net` itself stays plain."""
    model = shared_copy(net)
    if kernels_enabled() and (device.type == "cuda" or not compiled):  # on a CPU a compiler fuses for itself
        from spacte_core.kernels import optimize

        model = optimize(net, device)
    return compile_network(model) if compiled else model
