"""Fixtures that several components' tests share."""

import asyncio
import atexit
import gc
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from tests.time_budget import why_skipped_now

hypothesis_settings.register_profile("any machine", deadline=None)  # of an example; a busy machine is no failure
hypothesis_settings.load_profile("any machine")

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # read when ray is imported
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["SPACTE_DATA_DIR"] = tempfile.mkdtemp(prefix="spacte-test-data-")  # of tests that name none
os.environ["SPACTE_LOAD_CACHE"] = "off"  # a test's engine hangs on no other test's
atexit.register(shutil.rmtree, os.environ["SPACTE_DATA_DIR"], ignore_errors=True)
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what a later Ray does; this one warns


def _needs_ray(module: Path) -> bool:
    return "mark.ray" in module.read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that need Ray come first: they wait more than they compute."""
    found = {path: _needs_ray(path) for path in dict.fromkeys(item.path for item in items)}
    items.sort(key=lambda item: not found[item.path])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture of the test."""
    if reason := why_skipped_now(marker.name for marker in item.iter_markers()):
        pytest.skip(reason)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Share modules among the processes of `-n`; those that need Ray go to one process, which starts one Ray."""
    from xdist.scheduler import LoadScopeScheduling

    class ModuleScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.partition("::")[0]
            return "ray" if _needs_ray(config.rootpath / module) else module

    return ModuleScheduling(config, log)


def _postgres_binaries() -> Path | None:
    """The folder of the newest PostgreSQL server installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    there = shutil.which("initdb")
    return Path(there).resolve().parent if there else None


class PostgresServer:
    """A PostgreSQL server of this test run's own, on a Unix socket in `folder`; it can be stopped and started again."""

    def __init__(self) -> None:
        binaries = _postgres_binaries()
        if binaries is None:
            pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
        self._binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="spacte-postgres-"))
        self.url = f"postgresql://spacte@/postgres?host={self.folder}"
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
            self._user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        initdb = [
            binaries / "initdb",
            "-D",
            self.folder / "data",
            "-A",
            "trust",
            "-U",
            "spacte",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run(initdb, check=True, capture_output=True, cwd="/", **self._user)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", f"unix_socket_directories={self.folder}"]
        command = [self._binaries / "postgres", "-D", self.folder / "data", *options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self._user)
        ready = [self._binaries / "pg_isready", "-q", "-h", self.folder, "-t", "1"]
        for _ in range(300):
            if subprocess.run(ready, check=False).returncode == 0:
                return
            if self._process.poll() is not None:
                break
        pytest.fail(f"PostgreSQL did not start: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        """Stop it at once, whoever is connected."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def close(self) -> None:
        """Stop it for good."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def bf16_anywhere() -> Iterator[None]:
    """Engines take bf16 where a module's tests ask for it, also on a processor that computes it value by value."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spacte_workers.engine.selection.computes_bf16", lambda _: True)
        yield


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 on this machine with a bucket; fsspec's driver finds it by the environment, as it would any other."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    yield client
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A server for all tests; gives the socket's folder."""
    server = PostgresServer()
    yield str(server.folder)
    server.close()


@pytest.fixture
def start_postgres() -> Iterator[Callable[[], PostgresServer]]:
    """Starts servers that the test may stop."""
    servers: list[PostgresServer] = []

    def start() -> PostgresServer:
        servers.append(PostgresServer())
        return servers[-1]

    yield start
    for server in servers:
        server.close()


_databases = count()


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of an empty database."""
    import psycopg

    name = f"test_{next(_databases)}"
    with psycopg.connect(host=postgres_server, user="spacte", dbname="postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    return f"postgresql://spacte@/{name}?host={postgres_server}"


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A local Ray with room for four samplers of one thread; started once, for all tests that ask for it."""
    from spacte_workers.cluster import RayConnection, RaySettings

    connection = RayConnection(RaySettings(num_cpus=4, num_gpus=0, object_store_bytes=128 << 20))
    asyncio.run(connection.open())
    with warnings.catch_warnings():
        # A first try that was too slow leaves processes behind that end with their thread, but are not waited for;
        # when they are collected, a test that has nothing to do with them would fail of the warning.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    yield
    asyncio.run(connection.close())


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., str]:
    """`make(folder, seed=, heads=, sigma=)` writes a freshly initialised digits network, returns its version.

    Its votes on noisy images are spread over several classes, so that wrong noise would show in the counts.
    """

    def make(folder: Path, *, seed: int = 0, heads: int = 2, sigma: float = 0.25) -> str:
        import torch

        from spacte_core.checkpoint import CheckpointConfig, save_checkpoint
        from spacte_core.models import ModelConfig, build

        model = ModelConfig(arch="digits_cnn", heads=heads, num_classes=10, input_shape=(1, 8, 8))
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            net = build(model).eval()
            # No class may win beforehand, so that the noise decides.
            heads_logits = net(torch.rand(256, 1, 8, 8) + sigma * torch.randn(256, 1, 8, 8))
            for head, logits_BK in zip(net.heads, heads_logits, strict=True):
                last = [layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)][-1]
                last.bias -= logits_BK.mean(0)
        names = tuple(str(i) for i in range(10))
        config = CheckpointConfig(model=model, class_names=names, sigma=sigma, method="spacte-gaussian")
        return save_checkpoint(folder, net, config)

    return make
