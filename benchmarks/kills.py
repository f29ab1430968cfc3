"""Kills or stops each part of a gateway's set-up while a job runs and callers ask, and shows what they get meanwhile.

    python -m benchmarks.kills --models DIR --keep benchmarks/results/kills.ndjson --out benchmarks/results/kills.md

A gateway with a Ray of its own and a PostgreSQL server, a job of 100 digits, and 8 callers who certify without end. In
each run one part dies by SIGKILL, or is stopped for a while, at a random moment. The operator allows a fixed seed, so
that the job's results can be compared. PostgreSQL is started again by this program, as an operator's supervisor does,
and so is the gateway. With `--in-process` there is no Ray: the gateway draws by itself, and starts drivers of jobs.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pwd
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from spacte_client import APIError, Client

from .faults import COMPARED, SEED
from .job_cluster import GatewayProcess, data_folder, descendants, wait_until
from .machine import this_machine

CALLERS = 8
CALL_N = 1_000
JOB_S = 420.0  # chosen: far more than a disturbed job takes
AWAY_S = 5.0  # that PostgreSQL and the gateway are away; chosen: as a supervisor's pause
SEEN_S = 15.0  # a fault that `/readyz` has not told by then is one that it does not tell
HONEST = ("200", "429", "503")
HEAD = (
    "| Day | Machine | Ray | n | Fault | Images done then | `/readyz` false after, s | and true again after, s | Job, s "
    "| Lines | Unique | Differing | 200 | 429 | 503 | Others |"
)


@dataclasses.dataclass
class Run:
    """The result of one disturbed run.

    Attributes:
        killed: which part died or was stopped.
        at: images that were finished then.
        unready_s: from the kill until `/readyz` was not "ok"; None where it stayed so.
        ready_s: from the kill until it was "ok" for good.
        job_s: from the job's creation to its end.
        lines, unique: of the job's results.
        differing: images whose record is not the undisturbed run's.
        answers: how often callers got which status; `away` where they got no connection while the gateway was dead.
        day: on which it was made.
        n: noises for each image of the job.
        ray: whether samplers and drivers were on Ray.
        machine: on which it ran.
    """

    killed: str
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
    ray: bool
    machine: str


class Postgres:
    """A PostgreSQL server on a Unix socket, for one measurement."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._folder = folder
        self._command = [binaries / "postgres", "-D", folder / "data", "-c", "listen_addresses="]
        self._command += ["-c", f"unix_socket_directories={folder}"]
        self._ready = [binaries / "pg_isready", "-q", "-h", folder]
        self._user: dict[str, Any] = {"cwd": "/"}
        if os.geteuid() == 0:  # the server refuses to run as root
            owner = pwd.getpwnam("postgres")
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            self._user |= {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        initdb = [binaries / "initdb", "-D", folder / "data", "-A", "trust", "-U", "spacte", "-E", "UTF8"]
        subprocess.run(initdb, check=True, capture_output=True, **self._user)
        self.url = f"postgresql://spacte@/postgres?host={folder}"
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True, **self._user)
        wait_until(lambda: subprocess.run(self._ready, check=False).returncode == 0, 60)

    def kill(self) -> None:
        """Kill every process of it."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)


@dataclasses.dataclass
class World:
    """The gateway, its database and its folder; `away` while the gateway is dead."""

    gateway: GatewayProcess
    postgres: Postgres
    data: Path
    ray: bool
    away: bool = False

    def process(self, named: str) -> int:
        """A process below the gateway, by its name or the title that Ray gave it."""
        assert self.gateway.process is not None
        found: list[int] = []
        for pid in descendants(self.gateway.process.pid):
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                if name == named or Path(f"/proc/{pid}/cmdline").read_text().startswith(named):
                    found.append(pid)
        return random.choice(found)

    def records(self, job: str) -> list[dict[str, Any]]:
        """Whole lines of a job's results."""
        file = self.data / "jobs" / job / "results.ndjson"
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]


def kill_process(named: str) -> Callable[[World, str], None]:
    """What kills a process below the gateway, by its name."""
    return lambda world, _: os.kill(world.process(named), signal.SIGKILL)


def stop_process(named: str, seconds: float) -> Callable[[World, str], None]:
    """What stops a process below the gateway for a while (SIGSTOP, SIGCONT), by its name."""

    def stop(world: World, _: str) -> None:
        pid = world.process(named)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):  # it was ended and replaced meanwhile
            os.kill(pid, signal.SIGCONT)

    return stop


def kill_driver(world: World, job: str) -> None:
    """The job's driver dies."""
    os.kill(json.loads((world.data / "jobs" / job / "progress.json").read_text())["pid"], signal.SIGKILL)


def kill_gateway(world: World, _: str) -> None:
    """The gateway dies, and is started again."""
    world.away = True
    world.gateway.kill()
    time.sleep(AWAY_S)
    world.gateway.start()
    world.away = False


def kill_postgres(world: World, _: str) -> None:
    """The database dies, and is started again."""
    world.postgres.kill()
    time.sleep(AWAY_S)
    world.postgres.start()


PARTS: dict[str, Callable[[World, str], None]] = {
    "sampler": kill_process("ray::SamplerActor"),
    "driver": kill_driver,
    "raylet": kill_process("raylet"),
    "GCS": kill_process("gcs_server"),
    "gateway": kill_gateway,
    "PostgreSQL": kill_postgres,
    "sampler, stopped for 60 s": stop_process("ray::SamplerActor", 60),
    "raylet, stopped for 20 s": stop_process("raylet", 20),
}
WITHOUT_RAY = ["driver", "gateway", "PostgreSQL"]


class Watch:
    """Callers who certify without end, and a look at `/readyz` five times a second."""

    def __init__(self, world: World) -> None:
        self.answers: Counter[str] = Counter()
        self.looks: list[tuple[float, bool]] = []
        self._world = world
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CALLERS)]
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

    def _ask(self, number: int) -> None:
        image = np.random.default_rng(number).integers(0, 256, (1, 8, 8), dtype=np.uint8)
        while not self._over.is_set():
            with Client(self._world.gateway.url, max_retries=0, timeout=120) as client:
                away = self._world.away
                try:
                    client.certify(image, n=CALL_N)
                    self.answers["200"] += 1
                except APIError as error:
                    status = getattr(error, "status_code", None)
                    gone = "away" if away or self._world.away else type(error).__name__
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


def disturbed(world: World, part: str, images: int, n: int, truth: dict[int, dict[str, Any]]) -> Run:
    """One run in which one part dies."""
    at, killed = 0, 0.0

    def kill(job: str) -> None:
        nonlocal at, killed
        moment = random.randint(1, images * 3 // 4)
        wait_until(lambda: len(world.records(job)) >= moment, JOB_S, 0.05)
        at, killed = len(world.records(job)), time.monotonic()
        PARTS[part](world, job)

    with Watch(world) as watch:
        job, job_s = run_job(world, images, n, kill)
        time.sleep(max(0.0, killed + SEEN_S - time.monotonic()))
        wait_until(lambda: bool(watch.looks) and watch.looks[-1][1], JOB_S)
    unready_s, ready_s = watch.since(killed)
    records = world.records(job)
    unique = {record["index"]: record for record in records}
    differing = sum(any(record[name] != truth[index][name] for name in COMPARED) for index, record in unique.items())
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    answers = dict(watch.answers)
    seen = unready_s, ready_s, job_s, len(records), len(unique), differing, answers
    return Run(part, at, *seen, day, n, world.ray, this_machine())


def table(runs: Sequence[Run], images: int) -> str:
    """The report."""
    rows: list[str] = []
    for run in sorted(runs, key=lambda run: list(PARTS).index(run.killed)):
        unready, ready = ("stayed" if s is None else f"{s:.1f}" for s in (run.unready_s, run.ready_s))
        others = ", ".join(f"{count} {status}" for status, count in sorted(run.answers.items()) if status not in HONEST)
        answers = " | ".join(str(run.answers.get(status, 0)) for status in HONEST)
        rows.append(
            f"| {run.day} | {run.machine} | {'yes' if run.ray else 'no'} | {run.n:,} | {run.killed} | {run.at} | {unready} | {ready} "
            f"| {run.job_s:.0f} | {run.lines} | {run.unique} | {run.differing} | {answers} | {others or '-'} |"
        )
    missing = [part for part in PARTS if part not in {run.killed for run in runs}]
    return f"""# Whatever dies, callers get certificates or are told to come back, and the job loses nothing

Beside other work that keeps the cores busy. A gateway with or without Ray, PostgreSQL,
a job of {images} digits with a fixed seed, and {CALLERS} callers at n = {CALL_N:,} who do not retry. In each run one
part dies by SIGKILL at a random moment, or is stopped (SIGSTOP) and goes on later; gateway and PostgreSQL are started
again after {AWAY_S:.0f} s.

    python -m benchmarks.kills --models DIR --keep benchmarks/results/kills.ndjson --out benchmarks/results/kills.md

{HEAD}
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

`Differing`: images whose {", ".join(COMPARED)}
are not those of the undisturbed run. `away`: no connection while the gateway itself was dead. `stayed`: `/readyz` was
never false, because a sampler or a driver of the job died, which callers do not need.
{f"Not measured yet: {'; '.join(missing)}." if missing else ""}
"""


@contextlib.contextmanager
def a_world(models: Path, postgres: Path, ray: bool) -> Iterator[World]:
    """A gateway with a database of its own."""
    with data_folder() as data, tempfile.TemporaryDirectory(prefix="spacte-postgres-") as folder:
        database = Postgres(postgres, Path(folder))
        options = ["--models", str(models), "--database", database.url, "--precision", "fp32", "--allow-client-seed"]
        gateway = GatewayProcess([*options, *(["--samplers", "1"] if ray else ["--in-process"])], data)
        try:
            gateway.start()
            yield World(gateway, database, data, ray)
        finally:
            gateway.stop()
            database.kill()


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder with a digits model")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--n", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5, help="of every part once")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part")
    parser.add_argument("--postgres", type=Path, help="folder of the server's programs; by default the newest there is")
    parser.add_argument("--in-process", action="store_true", help="without Ray: only its driver, gateway, PostgreSQL")
    parser.add_argument("--truth", type=Path, help="file with the undisturbed run's results; made where it is missing")
    parser.add_argument("--keep", type=Path, help="file that collects the runs of several invocations")
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    there = options.postgres or max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if there is None or shutil.which(there / "initdb") is None:
        raise SystemExit("No PostgreSQL server is installed: apt-get install postgresql, or name one with --postgres.")
    lines = options.keep.read_text().splitlines() if options.keep and options.keep.exists() else []
    runs = [Run(**json.loads(line)) for line in lines]
    parts = options.only or (WITHOUT_RAY if options.in_process else list(PARTS))
    if options.in_process and not set(parts) <= set(WITHOUT_RAY):
        raise SystemExit(f"Without Ray these can be killed: {', '.join(WITHOUT_RAY)}.")
    with a_world(options.models.resolve(), there, not options.in_process) as world:
        truth = undisturbed(world, options.images, options.n, options.truth)
        for part in parts * options.rounds:
            runs.append(disturbed(world, part, options.images, options.n, truth))
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
