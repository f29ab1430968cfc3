"""Kills or stops each part of a gateway's set-up while a job runs and callers ask, and shows what they get meanwhile.

    python -m benchmarks.kills --models DIR --keep benchmarks/results/kills.ndjson --out benchmarks/results/kills.md

A gateway with a PostgreSQL server, a job of 100 digits, and 8 callers who certify without end. In each run one part
dies by SIGKILL, or is stopped for a while, at a random moment; or the disk is full, or the clock wrong for a while. The
operator allows a fixed seed, so that the job's results can be compared. PostgreSQL is started again by this program, as
an operator's supervisor does, and so is the gateway. `--setup "in process"` is without Ray: the gateway draws by
itself, and starts drivers of jobs.
"""

import argparse
import dataclasses
import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import httpx2
import numpy as np

from spacte_client import APIError, Client

from .fault_world import AWAY_S, FAULTS, Setup, World, a_world, postgres_programs, revive
from .faults import COMPARED, SEED
from .job_cluster import GatewayProcess, wait_until
from .machine import this_machine

CALLERS = 8
CALL_N = 1_000
JOB_S = 420.0  # chosen: far more than a disturbed job takes
SEEN_S = 15.0  # a fault that `/readyz` has not told by then is one that it does not tell
HONEST = ("200", "429", "503", "507")
HEAD = (
    "| Day | Machine | Set-up | n | Fault | Images done then | `/readyz` false after, s | and true again after, s "
    "| Job, s | Lines | Unique | Differing | 200 | 429 | 503 | 507 | Others |"
)


@dataclasses.dataclass
class Run:
    """The result of one disturbed run.

    Attributes:
        fault: what happened, one of `FAULTS`.
        at: images that were finished then.
        unready_s: from the kill until `/readyz` was not "ok"; None where it stayed so.
        ready_s: from the kill until it was "ok" for good.
        job_s: from the job's creation to its end.
        lines, unique: of the job's results.
        differing: images whose record is not the undisturbed run's.
        answers: how often callers got which status; `away` where they got no connection to a gateway that was dead.
        day: on which it was made.
        n: noises for each image of the job.
        setup: what stood there.
        machine: on which it ran.
    """

    fault: str
    at: int
    unready_s: float | None
    ready_s: float | None
    job_s: float
    lines: int
    unique: int
    differing: int
    answers: dict[str, int]
    day: str
    n: int
    setup: Setup
    machine: str


class Watch:
    """Callers who certify without end, and a look at `/readyz` five times a second."""

    def __init__(self, world: World) -> None:
        self.answers: Counter[str] = Counter()
        self.looks: list[tuple[float, bool]] = []
        self._world = world
        self._over = threading.Event()
        gateways = itertools.cycle(world.gateways)
        self._threads = [threading.Thread(target=self._ask, args=(n, next(gateways))) for n in range(CALLERS)]
        self._threads.append(threading.Thread(target=self._look))

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def since(self, killed: float) -> tuple[float | None, float | None]:
        """Seconds from the kill until `/readyz` was not ok, and until it was for good; None where it stayed ok."""
        bad = [moment - killed for moment, ok in self.looks if not ok and moment > killed]
        if not bad:
            return None, None
        good = [moment - killed for moment, ok in self.looks if ok and moment - killed > bad[-1]]
        return bad[0], (good[0] if good else None)

    def _ask(self, number: int, gateway: GatewayProcess) -> None:
        image = np.random.default_rng(number).integers(0, 256, (1, 8, 8), dtype=np.uint8)
        while not self._over.is_set():
            with Client(gateway.url, max_retries=0, timeout=120) as client:
                away = gateway.url in self._world.away
                try:
                    client.certify(image, n=CALL_N)
                    self.answers["200"] += 1
                except APIError as error:
                    status = getattr(error, "status_code", None)
                    gone = "away" if away or gateway.url in self._world.away else type(error).__name__
                    self.answers[str(status) if status else gone] += 1
            self._over.wait(0.2)

    def _look(self) -> None:
        while not self._over.wait(0.2):
            try:
                ok = httpx2.get(f"{self._world.gateway.url}/readyz", timeout=5, verify=False).status_code == 200
            except httpx2.TransportError:
                ok = False
            self.looks.append((time.monotonic(), ok))


def run_job(world: World, images: int, n: int, meanwhile: Callable[[str], None]) -> tuple[str, float]:
    """A job from its creation to its success, and the seconds that took."""
    started = time.monotonic()
    with Client(world.gateway.url, timeout=60) as client:
        job = client.jobs.create({"type": "dataset", "name": "digits", "limit": images}, n=n, seed=SEED).id
        meanwhile(job)
    with Client(world.gateway.url, timeout=60) as client:
        wait_until(lambda: client.jobs.get(job).state == "succeeded", JOB_S, 0.5)
    return job, time.monotonic() - started


def undisturbed(world: World, images: int, n: int, kept: Path | None) -> dict[int, dict[str, Any]]:
    """The records of a run in which nothing dies, by index."""
    if kept is None or not kept.exists():
        job, _ = run_job(world, images, n, lambda _: None)
        lines = [json.dumps(record) for record in world.records(job)]
        if kept is not None:
            kept.write_text("\n".join(lines))
    else:
        lines = kept.read_text().splitlines()
    return {record["index"]: record for record in map(json.loads, lines)}


def disturbed(world: World, fault: str, images: int, n: int, truth: dict[int, dict[str, Any]]) -> Run:
    """One run with a fault in it."""
    at, killed = 0, 0.0

    def kill(job: str) -> None:
        nonlocal at, killed
        moment = random.randint(1, images * 3 // 4)
        wait_until(lambda: len(world.records(job)) >= moment, JOB_S, 0.05)
        at, killed = len(world.records(job)), time.monotonic()
        FAULTS[fault].act(world, job)

    with Watch(world) as watch:
        job, job_s = run_job(world, images, n, kill)
        time.sleep(max(0.0, killed + SEEN_S - time.monotonic()))
        wait_until(lambda: bool(watch.looks) and watch.looks[-1][1], JOB_S)
    unready_s, ready_s = watch.since(killed)
    revive(world)
    records = world.records(job)
    unique = {record["index"]: record for record in records}
    differing = sum(any(record[name] != truth[index][name] for name in COMPARED) for index, record in unique.items())
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    answers = dict(watch.answers)
    seen = unready_s, ready_s, job_s, len(records), len(unique), differing, answers
    return Run(fault, at, *seen, day, n, world.setup, this_machine())


def table(runs: Sequence[Run], images: int) -> str:
    """The report."""
    rows: list[str] = []
    for run in sorted(runs, key=lambda run: list(FAULTS).index(run.fault)):
        unready, ready = ("stayed" if s is None else f"{s:.1f}" for s in (run.unready_s, run.ready_s))
        others = ", ".join(f"{count} {status}" for status, count in sorted(run.answers.items()) if status not in HONEST)
        answers = " | ".join(str(run.answers.get(status, 0)) for status in HONEST)
        rows.append(
            f"| {run.day} | {run.machine} | {run.setup} | {run.n:,} | {run.fault} | {run.at} | {unready} | {ready} "
            f"| {run.job_s:.0f} | {run.lines} | {run.unique} | {run.differing} | {answers} | {others or '-'} |"
        )
    missing = [fault for fault in FAULTS if fault not in {run.fault for run in runs}]
    return f"""# Whatever dies, callers get certificates or are told to come back, and the job loses nothing

Beside other work that keeps the cores busy. A gateway with a Ray of its own, or one that draws in its process, or two
of those; PostgreSQL; a job of {images} digits with a fixed seed, and {CALLERS} callers at n = {CALL_N:,}
who do not retry. In each run one part dies by SIGKILL at a random moment, or is stopped (SIGSTOP) and goes on later;
gateway and PostgreSQL are started again after {AWAY_S:.0f} s, one of two gateways is not.

    python -m benchmarks.kills --models DIR --keep benchmarks/results/kills.ndjson --out benchmarks/results/kills.md

{HEAD}
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

`Differing`: images whose {", ".join(COMPARED)}
are not those of the undisturbed run. `away`: no connection to a gateway that was dead. `stayed`: `/readyz` was
never false, because callers were answered all the time.
{f"Not measured yet: {'; '.join(missing)}." if missing else ""}
"""


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder with a digits model")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--n", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5, help="of every part once")
    parser.add_argument("--only", choices=FAULTS, action="append", help="only this fault")
    parser.add_argument("--setup", choices=get_args(Setup), help="by default the first that has a fault")
    parser.add_argument("--postgres", type=Path, help="folder of the server's programs; by default the newest there is")
    parser.add_argument("--truth", type=Path, help="file with the undisturbed run's results; made where it is missing")
    parser.add_argument("--keep", type=Path, help="file that collects the runs of several invocations")
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    programs = postgres_programs(options.postgres)
    lines = options.keep.read_text().splitlines() if options.keep and options.keep.exists() else []
    runs = [Run(**json.loads(line)) for line in lines]
    chosen: dict[Setup, list[str]] = {}
    for name in options.only or FAULTS:
        if options.setup is None or options.setup in FAULTS[name].setups:
            chosen.setdefault(options.setup or FAULTS[name].setups[0], []).append(name)
    if not chosen:
        raise SystemExit(f"The set-up {options.setup!r} has none of: {', '.join(options.only)}.")
    for setup, faults in chosen.items():
        with a_world(options.models.resolve(), programs, setup) as world:
            truth = undisturbed(world, options.images, options.n, options.truth)
            for fault in faults * options.rounds:
                runs.append(disturbed(world, fault, options.images, options.n, truth))
                print(runs[-1], flush=True)
                if options.keep:
                    with options.keep.open("a") as file:
                        file.write(json.dumps(dataclasses.asdict(runs[-1])) + "\n")
    text = table(runs, options.images)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
