"""The two loops that `spacte bench train` compares, each driven through a pipe in a process of its own."""

import itertools
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import torch

from spacte_core.allocator import keep_freed_memory
from spacte_core.data.base import Batch, shuffled, stream
from spacte_core.data.memory import MemoryData
from spacte_core.models import build
from spacte_trainer.config import TrainConfig
from spacte_trainer.loop import Trainer
from spacte_trainer.metrics import LossMeter
from spacte_trainer.objectives import SeededDraws, Step
from spacte_trainer.process_group import ProcessGroup

IMAGES = 2_048
"""Chosen: eight of the largest published loader batches, and small in memory."""


class TrainerLoop:
    """The loop of `loop.py`, under the recipe's settings."""

    def __init__(self, config: TrainConfig, data: MemoryData, device: torch.device) -> None:
        keep_freed_memory()
        self.rate = config.optimizer.lr * config.schedule.scale(1, config.epochs, 0.0)
        self.trainer = Trainer(config, data, device, ProcessGroup())

    def run(self, batches: list[Batch], step: Step) -> tuple[int, float]:
        """Optimiser steps made, and their mean loss."""
        meter = LossMeter()
        for batch in batches:
            self.trainer.batch(batch, step, self.rate, meter)
        return meter.steps, meter.means()["loss"][0]


class PlainLoop:
    """The method in eager float32, with PyTorch's defaults throughout, reading the loss after every step."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.net = build(config.model).to(device)
        self.objective = config.objective
        self.optimizer = torch.optim.SGD(
            self.net.parameters(),
            lr=config.optimizer.lr * config.schedule.scale(1, config.epochs, 0.0),
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            nesterov=config.optimizer.nesterov,
        )

    def run(self, batches: list[Batch], step: Step) -> tuple[int, float]:
        """Optimiser steps made, and their mean loss."""
        losses = []
        for batch in batches:
            for x_BCHW, y_B in self.objective.mini_batches(batch.x_BCHW, batch.y_B):
                loss = self.objective.loss(self.net, x_BCHW, y_B, step)
                self.optimizer.zero_grad()
                loss.total.backward()
                self.optimizer.step()
                losses.append(loss.total.item())
        return len(losses), sum(losses) / len(losses)


def random_images(config: TrainConfig) -> MemoryData:
    """Random images and labels of the recipe's shape: speed does not depend on what they show."""
    generator = torch.Generator().manual_seed(config.seed)
    shape = (IMAGES, *config.model.input_shape)
    return MemoryData(
        torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        torch.randint(config.model.num_classes, (IMAGES,), generator=generator),
        [str(number) for number in range(config.model.num_classes)],
        config.data.crop,
        config.data.flip,
    )


def endless(config: TrainConfig, data: MemoryData, device: torch.device) -> Iterator[Batch]:
    """Full loader batches without end."""
    for epoch in itertools.count(1):
        plan = shuffled(len(data), config.batch, seed=config.seed, epoch=epoch)
        augment = stream(config.seed, epoch=epoch, purpose="augment", device=device)
        yield from data.batches([indices for indices in plan if len(indices) == config.batch], device, augment)


def serve(pipe: Connection, kind: str, config: TrainConfig, device_name: str, threads: int | None) -> None:
    """Build a loop, send the number of threads, then train on as many batches as asked: (steps, seconds, loss)."""
    if threads is not None:
        torch.set_num_threads(threads)
    device = torch.device(device_name)
    data = random_images(config)
    loop = TrainerLoop(config, data, device) if kind == "ours" else PlainLoop(config, device)
    draws = SeededDraws(stream(config.seed, epoch=1, purpose="noise", device=device), device)
    step = Step(1, config.epochs, config.sigma, config.model.num_classes, draws)
    batches = endless(config, data, device)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    pipe.send(torch.get_num_threads())
    while count := pipe.recv():
        chosen = list(itertools.islice(batches, count))
        synchronize()
        began = time.perf_counter()
        steps, loss = loop.run(chosen, step)
        synchronize()
        pipe.send((steps, time.perf_counter() - began, loss))
