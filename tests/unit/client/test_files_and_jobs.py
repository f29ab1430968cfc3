"""Files and jobs: each route exactly as the API has it, pages that iterate, streams that resume."""

import io
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

import spacte_client as sdk
from spacte_client.types import (
    CertificateRecord,
    CertifyParams,
    DatasetInput,
    ErrorRecord,
    File,
    JobProgressEvent,
    JobStateEvent,
)

from .conftest import CERTIFICATE, Ask, Recorder, problem, sse
from .test_client import form

FILE = {
    "id": "file_1",
    "bytes": 3,
    "sha256": "0" * 64,
    "kind": "npz",
    "filename": "x.npz",
    "created_at": "2026-01-01T00:00:00Z",
}


def job(number: int = 1, state: str = "running", **more: Any) -> dict[str, Any]:
    return {
        "id": f"job_{number}",
        "state": state,
        "counts": {"total": 10, "certified": 3, "abstained": 1, "errored": 0, "remaining": 6},
        "input": {"type": "dataset", "name": "digits"},
        "model": "digits",
        "params": {"n": 1000},
        "created_at": "2026-01-01T00:00:00Z",
        "results_url": f"/v1/jobs/job_{number}/results",
    } | more


def record(index: int) -> dict[str, Any]:
    return CERTIFICATE | {"outcome": "certified", "index": index, "true_label": 7, "correct": True}


def sent(recorder: Recorder) -> tuple[str, str, dict[str, str]]:
    return recorder.last.method, recorder.last.url.path, dict(recorder.last.url.params)


def test_files(ask: Ask, tmp_path: Path) -> None:
    recorder = Recorder(FILE)
    path = tmp_path / "x.npz"
    path.write_bytes(b"abc")
    assert ask(recorder, lambda c: c.files.upload(path)).id == "file_1"
    assert sent(recorder) == ("POST", "/v1/files", {})
    assert form(recorder.last) == {"file": b"abc"}
    assert b'filename="x.npz"' in recorder.last.content
    ask(recorder, lambda c: c.files.upload(b"abc", filename="y.zip"))
    assert b'filename="y.zip"' in recorder.last.content
    ask(recorder, lambda c: c.files.upload(io.BytesIO(b"abcd")))
    assert form(recorder.last) == {"file": b"abcd"}
    assert ask(recorder, lambda c: c.files.get("file_1")).kind == "npz"
    assert sent(recorder) == ("GET", "/v1/files/file_1", {})
    recorder = Recorder(httpx2.Response(204))
    assert ask(recorder, lambda c: c.files.delete("file_1")) is None
    assert sent(recorder) == ("DELETE", "/v1/files/file_1", {})


def test_an_upload_is_sent_whole_at_every_attempt(ask: Ask, slept: list[float], tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"abc" * 100_000)
    recorder = Recorder(problem(503, "draining"), FILE)
    ask(recorder, lambda c: c.files.upload(path))
    assert [form(request)["file"] for request in recorder.requests] == [b"abc" * 100_000] * 2


@pytest.mark.parametrize("wrong", ["no/such/file", io.StringIO("text")])
def test_what_cannot_be_uploaded_is_refused_first(ask: Ask, wrong: Any) -> None:
    recorder = Recorder(FILE)
    with pytest.raises(sdk.InvalidArgumentError):
        ask(recorder, lambda c: c.files.upload(wrong))
    assert recorder.requests == []


def test_a_pipe_is_refused_since_a_retry_could_not_rewind_it(ask: Ask) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    with pytest.raises(sdk.InvalidArgumentError, match="rewound"):
        ask(Recorder(FILE), lambda c: c.files.upload(Pipe(b"x")))


def test_creating_a_job(ask: Ask) -> None:
    recorder = Recorder(job())
    source = {"type": "dataset", "name": "digits", "stride": 5, "limit": 60}
    made = ask(
        recorder, lambda c: c.jobs.create(source, model="digits", n=20_000, metadata={"by": "me"}, idempotency_key="k")
    )
    assert made.counts.done == 4
    assert sent(recorder) == ("POST", "/v1/jobs", {})
    assert recorder.last.headers["idempotency-key"] == "k"
    assert json.loads(recorder.last.content) == {
        "input": {"type": "dataset", "name": "digits", "split": "test", "stride": 5, "limit": 60},
        "model": "digits",
        "params": {"n": 20_000},
        "metadata": {"by": "me"},
    }
    ask(recorder, lambda c: c.jobs.create(DatasetInput(name="digits")))
    assert json.loads(recorder.last.content)["input"]["name"] == "digits"
    ask(recorder, lambda c: c.jobs.create(File.model_validate(FILE)))
    assert json.loads(recorder.last.content) == {"input": {"type": "file", "file_id": "file_1"}, "params": {}}


@pytest.mark.parametrize("params", [{"n": 500, "alpha": 0.01}, CertifyParams(n=500, alpha=0.01)])
def test_the_options_of_a_job_as_one_object(ask: Ask, params: Any) -> None:
    recorder = Recorder(job())
    ask(recorder, lambda c: c.jobs.create(input=DatasetInput(name="digits"), params=params, n=900))
    assert json.loads(recorder.last.content)["params"] == {"n": 900, "alpha": 0.01}


@pytest.mark.parametrize(
    ("source", "options", "sentence"),
    [
        ({"type": "tape"}, {}, "input"),
        ({"type": "dataset", "name": ""}, {}, "input.dataset.name"),
        ({"type": "dataset", "name": "digits"}, {"alpha": 2}, "params.alpha"),
        ({"type": "dataset", "name": "digits"}, {"metadata": {"k": "v" * 1000}}, "metadata.k"),
    ],
)
def test_a_wrong_job_is_refused_first(ask: Ask, source: Any, options: dict[str, Any], sentence: str) -> None:
    recorder = Recorder(job())
    with pytest.raises(sdk.InvalidArgumentError, match=sentence):
        ask(recorder, lambda c: c.jobs.create(source, **options))
    assert recorder.requests == []


def test_a_job_s_other_routes(ask: Ask) -> None:
    recorder = Recorder(job())
    assert ask(recorder, lambda c: c.jobs.get("job_1")).state == "running"
    assert sent(recorder) == ("GET", "/v1/jobs/job_1", {})
    for verb in ("cancel", "resume"):
        ask(recorder, lambda c, verb=verb: getattr(c.jobs, verb)("job_1"))
        assert sent(recorder) == ("POST", f"/v1/jobs/job_1/{verb}", {})
        assert recorder.last.headers["idempotency-key"]
    recorder = Recorder(httpx2.Response(204))
    ask(recorder, lambda c: c.jobs.delete("job_1"))
    assert sent(recorder) == ("DELETE", "/v1/jobs/job_1", {})
    rows = [{"radius": 0.25, "value": 0.6, "low": 0.55, "high": 0.64}]
    recorder = Recorder({"images": 500, "abstained": 9, "acr": 0.41, "certified_accuracy": rows})
    summary = ask(recorder, lambda c: c.jobs.summary("job_1"))
    assert (summary.acr, summary.certified_accuracy[0].low) == (0.41, 0.55)
    assert sent(recorder) == ("GET", "/v1/jobs/job_1/summary", {})


class Book:
    """Seven jobs in pages, newest first."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        query = dict(request.url.params)
        self.asked.append(query)
        left = [n for n in range(7, 0, -1) if "after" not in query or n < int(query["after"][4:])]
        page = left[: int(query.get("limit", 3))]
        ids = [f"job_{n}" for n in page]
        return httpx2.Response(
            200,
            json={
                "data": [job(n) for n in page],
                "has_more": len(page) < len(left),
                "first_id": ids[0] if ids else None,
                "last_id": ids[-1] if ids else None,
            },
        )


def test_pages_iterate_to_the_end_of_the_list() -> None:
    book = Book()
    client = sdk.Client(transport=httpx2.MockTransport(book))
    page = client.jobs.list(limit=3, state="running")
    assert [entry.id for entry in page.data] == ["job_7", "job_6", "job_5"]
    assert (page.has_more, page.first_id, page.last_id) == (True, "job_7", "job_5")
    assert [entry.id for entry in page] == [f"job_{n}" for n in range(7, 0, -1)]
    assert book.asked[-1] == {"limit": "3", "after": "job_2", "state": "running"}
    assert all(query["state"] == "running" for query in book.asked)
    assert client.jobs.list(after="job_1").next_page() is None


async def test_pages_iterate_on_asyncio() -> None:
    async with sdk.AsyncClient(transport=httpx2.MockTransport(Book())) as client:
        page = await client.jobs.list(limit=2)
        assert [entry.id async for entry in page] == [f"job_{n}" for n in range(7, 0, -1)]
        second = await page.next_page()
        assert second is not None
        assert second.first_id == "job_5"


def test_pages_of_files(ask: Ask) -> None:
    recorder = Recorder({"data": [FILE], "has_more": False, "first_id": "file_1", "last_id": "file_1"})
    page = ask(recorder, lambda c: c.files.list(limit=5, after="file_9"))
    assert [entry.id for entry in page.data] == ["file_1"]
    assert sent(recorder) == ("GET", "/v1/files", {"limit": "5", "after": "file_9"})
    with pytest.raises(sdk.InvalidArgumentError, match="limit"):
        ask(recorder, lambda c: c.files.list(limit=0))


def test_waiting_follows_the_gateway_s_hint(ask: Ask, slept: list[float]) -> None:
    hinted = httpx2.Response(200, json=job(), headers={"retry-after": "5"})
    plain = httpx2.Response(200, json=job(state="cancelling"))
    recorder = Recorder(hinted, plain, job(state="cancelled"))
    assert ask(recorder, lambda c: c.jobs.wait("job_1")).state == "cancelled"
    assert slept == [5, 2]
    recorder = Recorder(hinted, job(state="succeeded"))
    ask(recorder, lambda c: c.jobs.wait("job_1", poll=0.25))
    assert slept == [5, 2, 0.25]


def test_waiting_ends_in_time_and_says_that_the_job_goes_on(ask: Ask, slept: list[float]) -> None:
    with pytest.raises(sdk.WaitTimeoutError, match="4 of 10 images") as caught:
        ask(Recorder(job()), lambda c: c.jobs.wait("job_1", timeout=0.01))
    assert isinstance(caught.value, TimeoutError)
    assert all(pause <= 0.01 for pause in slept)


class Breaking(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """Lines, and then a broken connection."""

    def __init__(self, body: bytes, error: Exception | None = None) -> None:
        self.body, self.error = body, error or httpx2.RemoteProtocolError("cut")

    def __iter__(self) -> Any:
        yield self.body
        raise self.error

    async def __aiter__(self) -> Any:
        yield self.body
        raise self.error


def lines(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n\n" for entry in records)


class Script:
    """Answers made one after the other, each on its own request."""

    def __init__(self, *bodies: bytes | dict[str, Any], kind: str = "application/x-ndjson", broken: int = 0) -> None:
        self.bodies, self.kind, self.broken = list(bodies), kind, broken
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        body = self.bodies.pop(0) if self.bodies else b""
        if isinstance(body, dict):
            return httpx2.Response(200, json=body)
        headers = {"content-type": self.kind}
        if self.broken > 0:
            self.broken -= 1
            return httpx2.Response(200, stream=Breaking(body), headers=headers)
        return httpx2.Response(200, content=body, headers=headers)


def test_results_are_records(ask: Ask) -> None:
    error = {"outcome": "errored", "index": 2, "error": {"code": "bad_image", "detail": "Send a PNG."}}
    script = Script(lines(record(0), error))
    found = ask(script, lambda c: c.jobs.results("job_1", after=3))
    assert isinstance(found[0], CertificateRecord)
    assert (found[0].index, found[0].radius, found[0].correct) == (0, CERTIFICATE["radius"], True)
    assert isinstance(found[1], ErrorRecord)
    assert found[1].error.detail == "Send a PNG."
    assert script.requests[0].url.path == "/v1/jobs/job_1/results"
    assert dict(script.requests[0].url.params) == {"after": "3"}
    with pytest.raises(sdk.InvalidArgumentError, match="after"):
        ask(script, lambda c: c.jobs.results("job_1", after=-1))


def test_results_resume_after_the_last_record_that_arrived(ask: Ask, slept: list[float]) -> None:
    script = Script(lines(record(0), record(5)), lines(record(10)), broken=1)
    found = ask(script, lambda c: c.jobs.results("job_1"))
    assert [entry.index for entry in found] == [0, 5, 10]
    assert [dict(request.url.params) for request in script.requests] == [{}, {"after": "5"}]


def test_results_give_up_when_nothing_more_arrives(ask: Ask, slept: list[float]) -> None:
    script = Script(b"", b"", b"", broken=3)
    with pytest.raises(sdk.APIConnectionError, match="cut"):
        ask(script, lambda c: c.jobs.results("job_1"))
    assert len(script.requests) == 3


def test_following_goes_on_until_the_job_has_ended(ask: Ask, slept: list[float]) -> None:
    script = Script(lines(record(0)), job(), lines(record(1)), job(state="succeeded"))
    found = ask(script, lambda c: c.jobs.results("job_1", follow=True))
    assert [entry.index for entry in found] == [0, 1]
    assert dict(script.requests[2].url.params) == {"after": "0", "follow": "true"}


def test_a_line_that_is_no_record_is_refused(ask: Ask) -> None:
    for body in (b"{oops\n", b'{"index": 1}\n'):
        with pytest.raises(sdk.APIResponseError, match="cannot be read"):
            ask(Script(body), lambda c: c.jobs.results("job_1"))


def test_results_as_tsv(ask: Ask, tmp_path: Path) -> None:
    text = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t7\t7\t0.5\t1\t0:00:01\n"
    script = Script(text.encode(), kind="text/tab-separated-values")
    path = tmp_path / "out.tsv"
    assert ask(script, lambda c: c.jobs.results_tsv("job_1", path)) == text
    assert path.read_bytes() == text.encode()
    assert dict(script.requests[0].url.params) == {"format": "tsv"}


STATE = {"state": "running", "at": "2026-01-01T00:00:00Z"}
COUNTS = {"counts": {"total": 10, "certified": 4, "remaining": 6}, "images_per_minute": 30.0}


def test_events_resume_after_the_last_one_that_arrived(ask: Ask, slept: list[float]) -> None:
    script = Script(
        sse(("state", STATE), ("progress", COUNTS), ("weather", {}), ids=True),
        sse(("state", STATE | {"state": "succeeded"}), ids=True),
        job(state="succeeded"),
        kind="text/event-stream",
        broken=1,
    )
    found = ask(script, lambda c: c.jobs.events("job_1", after="7"))
    assert [type(event) for event in found] == [JobStateEvent, JobProgressEvent, JobStateEvent]
    assert found[1].counts.certified == 4
    assert [request.headers.get("last-event-id") for request in script.requests] == ["7", "3", None]
    assert script.requests[0].url.path == "/v1/jobs/job_1/events"


def test_events_that_stop_although_the_job_goes_on_are_asked_for_again(ask: Ask, slept: list[float]) -> None:
    script = Script(*[b"", job()] * 3, kind="text/event-stream")
    with pytest.raises(sdk.APIConnectionError, match="the job goes on"):
        ask(script, lambda c: c.jobs.events("job_1"))
    assert len(script.requests) == 6


@pytest.mark.parametrize("data", ["[1]", "{oops", '{"state": "asleep"}'])
def test_an_event_that_cannot_be_read_is_refused(ask: Ask, data: str) -> None:
    script = Script(f"event: state\ndata: {data}\n\n".encode(), kind="text/event-stream")
    with pytest.raises(sdk.APIResponseError, match="'state' that cannot be read"):
        ask(script, lambda c: c.jobs.events("job_1"))
