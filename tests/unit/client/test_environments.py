"""Promise: whatever the environment, a command does its work or says in one sentence what is wrong. No traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LOG = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.5\t1\t0:00:13\n"
NOWHERE = "http://127.0.0.1:9"


def run(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command line of the shell in which `spacte` is the client's; `LOG` is in log.tsv."""
    (folder / "log.tsv").write_text(LOG)
    line = command.replace("spacte", f"{sys.executable} -m spacte_client")
    ended = subprocess.run(
        ["bash", "-c", line], cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    return ended


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MPLBACKEND", "module://nowhere"),
        ("MPLCONFIGDIR", "/proc"),
        ("HOME", "/dev/null/nowhere"),
        ("TMPDIR", "/dev/null/nowhere"),
        ("TERM", ""),
        ("COLUMNS", "many"),
        ("COLUMNS", "0"),
        ("LC_ALL", "xx_YY.nothing"),
    ],
)
def test_what_does_not_matter_does_not(tmp_path: Path, variable: str, value: str) -> None:
    ended = run("spacte plot log.tsv -o x.png && spacte compare log.tsv log.tsv", tmp_path, **{variable: value})
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "x.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:1080", "with ALL_PROXY"),
        ("http_proxy", "http://who:secret@127.0.0.1:9", "The proxy 127.0.0.1:9, by which the environment has"),
        ("http_proxy", "http://[::1", "with http_proxy"),
        ("http_proxy", "http://a..b:80", "The proxy a..b:80, by which"),
        ("SSL_CERT_FILE", "/nowhere", "SSL_CERT_FILE"),
        ("SSLKEYLOGFILE", "/nowhere/x", "SSLKEYLOGFILE"),
        ("SPACTE_API_KEY", "one\ntwo", "holds characters that no key has"),
    ],
)
def test_what_is_wrong_with_the_way_to_a_gateway_is_named(
    tmp_path: Path, variable: str, value: str, sentence: str
) -> None:
    ended = run(f"spacte models --base-url {NOWHERE}", tmp_path, no_proxy="", **{variable: value})
    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert "secret" not in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_terminal_without_a_width_shows_a_table(tmp_path: Path) -> None:
    assert "0.500" in run("spacte compare log.tsv", tmp_path, COLUMNS="0").stdout


def test_the_doctor_names_the_variable(tmp_path: Path) -> None:
    ended = run("spacte doctor --json", tmp_path, no_proxy="", ALL_PROXY="socks://127.0.0.1:1080")
    assert "with ALL_PROXY" in ended.stdout
    assert ended.returncode == 1


@pytest.mark.parametrize(("variable", "value"), [("SOURCE_DATE_EPOCH", "today"), ("MATPLOTLIBRC", "rc")])
def test_what_keeps_matplotlib_from_drawing_is_one_sentence(tmp_path: Path, variable: str, value: str) -> None:
    (tmp_path / "rc").write_text("text.usetex: True\ntext.latex.preamble: \\nonsense\n")
    ended = run("PATH=/nowhere spacte plot log.tsv -o x.svg", tmp_path, **{variable: value})
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: matplotlib cannot draw this (")
    assert ended.stderr.count("\n") == 1


def test_dollars_in_a_title_are_dollars(tmp_path: Path) -> None:
    ended = run("spacte plot log.tsv -o x.png --name 'a$\\b$' --title '$\\sigma{$'", tmp_path)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["spacte compare log.tsv log.tsv", "spacte --help", "spacte plot --help"])
def test_a_full_disk_is_told(tmp_path: Path, command: str) -> None:
    ended = run(f"{command} >/dev/full", tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: What this command says cannot be written (No space left on device)")


def test_a_reader_who_has_enough_ends_it_quietly(tmp_path: Path) -> None:
    assert run("spacte compare log.tsv log.tsv | head -0", tmp_path).stderr == ""


@pytest.mark.parametrize("stream", [">&-", "2>&-", "<&-"])
def test_a_closed_stream_does_no_harm(tmp_path: Path, stream: str) -> None:
    assert run(f"spacte compare log.tsv log.tsv {stream}", tmp_path).returncode == 0


def test_a_closed_standard_input_is_told(tmp_path: Path) -> None:
    ended = run(f"spacte certify - --base-url {NOWHERE} <&-", tmp_path)
    assert (ended.returncode, ended.stderr) == (
        1,
        "Error: Standard input is closed; send an image there, or name a file.\n",
    )
