"""Pictures of the real pages, for the README and the documentation: `make screenshots`.

    python demo/screenshots.py          writes docs/images/{proof,jobs,dark,phone}.png

The demo's model is served, and everything in the pictures happened: the proof was under way, the jobs had run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from demo_models import DEMO_MODELS
from gateway import serving
from playwright.sync_api import Browser, Page, sync_playwright

from spacte_client import Client

CHROMIUM = "/usr/bin/chromium"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
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


def main() -> None:
    """Train if need be, serve, look, and write the pictures."""
    model = DEMO_MODELS["digits"]
    model.train_if_missing()
    IMAGES.mkdir(parents=True, exist_ok=True)
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
    print(f"Pictures: {', '.join(sorted(path.name for path in IMAGES.glob('*.png')))} in {IMAGES}")


if __name__ == "__main__":
    main()
