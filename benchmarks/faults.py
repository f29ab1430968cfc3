"""Kills parts of a cluster while a job runs, and shows that the job's results are those of an undisturbed run.

    python -m benchmarks.faults --models DIR --keep benchmarks/results/faults.ndjson --out benchmarks/results/faults.md

A Ray head and two nodes with one core each on this machine, a gateway, and a job of 60 digits at n = 20,000. In each
run one part dies by SIGKILL at a random moment: a sampler of the job, a whole node, the job's driver, or the gateway.
The operator allows a fixed seed, so that label, counts and radius of every image can be compared.
"""

import argparse
import dataclasses
import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spacte_client import Client

from .job_cluster import GatewayProcess, Nodes, data_folder, wait_until
from .machine import this_machine

SEED = "0123456789abcdef0123456789abcdef"
JOB_S = 900.0  # chosen: far more than a disturbed job takes
COMPARED = ("outcome", "label", "radius", "n", "counts", "selection_counts", "p_lower", "image_sha256")


@dataclasses.dataclass
class Run:
    """The result of one disturbed run.

    Attributes:
        killed: which part died.
        at: images that were finished then.
        back_s: from the kill until the part was there again.
        next_s: from the kill until the next image was finished.
        job_s: from the job's creation to its end.
        results: records at the end.
        twice: images with more than one record.
        differing: images whose record differs from the undisturbed run's.
        attempts: drivers that it took.
        day: on which it was made.
    """

    killed: str
    at: int
    back_s: float
    next_s: float
    job_s: float
    results: int
    twice: int
    differing: int
    attempts: int
    day: str


class World:
    """The cluster, the gateway and the job under test."""

    def __init__(self, nodes: Nodes, models: Path, data: Path, images: int, n: int) -> None:
        self.nodes = nodes
        self.data = data
        self.images = images
        self.n = n
        self.models = models
        self.policy = ""
        self.gateway = self._gateway("interrupted")
        self.gateway.start()

    def use_policy(self, policy: str) -> None:
        """Have the gateway resume jobs by itself in these cases; restarts it where that is a change."""
        if policy != self.policy:
            self.gateway.stop()
            self.gateway = self._gateway(policy)
            self.gateway.start()

    def _gateway(self, policy: str) -> GatewayProcess:
        self.policy = policy
        options = ["--models", str(self.models), "--address", self.nodes.address, "--samplers", "1"]
        options += ["--allow-client-seed", "--precision", "fp32", "--resume-jobs", policy]
        return GatewayProcess(options, self.data)

    def client(self) -> Client:
        """A client of the gateway as it is now."""
        return Client(self.gateway.url, max_retries=0, timeout=60)

    def begin(self) -> str:
        """A new job's id."""
        with self.client() as client:
            source = {"type": "dataset", "name": "digits", "limit": self.images}
            return client.jobs.create(source, n=self.n, seed=SEED).id

    def folder(self, job: str) -> Path:
        """Where it lives."""
        return self.data / "jobs" / job

    def progress(self, job: str) -> dict[str, Any]:
        """What its driver said last."""
        file = self.folder(job) / "progress.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def records(self, job: str) -> list[dict[str, Any]]:
        """Whole lines of its results."""
        file = self.folder(job) / "results.ndjson"
        lines = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def state(self, job: str) -> str:
        """Its state, from the gateway."""
        with self.client() as client:
            return client.jobs.get(job).state


def samplers_alive() -> dict[int, str]:
    """Processes of all samplers on the cluster, and the node of each."""
    from ray.util.state import list_actors

    found: list[Any] = list_actors(filters=[("class_name", "=", "SamplerActor"), ("state", "=", "ALIVE")], detail=True)
    return {actor.pid: actor.node_id for actor in found}


@dataclasses.dataclass(frozen=True)
class Scene:
    """A job at work.

    Attributes:
        world: where.
        job: its id.
        others: processes of samplers that are not the job's.
    """

    world: World
    job: str
    others: set[int]


def kill_sampler(scene: Scene) -> Callable[[], bool]:
    """A sampler of the job dies."""
    there = samplers_alive()
    victim = random.choice(sorted(set(there) - scene.others))
    os.kill(victim, signal.SIGKILL)
    return lambda: len(samplers_alive().keys() - {victim}) >= len(there)


def kill_node(scene: Scene) -> Callable[[], bool]:
    """A node dies, perhaps with the gateway's sampler on it, and another one is started in its place."""
    count = len(samplers_alive())
    scene.world.nodes.kill(random.choice(scene.world.nodes.workers))
    scene.world.nodes.add(1)
    return lambda: len(samplers_alive()) >= count


def kill_driver(scene: Scene) -> Callable[[], bool]:
    """The driver dies; where the policy is to wait for someone, someone resumes the job."""
    os.kill(scene.world.progress(scene.job)["pid"], signal.SIGKILL)

    def resumed() -> bool:
        if scene.world.policy != "always" and scene.world.state(scene.job) == "failed":
            with scene.world.client() as client:
                client.jobs.resume(scene.job)
        return scene.world.progress(scene.job)["attempt"] == 2

    return resumed


def kill_gateway(scene: Scene) -> Callable[[], bool]:
    """The gateway dies and is started again."""
    scene.world.gateway.kill()
    scene.world.gateway.start()
    return lambda: scene.world.state(scene.job) in ("running", "succeeded")


PARTS: dict[str, tuple[str, Callable[[Scene], Callable[[], bool]]]] = {
    "sampler": ("interrupted", kill_sampler),
    "node": ("interrupted", kill_node),
    "driver, then resume": ("interrupted", kill_driver),
    "driver, policy always": ("always", kill_driver),
    "gateway": ("interrupted", kill_gateway),
}


def undisturbed(world: World) -> tuple[dict[int, dict[str, Any]], float]:
    """The records of a run in which nothing dies, by index, and how long it took."""
    started = time.monotonic()
    job = world.begin()
    wait_until(lambda: world.state(job) == "succeeded", JOB_S)
    return {record["index"]: record for record in world.records(job)}, time.monotonic() - started


def disturbed(world: World, part: str, truth: dict[int, dict[str, Any]]) -> Run:
    """One run in which one part dies."""
    policy, kill = PARTS[part]
    world.use_policy(policy)
    before = set(samplers_alive())
    started = time.monotonic()
    job = world.begin()
    moment = random.randint(1, max(1, world.images * 3 // 4))
    wait_until(lambda: len(world.records(job)) >= moment, JOB_S, 0.02)
    time.sleep(random.random() * 0.3)
    at, killed, clock = len(world.records(job)), time.monotonic(), datetime.now(UTC)
    is_back = kill(Scene(world, job, before))
    wait_until(lambda: is_back() or world.state(job) == "succeeded", JOB_S)
    back_s = time.monotonic() - killed
    wait_until(lambda: world.state(job) == "succeeded", JOB_S)
    job_s = time.monotonic() - started
    with world.client() as client:
        records = [record.model_dump(mode="json") for record in client.jobs.results(job)]
    later = [made for record in records if (made := datetime.fromisoformat(record["created_at"])) > clock]
    next_s = (min(later) - clock).total_seconds() if later else 0.0
    indices = [record["index"] for record in records]
    differing = sum(any(record[name] != truth[record["index"]][name] for name in COMPARED) for record in records)
    attempts = world.progress(job)["attempt"]
    twice = len(indices) - len(set(indices))
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    return Run(part, at, back_s, next_s, job_s, len(set(indices)), twice, differing, attempts, day)


def table(runs: Sequence[Run], quiet_s: float, images: int, n: int, command: str) -> str:
    """The report."""
    rows = [
        f"| {run.day} | {run.killed} | {run.at} | {run.back_s:.1f} | {run.next_s:.1f} | {run.job_s:.0f} "
        f"| {run.attempts} | {run.results} of {images} | {run.twice} | {run.differing} |"
        for run in runs
    ]
    return f"""# A job loses nothing, whatever dies

{this_machine()}. A Ray head and two nodes of one core each on this machine, a gateway, and a job of
{images} digits at n = {n:,} with a fixed seed. In each run one part dies by SIGKILL at a random moment.

    {command}

| Day | Killed | Images done then | Part back, s | Next image done, s | Job, s | Drivers | Results | Twice | Differing |
|---|---|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

The undisturbed job took {quiet_s:.0f} s, most of it the start of its samplers. `Differing`: images whose
{", ".join(COMPARED)}
are not those of the undisturbed run. `Part back`: as many samplers run as before, another driver is at work, the
gateway knows the job. A node is replaced by a new one at once, and a gateway started again at once. All of it shares
two cores, so the times are long: a sampler or a driver imports torch and checks its model before it draws.
"""


def kept(file: Path | None) -> list[Run]:
    """The runs of earlier invocations."""
    lines = file.read_text().splitlines() if file and file.exists() else []
    return [Run(**json.loads(line)) for line in lines]


def main() -> None:
    """Measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, required=True, help="folder with a digits model")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2, help="of every part once")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part")
    parser.add_argument("--keep", type=Path, help="file that collects the runs of several invocations")
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    nodes = Nodes([1, 1])
    runs = kept(options.keep)
    with data_folder() as data:
        world = World(nodes, options.models.resolve(), data, options.images, options.n)
        try:
            truth, quiet_s = undisturbed(world)
            for part in (options.only or list(PARTS)) * options.rounds:
                runs.append(disturbed(world, part, truth))
                print(runs[-1], flush=True)
                if options.keep:
                    with options.keep.open("a") as file:
                        file.write(json.dumps(dataclasses.asdict(runs[-1])) + "\n")
        finally:
            world.gateway.stop()
            nodes.shutdown()
    command = "python -m benchmarks.faults --models DIR --keep benchmarks/results/faults.ndjson"
    text = table(runs, quiet_s, options.images, options.n, command)
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
