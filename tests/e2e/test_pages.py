"""The pages in a real browser against a real gateway: what a person does, sees and is told."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.long, pytest.mark.browser, pytest.mark.slow]

WAIT_MS = 60_000


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


def test_the_first_sight_proves_with_one_tap(page: "Page") -> None:
    page.wait_for_selector('#samples button[aria-pressed="true"]')
    assert page.locator('#samples button[aria-pressed="true"]').count() == 1
    shows(page, "answer", "10,000 noisy copies of the image can prove 0.799 at most")
    shows(page, "estimate", "for 10,000 noisy copies")
    certify(page)
    assert re.match(r"2 within a radius of 0\.\d{4}", page.inner_text("#answer"))
    assert float(page.get_attribute("#rings .now", "r") or 0) > 60, "the ring did not grow"
    shows(page, "spoken", "2 within a radius of")


def test_a_model_that_failed_stands_there_with_its_reason(page: "Page") -> None:
    shows(page, "unserved", "broken")
    shows(page, "unserved", "is damaged")
    assert page.locator("#model option:disabled").inner_text() == "broken (failed)"


def test_a_key_is_asked_for_only_where_one_is_needed(page: "Page") -> None:
    shows(page, "cluster", "sampler")
    assert page.locator("#key-button").is_hidden()


def test_an_estimate_follows_the_model_s_rate_and_the_latest_proofs(page: "Page") -> None:
    told = page.evaluate("""async () => {
        const { learnPace, secondsOf } = await import("/web/js/pace.js");
        sessionStorage.clear();
        const model = { name: "slow", samples_per_second: 1000 };
        const before = secondsOf(model, 9900);
        for (let i = 0; i < 8; i++) learnPace(model, 10000, 40); // others use the machine
        const other = { name: "other", samples_per_second: 1000 };
        return [before, secondsOf(model, 9900), secondsOf(model, 99900), secondsOf(other, 9900), secondsOf({}, 100)];
    }""")
    before, after, longer, other, unknown = told
    assert 10 <= before <= 11
    assert 35 <= after <= 45
    assert 350 <= longer <= 450
    assert other == before
    assert unknown is None


def test_a_slow_model_is_asked_for_fewer_noises_at_first(page: "Page") -> None:
    page.wait_for_selector("#samples button")
    assert (
        page.evaluate("""async () => {
        const { suitN } = await import("/web/js/asking.js");
        sessionStorage.clear();
        suitN({ name: "slow", samples_per_second: 60 });
        return document.getElementById("n-out").textContent;
    }""")
        == "1,000 noisy copies"
    )


def test_a_picture_of_another_size_is_scaled_and_that_is_said(page: "Page", tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (20, 10), 90).save(tmp_path / "wide.png")
    page.set_input_files("#file", tmp_path / "wide.png")
    shows(page, "changes-help", "has 20 × 10 pixels, and the model takes 8 × 8. It is scaled and cropped")
    certify(page)
    shows(page, "answer", "within a radius of")


def test_a_drawn_digit_gets_a_certificate_and_a_live_curve(page: "Page") -> None:
    draw_a_digit(page)
    slide(page, "n", "5")
    certify(page)
    assert re.match(r"2 within a radius of 0\.\d{4}", page.inner_text("#answer"))
    assert page.locator("#votes .vote").count() == 10
    path = page.locator("#curve path.line").get_attribute("d")
    assert path is not None
    assert path.count("L") >= 2, "the curve did not grow while the proof did"


def test_of_a_thousand_classes_ten_are_shown_and_the_others_found(page: "Page") -> None:
    page.wait_for_selector('#samples button[aria-pressed="true"]')  # which clears the votes
    page.evaluate("""async () => {
        const { Proof } = await import("/web/js/proof.js");
        const names = [...Array(1000).keys()].map((k) => `animal ${k}`);
        const model = { num_classes: 1000, class_names: names, sigmas: [0.25] };
        const proof = new Proof(model, { n: 1000, alpha: 0.001 });
        document.getElementById("class-search").addEventListener("input", () => proof.search());
        proof.votes({ counts: [...Array(1000).keys()], label: 999 });
    }""")
    assert page.locator("#votes .vote").count() == 10
    assert page.inner_text("#votes-of") == ": 10 of 1,000 classes"
    page.fill("#class-search", "Animal 77")
    assert page.locator("#votes .vote .name").all_inner_texts()[:2] == ["animal 779", "animal 778"]
    assert page.locator("#votes .vote").count() == 10
    page.fill("#class-search", "plant")
    assert page.inner_text("#votes") == "No class has a name like that."


def test_the_classes_that_hold_the_true_one_are_chips(page: "Page", models: Path) -> None:
    from spacte_workers.calibrate import calibrate_app

    arguments = [str(models / "digits"), "--data", "digits", "--images", "100", "--noises", "10"]
    assert CliRunner().invoke(calibrate_app, arguments).exit_code == 0
    page.reload()
    page.wait_for_selector("#samples button")
    page.click("#samples button >> nth=0")
    certify(page)
    page.wait_for_selector("#chips li")
    shows(page, "set-text", "For 90 of 100 images")


def test_the_radius_is_bracketed(page: "Page") -> None:
    page.click("#samples button >> nth=0")
    certify(page)
    page.click("#attack")
    # The model always answers 2, so an attack finds nothing, and says so.
    shows(page, "interval", "the attack found no image with another one")
    shown = page.evaluate("""async () => {
        const { sentence } = await import("/web/js/more.js");
        const adversarial = { data: "", label_name: "seven" };
        return sentence({ lower: 0.4199, upper: 0.5701, adversarial, certificate: {} })[0];
    }""")
    assert "between 0.41 and 0.58" in shown


def test_an_image_is_dropped(page: "Page", models: Path) -> None:
    file = models / "digits" / "samples" / "00003-7.png"
    page.set_input_files("#file", file)
    shows(page, "drop-hint", "00003-7.png")
    certify(page)
    with page.expect_download() as download:
        page.click("#download")
    certificate = json.loads(Path(download.value.path()).read_text())
    shown = re.search(r"radius of (0\.\d{4})", page.inner_text("#answer"))
    assert shown
    assert 0 <= certificate["radius"] - float(shown[1]) < 1e-4, "a radius is shown rounded down"


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


def test_a_bad_file_is_told_in_the_problem_s_own_sentence(page: "Page", watch: dict[str, Any], tmp_path: Path) -> None:
    watch["page"].expected.add(400)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image at all")
    page.set_input_files("#file", bad)
    shows(page, "drop-hint", "bad.png")
    page.click("#go")
    page.wait_for_selector("#problem:not([hidden])")
    assert "PNG" in page.inner_text("#problem")


STOP_AT_FIRST_SIGHT = """() => {
    const answer = document.querySelector("#answer");
    window.stopped = 0;
    const observer = new MutationObserver(() => {
        if (!answer.innerText.includes("proven within")) return;
        observer.disconnect();
        window.stopped += 1;
        document.querySelector("#stop").click();
    });
    observer.observe(answer, { childList: true, subtree: true, characterData: true });
}"""


def test_stopping_early_keeps_the_certificate_that_stands(page: "Page") -> None:
    page.click("#samples button >> nth=0")
    slide(page, "n", "5")
    # The page itself presses the button: a proof is over in a second, sooner than a busy browser hears of its start.
    page.evaluate(STOP_AT_FIRST_SIGHT)
    page.click("#go")
    page.wait_for_selector("#after:not([hidden])")
    assert page.evaluate("window.stopped") == 1
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


def test_on_a_phone_the_button_and_the_curve_are_seen_without_scrolling(page: "Page", address: str) -> None:
    page.set_viewport_size({"width": 375, "height": 780})
    page.goto(address)
    page.wait_for_selector('#samples button[aria-pressed="true"]')
    for seen in ("#go", "#curve svg"):
        box = page.locator(seen).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 780, seen


def test_who_wants_less_motion_gets_none(page: "Page") -> None:
    page.wait_for_selector("#rings .now", state="attached")
    moves = "() => getComputedStyle(document.querySelector('#rings .now')).transitionDuration"
    assert page.evaluate(moves) != "0s"
    page.emulate_media(reduced_motion="reduce")
    assert page.evaluate(moves) == "0s"


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
        assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", answer.text), "inline script or style"
