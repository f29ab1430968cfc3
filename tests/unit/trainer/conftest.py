"""Fixtures of the trainer's tests: a small classifier from elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spacte_core.checkpoint import save_checkpoint
from spacte_core.programs import described, program_network


class Digits(nn.Module):
    """A classifier of the digits' images with batch statistics, in two stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), nn.ReLU()),
        )
        self.fc = nn.Linear(16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stages(x).flatten(1))


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that knows the digits without noise a little."""
    from spacte_core.data.digits import load_digits

    torch.manual_seed(0)
    torch.set_num_threads(1)
    net, folder = Digits(), tmp_path_factory.mktemp("models") / "plain"
    images, labels = (torch.as_tensor(np.asarray(part)) for part in load_digits("train")[:2])
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(images.float() / 255), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    stored, model = program_network(net, (1, 8, 8))
    save_checkpoint(folder, stored, described(model, sigma=0.25, method="plain"))
    return folder
