"""A gateway with a database and callers' faults to be made in it, for `benchmarks.kills`."""

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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from .job_cluster import GatewayProcess, data_folder, descendants, wait_until

AWAY_S = 5.0  # that PostgreSQL and the gateway are away; chosen: as a supervisor's pause
FULL_S = 20.0  # that the disk is full; chosen: several looks of `/readyz`
WRONG_S = 30.0  # that the clock is wrong; chosen: several images of a job
SMALL_DISK = "64m"
FAKETIME = "libfaketimeMT.so.1"

Setup = Literal["Ray", "in process", "two gateways", "small disk", "false clock"]


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
    """Gateways on one database and folder; `away` has the addresses of those that are dead.

    Attributes:
        clock: file with what libfaketime adds to the time, where the clock can be set.
    """

    gateways: list[GatewayProcess]
    postgres: Postgres
    data: Path
    setup: Setup
    clock: Path | None = None
    away: set[str] = dataclasses.field(default_factory=set)

    @property
    def gateway(self) -> GatewayProcess:
        """One that lives."""
        return next(gateway for gateway in self.gateways if gateway.url not in self.away)

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

    def driver(self, job: str) -> int:
        """The process of a job's driver."""
        return json.loads((self.data / "jobs" / job / "progress.json").read_text())["pid"]

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
    os.kill(world.driver(job), signal.SIGKILL)


def kill_gateway(world: World, _: str) -> None:
    """The gateway dies, and is started again."""
    gateway = world.gateway
    world.away.add(gateway.url)
    gateway.kill()
    time.sleep(AWAY_S)
    gateway.start()
    world.away.clear()


def kill_one_of_two(world: World, job: str) -> None:
    """The gateway that runs the job's driver dies for good; `revive` brings it back for the next run."""
    driver = world.driver(job)
    for gateway in world.gateways:
        assert gateway.process is not None
        if driver in descendants(gateway.process.pid):
            world.away.add(gateway.url)
            gateway.kill()


def kill_postgres(world: World, _: str) -> None:
    """The database dies, and is started again."""
    world.postgres.kill()
    time.sleep(AWAY_S)
    world.postgres.start()


def fill_disk(world: World, _: str) -> None:
    """The disk of the data folder is full for a while."""
    filler = world.data / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    time.sleep(FULL_S)
    filler.unlink()


def set_clock(offset: str) -> Callable[[World, str], None]:
    """What sets the gateway's and the drivers' clock by so much for a while."""

    def wrong(world: World, _: str) -> None:
        assert world.clock is not None
        world.clock.write_text(offset)
        time.sleep(WRONG_S)
        world.clock.write_text("+0")

    return wrong


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is done to a world, and the set-ups that have what it needs, the first by default."""

    act: Callable[[World, str], None]
    setups: tuple[Setup, ...]


FAULTS: dict[str, Fault] = {
    "sampler": Fault(kill_process("ray::SamplerActor"), ("Ray",)),
    "driver": Fault(kill_driver, ("Ray", "in process")),
    "raylet": Fault(kill_process("raylet"), ("Ray",)),
    "GCS": Fault(kill_process("gcs_server"), ("Ray",)),
    "gateway": Fault(kill_gateway, ("Ray", "in process")),
    "PostgreSQL": Fault(kill_postgres, ("Ray", "in process")),
    "sampler, stopped for 60 s": Fault(stop_process("ray::SamplerActor", 60), ("Ray",)),
    "raylet, stopped for 20 s": Fault(stop_process("raylet", 20), ("Ray",)),
    "one of two gateways": Fault(kill_one_of_two, ("two gateways",)),
    f"disk full for {FULL_S:.0f} s": Fault(fill_disk, ("small disk",)),
    f"clock an hour ahead for {WRONG_S:.0f} s": Fault(set_clock("+1h"), ("false clock",)),
    f"clock an hour behind for {WRONG_S:.0f} s": Fault(set_clock("-1h"), ("false clock",)),
}


def revive(world: World) -> None:
    """Start the gateways that are dead."""
    for gateway in world.gateways:
        if gateway.url in world.away:
            gateway.start()
    world.away.clear()


@contextlib.contextmanager
def a_world(models: Path, postgres: Path, setup: Setup) -> Iterator[World]:
    """Gateways with a database of their own.

    Raises:
        SystemExit: the set-up needs what this machine has not.
    """
    with contextlib.ExitStack() as ended:
        data = ended.enter_context(data_folder())
        beside = Path(ended.enter_context(tempfile.TemporaryDirectory(prefix="spacte-postgres-")))
        if setup == "small disk":
            ended.enter_context(_small_disk(data))
        clock, environment = None, dict(os.environ)
        if setup == "false clock":
            clock = data / "clock"
            clock.write_text("+0")
            environment |= _false_clock(clock)
        database = Postgres(postgres, beside)
        ended.callback(database.kill)
        options = ["--models", str(models), "--database", database.url, "--precision", "fp32", "--allow-client-seed"]
        options += ["--samplers", "1"] if setup == "Ray" else ["--in-process"]
        gateways = [GatewayProcess(options, data, environment) for _ in range(1 + (setup == "two gateways"))]
        for gateway in gateways:
            ended.callback(gateway.stop)
            gateway.start()
        yield World(gateways, database, data, setup, clock)


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A disk of its own for a folder, in memory."""
    if os.geteuid():
        raise SystemExit("Only root can mount the small disk that is to be filled.")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _false_clock(clock: Path) -> dict[str, str]:
    """The environment in which a file tells how wrong the clock is; what measures durations stays true."""
    library = next(Path("/usr/lib").glob(f"*/faketime/{FAKETIME}"), None)
    if library is None:
        raise SystemExit("The clock cannot be set for one process: apt-get install libfaketime.")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def postgres_programs(named: Path | None) -> Path:
    """The folder of the PostgreSQL server's programs: the one that is named, or the newest there is.

    Raises:
        SystemExit: there is none.
    """
    there = named or max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)
    if there is None or shutil.which(there / "initdb") is None:
        raise SystemExit("No PostgreSQL server is installed: apt-get install postgresql, or name one with --postgres.")
    return there
