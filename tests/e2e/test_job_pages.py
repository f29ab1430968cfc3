"""The jobs page in a real browser: a job that the SDK submits appears, runs to its end, and can be looked into."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from spacte_client import Client
from spacte_client.types import Job

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [pytest.mark.long, pytest.mark.browser, pytest.mark.slow]

IMAGES = 24
WAIT_MS = 120_000


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    with Client(address, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def submitted(client: Client) -> Job:
    """A job over held-out digits, as somebody elsewhere submits it."""
    return client.jobs.create(
        {"type": "dataset", "name": "digits", "limit": IMAGES}, n=1000, metadata={"name": "two dozen digits"}
    )


@pytest.fixture(scope="module")
def finished(client: Client, submitted: Job) -> Job:
    return client.jobs.wait(submitted.id, timeout=240)


@pytest.fixture
def line(page: "Page", address: str, submitted: Job) -> "Locator":
    """The job's line in the table of jobs."""
    page.goto(f"{address}/jobs")
    line = page.locator(f'tr[data-job="{submitted.id}"]')
    line.wait_for(timeout=WAIT_MS)
    return line


def images(page: "Page") -> "Locator":
    return page.locator("#rows tbody tr")


def test_a_job_of_the_sdk_appears_and_finishes(line: "Locator") -> None:
    from playwright.sync_api import expect

    expect(line).to_contain_text("two dozen digits")
    expect(line).to_contain_text("succeeded", timeout=WAIT_MS)
    expect(line).to_contain_text(f"{IMAGES}/{IMAGES}")


def test_its_curve_has_an_interval_and_is_saved_as_svg(
    page: "Page", line: "Locator", client: Client, finished: Job
) -> None:
    line.locator("input[type=checkbox]").check()
    page.wait_for_selector("#accuracy path.line")
    assert page.locator("#accuracy path.band").count() == 1
    acr = client.jobs.summary(finished.id).acr
    assert acr is not None
    assert f"ACR {acr:.3f}" in page.inner_text("#accuracy")
    with page.expect_download() as download:
        page.click("#save-svg")
    svg = ElementTree.parse(download.value.path()).getroot()
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    strokes = {path.get("stroke") for path in svg.iter("{http://www.w3.org/2000/svg}path")}
    assert any(re.match(r"rgb\(", stroke or "") for stroke in strokes), "a file has no style sheet of ours"


def test_its_images_are_listed_with_their_pictures(page: "Page", line: "Locator", finished: Job) -> None:
    from playwright.sync_api import expect

    line.get_by_role("button").click()
    expect(images(page)).to_have_count(finished.counts.total or 0, timeout=WAIT_MS)
    picture = images(page).first.locator("img")
    picture.wait_for(timeout=WAIT_MS)
    assert picture.evaluate("img => img.decode().then(() => [img.naturalWidth, img.naturalHeight])") == [8, 8]


def test_images_are_sorted_and_filtered(page: "Page", line: "Locator", client: Client, finished: Job) -> None:
    from playwright.sync_api import expect

    records = list(client.jobs.results(finished.id))
    line.get_by_role("button").click()
    expect(images(page)).to_have_count(len(records), timeout=WAIT_MS)
    page.locator('button.sort[data-key="label"]').click()
    shown = [int(text) for text in page.locator("#rows tbody td:nth-child(3)").all_inner_texts()]
    assert shown == sorted(record.true_label for record in records if record.true_label is not None)
    page.select_option("#filter", "wrong")
    wrong = [r for r in records if r.outcome == "certified" and not r.correct]
    assert 0 < len(wrong) < len(records)  # the model always answers 2
    expect(images(page)).to_have_count(len(wrong))


def test_its_results_are_downloaded(page: "Page", line: "Locator", finished: Job) -> None:
    line.get_by_role("button").click()
    with page.expect_download() as download:
        page.click("#get-ndjson")
    records = [json.loads(text) for text in Path(download.value.path()).read_text().splitlines()]
    assert sorted(record["index"] for record in records) == list(range(IMAGES))
    with page.expect_download() as download:
        page.click("#get-tsv")
    with Path(download.value.path()).open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [int(row["idx"]) for row in rows] == list(range(IMAGES))
    assert finished.state == "succeeded"


def test_jobs_are_compared_in_one_plot(page: "Page", line: "Locator", client: Client, finished: Job) -> None:
    again = client.jobs.create({"type": "dataset", "name": "digits", "limit": 5}, n=200)
    client.jobs.wait(again.id, timeout=240)
    line.locator("input[type=checkbox]").check()
    page.locator(f'tr[data-job="{again.id}"] input[type=checkbox]').check(timeout=WAIT_MS)
    page.wait_for_selector("#accuracy path.line >> nth=1")
    assert page.locator("#accuracy path.band").count() == 2
    assert finished.id != again.id


def test_a_changed_model_is_compared_with_its_base_job(
    page: "Page", address: str, client: Client, finished: Job
) -> None:
    from playwright.sync_api import expect

    again = client.jobs.wait(client.jobs.create(base_job=finished.id).id, timeout=240)
    page.goto(f"{address}/jobs")
    line = page.locator(f'tr[data-job="{again.id}"]')
    line.get_by_role("button").click()
    expect(page.locator("#changes-text")).to_contain_text(f"Against {finished.id}: of {IMAGES} certificates")
    expect(page.locator("#changes-text")).to_contain_text("No image got worse.")
    expect(page.locator("#compared tbody tr")).to_have_count(3)
    line.locator("input[type=checkbox]").check()
    page.wait_for_selector("#accuracy path.line.base")
    assert "before the change" in page.inner_text("#accuracy")
