"""Pictures of the real pages, for the README and the documentation: `make screenshots`.

    python demo/screenshots.py                     writes docs/images/{proof,jobs,dark,phone}.png
    python demo/screenshots.py --cifar10 PARQUET   writes docs/images/evidence.png, from test images of CIFAR-10

The demo's model is served, and everything in the pictures happened: the proof was under way, the jobs had run.
"""

import argparse
import io
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet
from demo_models import DEMO_MODELS
from gateway import serving, spacte
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from spacte_client import Client

CHROMIUM = "/usr/bin/chromium"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
REPORTED = 100  # images of the job whose evidence is shown
WAIT_MS = 120_000
"""Chosen: a proof of 100,000 noises takes tens of seconds on two CPUs."""


@contextmanager
def open_page(browser: Browser, url: str, width: int, height: int, *, dark: bool = False) -> Iterator[Page]:
    """A page of that size, once it shows the samplers."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", device_scale_factor=1.5
    )
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto(url)
    page.locator("#cluster", has_text="sampler").wait_for()
    yield page
    context.close()


def ask(page: Page, n_exponent: str, sample: int) -> None:
    """Pick a sample and certify it with 10 ** n_exponent noises."""
    page.click(f"#samples button >> nth={sample}")
    page.evaluate("document.querySelector('#settings').open = true")
    page.locator("#n").fill(n_exponent)
    page.click("#go")


def proof(page: Page) -> None:
    """A digit in the middle of its proof."""
    ask(page, "5", 3)
    page.wait_for_selector("#curve circle >> nth=2", state="attached")
    page.screenshot(path=IMAGES / "proof.png", full_page=True)
    page.wait_for_selector("#after:not([hidden])")


def explained(page: Page, name: str) -> None:
    """A proof that is complete, and what its radius means."""
    ask(page, "4", 1)
    page.wait_for_selector("#after:not([hidden])")
    page.click("#meaning summary")
    page.locator("#mean-moved-caption", has_text="exactly").wait_for()
    page.screenshot(path=IMAGES / f"{name}.png", full_page=True)


def jobs(page: Page, finished: list[str]) -> None:
    """Two jobs' curves, and the images of one."""
    for job in finished:
        page.locator(f'tr[data-job="{job}"] input[type=checkbox]').check()
    page.wait_for_selector(f"#accuracy path.line >> nth={len(finished) - 1}")
    page.locator(f'tr[data-job="{finished[-1]}"]').get_by_role("button").click()
    page.wait_for_selector("#rows tbody img >> nth=4")
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=IMAGES / "jobs.png")


def run_jobs(client: Client) -> list[str]:
    """The same held-out digits with few noises and with many."""
    ids: list[str] = []
    for name, n in (("100 digits, n = 100", 100), ("100 digits, n = 10,000", 10_000)):
        source = {"type": "dataset", "name": "digits", "limit": 100}
        job = client.jobs.create(source, n=n, metadata={"name": name})
        ids.append(client.jobs.wait(job.id).id)
    return ids


def first_images(parquet: Path, count: int) -> bytes:
    """The first images of a data set as an npz file."""
    rows = pyarrow.parquet.read_table(parquet).slice(0, count).to_pylist()
    pictures = [np.asarray(Image.open(io.BytesIO(row["img"]["bytes"]))).transpose(2, 0, 1) for row in rows]
    file = io.BytesIO()
    np.savez(file, images=np.stack(pictures), labels=[row["label"] for row in rows])
    return file.getvalue()


def evidence(parquet: Path) -> None:
    """The report about a job of the CIFAR-10 model in the box."""
    with (
        TemporaryDirectory() as data,
        serving(Path(__file__).parents[1] / "models", Path(data)) as client,
        sync_playwright() as playwright,
    ):
        images = client.files.upload(first_images(parquet, REPORTED), filename="cifar10-test.npz")
        job = client.jobs.create(images, n=1_000, metadata={"name": f"CIFAR-10, {REPORTED} test images"})
        client.jobs.wait(job.id)
        bundle = Path(data) / "bundle"
        subprocess.run(spacte("evidence", job.id, "--out", str(bundle), "--base-url", client.base_url), check=True)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1000, "height": 1400})
        page.goto((bundle / "report.html").as_uri())
        page.screenshot(path=IMAGES / "evidence.png")
        browser.close()


def main() -> None:
    """Write the pictures that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cifar10", type=Path, help="parquet file of CIFAR-10's test images: for evidence.png alone")
    parquet = parser.parse_args().cifar10
    IMAGES.mkdir(parents=True, exist_ok=True)
    if parquet is None:
        pages()
    else:
        evidence(parquet)
    print(f"Pictures: {', '.join(sorted(path.name for path in IMAGES.glob('*.png')))} in {IMAGES}")


def pages() -> None:
    """Train if need be, serve, and look."""
    model = DEMO_MODELS["digits"]
    model.train_if_missing()
    with (
        TemporaryDirectory() as data,
        serving(model.folder.parent, Path(data)) as client,
        sync_playwright() as playwright,
    ):
        finished = run_jobs(client)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        with open_page(browser, client.base_url, 1200, 860) as page:
            proof(page)
        with open_page(browser, client.base_url, 1200, 860, dark=True) as page:
            explained(page, "dark")
        with open_page(browser, client.base_url, 375, 780) as page:
            explained(page, "phone")
        with open_page(browser, f"{client.base_url}/jobs", 1200, 1400) as page:
            jobs(page, finished)
        browser.close()


if __name__ == "__main__":
    main()
