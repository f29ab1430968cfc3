"""The pages in a real browser against a real gateway: what a person does, sees and is told."""

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

pytestmark = [pytest.mark.browser, pytest.mark.slow]

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
    """A folder with one model of 8x8 images, which always answers the same class, and two samples."""
    from spacte_trainer.checkpoint import load_checkpoint, save_checkpoint

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
    return folder


@pytest.fixture(scope="module")
def address(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway of its own, without Ray."""
    command = [
        str(Path(sys.executable).with_name("spacte")),
        "serve",
        "--in-process",
        "--models",
        str(models),
    ]
    command += ["--port", "0", "--log-level", "warning", "--data-dir", str(tmp_path_factory.mktemp("data"))]
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


def shows(page: "Page", element: str, text: str) -> None:
    """Wait until an element's text has this in it."""
    from playwright.sync_api import expect

    expect(page.locator(f"#{element}")).to_contain_text(text, timeout=WAIT_MS)


def slide(page: "Page", slider: str, value: str) -> None:
    """Move a slider as a person does."""
    page.locator(f"#{slider}").fill(value)


def draw_a_digit(page: "Page") -> None:
    """Draw a stroke on the pad and take it."""
    page.click("#draw")
    box = page.locator("#pad").bounding_box()
    assert box is not None
    for step, (x, y) in enumerate([(0.3, 0.2), (0.7, 0.2), (0.4, 0.8), (0.7, 0.8)]):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        if step == 0:
            page.mouse.down()
    page.mouse.up()
    page.click("#pad-use")


def certify(page: "Page") -> None:
    """Ask, and wait for the answer."""
    page.click("#go")
    page.wait_for_selector("#after:not([hidden])")


def test_a_drawn_digit_gets_a_certificate_and_a_live_curve(page: "Page") -> None:
    draw_a_digit(page)
    slide(page, "n", "5")
    certify(page)
    assert re.match(r"2 within a radius of 0\.\d{4}", page.inner_text("#answer"))
    assert page.locator("#votes .vote").count() == 10
    path = page.locator("#curve path.line").get_attribute("d")
    assert path is not None
    assert path.count("L") > 3, "the curve did not grow while the proof did"


def test_an_image_is_dropped(page: "Page", models: Path) -> None:
    file = models / "digits" / "samples" / "00003-7.png"
    page.set_input_files("#file", file)
    shows(page, "drop-hint", "00003-7.png")
    certify(page)
    with page.expect_download() as download:
        page.click("#download")
    assert '"stop_reason"' in Path(download.value.path()).read_text()


def test_a_file_dropped_on_the_zone_is_taken(page: "Page", models: Path) -> None:
    data = (models / "digits" / "samples" / "00005-2.png").read_bytes()
    page.evaluate(
        """(bytes) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: transfer}));
        }""",
        list(data),
    )
    shows(page, "drop-hint", "dropped.png")
    certify(page)


def test_a_sample_is_picked_and_the_radius_explained(page: "Page") -> None:
    page.click("#samples button >> nth=0")
    certify(page)
    page.click("#meaning summary")
    shows(page, "mean-moved-caption", "exactly")
    drawn = page.evaluate(
        "() => [...document.getElementById('mean-moved').getContext('2d').getImageData(0, 0, 9, 9).data].some(v => v)"
    )
    assert drawn


def test_a_bad_file_is_told_in_the_problem_s_own_sentence(
    page: "Page", watch: dict[str, Watch], tmp_path: Path
) -> None:
    watch["page"].expected.add(400)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image at all")
    page.set_input_files("#file", bad)
    shows(page, "drop-hint", "bad.png")
    page.click("#go")
    page.wait_for_selector("#problem:not([hidden])")
    assert "PNG" in page.inner_text("#problem")


def test_stopping_early_keeps_the_certificate_that_stands(page: "Page") -> None:
    page.click("#samples button >> nth=0")
    slide(page, "n", "5")
    page.click("#go")
    shows(page, "answer", "proven within")
    page.click("#stop")
    page.wait_for_selector("#after:not([hidden])")
    assert "within a radius of" in page.inner_text("#answer")


def test_dark_mode_is_kept(page: "Page") -> None:
    light = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert light != dark
    page.reload()
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == dark


def test_the_pad_is_drawn_on_by_keyboard(page: "Page") -> None:
    page.click("#draw")
    page.keyboard.press("Space")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Space")
    page.click("#pad-use")
    assert page.locator("#go").is_enabled()


@pytest.mark.parametrize("path", ["/", "/jobs"])
def test_a_phone_needs_no_sideways_scrolling(page: "Page", address: str, path: str) -> None:
    page.set_viewport_size({"width": 375, "height": 740})
    page.goto(address + path)
    shows(page, "cluster", "sampler")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/jobs"])
def test_axe_finds_nothing_serious(page: "Page", address: str, path: str, theme: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=theme)
    page.goto(address + path)
    shows(page, "cluster", "sampler")
    found = Axe().run(page).response["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_the_pages_forbid_everything_from_elsewhere(address: str) -> None:
    import httpx2

    for path in ("/", "/jobs"):
        answer = httpx2.get(address + path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", answer.text), (
            "inline script or style"
        )
