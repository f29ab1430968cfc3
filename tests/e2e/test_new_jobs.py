"""Jobs that are started from the page: what an empty page says, a data set, a file, and what is told of each."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.long, pytest.mark.browser, pytest.mark.slow]

WAIT_MS = 120_000


@pytest.fixture
def jobs(page: "Page", address: str) -> "Page":
    """The page of jobs, once it knows the models."""
    page.goto(f"{address}/jobs")
    page.wait_for_selector("#new-model option", state="attached")
    return page


def test_an_empty_page_says_what_to_do(jobs: "Page", address: str) -> None:
    from playwright.sync_api import expect

    expect(jobs.locator("#no-jobs")).to_contain_text("No jobs yet")
    expect(jobs.locator("#no-jobs-command")).to_have_text(
        f"spacte jobs submit digits --limit 100 -n 1000 --base-url {address}"
    )
    expect(jobs.locator("#new")).to_have_attribute("open", "")
    expect(jobs.locator("#new-model option:disabled")).to_have_text("broken (failed)")
    expect(jobs.locator("#new-estimate")).to_contain_text("takes")


def test_a_job_over_a_data_set_is_started_and_finishes(jobs: "Page") -> None:
    from playwright.sync_api import expect

    jobs.fill("#new-limit", "12")
    jobs.fill("#new-n", "2")
    jobs.fill("#new-name", "a dozen digits")
    jobs.click("#new-go")
    line = jobs.locator("#jobs tbody tr", has_text="a dozen digits")
    expect(line).to_contain_text("succeeded", timeout=WAIT_MS)
    expect(line).to_contain_text("12/12")
    expect(jobs.locator("#spoken")).to_have_text("The job a dozen digits has started.")


def test_a_job_over_an_uploaded_file_is_started_and_finishes(jobs: "Page", tmp_path: Path) -> None:
    from playwright.sync_api import expect

    np.savez(tmp_path / "three.npz", images=np.full((3, 1, 8, 8), 90, np.uint8), labels=np.array([2, 2, 1]))
    jobs.evaluate("() => (document.getElementById('new').open = true)")
    jobs.get_by_text("A file of mine").click()
    jobs.set_input_files("#new-file", tmp_path / "three.npz")
    jobs.fill("#new-n", "2")
    jobs.fill("#new-name", "three of mine")
    jobs.click("#new-go")
    line = jobs.locator("#jobs tbody tr", has_text="three of mine")
    expect(line).to_contain_text("succeeded", timeout=WAIT_MS)
    expect(line).to_contain_text("3/3")


def test_what_is_wrong_with_a_file_stands_beside_the_form(jobs: "Page", watch: dict[str, Any], tmp_path: Path) -> None:
    from playwright.sync_api import expect

    watch["page"].expected.add(415)
    (tmp_path / "letter.zip").write_bytes(b"Dear Sir or Madam")
    jobs.evaluate("() => (document.getElementById('new').open = true)")
    jobs.get_by_text("A file of mine").click()
    jobs.set_input_files("#new-file", tmp_path / "letter.zip")
    jobs.click("#new-go")
    expect(jobs.locator("#new-problem")).to_contain_text(re.compile("zip|npz"))
    expect(jobs.locator("#new-go")).to_be_enabled()


def test_a_running_job_tells_how_long_it_takes_and_is_cancelled(jobs: "Page") -> None:
    from playwright.sync_api import expect

    jobs.evaluate("() => (document.getElementById('new').open = true)")
    jobs.fill("#new-limit", "300")
    jobs.fill("#new-n", "5")
    jobs.fill("#new-name", "a long one")
    jobs.click("#new-go")
    line = jobs.locator("#jobs tbody tr", has_text="a long one")
    expect(line).to_contain_text("left", timeout=WAIT_MS)
    line.get_by_role("button", name="Cancel a long one").click()
    expect(line).to_contain_text("cancelled", timeout=WAIT_MS)
    expect(line.get_by_role("button", name="Resume a long one")).to_be_visible()
