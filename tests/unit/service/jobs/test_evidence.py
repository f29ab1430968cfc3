"""Promise: a job's bundle is signed as a whole, says in words what is claimed, and shows where anything was changed."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from spacte_client.cli._app import app
from spacte_service.cli.keys import keys_app
from spacte_workers.cli import verify_app

pytestmark = pytest.mark.slow

RUNNER = CliRunner()
HEADINGS = ["Domain", "Criterion", "Method", "Real against computer arithmetic", "Confidence", "Results", "Limits"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: Callable[..., str]) -> Path:
    """Of a job on the digits, by a gateway in a process of its own; the public key lies beside it."""
    place = tmp_path_factory.mktemp("evidence")
    make_checkpoint(place / "models" / "digits")
    signing = ["signing", "create", "--signing-keys-file", str(place / "signing.json")]
    (place / "service.pem").write_text(RUNNER.invoke(keys_app, signing).stdout)
    images = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    np.savez(place / "set.npz", images=images, labels=np.arange(6))
    command = [str(Path(sys.executable).with_name("spacte")), "serve", "--models", str(place / "models"), "--port", "0"]
    command += ["--data-dir", str(place / "data"), "--log-level", "warning", "--precision", "fp32", "--in-process"]
    command += ["--signing-keys-file", str(place / "signing.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None
        try:
            address = next(found[0] for line in gateway.stdout if (found := re.search(r"http://\S+", line)))
            options = ["--n", "400", "--alpha", "0.01", "--wait", "--json", "--base-url", address]
            submitted = RUNNER.invoke(app, ["jobs", "submit", str(place / "set.npz"), *options])
            assert submitted.exit_code == 0, submitted.output
            job = json.loads(submitted.stdout.splitlines()[-1])["id"]
            made = RUNNER.invoke(app, ["evidence", job, "--out", str(place / "bundle"), "--base-url", address])
            assert made.exit_code == 0, made.output
            assert "signed by the service" in made.stdout
        finally:
            gateway.terminate()
            gateway.wait(60)
    return place / "bundle"


def verify(bundle: Path) -> Result:
    return RUNNER.invoke(verify_app, [str(bundle), "--key", str(bundle.parent / "service.pem")])


def test_the_bundle_is_whole_and_verifies_offline(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert set(manifest["files"]) | {"manifest.json"} == {path.name for path in bundle.iterdir()}
    assert re.fullmatch("[0-9a-f]{64}", manifest["input_sha256"])
    assert "at most" in manifest["statement"]
    assert manifest["model"]["version"]
    assert "torch" in manifest["versions"]
    result = verify(bundle)
    assert (result.exit_code, result.output.startswith("6 of 6 certificates fit")) == (0, True), result.output


@pytest.mark.parametrize(
    ("name", "old", "new", "finding"),
    [
        ("certificates.ndjson", '"true_label":3', '"true_label":4', "these are not the results that were signed"),
        ("summary.json", '"errored": 0', '"errored": 1', "summary.json: it is not what was signed"),
        ("job.json", '"digits"', '"others"', "job.json: it is not what was signed"),
        ("model.json", '"version": "', '"version": "0', "model.json: it is not the model that was signed"),
        ("report.html", "6 images", "7 images", "report.html: it is not the file that the manifest names"),
        ("attestation.json", '"sig": "', '"sig": "AAAA', "signature: it does not fit"),
    ],
)
def test_a_changed_file_is_found(bundle: Path, tmp_path: Path, name: str, old: str, new: str, finding: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    shutil.copy(bundle.parent / "service.pem", tmp_path)
    text = (copy / name).read_text()
    assert old in text
    (copy / name).write_text(text.replace(old, new, 1))
    result = verify(copy)
    assert (result.exit_code, finding in result.output) == (1, True), result.output


def test_the_report_can_be_read_without_a_network(bundle: Path) -> None:
    text = (bundle / "report.html").read_text()
    found = Page()
    found.feed(text)
    assert [heading for heading in found.headings if heading in HEADINGS] == HEADINGS
    assert found.charts == 3
    assert not re.search(r"(?:src|href)=|url\(|@import", text)
    assert "@media print" in text
    assert json.loads((bundle / "manifest.json").read_text())["statement"] in text


class Page(HTMLParser):
    """The headings of a page, and how many charts it has. Every element is closed in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.charts = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.charts += tag == "svg"
        if tag not in ("meta", "line", "path", "polygon"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
