"""How long a gateway takes from its command to its answers: a first start, the second one, and several models at once.

    python -m benchmarks.starting [--size 64] [--ray] [--out FILE]

Serves ResNet-18s with fresh weights, in processes of their own with an empty cache of what loads chose and compiled.
The first start of one model is compared with the second, which finds in the cache what the first one chose. Then three
models are loaded at once, with an empty cache again, while `/livez` is asked ten times a second.
"""

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx2

from .common import give_out
from .machine import this_machine
from .slow_model_load import save_resnet

GIVE_UP_S = 900.0
LOOK_S = 0.02  # between two looks whether the port is open; chosen: far below what is measured
ASK_S = 0.1
MODELS = 3


@dataclass
class Start:
    """Seconds from the command on, and how busy the machine was before."""

    load: float
    port_s: float = 0.0
    livez_s: float = 0.0
    readyz_s: float = 0.0
    processor_s: float = 0.0  # of all cores, until the gateway has ended again
    livez_times_s: list[float] = field(default_factory=list)

    @property
    def slowest_livez_s(self) -> float:
        """Of the answers of `/livez` while models were loading."""
        return max(self.livez_times_s, default=0.0)


@contextmanager
def serving(models: Path, folder: Path, options: argparse.Namespace) -> Iterator[int]:
    """A gateway that has just been started; its port, which is not open yet."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("spacte"), "serve", "--models", models, "--port", port]
    command += ["--data-dir", folder / "data", "--log-level", "warning", *([] if options.ray else ["--in-process"])]
    left_out = ("SPACTE_", "RAY_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    variables = kept | {"XDG_CACHE_HOME": str(folder / "cache")}
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, env=variables) as process:
        try:
            yield port
        finally:
            process.send_signal(signal.SIGTERM)


def start(models: Path, folder: Path, options: argparse.Namespace) -> Start:
    """Start a gateway, ask until it is ready, and end it."""
    seen = Start(os.getloadavg()[0])
    began, used = time.monotonic(), _processor_s()
    with serving(models, folder, options) as port:
        while not _open(port):
            _wait(began, LOOK_S)
        seen.port_s = time.monotonic() - began
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
            while True:
                asked = time.monotonic()
                http.get("/livez").raise_for_status()
                seen.livez_times_s.append(time.monotonic() - asked)
                seen.livez_s = seen.livez_s or time.monotonic() - began
                if http.get("/readyz").status_code == 200:
                    break
                _wait(began, ASK_S)
            seen.readyz_s = time.monotonic() - began
    seen.processor_s = _processor_s() - used
    return seen


def _processor_s() -> float:
    """Processor time of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _wait(began: float, seconds: float) -> None:
    if time.monotonic() - began > GIVE_UP_S:
        raise TimeoutError(f"the gateway was not ready within {GIVE_UP_S:.0f} s")
    time.sleep(seconds)


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Start]:
    """The starts, by what they are."""
    save_resnet(folder / "one" / "resnet18", options.size)
    start(folder / "one", folder / "unmeasured", options)  # so that Python has its bytecode, as an installation does
    for number in range(MODELS):
        save_resnet(folder / "several" / f"resnet18-{number}", options.size - 8 * number)
    return {
        "one model, first start": start(folder / "one", folder / "a", options),
        "one model, second start": start(folder / "one", folder / "a", options),
        f"{MODELS} models, first start": start(folder / "several", folder / "b", options),
        f"{MODELS} models, second start": start(folder / "several", folder / "b", options),
    }


def report(found: dict[str, Start], options: argparse.Namespace) -> str:
    """The result as a page."""
    rows = "\n".join(
        f"| {name} | {each.port_s:.1f} s | {each.livez_s:.1f} s | {each.slowest_livez_s:.2f} s "
        f"| {each.readyz_s:.1f} s | {each.processor_s:.1f} s | {each.load:.1f} |"
        for name, each in found.items()
    )
    first, second = (found[f"one model, {which} start"] for which in ("first", "second"))
    how = "on a Ray of its own" if options.ray else "with samplers in the process"
    return f"""# Starting

{datetime.now(UTC):%Y-%m-%d}. {this_machine()}, shared with other work, as the last column says; a gateway {how};
ResNet-18s with fresh weights for images of {options.size} x {options.size} pixels, and of less where there are several.

    python -m benchmarks.starting{" --ray" if options.ray else ""}

Seconds from the command on. The first start has an empty cache: kernels are compiled, and forms are tried. The second
finds what the first one chose, and makes the checks alone. All modules have their bytecode; where Python may write none
(`PYTHONDONTWRITEBYTECODE`), every start compiles some 2,000 modules again. Processor time is that of the gateway's own
processes, without Ray's.

| | port open | first `/livez` | slowest `/livez` while loading | `/readyz` | processor time | load average before |
|---|---|---|---|---|---|---|
{rows}

The second start of one model takes {second.readyz_s / first.readyz_s:.2f} of the first.
"""


def main() -> None:
    """Measure, and print or write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--ray", action="store_true", help="samplers on a Ray of its own, in place of threads")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the gateway ends with this process
    with tempfile.TemporaryDirectory(prefix="spacte-starting-") as folder:
        found = measure(Path(folder), options)
    text = json.dumps({name: vars(each) for name, each in found.items()}) if options.json else report(found, options)
    give_out(text, options.out)


if __name__ == "__main__":
    main()
