"""The API's description in a real browser: whole, readable, to be tried out, and from this origin alone."""

import json
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page


pytestmark = [pytest.mark.long, pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def docs(page: "Page", address: str) -> "Page":
    """The page, drawn; `page` sees to it that there is no error and no request to another origin."""
    page.goto(f"{address}/docs")
    page.wait_for_selector("section.models article")
    return page


@pytest.fixture
def api(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}/openapi.json") as answer:
        return json.load(answer)


def test_every_route_and_every_kind_of_document_is_there(docs: "Page", api: dict[str, Any]) -> None:
    routes = {f"{verb.upper()} {path}" for path, verbs in api["paths"].items() for verb in verbs}
    shown = docs.locator(".opblock-summary").evaluate_all(
        "all => all.map(one => one.querySelector('.opblock-summary-method').innerText + ' ' +"
        " one.querySelector('.opblock-summary-path').dataset.path)"
    )
    assert sorted(shown) == sorted(routes)
    titles = docs.locator("section.models .json-schema-2020-12__title").all_inner_texts()
    assert titles == list(api["components"]["schemas"])


def test_a_field_tells_its_limits_and_its_default(docs: "Page") -> None:
    params = docs.locator("section.models article", has=docs.get_by_text("CertifyParams", exact=True)).first
    params.get_by_role("button", name="Expand all").first.click()
    field = params.locator("li", has=docs.get_by_text("alpha", exact=True)).first
    assert " ".join(field.inner_text().split()).startswith("alpha")
    assert "(0, 1)" in field.inner_text()
    assert "0.001" in field.inner_text()
    assert "wrong answer" in field.inner_text()


def test_a_request_can_be_tried_out(docs: "Page", models: Path) -> None:
    route = docs.locator("#operations-answers-certify")
    route.locator("button.opblock-summary-control").click()
    route.get_by_role("button", name="Try it out").click()
    route.get_by_label("Request content type").select_option("multipart/form-data")
    route.locator("input[type=file]").set_input_files(models / "digits" / "samples" / "00005-2.png")
    route.get_by_role("button", name="Execute").click()
    answer = route.locator(".live-responses-table .response-col_description pre").first
    answer.wait_for()
    assert json.loads(answer.inner_text())["label"] == 2


def test_it_can_be_read_by_everyone(docs: "Page") -> None:
    from axe_playwright_python.sync_playwright import Axe

    results = Axe().run(docs)
    assert results.violations_count == 0, results.generate_report()
