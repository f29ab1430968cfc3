"""Containers without a container engine: one machine within this one, made of Linux namespaces.

A container gets what an engine would give it: a root file system that cannot be written, temporary file systems, user
and capabilities, a limit of processes, the environment of the image, secrets, volumes, an interface on each of its
networks (and no way out of an internal one) and an init. Not shown: that the image can be built, and limits of memory
and processors.
"""

import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NEEDED = ("unshare", "nsenter", "setpriv", "ip", "curl")
POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parts[-2]))
USER = 10001
PROCESSES = Path("/sys/fs/cgroup/pids")
"""Where limits of processes are set; without it none is."""
SLOWER = 3
"""This machine is given so many times as long as Compose gives a service to become healthy."""

needs_namespaces = [
    pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces needs root"),
    pytest.mark.skipif(not all(map(shutil.which, NEEDED)), reason=f"not all of {NEEDED} are installed"),
    pytest.mark.skipif(not POSTGRES, reason="no PostgreSQL server is installed: apt-get install postgresql"),
]

INIT = """
import os, signal, sys
child = os.spawnvp(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
while True:
    pid, status = os.wait()
    if pid == child:
        sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""
"""What `init: true` adds: forwards SIGTERM, and buries whoever is left behind."""

SYSTEM = """
set -eu
mkdir -p /run/root
mount -t tmpfs -o mode=755 tmpfs /run/root
cd /run/root
for name in usr bin sbin lib lib64 etc; do
    if [ -L /$name ]; then cp -P /$name .; elif [ -d /$name ]; then mkdir $name; mount --rbind /$name $name; fi
done
mkdir proc sys dev tmp run run/secrets
chmod 1777 tmp run
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
"""

READ_ONLY = "mount -o remount,ro /run/root"
"""The last step: nothing but what is mounted there can be written."""


def image_environment() -> dict[str, str]:
    """ENV of the Dockerfile's last stage; its programs are those of this checkout."""
    stage = (ROOT / "Dockerfile").read_text().rpartition("FROM ")[2]
    block = re.search(r"^ENV ((?:.*\\\n)*.*)$", stage, re.MULTILINE)
    assert block is not None
    found = dict(entry.split("=", 1) for entry in shlex.split(block[1].replace("\\\n", " ")))
    assert found["PATH"] == "/opt/spacte/bin:$PATH"
    found["PATH"] = f"{sys.prefix}/bin:/image/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    # The image has its modules compiled; here the first process to need one compiles it for all.
    return found | {"HOME": "/home/spacte", "PYTHONPYCACHEPREFIX": "/image/compiled"}


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _numbers(pid: int) -> list[str]:
    """Of a process, in every process namespace that it is in."""
    status = Path(f"/proc/{pid}/status").read_text()
    return re.findall(r"^NSpid:(.*)$", status, re.MULTILINE)[0].split()


class Machine:
    """A machine within this one: its networks and mounts are its own, and all of it ends with its first process."""

    def __init__(self, compose: dict[str, Any]) -> None:
        self.addresses: dict[str, dict[str, str]] = {name: {} for name in compose["services"]}
        lines = ["set -eu", "mount -t tmpfs tmpfs /run", "ip link set lo up"]
        lines += [f"ip netns add {name}; ip -n {name} link set lo up" for name in compose["services"]]
        for number, (network, about) in enumerate(compose["networks"].items()):
            bridge, prefix = f"br{number}", f"10.77.{number}"
            lines.append(f"ip link add {bridge} type bridge")
            lines.append(f"ip addr add {prefix}.1/24 dev {bridge}; ip link set {bridge} up")
            for host, (name, service) in enumerate(compose["services"].items(), 2):
                if network not in service["networks"]:
                    continue
                address = self.addresses[name][network] = f"{prefix}.{host}"
                lines += [
                    f"ip link add v{number}.{host} type veth peer name eth{number} netns {name}",
                    f"ip link set v{number}.{host} master {bridge} up",
                    f"ip -n {name} addr add {address}/24 dev eth{number}",
                    f"ip -n {name} link set eth{number} up",
                ]
                if not about.get("internal"):
                    lines.append(f"ip -n {name} route add default via {prefix}.1")
        script = "\n".join([*lines, "echo ready", "exec sleep infinity"])
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self.process = subprocess.Popen(
            [*command, "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        if self.process.stdout.readline() != "ready\n":
            pytest.skip(f"namespaces cannot be made here: {self.process.stderr.read().strip()}")
        (first,) = children(self.process.pid)
        self.inside = ["nsenter", f"--target={first}", "--net", "--mount", "--pid"]
        self.started: list[subprocess.Popen[bytes]] = []
        self.containers: list[Container] = []

    def start(self, command: list[str], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("ab") as file:
            # A session of its own has a share of the processor of its own, as a container has.
            self.started.append(
                subprocess.Popen([*self.inside, *command], stdout=file, stderr=file, start_new_session=True)
            )
        return self.started[-1]

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        for process in self.started:
            process.wait(30)
        for container in self.containers:
            container.forget_limit()


class Container:
    """One service, started as Compose would start its container.

    Args:
        machine: where.
        name: of the service.
        service: what the Compose file says of it.
        folder: for its files.
        sources: what is mounted, by its source in the Compose file.
    """

    def __init__(
        self, machine: Machine, name: str, service: dict[str, Any], folder: Path, sources: dict[str, Path]
    ) -> None:
        self.name, self._service = name, service
        self._user, self._environment = USER, image_environment()
        command: list[str] = service.get("command", [])
        if name == "postgres":  # another image: what its entry point does
            self._user = pwd.getpwnam("postgres").pw_uid
            self._environment = {"PATH": f"{POSTGRES[-1]}:/usr/bin:/bin", "PGDATA": "/var/lib/postgresql/data"}
            command = ["postgres"]
        self._environment |= service["environment"] | {"HOSTNAME": name}
        script = "\n".join([SYSTEM, *self._mounts(machine, folder, sources), READ_ONLY])
        inside = "exec " + shlex.join([sys.executable, "-c", INIT, *command])
        if name == "postgres":
            inside = FIRST_START + inside
        script += f"\nexec chroot . {shlex.join(self._as_user(['sh', '-c', inside]))}"
        namespaces = ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        self._log = folder / f"{name}.log"
        self.group = self._limit_of_processes()
        join = f"echo 0 > {self.group}/cgroup.procs; " if self.group else ""
        command = ["sh", "-c", join + 'exec "$@"', "sh", "ip", "netns", "exec", name]
        command += ["unshare", *namespaces, "sh", "-c", script]
        self._start = partial(machine.start, command, self._log)
        self._process = self._start()
        self._machine = machine
        machine.containers.append(self)

    def _mounts(self, machine: Machine, folder: Path, sources: dict[str, Path]) -> Iterator[str]:
        assert self._service["read_only"]
        yield from self._temporary()
        size = self._service["shm_size"]
        yield f"mount -t tmpfs -o size={size.removesuffix('b')},mode=1777 tmpfs dev/shm"
        yield f"hostname {self.name}"
        users = folder / "passwd"
        users.write_text(Path("/etc/passwd").read_text() + f"spacte:x:{USER}:{USER}::/home/spacte:/bin/sh\n")
        hosts = folder / f"{self.name}.hosts"
        hosts.write_text("".join(f"{line}\n" for line in self._hosts(machine)))
        yield f"mount --bind {users} etc/passwd; mount --bind {hosts} etc/hosts"
        names = folder / "resolv.conf"
        names.write_text("nameserver 127.0.0.1\n")  # knows no other names, and says so at once
        yield f"mount --bind {names} etc/resolv.conf"
        yield "mkdir -p image/bin"
        yield f"install -m 755 {ROOT / 'docker' / 'gateway.sh'} image/bin/gateway"
        yield _mounted(sources["compiled"], "/image/compiled", read_only=False)
        for code in {Path(sys.base_prefix), Path(sys.prefix), ROOT}:
            if not code.is_relative_to("/usr"):
                yield _mounted(code, str(code), read_only=True)
        for secret in self._service["secrets"]:
            yield f"touch run/secrets/{secret}; mount --bind {sources[secret]} run/secrets/{secret}"
        for volume in self._service.get("volumes", []):
            source, place, *options = volume.split(":")
            yield _mounted(sources[source], place, read_only=options == ["ro"])

    def _temporary(self) -> Iterator[str]:
        """`tmpfs`, with Docker's default options."""
        for entry in self._service["tmpfs"]:
            place, _, text = entry.partition(":")
            options = ["nosuid", "nodev", *text.split(",")]
            if "exec" not in options:
                options.append("noexec")
            yield f"mkdir -p .{place}; mount -t tmpfs -o {','.join(options)} tmpfs .{place}"

    def _limit_of_processes(self) -> Path | None:
        if not os.access(PROCESSES, os.W_OK):
            return None
        group = PROCESSES / f"spacte-{os.getpid()}-{self.name}"
        group.mkdir()
        (group / "pids.max").write_text(str(self._service["pids_limit"]))
        return group

    def forget_limit(self) -> None:
        """Once the machine has ended: its last processes may still be on their way out."""
        if self.group is not None:
            ends = time.monotonic() + 30
            while self.processes() and time.monotonic() < ends:
                time.sleep(0.1)
            self.group.rmdir()

    def processes(self) -> int | None:
        """How many there are, threads too."""
        return int((self.group / "pids.current").read_text()) if self.group else None

    def _hosts(self, machine: Machine) -> Iterator[str]:
        """Own names, and those of whoever is on the same network."""
        yield "127.0.0.1 localhost"
        own = machine.addresses[self.name]
        for name, addresses in machine.addresses.items():
            for network, address in addresses.items():
                if network in own and (name != self.name or network == next(iter(own))):
                    yield f"{address} {name}"

    def _as_user(self, command: list[str]) -> list[str]:
        rights = ["setpriv", f"--reuid={self._user}", f"--regid={self._user}", "--clear-groups"]
        rights += ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        assert self._service["cap_drop"] == ["ALL"]
        return [*rights, "env", "-i", *(f"{k}={v}" for k, v in self._environment.items()), *command]

    def _first_process(self) -> int:
        """Its init, by its number out here."""
        pid = self._process.pid
        while _numbers(pid)[-1:] != ["1"] or len(_numbers(pid)) < len(_numbers(self._process.pid)) + 2:
            (pid,) = children(pid)
        return pid

    def run(self, command: list[str], timeout: float) -> "subprocess.CompletedProcess[str]":
        """`docker exec`."""
        enter = ["nsenter", f"--target={self._first_process()}", "--mount", "--uts", "--ipc", "--net", "--pid"]
        enter += ["--root", "--wd"]
        return subprocess.run(
            [*enter, *self._as_user(command)], check=False, capture_output=True, text=True, timeout=timeout
        )

    def becomes_healthy(self) -> float:
        """Wait for the health check to succeed; gives the seconds that it took."""
        check = self._service["healthcheck"]
        word, *command = check["test"]
        assert word == "CMD"
        started = time.monotonic()
        allowed = seconds(check["start_period"]) + check["retries"] * seconds(check["interval"])
        said = "no answer"
        while time.monotonic() - started < SLOWER * allowed:
            for container in self._machine.containers:
                container.restart_if_over()
            try:
                done = self.run(command, SLOWER * seconds(check["timeout"]))
                if done.returncode == 0:
                    return time.monotonic() - started
                said = done.stdout + done.stderr
            except (subprocess.TimeoutExpired, ValueError, OSError) as error:  # still on its way
                said = str(error)
            time.sleep(1)
        raise AssertionError(f"{self.name} is not healthy: {said}\n{self.log()}")

    def restart_if_over(self) -> None:
        """As Docker would: Ray gives up after 30 s, which a busy machine may need."""
        if self._process.poll() is not None:
            assert self._service["restart"] == "unless-stopped"
            self._process = self._start()

    def stop(self) -> int:
        """`docker stop`: SIGTERM, and its exit status within the grace period."""
        os.kill(self._first_process(), signal.SIGTERM)
        return self._process.wait(seconds(self._service["stop_grace_period"]))

    def log(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]


FIRST_START = r"""
initdb --encoding=UTF8 --no-sync --username="$POSTGRES_USER" --auth-host=scram-sha-256 \
    --pwfile="$POSTGRES_PASSWORD_FILE" > /dev/null
echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
echo "create database $POSTGRES_DB" | postgres --single -j template1 > /dev/null
"""


def _mounted(source: Path, place: str, *, read_only: bool) -> str:
    here = shlex.quote(f".{place}")
    line = f"mkdir -p {here}; mount --bind {shlex.quote(str(source))} {here}"
    return f"{line}; mount -o remount,bind,ro {here}" if read_only else line
