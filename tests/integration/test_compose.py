"""Every service of docker-compose.yml, by its exact command line, without Docker: the README's request works."""

import json
import os
import pwd
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tests.containers import ROOT, USER, Container, Machine, needs_namespaces

pytestmark = [
    pytest.mark.ray,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.postgres,
    pytest.mark.timeout(1500),
    *needs_namespaces,
]


def interpolated(value: Any) -> Any:
    """`${NAME:-default}` as Compose fills it in from an empty environment."""
    if isinstance(value, str):
        return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
    if isinstance(value, dict):
        return {key: interpolated(item) for key, item in value.items()}
    return [interpolated(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def compose() -> dict[str, Any]:
    found = interpolated(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))
    # A machine with a GPU has the other worker: the same command, but for what it says of GPUs.
    del found["services"]["worker-gpu"]
    # The front's configuration is tested with the nginx of this machine (test_connections.py).
    del found["services"]["front"]
    return found


@pytest.fixture
def sources(tmp_path: Path, make_checkpoint: Callable[..., str]) -> dict[str, Path]:
    """Volumes and secrets, as docs/operating.md makes them."""
    owners = {"data": USER, "compiled": USER, "postgres": pwd.getpwnam("postgres").pw_uid}
    for name, owner in owners.items():
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, owner, owner)
    for secret in ("ray_token", "postgres_password"):
        (tmp_path / secret).write_text(os.urandom(32).hex() + "\n")
    make_checkpoint(tmp_path / "models" / "digits")
    found = {name: tmp_path / name for name in (*owners, "ray_token", "postgres_password")}
    return found | {"./demo/models": tmp_path / "models"}


@pytest.fixture
def machine(compose: dict[str, Any]) -> Iterator[Machine]:
    machine = Machine(compose)
    yield machine
    machine.end()


def test_the_readme_request_works_on_what_compose_starts(
    compose: dict[str, Any], machine: Machine, sources: dict[str, Path], tmp_path: Path
) -> None:
    containers: dict[str, Container] = {}
    healthy: dict[str, float] = {}
    waiting = dict(compose["services"])
    while waiting:  # in the order of start that `depends_on` gives
        ready = [name for name in waiting if set(waiting[name].get("depends_on", {})) <= set(healthy)]
        for name in ready:
            containers[name] = Container(machine, name, waiting.pop(name), tmp_path, sources)
        for name in ready:
            healthy[name] = round(containers[name].becomes_healthy(), 1)
    print(f"healthy after {healthy} s")

    gateway = machine.addresses["gateway"]["front"]
    outside = ["--silent", "--show-error", "--max-time", "120", "--connect-to", f"127.0.0.1:8000:{gateway}:8000"]

    def curl(*arguments: str) -> str:
        command = [*machine.inside, f"--wd={tmp_path}", "curl", *outside, *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stderr}\n{containers['gateway'].log()}"
        return done.stdout

    (tmp_path / "demo" / "data").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "demo" / "data" / "digits-8.png")
    written = re.search(r"^curl (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert written is not None
    certificate = json.loads(curl(*shlex.split(written[1])))
    assert certificate["n"] == sum(certificate["counts"]) == 10_000, certificate

    # A job: the gateway submits it with the token, its driver runs on the head and writes into the same volume.
    body = {"input": {"type": "dataset", "name": "digits", "limit": 4}, "params": {"n": 1000}}
    url = "http://127.0.0.1:8000/v1/jobs"
    job = json.loads(curl("--json", json.dumps(body), url))
    deadline = time.monotonic() + 300
    while job["state"] in ("queued", "running") and time.monotonic() < deadline:
        time.sleep(1)
        job = json.loads(curl(f"{url}/{job['id']}"))
    assert (job["state"], job["counts"]["errored"], job["counts"]["remaining"]) == ("succeeded", 0, 0), job
    records = [json.loads(line) for line in curl(f"{url}/{job['id']}/results").splitlines()]
    assert sorted(record["index"] for record in records) == [0, 1, 2, 3]

    # A page whose name was made to point here (DNS rebinding) sends its own name.
    rebound = ("--header", "Host: attacker.example:8000", "--output", "/dev/null", "--write-out", "%{http_code}")
    assert curl(*rebound, "--request", "POST", "http://127.0.0.1:8000/v1/models/digits/unload") == "403"

    print(f"processes, with threads: { {name: container.processes() for name, container in containers.items()} }")
    # Who holds no token gets nothing of Ray, even where its ports can be reached.
    head = machine.addresses["ray-head"]["cluster"]
    assert curl("--output", "/dev/null", "--write-out", "%{http_code}", f"http://{head}:8265/api/jobs/") == "401"

    assert containers["gateway"].stop() == 0, containers["gateway"].log()
    for name in ("worker-cpu", "ray-head", "postgres"):
        containers[name].stop()
