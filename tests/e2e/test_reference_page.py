"""The API's reference in a real browser: whole, readable, and from this origin alone."""

import json
import urllib.request
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page


pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def reference(page: "Page", address: str) -> "Page":
    """The page, drawn; `page` sees to it that there is no error and no request to another origin."""
    page.goto(f"{address}/docs")
    page.wait_for_selector("#schemas section")
    return page


def test_every_route_and_every_kind_of_document_has_a_card(reference: "Page", address: str) -> None:
    with urllib.request.urlopen(f"{address}/openapi.json") as answer:
        api = json.load(answer)
    routes = [f"{verb.upper()} {path}" for path, verbs in api["paths"].items() for verb in verbs]
    shown = [" ".join(text.split()) for text in reference.locator(".route h3").all_inner_texts()]
    assert shown == routes
    assert reference.locator("#schemas h3").all_inner_texts() == list(api["components"]["schemas"])
    links = reference.locator("#main a[href^='#']").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    missing = [link for link in set(links) if reference.locator(f"[id='{link[1:]}']").count() != 1]
    assert missing == []


def test_a_field_tells_its_limits_and_its_default(reference: "Page") -> None:
    row = reference.locator("#schema-CertifyParams tr", has=reference.locator("th code", has_text="alpha"))
    assert row.locator("td").nth(1).inner_text() == "above 0, below 1, default 0.001"
    assert "wrong answer" in row.locator("td").nth(2).inner_text()


def test_it_can_be_read_by_everyone(reference: "Page") -> None:
    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(reference)
    assert results.violations_count == 0, results.generate_report()
