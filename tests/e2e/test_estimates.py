"""Promise: what the page says a first proof takes is within a factor of 2 of what it then takes."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from tests.small_endpoint import SmallEndpoint
from torch import nn

from spacte_core.checkpoint import save_checkpoint
from spacte_workers.endpoints.importing import import_endpoint

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.long, pytest.mark.browser, pytest.mark.slow]

SHAPE, CLASSES = (3, 8, 8), 4
PAUSE_S, ROWS, CONNECTIONS = 0.2, 64, 4
UNITS_S = {"s": 1.0, "min": 60.0}


class AlwaysTheSame(nn.Module):
    """Answers class 2, whatever it sees, and each picture with other logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :CLASSES] + 100.0 * torch.eye(CLASSES)[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model that takes its time by waiting, so that a busy machine has little part in it."""
    folder = tmp_path_factory.mktemp("models")
    with SmallEndpoint(AlwaysTheSame(), SHAPE, CLASSES) as endpoint:
        told = {"url": endpoint.url, "output": "scores", "rows": ROWS, "connections": CONNECTIONS}
        description = folder.parent / "endpoint.toml"
        description.write_text("\n".join(["[endpoint]", *(f"{name} = {value!r}" for name, value in told.items())]))
        save_checkpoint(folder / "waits", *import_endpoint(str(description), sigma=0.25))
        (folder / "waits" / "samples").mkdir()
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(folder / "waits" / "samples" / "00001-2.png")
        endpoint.pause = PAUSE_S
        yield folder


def test_the_first_proof_takes_what_the_page_says(page: "Page") -> None:
    from playwright.sync_api import expect

    page.wait_for_selector('#samples button[aria-pressed="true"]')
    expect(page.locator("#estimate")).to_contain_text("noisy copies")
    told = re.match(r"takes about ([\d.]+) (\w+) for ", page.inner_text("#estimate"))
    assert told, page.inner_text("#estimate")
    seconds = float(told[1]) * UNITS_S[told[2]]
    began = time.monotonic()
    page.click("#go")
    page.wait_for_selector("#after:not([hidden])")
    took = time.monotonic() - began
    assert seconds / 2 <= took <= 2 * seconds, (told[0], took)
    assert page.inner_text("#answer").startswith("2 within a radius of")
