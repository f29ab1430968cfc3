"""What a gateway does when far more is asked of it than it can do: a crowd in a process of its own, on loopback.

    python -m benchmarks.gateway_load [--seconds 60] [--callers 200] [--places 32] [--n 1000] [--out FILE] [--json]

Starts a gateway with the demo's model (`make demo` trains it), samplers in its process, and asks in four ways:
a crowd of callers that come again after a quarter of a second, whatever `Retry-After` says; 500 requests of the
SDK with its defaults beside that crowd; 500 requests of the SDK all at once; and one caller at a time, whose time
is compared with the samplers'. Every certificate is checked as `spacte verify` does, and some are drawn again.
`--url` asks a gateway that runs already.
"""

import argparse
import asyncio
import io
import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from PIL import Image as Pillow

from spacte_client import AsyncClient, SpacteError
from spacte_client.types import Certificate
from spacte_workers.certification.verify import check, replay
from spacte_workers.images import from_array, image_sha256
from spacte_workers.shards import Image

from .common import give_out
from .machine import this_machine

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "demo" / "models"
SDK_REQUESTS = 500  # chosen: far more than there are permits
SDK_CONCURRENCY = 64  # chosen: twice the permits
IMPATIENCE_S = 0.25  # chosen: callers that do not obey `Retry-After`, which is a second at least
REPLAYED = 20  # chosen: to draw a certificate's noises again takes about a second
SINGLE_REQUESTS = 60  # chosen: enough for a 95th percentile
WARM_UP = 5  # chosen: the first requests open connections and fill caches


@dataclass
class Outcomes:
    """What the callers of one part got."""

    certificates: list[tuple[int, Certificate]] = field(default_factory=list)
    times_ms: list[float] = field(default_factory=list)
    refusals: int = 0
    retry_after_s: list[float] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        """In numbers."""
        p50, p95, p99 = np.percentile(self.times_ms or [0.0], [50, 95, 99])
        return {
            "seconds": round(self.seconds, 1),
            "certificates": len(self.certificates),
            "certificates_a_second": round(len(self.certificates) / max(self.seconds, 1e-9), 1),
            "refused": self.refusals,
            "retry_after_s": [min(self.retry_after_s, default=0.0), max(self.retry_after_s, default=0.0)],
            "anything_else": dict(self.others),
            "p50_ms": round(float(p50), 1),
            "p95_ms": round(float(p95), 1),
            "p99_ms": round(float(p99), 1),
        }


def pixels(caller: int) -> np.ndarray[Any, Any]:
    """The image of one caller, uint8 [1, 8, 8]."""
    return np.random.RandomState(caller).randint(0, 256, (1, 8, 8)).astype(np.uint8)


def png(caller: int) -> bytes:
    """The same as a file."""
    file = io.BytesIO()
    Pillow.fromarray(pixels(caller)[0]).save(file, "PNG")
    return file.getvalue()


async def crowd(url: str, callers: int, n: int, over: asyncio.Event) -> Outcomes:
    """Callers that ask one after the other until it is over."""
    got = Outcomes()
    limits = httpx2.Limits(max_connections=callers, max_keepalive_connections=callers)
    async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits) as http:

        async def ask(number: int) -> None:
            image = png(number)
            while not over.is_set():
                began = time.perf_counter()
                form = {"files": {"image": ("d.png", image)}, "data": {"params": json.dumps({"n": n})}}
                try:
                    answer = await http.post("/v1/certify", **form)
                except httpx2.TransportError as error:
                    got.others[type(error).__name__] += 1
                    continue
                if answer.status_code == 200:
                    got.times_ms.append(1000 * (time.perf_counter() - began))
                    got.certificates.append((number, Certificate.model_validate_json(answer.content)))
                elif answer.status_code == 429 and int(answer.headers.get("retry-after", 0)) >= 1:
                    got.refusals += 1
                    got.retry_after_s.append(float(answer.headers["retry-after"]))
                    await asyncio.sleep(IMPATIENCE_S)
                else:
                    got.others[f"status {answer.status_code}"] += 1

        began = time.monotonic()
        await asyncio.gather(*(ask(number) for number in range(callers)))
        got.seconds = time.monotonic() - began
    return got


async def sdk(url: str, n: int, concurrency: int) -> Outcomes:
    """Requests of the SDK with its defaults, so many at a time."""
    got = Outcomes()
    retries = _Retries(got)
    log = logging.getLogger("spacte_client")
    log.setLevel(logging.INFO)
    log.addHandler(retries)
    began = time.monotonic()
    slots = asyncio.Semaphore(concurrency)
    async with AsyncClient(url) as client:

        async def ask(number: int) -> None:
            async with slots:
                started = time.perf_counter()
                try:
                    certificate = await client.certify(png(number), n=n)
                except SpacteError as error:
                    got.others[type(error).__name__] += 1
                else:
                    got.times_ms.append(1000 * (time.perf_counter() - started))
                    got.certificates.append((number, certificate))

        await asyncio.gather(*(ask(number) for number in range(SDK_REQUESTS)))
    log.removeHandler(retries)
    got.seconds = time.monotonic() - began
    return got


class _Retries(logging.Handler):
    """Counts what the SDK logs about attempts that were refused."""

    def __init__(self, got: Outcomes) -> None:
        super().__init__()
        self._got = got

    def emit(self, record: logging.LogRecord) -> None:
        """One attempt was refused."""
        self._got.refusals += 1
        waited = re.search(r"again in ([0-9.]+) s", record.getMessage())
        if waited:
            self._got.retry_after_s.append(float(waited[1]))


async def overheads_ms(url: str, n: int) -> list[float]:
    """Milliseconds of single requests beyond what the samplers computed for them."""
    overheads: list[float] = []
    async with httpx2.AsyncClient(base_url=url, timeout=120) as http:

        async def computed() -> float:
            text = (await http.get("/metrics")).text
            return sum(float(s) for s in re.findall(r"spacte_shard_duration_seconds_sum{.*} (\S+)", text))

        for number in range(SINGLE_REQUESTS + WARM_UP):
            form = {"files": {"image": ("d.png", png(number))}, "data": {"params": json.dumps({"n": n})}}
            before = await computed()
            began = time.perf_counter()
            (await http.post("/v1/certify", **form)).raise_for_status()
            seconds = time.perf_counter() - began
            if number >= WARM_UP:
                overheads.append(1000 * (seconds - (await computed() - before)))
    return overheads


def findings(seen: list[tuple[int, Certificate]], n: int) -> list[str]:
    """What is wrong with the certificates, a sentence each."""
    wrong: list[str] = []
    ids = Counter(certificate.id for _, certificate in seen)
    wrong += [f"{name} was given {times} times." for name, times in ids.items() if times > 1]
    for number, certificate in seen:
        image = from_array(pixels(number), input_shape=(1, 8, 8))
        if certificate.image_sha256 != image_sha256(image) or certificate.n != n:
            wrong.append(f"{certificate.id} answers another request.")
        wrong += [f"{certificate.id}: {finding}" for finding in check(certificate)]
    return wrong


def redrawn(seen: list[tuple[int, Certificate]], models: Path) -> list[str]:
    """Some of the certificates with every noise drawn again."""
    from spacte_core.checkpoint import load_checkpoint
    from spacte_workers.engine import Engine

    some = seen[:: max(1, len(seen) // REPLAYED)]
    checkpoint = load_checkpoint(models / some[0][1].model)
    engine = Engine.from_checkpoint(checkpoint, precision=some[0][1].precision)
    wrong: list[str] = []
    for number, certificate in some:
        image: Image = from_array(pixels(number), input_shape=(1, 8, 8))
        wrong += [f"{certificate.id}: {finding}" for finding in replay(certificate, engine, image)]
    return wrong


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """All four parts, one after the other."""
    n, callers = options.n, options.callers
    overheads = await overheads_ms(url, n)
    _say("one caller at a time: done")
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(options.seconds, over.set)
    first = await crowd(url, callers, n, over)
    _say(f"the crowd: {first.figures()}")
    over = asyncio.Event()
    beside = asyncio.create_task(crowd(url, callers, n, over))
    await asyncio.sleep(1.0)
    polite = await sdk(url, n, SDK_CONCURRENCY)
    over.set()
    second = await beside
    _say(f"the SDK beside it: {polite.figures()}")
    at_once = await sdk(url, n, SDK_REQUESTS)
    all_of_them = [pair for part in (first, polite, second, at_once) for pair in part.certificates]
    result: dict[str, Any] = {
        "callers": callers,
        "places": options.places,
        "n": n,
        "crowd": first.figures(),
        "sdk_beside_the_crowd": polite.figures(),
        "the_crowd_beside_the_sdk": second.figures(),
        "sdk_all_at_once": at_once.figures(),
        "overhead_ms": {
            "median": round(float(np.median(overheads)), 1),
            "p95": round(float(np.percentile(overheads, 95)), 1),
        },
        "certificates_checked": len(all_of_them),
        "wrong": findings(all_of_them, n),
    }
    if options.models.is_dir():
        result["wrong"] += redrawn(all_of_them, options.models)
        result["certificates_drawn_again"] = REPLAYED
    return result


def _say(what: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", file=sys.stderr, flush=True)


@contextmanager
def gateway(options: argparse.Namespace) -> Generator[str]:
    """A gateway of this run's own; its address."""
    if options.url:
        yield options.url
        return
    serve = [Path(sys.executable).with_name("spacte"), "serve", "--in-process", "--port", 0]
    serve += ["--models", options.models, "--log-level", "warning"]
    if "places" in options:
        serve += ["--max-concurrent-requests", options.places, "--max-client-batch-size", 8]
    with subprocess.Popen([str(part) for part in serve], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)


def report(result: dict[str, Any], seconds: float) -> str:
    """The result as a page."""
    parts = {
        f"{result['callers']} callers for {seconds:g} s, each back after 0.25 s": "crowd",
        f"SDK, {SDK_REQUESTS} requests, {SDK_CONCURRENCY} at a time, beside that crowd": "sdk_beside_the_crowd",
        "the crowd meanwhile": "the_crowd_beside_the_sdk",
        f"SDK, {SDK_REQUESTS} requests at once": "sdk_all_at_once",
    }
    table = [
        "| Who asks | Certificates | a second | Refused (429) | Anything else | p50 | p95 | p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, part in parts.items():
        f = result[part]
        else_ = ", ".join(f"{count} {what}" for what, count in f["anything_else"].items()) or "none"
        times = " | ".join(f"{f[key]:,.0f} ms" for key in ("p50_ms", "p95_ms", "p99_ms"))
        table.append(
            f"| {name} | {f['certificates']:,} | {f['certificates_a_second']} | {f['refused']:,} | {else_} | {times} |"
        )
    rows, overhead = "\n".join(table), result["overhead_ms"]
    machine = this_machine()
    again = result.get("certificates_drawn_again", 0)
    return f"""# A gateway under more load than it can bear

{datetime.now(UTC):%Y-%m-%d}. {machine}; gateway and samplers in one process, the callers in another one on the same
cores; the demo's digits model, n = {result["n"]:,}, {result["places"]} permits.

    python -m benchmarks.gateway_load

{rows}

Times of the SDK's requests count from the first attempt, with the pauses between attempts.

- Certificates that do not pass the checks of `spacte verify`: {len(result["wrong"])} of
  {result["certificates_checked"]:,}; of {again} every noise was drawn again.
- One caller at a time, time beyond the samplers' own: median {overhead["median"]} ms, p95 {overhead["p95"]} ms.
"""


def main() -> None:
    """Measure, and print or write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--callers", type=int, default=200)
    parser.add_argument("--places", type=int, default=32)
    parser.add_argument("--n", type=int, default=1_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the gateway does not outlive its crowd
    _say("starting")
    with gateway(options) as url:
        _say(f"asking {url}")
        result = asyncio.run(measure(url, options))
    text = json.dumps(result) + "\n" if options.json else report(result, options.seconds)
    give_out(text, options.out)


if __name__ == "__main__":
    main()
