"""Promise: waiting for a job and following it outlive silence and a restart of the gateway, and little else."""

import httpx2
import pytest

import spacte_client as sdk

from .conftest import Ask, Recorder, problem
from .test_files_and_jobs import Breaking, job, lines, record


def test_waiting_outlives_a_restart_of_the_gateway(
    ask: Ask, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = [httpx2.ConnectError("refused")] * 9 + [problem(503, "no_workers")] * 9 + [httpx2.Response(502)] * 9
    recorder = Recorder(job(), *away, job(state="succeeded"))
    assert ask(recorder, lambda c: c.jobs.wait("job_1")).state == "succeeded"
    for at_once in (Recorder(httpx2.ConnectError("refused")), Recorder(job(), problem(404, "job_not_found"))):
        with pytest.raises(sdk.APIError):
            ask(at_once, lambda c: c.jobs.wait("job_1"))
        assert len(at_once.requests) <= 3, "a wrong address, and a job that is gone, are not waited for"
    monkeypatch.setattr("spacte_client._retries.LONGEST_OUTAGE_S", 0.0)
    with pytest.raises(sdk.APIConnectionError, match="refused"):
        ask(Recorder(job(), httpx2.ConnectError("refused")), lambda c: c.jobs.wait("job_1"))


class Silent:
    """A job whose results come one a connection, each followed by silence until the client's patience ends."""

    def __init__(self, *, records: int, ends_after: int) -> None:
        self.records, self.ends_after, self.opened, self.looks = records, ends_after, 0, 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if not request.url.path.endswith("/results"):
            self.looks += 1
            return httpx2.Response(200, json=job(state="succeeded" if self.looks >= self.ends_after else "running"))
        self.opened += 1
        index = int(request.url.params.get("after", -1)) + 1
        if index >= self.records:
            return httpx2.Response(200, stream=Breaking(b"", httpx2.ReadTimeout("silence")))
        return httpx2.Response(200, stream=Breaking(lines(record(index)), httpx2.ReadTimeout("silence")))


def test_the_silence_of_a_job_that_goes_on_is_no_failure(ask: Ask, slept: list[float]) -> None:
    """Neither without retries nor however often; that of one that has ended is, since its results are all there."""
    for retries in (0, 2):
        silent = Silent(records=1, ends_after=7)
        with pytest.raises(sdk.APITimeoutError):
            ask(silent, lambda c: c.jobs.results("job_1", follow=True), max_retries=retries)
        assert silent.looks == 7
        assert silent.opened == 8 + retries


def test_following_outlives_a_restart_of_the_gateway(ask: Ask, slept: list[float]) -> None:
    def gateway(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        if 1 < len(requests) <= 5:
            raise httpx2.ConnectError("refused")
        if len(requests) <= 8 and len(requests) > 1:
            return problem(503, "no_workers")
        if request.url.path.endswith("/results"):
            index = int(request.url.params.get("after", -1)) + 1
            return httpx2.Response(200, content=lines(record(index)))
        return httpx2.Response(200, json=job(state="succeeded"))

    requests: list[httpx2.Request] = []
    found = ask(gateway, lambda c: c.jobs.results("job_1", follow=True))
    assert [entry.index for entry in found] == [0, 1]
    requests = [httpx2.Request("GET", "http://x")]
    with pytest.raises(sdk.APIConnectionError):
        ask(gateway, lambda c: c.jobs.results("job_1", follow=True))
    assert len(requests) == 4, "an address that never answered is not waited for longer than any call is"
