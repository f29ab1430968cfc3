"""Trains one network: for each batch, for each piece that the objective cuts from it, one SGD step.

    spacte train digits-spacte-gaussian --out runs/digits
    spacte train cifar10-resnet20-spacte-gaussian-0.25 --data parquet:PATH --out runs/cifar
    the same with --resume, after it was interrupted

The loop knows no method: the objective does (`objectives/`). Within an epoch it reads nothing back from the
device, save what a progress display asks for about once a second.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from spacte_core.allocator import keep_freed_memory
from spacte_core.data.base import Batch, ImageData, shuffled, stream
from spacte_core.hardware import has_triton
from spacte_core.kernel_switch import kernels_enabled
from spacte_core.models import MultiHeadNet, build
from spacte_core.models.sharing import shared_copy
from spacte_trainer.precision import resolve_precision

from .callbacks import EpochReport, Watcher
from .compiling import blocks_of, compile_network, uncompiled
from .config import ConfigError, TrainConfig
from .cuda_graphs import Replays
from .evaluate import Accuracy, accuracy, check_fit
from .objectives import Loss, Objective, SeededDraws, Step
from .objectives import build as build_objective
from .process_group import Team
from .state import State, load_state, save_state


@dataclass
class Meter:
    """Sums of the parts of a loss, kept on the device so that counting a step does not wait for it."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def add(self, loss: Loss) -> None:
        """Count one step."""
        for name, value in {"loss": loss.total, **loss.parts}.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.steps += 1

    def means(self) -> dict[str, list[float]]:
        """The mean of each part, as a list with one number for each of its elements; waits for the device."""
        return {name: (total / self.steps).reshape(-1).tolist() for name, total in self.sums.items()}


def check_batch(config: TrainConfig, objective: Objective, images: int, workers: int) -> None:
    """Raise ConfigError where a worker's share of a loader batch cannot be cut into the objective's pieces."""
    batch, pieces = min(config.batch, images), objective.method.pieces
    if batch // workers < pieces:
        shared = f"shared by {workers} workers and cut into {pieces}" if workers > 1 else f"cut into {pieces}"
        raise ConfigError(f"A batch of {batch} images cannot be {shared}: raise --set batch, or add images.")


class Run:
    """A network in training.

    Attributes:
        net: the network itself.
        model: the same as the objective sees it: perhaps compiled, perhaps shared by a team.
        done: epochs finished.
        seconds: spent on them, validation left out.
    """

    def __init__(
        self,
        config: TrainConfig,
        train_data: ImageData,
        device: torch.device,
        team: Team,
        start: dict[str, Tensor] | None = None,
    ) -> None:
        """`start` gives the first weights in place of random ones; for the rest, and what is raised, see `train`."""
        check_fit(config.model, train_data)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        torch.backends.cudnn.deterministic = config.deterministic
        torch.backends.cudnn.benchmark = not config.deterministic
        torch.manual_seed(config.seed)
        self.done = 0
        self.seconds = 0.0
        self.config = config
        self.data = train_data
        self.device = device
        self.team = team
        try:
            self.net = build(config.model)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if start is not None:
            self.net.load_state_dict(start)
        self.net.to(device)
        if config.channels_last:
            self.net.to(memory_format=torch.channels_last)
        self.objective = build_objective(config.objective)
        check_batch(config, self.objective, len(train_data), team.size)
        if config.compile is True and self.objective.double_backward:
            raise ConfigError(
                f"{config.method} differentiates a gradient, which a compiled network cannot: leave out compile=true."
            )
        one_gpu = device.type == "cuda" and team.size == 1
        self.compiled = config.compile is True or (
            config.compile == "auto"
            and one_gpu
            and has_triton()
            and not self.objective.double_backward
            and bool(blocks_of(self.net))
        )
        self.model = team.wrap(_fast(self.net, device, self.compiled))
        options = config.optimizer
        # A recorded step reads the rate where it lies on the device.
        graphs = one_gpu and config.cuda_graphs
        self.take = Replays(self.step, device) if graphs else self.step
        self.rate = torch.tensor(options.lr, device=device) if graphs else options.lr
        self.shape: torch.Size | None = None
        self.optimizer = torch.optim.SGD(
            self.net.parameters(),
            lr=self.rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
            nesterov=options.nesterov,
            fused=True,
        )

    def epoch(self, epoch: int, watcher: Watcher) -> Meter:
        """Train for epoch t, 1-based; what that does depends on the weights, the momentum, the seed and t."""
        config, team = self.config, self.team
        plan = shuffled(len(self.data), config.batch, seed=config.seed, epoch=epoch, rank=team.rank, world=team.size)
        augment = self._stream(epoch, "augment")
        draws = SeededDraws(self._stream(epoch, "noise"), self.device)
        step = Step(epoch, config.epochs, config.sigma, config.model.num_classes, draws)
        meter = Meter()
        self.model.train()
        for index, batch in enumerate(self.data.batches(plan, self.device, augment)):
            scale = config.schedule.scale(epoch, config.epochs, index / len(plan))
            self.batch(batch, step, config.optimizer.lr * scale, meter)
            watcher.batch(epoch, index + 1, len(plan), meter)
        return meter

    def batch(self, batch: Batch, step: Step, rate: float, meter: Meter) -> None:
        """The steps of one loader batch."""
        self.rate = self.rate.fill_(rate) if isinstance(self.rate, Tensor) else rate
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        for x_BCHW, y_B in self.objective.pieces(batch.x_BCHW, batch.y_B):
            meter.add(self.take(x_BCHW, y_B, step))

    def step(self, x_BCHW: Tensor, y_B: Tensor, step: Step) -> Loss:
        """One step of the optimiser; the loss has no graph."""
        self.shape = self.shape or x_BCHW.shape  # the first; another one is the rest of an epoch
        with self.autocast(), uncompiled(self.compiled and x_BCHW.shape != self.shape):
            loss = self.objective.loss(self.model, x_BCHW, y_B, step)
        self.optimizer.zero_grad()
        loss.total.backward()
        self.optimizer.step()
        return Loss(loss.total.detach(), loss.parts)

    def autocast(self) -> torch.autocast:
        """bf16 where the configuration says so; does nothing otherwise."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16")

    def validate(self, data: ImageData, epoch: int) -> Accuracy:
        """Accuracy on noisy images, one draw each."""
        with self.autocast(), uncompiled(self.compiled):
            return accuracy(self.net, data, self.device, sigma=self.config.sigma, seed=self.config.seed, epoch=epoch)

    def _stream(self, epoch: int, purpose: str) -> torch.Generator:
        return stream(self.config.seed, epoch=epoch, purpose=purpose, rank=self.team.rank, device=self.device)


def train(
    config: TrainConfig,
    folder: Path,
    train_data: ImageData,
    test_data: ImageData,
    *,
    device: torch.device,
    watcher: Watcher,
    start: dict[str, Tensor] | None = None,
    team: Team | None = None,
) -> Run:
    """Train the network of `config` to the end, going on from the state in `folder` where there is one.

    Args:
        config: everything but where it happens.
        folder: keeps the state after each epoch.
        train_data: one split, shuffled and augmented here.
        test_data: looked at once an epoch, never trained on and never used to choose anything.
        device: of the network, the noise and, for small sets, the data.
        watcher: is told of every batch and every epoch.
        start: the first weights, in place of random ones.
        team: where this process is one of several that train the same network.

    Returns:
        The finished run; its `net` is in train mode.

    Raises:
        ConfigError: the data do not fit the model, the method cannot be compiled, or the loss stopped being a number.
        StateError: the state in `folder` is of another run.
    """
    team = team or Team()
    keep_freed_memory()
    config = resolve_precision(config, device)
    run = Run(config, train_data, device, team, start)
    if state := load_state(folder, config, device):
        run.net.load_state_dict(state.model)
        run.optimizer.load_state_dict(state.optimizer)
        run.done, run.seconds = state.epoch, state.seconds

    for epoch in range(run.done + 1, config.epochs + 1):
        began = time.monotonic()
        meter = run.epoch(epoch, watcher)
        losses = team.mean(meter.means())
        if not math.isfinite(losses["loss"][0]):
            raise ConfigError(
                f"The loss is no longer a number in epoch {epoch}: lower --set optimizer.lr or start anew."
            )
        seconds = time.monotonic() - began
        run.done, run.seconds = epoch, run.seconds + seconds
        if team.rank == 0:
            due = config.validate_every and (epoch % config.validate_every == 0 or epoch == config.epochs)
            watcher.epoch(
                EpochReport(
                    epoch=epoch,
                    epochs=config.epochs,
                    rate=float(run.rate),
                    steps=meter.steps,
                    seconds=seconds,
                    losses=losses,
                    validation=run.validate(test_data, epoch) if due else None,
                )
            )
            state = State(epoch, run.seconds, run.net.state_dict(), run.optimizer.state_dict())
            save_state(folder, config, state)
    run.take = run.step  # lets go of a recording's memory
    return run


def _fast(net: MultiHeadNet, device: torch.device, compiled: bool) -> nn.Module:
    """A network over the same weights with our kernels, where they are, or compiled; `net` itself stays plain."""
    model = shared_copy(net)
    if kernels_enabled() and (device.type == "cuda" or not compiled):  # on a CPU a compiler fuses for itself
        from spacte_core.kernels import optimize

        model = optimize(net, device)
    return compile_network(model) if compiled else model
