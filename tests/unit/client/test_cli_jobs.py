"""`spacte jobs`: what it sends, what it prints, how it follows a job, and what Ctrl-C does."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from spacte_client.types import Job

from .conftest import Recorder, Spacte, problem, sse
from .test_files_and_jobs import COUNTS, FILE, STATE, Script, job, lines, record, sent


def test_submitting_a_data_set(spacte: Spacte) -> None:
    recorder = Recorder(job(state="queued"))
    arguments = ("digits", "--stride", "5", "--limit", "60", "--model", "digits", "--n", "20000")
    run = spacte("jobs", "submit", *arguments, handler=recorder)
    assert run.status == 0
    assert run.out == "job_1 queued: 4 of 10 images, 3 certified, 1 abstained, 0 errored\n"
    assert json.loads(recorder.last.content) == {
        "input": {"type": "dataset", "name": "digits", "split": "test", "stride": 5, "limit": 60},
        "model": "digits",
        "params": {"n": 20000},
    }


def test_stopping_at_another_class_is_asked_of_the_gateway(spacte: Spacte) -> None:
    recorder = Recorder(job(state="queued"))
    assert spacte("jobs", "submit", "digits", "--stop-incorrect", handler=recorder).status == 0
    assert json.loads(recorder.last.content)["params"] == {"stop_incorrect": True}


def test_submitting_files_and_uris(spacte: Spacte, tmp_path: Path) -> None:
    def handler(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(200, json=FILE if request.url.path == "/v1/files" else job())

    requests: list[httpx2.Request] = []
    path = tmp_path / "x.npz"
    path.write_bytes(b"abc")
    assert spacte("jobs", "submit", str(path), handler=handler).status == 0
    assert [request.url.path for request in requests] == ["/v1/files", "/v1/jobs"]
    assert json.loads(requests[-1].content)["input"] == {"type": "file", "file_id": "file_1"}
    spacte("jobs", "submit", "file_7", handler=handler)
    assert json.loads(requests[-1].content)["input"] == {"type": "file", "file_id": "file_7"}
    spacte("jobs", "submit", "s3://bucket/x.npz", handler=handler)
    assert json.loads(requests[-1].content)["input"] == {"type": "uri", "uri": "s3://bucket/x.npz"}


def test_a_source_that_cannot_be_meant_is_refused(spacte: Spacte) -> None:
    recorder = Recorder(job())
    assert spacte("jobs", "submit", "file_1", "--stride", "5", handler=recorder).status == 2
    run = spacte("jobs", "submit", "no-such-file.npz", handler=recorder)
    assert run.status == 1
    assert "check the path" in run.err
    assert recorder.requests == []


def test_list_show_cancel_resume_delete(spacte: Spacte) -> None:
    unread = job(2, counts={"certified": 2})
    page = {"data": [unread, job(1)], "has_more": False, "first_id": "job_2", "last_id": "job_1"}
    recorder = Recorder(page)
    run = spacte("jobs", "list", "--state", "running", handler=recorder)
    assert [line.split()[0] for line in run.out.splitlines()] == ["job", "job_2", "job_1"]
    assert "4 of 10" in run.out
    assert sent(recorder) == ("GET", "/v1/jobs", {"limit": "20", "state": "running"})
    listed = json.loads(spacte("jobs", "list", "--limit", "1", "--json", handler=Recorder(page)).out)
    assert [entry["id"] for entry in listed] == ["job_2"]
    failed = job(state="failed", error={"code": "bad_input", "detail": "Send images."})
    run = spacte("jobs", "show", "job_1", handler=Recorder(failed))
    assert run.out.splitlines()[-1] == "Send images."
    run = spacte("jobs", "show", "job_1", "--json", handler=Recorder(job()))
    assert Job.model_validate_json(run.out).id == "job_1"
    for verb in ("cancel", "resume"):
        recorder = Recorder(job(state="cancelling"))
        assert spacte("jobs", verb, "job_1", handler=recorder).status == 0
        assert sent(recorder) == ("POST", f"/v1/jobs/job_1/{verb}", {})
    recorder = Recorder(httpx2.Response(204))
    assert spacte("jobs", "delete", "job_1", handler=recorder) == (0, "", "")
    assert spacte("jobs", "cancel", "job_1", handler=Recorder(problem(409, "job_state", "It ended."))) == (
        1,
        "",
        "Error: It ended.\n",
    )


def test_the_list_has_a_whole_line_a_job_however_narrow_the_terminal(
    spacte: Spacte, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    name = "job_780311fad7057db6e4aaca02"
    page = {"data": [job() | {"id": name}], "has_more": False, "first_id": name, "last_id": name}
    line = spacte("jobs", "list", handler=Recorder(page)).out.splitlines()[1]
    assert line.split()[:3] == [name, page["data"][0]["state"], page["data"][0]["model"]]
    assert line.rstrip().endswith(f"{page['data'][0]['created_at'][11:16]}")


def test_results_to_stdout_and_to_files(spacte: Spacte, tmp_path: Path) -> None:
    script = Script(lines(record(0), record(1)))
    run = spacte("jobs", "results", "job_1", "--after", "0", handler=script)
    assert [json.loads(line)["index"] for line in run.out.splitlines()] == [0, 1]
    out = tmp_path / "out.ndjson"
    spacte("jobs", "results", "job_1", "--out", str(out), handler=Script(lines(record(3))))
    assert json.loads(out.read_text())["index"] == 3
    out = tmp_path / "out.tsv"
    script = Script(b"idx\tlabel\n0\t7\n")
    spacte("jobs", "results", "job_1", "--out", str(out), handler=script)
    assert out.read_text() == "idx\tlabel\n0\t7\n"
    assert dict(script.requests[0].url.params) == {"format": "tsv"}
    assert spacte("jobs", "results", "job_1", "--tsv", "--follow", handler=script).status == 2
    run = spacte("jobs", "results", "job_1", "--out", str(tmp_path / "no" / "x"), handler=script)
    assert run.status == 1
    assert "check the folder" in run.err


def test_a_file_of_results_is_replaced_as_a_whole_or_not_at_all(
    spacte: Spacte, slept: list[float], tmp_path: Path
) -> None:
    out, link = tmp_path / "out.ndjson", tmp_path / "link.ndjson"
    out.write_text("hours of work\n")
    link.symlink_to(out)
    broken = Script(lines(record(0)), b"", b"", b"", broken=4)
    for handler in (Recorder(problem(404, "job_not_found")), Recorder(httpx2.ConnectError("refused")), broken):
        assert spacte("jobs", "results", "job_1", "--out", str(link), handler=handler).status == 1
        assert out.read_text() == "hours of work\n"
    assert spacte("jobs", "results", "job_1", "-o", str(link), handler=Script(lines(record(3)))).status == 0
    assert json.loads(out.read_text())["index"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.ndjson", "out.ndjson"]
    assert link.is_symlink()
    assert spacte("jobs", "results", "job_1", "-o", "/dev/null", handler=Script(lines(record(3)))).status == 0
    assert Path("/dev/null").is_char_device()


def test_events_are_lines_of_json(spacte: Spacte) -> None:
    script = Script(sse(("state", STATE), ("progress", COUNTS)), job(state="failed"), kind="text/event-stream")
    run = spacte("jobs", "events", "job_1", handler=script)
    assert [json.loads(line)["event"] for line in run.out.splitlines()] == ["state", "progress"]


def test_the_summary(spacte: Spacte) -> None:
    rows = [{"radius": 0.25, "value": 0.6, "low": 0.551, "high": 0.648}]
    document = {
        "images": 500,
        "abstained": 9,
        "acr": 0.41999,
        "certified_accuracy": rows,
        "statement": "No more than 4 are false.",
    }
    run = spacte("jobs", "summary", "job_1", handler=Recorder(document))
    assert run.out.splitlines() == [
        "500 images, 9 abstained, 0 errored, ACR 0.419",
        "at 0.25: 60.0% [55.1%, 64.8%]",
        "No more than 4 are false.",
    ]
    assert json.loads(spacte("jobs", "summary", "job_1", "--json", handler=Recorder(document)).out)["images"] == 500
    run = spacte("jobs", "summary", "job_1", handler=Recorder(document | {"incorrect": 7}))
    assert run.out.splitlines()[0] == "500 images, 9 abstained (7 stopped as incorrect), 0 errored, ACR 0.419"


class Watched:
    """A job that ends after some looks, with or without the route of its events."""

    def __init__(self, looks: int, state: str = "succeeded", *, events: httpx2.Response | None = None) -> None:
        self.looks, self.state = looks, state
        self.events = events or problem(404, "not_found")
        self.paths: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.paths.append(f"{request.method} {request.url.path}")
        if request.url.path.endswith("/events"):
            return self.events
        if request.url.path.endswith("/cancel"):
            return httpx2.Response(200, json=job(state="cancelling"))
        self.looks -= 1
        return httpx2.Response(200, json=job(state=self.state if self.looks < 0 else "running"))


def test_waiting_for_a_job(spacte: Spacte, slept: list[float]) -> None:
    run = spacte("jobs", "wait", "job_1", handler=Watched(3))
    assert run.status == 0
    assert run.out.startswith("job_1 succeeded: 4 of 10 images")
    assert spacte("jobs", "wait", "job_1", handler=Watched(2, "failed")).status == 1
    run = spacte("jobs", "wait", "job_1", "--json", handler=Watched(1))
    assert json.loads(run.out)["state"] == "succeeded"


def test_waiting_reads_events_where_there_are_any(spacte: Spacte, slept: list[float]) -> None:
    body = sse(("state", STATE), ("progress", COUNTS), ("progress", COUNTS | {"images_per_minute": None}))
    events = httpx2.Response(200, content=body, headers={"content-type": "text/event-stream"})
    watched = Watched(1, events=events)
    assert spacte("jobs", "wait", "job_1", handler=watched).status == 0
    assert watched.paths.count("GET /v1/jobs/job_1/events") == 1


def test_waiting_goes_on_by_asking_when_the_events_break(spacte: Spacte, slept: list[float]) -> None:
    watched = Watched(3, events=problem(500, "internal"))
    run = spacte("jobs", "wait", "job_1", handler=watched)
    assert run.status == 0
    assert run.out.startswith("job_1 succeeded")
    assert watched.paths[-1] == "GET /v1/jobs/job_1"


def test_waiting_by_asking_outlives_a_restart_of_the_gateway(spacte: Spacte, slept: list[float]) -> None:
    events = problem(500, "internal")
    recorder = Recorder(job(), events, events, events, *[httpx2.ConnectError("refused")] * 4, job(state="succeeded"))
    assert spacte("jobs", "wait", "job_1", handler=recorder).status == 0


def test_a_job_that_does_not_exist_is_one_sentence(spacte: Spacte) -> None:
    run = spacte("jobs", "wait", "job_1", handler=Recorder(problem(404, "job_not_found", "There is no job_1.")))
    assert run == (1, "", "Error: There is no job_1.\n")


def test_events_that_vanish_with_the_job_are_reported(spacte: Spacte, slept: list[float]) -> None:
    run = spacte("jobs", "wait", "job_1", handler=Watched(5, events=problem(404, "job_not_found", "Gone.")))
    assert run == (1, "", "Error: Gone.\n")


def test_submitting_and_waiting(spacte: Spacte, slept: list[float]) -> None:
    run = spacte("jobs", "submit", "digits", "--wait", handler=Watched(2))
    assert run.status == 0
    assert [line.split(":")[0] for line in run.out.splitlines()] == ["job_1 running", "job_1 succeeded"]
    assert len(spacte("jobs", "submit", "digits", "--wait", "--json", handler=Watched(2)).out.splitlines()) == 1


def interrupting(times: int) -> Any:
    """A pause that Ctrl-C ends, so many times."""
    left = times

    def sleep(_: float) -> None:
        nonlocal left
        if left:
            left -= 1
            raise KeyboardInterrupt

    return sleep


def test_the_first_ctrl_c_detaches_and_says_how_to_come_back(spacte: Spacte, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacte_client.cli._watch.time.sleep", interrupting(1))
    watched = Watched(100)
    run = spacte("jobs", "wait", "job_1", handler=watched)
    assert run.status == 130
    assert "`spacte jobs wait job_1`" in run.err
    assert not any("cancel" in path for path in watched.paths)


def test_the_second_ctrl_c_cancels(spacte: Spacte, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spacte_client.cli._watch.time.sleep", interrupting(2))
    watched = Watched(100)
    run = spacte("jobs", "wait", "job_1", handler=watched)
    assert run.status == 130
    assert watched.paths[-1] == "POST /v1/jobs/job_1/cancel"
    assert "job_1 cancelling" in run.err
