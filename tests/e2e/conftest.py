"""A real gateway with its pages, and a real browser to look at them with."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = Path("/usr/bin/chromium")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]) -> Path:
    """A model of 8x8 images, which always answers the same class, with two samples; and one that is damaged."""
    from spacte_core.checkpoint import load_checkpoint, save_checkpoint

    folder = tmp_path_factory.mktemp("models")
    make_checkpoint(folder / "digits")
    checkpoint = load_checkpoint(folder / "digits")
    for head in checkpoint.net.heads:
        last = [module for module in head.modules() if hasattr(module, "in_features")][-1]
        last.bias.data[2] += 100.0  # so that every image is certified, and class 2 wins
    save_checkpoint(folder / "digits", checkpoint.net, checkpoint.config)
    samples = folder / "digits" / "samples"
    samples.mkdir()
    for index, label in ((3, 7), (5, 2)):
        pixels = np.full((8, 8), 20 * label, np.uint8)
        Image.fromarray(pixels).save(samples / f"{index:05d}-{label}.png")
    make_checkpoint(folder / "broken")
    (folder / "broken" / "model.safetensors").write_bytes(b"torn off")
    return folder


@pytest.fixture(scope="module")
def options() -> tuple[str, ...]:
    """Of the gateway, beside those that every one gets."""
    return ()


@pytest.fixture(scope="module")
def address(models: Path, tmp_path_factory: pytest.TempPathFactory, options: tuple[str, ...]) -> Iterator[str]:
    """A gateway of its own, without Ray."""
    command = [str(Path(sys.executable).with_name("spacte")), "serve", "--in-process", "--models", str(models)]
    command += ["--port", "0", "--log-level", "warning", "--data-dir", str(tmp_path_factory.mktemp("data")), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        found = None
        for line in gateway.stdout:
            found = re.search(r"http://\S+", line)
            if found:
                break
        assert found, "the gateway ended before it was ready"
        yield found[0].rstrip("/.")
        gateway.terminate()
        assert gateway.wait(40) == 0


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Debian's Chromium, headless."""
    if not CHROMIUM.exists():
        pytest.skip("no Chromium is installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(QUIET))
        yield chromium
        chromium.close()


class Watch:
    """What must not happen while a page is open."""

    def __init__(self, page: "Page", address: str) -> None:
        self.errors: list[str] = []
        self.strangers: list[str] = []
        self.expected: set[int] = set()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self._request(request.url, address))

    def _console(self, message: Any) -> None:
        if message.type == "error" and not any(f"status of {code}" in message.text for code in self.expected):
            self.errors.append(message.text)

    def _request(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.strangers.append(url)


@pytest.fixture
def watch() -> dict[str, Watch]:
    """The watch of each page by its name."""
    return {}


@pytest.fixture
def page(browser: "Browser", address: str, watch: dict[str, Watch]) -> Iterator["Page"]:
    """The playground with its model loaded; afterwards: no console error, no request to another origin."""
    context = browser.new_context(viewport={"width": 1200, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    watch["page"] = Watch(page, address)
    page.goto(address)
    page.wait_for_selector("#model option", state="attached")
    yield page
    context.close()
    assert watch["page"].errors == []
    assert watch["page"].strangers == []
