"""A gateway under a mixed load for a long time: memory, open files and threads of each of its processes.

    python -m benchmarks.soak --models DIR --minutes 20 --out benchmarks/results/soak.md

A gateway with a Ray of its own and PostgreSQL. Callers certify, predict, bracket, send what is no image and read
streams without end, and one digits job follows another. The first minute is left out: caches and pools fill.
"""

import argparse
import contextlib
import dataclasses
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import numpy as np

from spacte_client import APIError, Client, SpacteError

from .fault_world import World, a_world, postgres_programs
from .job_cluster import descendants
from .machine import this_machine

WARM_UP_S = 60.0
LOOK_S = 5.0
JOB_IMAGES, JOB_N = 100, 2_000
CALL_N = 1_000
PAUSE_S = 0.1  # between two calls of a caller; chosen: the samplers are never idle, and never far behind
MIB = 1 << 20


@dataclasses.dataclass
class Look:
    """One role's processes at one moment: how many, and their sums."""

    processes: int = 0
    rss_mib: float = 0.0
    files: int = 0
    threads: int = 0


def role(pid: int, world: World) -> str | None:
    """What a process is to the service; None for those of Ray itself."""
    assert world.gateway.process is not None
    if pid == world.gateway.process.pid:
        return "gateway"
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    named = {
        "ray::SamplerActor": "samplers",
        "spacte_workers.batch": "driver",
        "spacte_service.ray_process": "process that is connected to Ray",
        "spacte_workers.decoding": "decoding processes",
        "raylet": "raylet",
        "gcs_server": "GCS",
    }
    return next((name for text, name in named.items() if text in command), None)


def look(world: World) -> dict[str, Look]:
    """Every role now."""
    assert world.gateway.process is not None
    found: dict[str, Look] = {}
    page = os.sysconf("SC_PAGE_SIZE")
    for pid in [world.gateway.process.pid, *descendants(world.gateway.process.pid)]:
        with contextlib.suppress(OSError):
            name = role(pid, world)
            if name is None:
                continue
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
            files, threads = (len(list(Path(f"/proc/{pid}/{kind}").iterdir())) for kind in ("fd", "task"))
            so_far = found.setdefault(name, Look())
            so_far.processes += 1
            so_far.rss_mib += resident / MIB
            so_far.files += files
            so_far.threads += threads
    return found


class Load:
    """Callers without end, and what they were answered."""

    def __init__(self, world: World) -> None:
        self.answers: Counter[str] = Counter()
        self.over = threading.Event()
        self._world = world
        kinds: Sequence[Callable[[Client, int], object]] = (
            self._certify,
            self._certify,
            self._certify,
            self._predict,
            self._bracket,
            self._stream,
            self._no_image,
            self._job,
        )
        self.threads = [threading.Thread(target=self._ask, args=each) for each in enumerate(kinds)]

    def _ask(self, number: int, kind: Callable[[Client, int], object]) -> None:
        name = kind.__name__.strip("_").replace("_", " ")
        with Client(self._world.gateway.url, timeout=120) as client:
            count = 0
            while not self.over.wait(PAUSE_S):
                count += 1
                try:
                    kind(client, 1000 * number + count % 1000)
                    self.answers[f"{name}: done"] += 1
                except APIError as error:
                    self.answers[f"{name}: {getattr(error, 'status_code', None) or type(error).__name__}"] += 1
                except SpacteError as error:
                    self.answers[f"{name}: {type(error).__name__}"] += 1

    @staticmethod
    def _image(number: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 256, (1, 8, 8), dtype=np.uint8)

    def _certify(self, client: Client, number: int) -> object:
        return client.certify(self._image(number), n=CALL_N)

    def _predict(self, client: Client, number: int) -> object:
        return client.predict(self._image(number), n=CALL_N)

    def _bracket(self, client: Client, number: int) -> object:
        return client.bracket(self._image(number), n=CALL_N)

    def _stream(self, client: Client, number: int) -> object:
        with client.certify_stream(self._image(number), n=CALL_N) as stream:
            return stream.result()

    def _no_image(self, client: Client, number: int) -> object:
        return client.certify(b"\x89PNG\r\n\x1a\n" + bytes(number), n=CALL_N)

    def _job(self, client: Client, _: int) -> object:
        job = client.jobs.create({"type": "dataset", "name": "digits", "limit": JOB_IMAGES}, n=JOB_N)
        while (state := client.jobs.get(job.id).state) in ("queued", "running", "interrupted"):
            if self.over.wait(1.0):
                return client.jobs.cancel(job.id)
        if state != "succeeded":
            raise SpacteError(f"a job is {state}")
        list(client.jobs.results(job.id))
        return client.jobs.delete(job.id)


def soak(world: World, seconds: float) -> tuple[list[tuple[float, dict[str, Look]]], Counter[str]]:
    """Looks, each with its second, and the callers' answers."""
    load = Load(world)
    looks: list[tuple[float, dict[str, Look]]] = []
    for thread in load.threads:
        thread.start()
    started = time.monotonic()
    try:
        while (now := time.monotonic() - started) < seconds:
            if now >= WARM_UP_S:
                looks.append((now, look(world)))
            time.sleep(LOOK_S)
        httpx2.get(f"{world.gateway.url}/livez", timeout=5).raise_for_status()
    finally:
        load.over.set()
        for thread in load.threads:
            thread.join()
    return looks, load.answers


def table(looks: list[tuple[float, dict[str, Look]]], answers: Counter[str], seconds: float) -> str:
    """The report: medians of the first, middle and last fifth of the looks."""
    fifth = max(1, len(looks) // 5)
    middle = (len(looks) - fifth) // 2
    spans = [looks[:fifth], looks[middle : middle + fifth], looks[-fifth:]]
    rows: list[str] = []
    for name in dict.fromkeys(name for _, seen in looks for name in seen):
        cells: list[str] = []
        for span in spans:
            there = [seen[name] for _, seen in span if name in seen]
            if not there:
                cells.append("-")
                continue
            rss, files, threads, count = (
                np.median([getattr(each, field) for each in there])
                for field in ("rss_mib", "files", "threads", "processes")
            )
            cells.append(f"{rss:,.0f} MiB, {files:.0f} files, {threads:.0f} threads in {count:.0f}")
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    asked = "\n".join(f"- {name}: {count:,}" for name, count in sorted(answers.items()))
    return f"""# A gateway under a mixed load for {seconds / 60:.0f} minutes

{datetime.now(UTC):%Y-%m-%d}. {this_machine()}, beside other work. Ray of its own with one sampler, PostgreSQL;
callers at n = {CALL_N:,}, and one job of {JOB_IMAGES} digits at n = {JOB_N:,} after another. Medians of the first,
middle and last fifth of the looks, one in {LOOK_S:.0f} s; the first minute is left out. A driver ends with its job.

    python -m benchmarks.soak --models DIR --minutes {seconds / 60:.0f} --out benchmarks/results/soak.md

| | start | middle | end |
|---|---|---|---|
{chr(10).join(rows)}

What callers got:

{asked}
"""


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder with a digits model")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--postgres", type=Path, help="folder of the server's programs; by default the newest there is")
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    with a_world(options.models.resolve(), postgres_programs(options.postgres), "Ray") as world:
        looks, answers = soak(world, 60 * options.minutes)
    text = table(looks, answers, 60 * options.minutes)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
