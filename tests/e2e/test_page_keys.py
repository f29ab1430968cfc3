"""The pages of a gateway that asks for a key."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.long, pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def key(key_file: Path) -> str:
    from spacte_service.cli import keys

    made = CliRunner().invoke(keys.keys_app, ["create", "alice", "--keys-file", str(key_file)])
    assert made.exit_code == 0
    return next(word for word in made.stdout.split() if word.startswith("spacte_"))


@pytest.fixture(scope="module")
def options(key: str, key_file: Path) -> tuple[str, ...]:
    assert key
    return ("--keys-file", str(key_file))


def test_a_key_is_asked_for_once_and_kept_for_the_tab(browser: "Browser", address: str, key: str) -> None:
    page = browser.new_context().new_page()
    page.goto(address)
    page.wait_for_selector("#key-dialog[open]")
    page.fill("#key-input", key)
    page.get_by_role("button", name="Use it").click()
    page.wait_for_selector('#samples button[aria-pressed="true"]')
    assert page.locator("#key-dialog[open]").count() == 0
    assert page.locator("#key-button").is_visible()
    page.click("#go")
    page.wait_for_selector("#after:not([hidden])")
    page.goto(f"{address}/jobs")
    page.wait_for_selector("#no-jobs:not([hidden])")
    assert page.locator("#key-dialog[open]").count() == 0
