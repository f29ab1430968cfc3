"""Promise: a local Ray's files are below a folder of its user alone, which goes with it, and it listens on loopback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spacte_workers.cluster.local_node import LOOPBACK_VARIABLE, PREFIX, LocalFolder, on_loopback
from spacte_workers.errors import ClusterError


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A short `RAY_TMPDIR`, not there yet."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        base = Path(folder) / "n"
        monkeypatch.setenv("RAY_TMPDIR", str(base))
        yield base


def roots(base: Path) -> list[Path]:
    return sorted(base.glob(f"{PREFIX}*"))


def test_it_is_the_users_alone_and_removed(base: Path) -> None:
    folder = LocalFolder()
    (root,) = roots(base)
    assert root.stat().st_mode & 0o777 == 0o700
    assert folder.path.parent == root
    folder.path.mkdir()
    folder.remove()
    assert roots(base) == []


@pytest.mark.slow
def test_what_a_killed_process_left_is_swept_and_what_lives_stays(base: Path) -> None:
    script = (
        "import os; from spacte_workers.cluster.local_node import LocalFolder; LocalFolder().path.mkdir(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 9
    (left,) = roots(base)
    (base / f"{PREFIX}without-lock").mkdir()
    first = LocalFolder()
    second = LocalFolder()
    assert left not in roots(base)
    assert len(roots(base)) == 3
    first.remove()
    second.remove()


def test_a_folder_that_does_not_do_is_said(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(base / ("long" * 10)))
    with pytest.raises(ClusterError, match="shorter one in RAY_TMPDIR"):
        LocalFolder()
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")
    with pytest.raises(ClusterError, match="another one in RAY_TMPDIR"):
        LocalFolder()


def test_the_switch_is_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LOOPBACK_VARIABLE, raising=False)
    with on_loopback():
        assert os.environ[LOOPBACK_VARIABLE] == "0"
    assert LOOPBACK_VARIABLE not in os.environ


LISTENERS = """
import asyncio, os, re
from pathlib import Path
from spacte_workers.cluster import RayConnection, RaySettings

async def main():
    connection = RayConnection(RaySettings(num_cpus=1, num_gpus=0, object_store_bytes=128 << 20))
    await connection.open()
    pids, more = {os.getpid()}, True
    while more:
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
            except OSError:
                pass
        more = {pid for pid, parent in parents.items() if parent in pids} - pids
        pids |= more
    sockets = set()
    for pid in pids:
        for file in Path(f"/proc/{pid}/fd").iterdir():
            try:
                sockets |= set(re.findall(r"socket:.(\\d+)", os.readlink(file)))
            except OSError:
                pass
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in sockets:
                print(columns[1].partition(":")[0])
    await connection.close()

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.ray
def test_every_port_of_a_local_ray_is_on_loopback() -> None:
    answer = subprocess.run([sys.executable, "-c", LISTENERS], check=True, capture_output=True, text=True, timeout=180)
    addresses = answer.stdout.split()
    assert len(addresses) >= 5
    assert set(addresses) <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
