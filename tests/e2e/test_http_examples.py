"""The examples of docs/http.md against a live gateway: each request gets the status and the kind of answer shown there.

Numbers, names and ids are those of another model; fields, their types and problem codes must be the same.
"""

import json
import re
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "http.md"
FENCE = re.compile(r"^```http\n(.*?)^```$", re.MULTILINE | re.DOTALL)
JOB = re.compile(r"job_[0-9a-f]{24}")


def examples() -> list[tuple[str, str]]:
    """Requests, each with its answer."""
    blocks = FENCE.findall(PAGE.read_text())
    pairs = list(zip(blocks[::2], blocks[1::2], strict=True))
    assert all(answer.startswith("HTTP/1.1 ") for _, answer in pairs)
    return pairs


def split(block: str) -> tuple[str, dict[str, str], str]:
    """The first line, the headers and the body."""
    head, _, body = block.partition("\n\n")
    first, *lines = head.splitlines()
    return first, dict(line.split(": ", 1) for line in lines), body.strip()


def same_kind(shown: Any, got: Any, where: str, *, excerpt: bool) -> None:
    """Whether an answer has the fields and types that are shown; null may stand for what there is not."""
    if shown is None or got is None:
        return
    if isinstance(shown, dict):
        assert isinstance(got, dict), where
        assert set(shown) <= set(got) if excerpt else set(shown) == set(got), where
        for name, value in shown.items():
            same_kind(value, got[name], f"{where}/{name}", excerpt=excerpt)
    elif isinstance(shown, list):
        assert isinstance(got, list), where
        for value in shown[:1]:
            assert got, where
            same_kind(value, got[0], f"{where}/0", excerpt=excerpt)
    else:
        number = (int, float)
        kind = number if isinstance(shown, number) and not isinstance(shown, bool) else type(shown)
        assert isinstance(got, kind), f"{where}: {got!r} is shown as {shown!r}"


def test_every_example_is_answered_as_it_is_shown(address: str) -> None:
    latest = ""
    seen: set[tuple[str, int]] = set()
    with httpx2.Client(base_url=address, timeout=60) as client:
        for asked, answered in examples():
            line, headers, body = split(asked)
            verb, path = line.split(" ")
            if JOB.search(path):
                path = JOB.sub(latest, path)
                await_end(client, latest)
            got = client.request(verb, path, content=body or None, headers=headers)
            status, shown_headers, shown = split(answered)
            where = f"{verb} {path}"
            assert got.status_code == int(status.split()[1]), f"{where}: {got.text}"
            assert got.headers["content-type"].startswith(shown_headers["Content-Type"]), where
            first = got.text.splitlines()[0] if "ndjson" in shown_headers["Content-Type"] else got.text
            same_kind(json.loads(shown), json.loads(first), where, excerpt="(excerpt)" in status)
            if got.status_code >= 400:
                assert json.loads(shown)["errors"] == got.json()["errors"], where
            if got.status_code == 201:
                latest = got.json()["id"]
            seen.add((JOB.sub("JOB", path), got.status_code))
    assert {path for path, _ in seen} >= {"/v1/certify", "/v1/predict", "/v1/jobs", "/v1/jobs/JOB/results", "/v1/info"}


def await_end(client: httpx2.Client, job: str) -> None:
    """Wait until a job has succeeded."""
    end = time.monotonic() + 120
    while (state := client.get(f"/v1/jobs/{job}").json()["state"]) != "succeeded":
        assert state in ("queued", "running"), state
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.3)
