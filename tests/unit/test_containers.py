"""The Dockerfile and docker-compose.yml, as far as they can be checked without Docker."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
RAY_PORTS = ("6379", "8265", "10001")

DURATION = {"type": "string", "pattern": r"^\d+(ms|s|m)$"}
SIZE = {"type": "string", "pattern": r"^(\d+(k|m|g)b?|\$\{\w+:-\d+g\})$"}
TMPFS = r"^/[\w/]+:size=\d+[mg],mode=\d{4}(,uid=\d+,gid=\d+)?(,exec)?$"
IMAGE = r"^(spacte:\$\{SPACTE_DEVICE:-cpu\}|[a-z]+:[\w.-]+@sha256:[0-9a-f]{64})$"
"""Built here, or by its digest."""
STRINGS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
NAMED = {"type": "object", "minProperties": 1}
SECRET = {
    "type": "object",
    "required": ["source", "target"],
    "additionalProperties": False,
    "properties": {"source": {"type": "string"}, "target": {"type": "string"}},
}
SERVICE = {
    "type": "object",
    "required": [
        *("image", "init", "restart", "healthcheck", "deploy", "stop_grace_period", "shm_size", "networks"),
        *("cap_drop", "security_opt", "read_only", "tmpfs", "pids_limit"),
    ],
    "additionalProperties": False,
    "properties": {
        "image": {"type": "string", "pattern": IMAGE},
        "build": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"context": {"type": "string"}, "args": NAMED},
        },
        "init": {"const": True},
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "shm_size": SIZE,
        "stop_grace_period": DURATION,
        "cap_drop": {"const": ["ALL"]},
        "security_opt": {"const": ["no-new-privileges:true"]},
        "read_only": {"const": True},
        "tmpfs": {"type": "array", "items": {"type": "string", "pattern": TMPFS}, "minItems": 1},
        "pids_limit": {"type": "integer", "minimum": 1, "maximum": 4096},
        "user": {"type": "string", "pattern": r"^[1-9]\d*:[1-9]\d*$"},
        "secrets": {"type": "array", "items": {"anyOf": [{"type": "string"}, SECRET]}, "minItems": 1},
        "environment": {"type": "object", "additionalProperties": {"type": "string"}},
        "networks": STRINGS,
        "profiles": STRINGS,
        "command": STRINGS,
        "ports": STRINGS,
        "volumes": STRINGS,
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["condition"],
                "additionalProperties": False,
                "properties": {"condition": {"const": "service_healthy"}, "restart": {"type": "boolean"}},
            },
        },
        "healthcheck": {
            "type": "object",
            "required": ["test", "interval", "timeout", "retries", "start_period"],
            "additionalProperties": False,
            "properties": {
                "test": STRINGS,
                "interval": DURATION,
                "timeout": DURATION,
                "retries": {"type": "integer"},
                "start_period": DURATION,
            },
        },
        "deploy": {
            "type": "object",
            "required": ["resources"],
            "additionalProperties": False,
            "properties": {
                "resources": {
                    "type": "object",
                    "required": ["limits"],
                    "additionalProperties": False,
                    "properties": {
                        "limits": {
                            "type": "object",
                            "required": ["memory"],
                            "additionalProperties": False,
                            "properties": {"cpus": {"type": "string"}, "memory": SIZE},
                        },
                        "reservations": {
                            "type": "object",
                            "required": ["devices"],
                            "additionalProperties": False,
                            "properties": {"devices": {"type": "array", "items": NAMED}},
                        },
                    },
                }
            },
        },
    },
}
"""What this project uses of the Compose specification; the whole of it is a package of its own."""


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]


def ours(services: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in services.items() if name not in ("postgres", "front")}


def test_every_service_is_as_the_specification_and_this_project_want_it(services: dict[str, Any]) -> None:
    for service in services.values():
        jsonschema.validate(service, SERVICE)


def test_whatever_is_named_is_there(compose: dict[str, Any], services: dict[str, Any]) -> None:
    for service in services.values():
        assert set(service["networks"]) <= set(compose["networks"])
        secrets = [secret["source"] if isinstance(secret, dict) else secret for secret in service["secrets"]]
        assert set(secrets) <= set(compose["secrets"])
        for volume in service.get("volumes", []):
            source = re.split(r":(?!-)", volume, maxsplit=1)[0]
            assert source in compose["volumes"] or source.startswith("${") or (ROOT / source).is_file(), volume
        assert set(service.get("depends_on", {})) <= set(services)


def test_only_the_gateway_is_published_and_that_on_loopback_unless_there_is_a_front(
    compose: dict[str, Any], services: dict[str, Any]
) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert list(published) == ["gateway", "front"]
    assert [port.startswith("127.0.0.1:") for port in published["gateway"]] == [True]
    assert services["front"]["profiles"] == ["front"]
    assert published["front"] == ["${SPACTE_FRONT_PORT:-443}:443"]
    assert services["front"]["networks"] == ["front"]  # it reaches the gateway alone
    assert not any(port in str(published) for port in RAY_PORTS)
    assert compose["networks"]["cluster"]["internal"]
    assert compose["networks"]["database"]["internal"]


def test_whoever_starts_ray_holds_the_token(services: dict[str, Any]) -> None:
    assert len(ours(services)) == 4
    for service in ours(services).values():
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert "ray_token" in service["secrets"]
    assert "ray_token" not in services["postgres"]["secrets"]


def test_the_order_of_start(services: dict[str, Any]) -> None:
    assert set(services["gateway"]["depends_on"]) == {"ray-head", "postgres"}
    assert services["worker-cpu"]["profiles"] == ["cpu"]
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    for worker in ("worker-cpu", "worker-gpu"):
        assert set(services[worker]["depends_on"]) == {"ray-head"}


def test_secrets_are_in_files_that_git_and_the_image_leave_out(compose: dict[str, Any]) -> None:
    files = [secret["file"] for secret in compose["secrets"].values()]
    assert all(file.startswith("./docker/secrets/") for file in files)
    assert "docker/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    allowed = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert not any("!docker/secrets".startswith(line) for line in allowed)


def test_drivers_of_jobs_and_the_gateway_share_the_data_folder(services: dict[str, Any]) -> None:
    # Ray runs the drivers of jobs on the head's node.
    assert "data:/data" in services["ray-head"]["volumes"]
    assert "data:/data" in services["gateway"]["volumes"]


def test_ray_and_the_gateway_know_their_options(services: dict[str, Any]) -> None:
    from ray.scripts.scripts import start

    from spacte_service.settings import Settings

    known = {name for option in start.params for name in option.opts}
    for name in ("ray-head", "worker-cpu", "worker-gpu"):
        command = services[name]["command"]
        assert command[:2] == ["ray", "start"]
        assert {option.partition("=")[0] for option in command[2:]} <= known
    flags = {option for option in services["gateway"]["command"] if option.startswith("--")}
    assert flags <= {"--" + name.replace("_", "-") for name in Settings.model_fields}
    variables = {name for name in services["gateway"]["environment"] if name.startswith("SPACTE_")}
    assert variables <= {f"SPACTE_{name.upper()}" for name in Settings.model_fields}


def test_the_gateway_goes_by_loopback_names_only_where_no_key_is_asked_for(services: dict[str, Any]) -> None:
    # In its container it listens on every address, so that the setting's default would be any name.
    environment = services["gateway"]["environment"]
    assert environment["SPACTE_ALLOW_ANONYMOUS"] == "${SPACTE_ALLOW_ANONYMOUS:-true}"
    assert environment["SPACTE_ALLOWED_HOSTS"] == "${SPACTE_ALLOWED_HOSTS:-localhost,127.0.0.1,::1}"
    assert environment["SPACTE_API_KEYS"] == "${SPACTE_API_KEYS:-}"


def test_what_may_be_written_is_memory_of_a_bounded_size(services: dict[str, Any]) -> None:
    for name, service in services.items():
        limit = service["deploy"]["resources"]["limits"]["memory"]
        limit = int(re.sub(r"\D", "", limit)) * 1024
        sizes = [re.findall(r"size=(\d+)([mg])", entry)[0] for entry in service["tmpfs"]]
        assert sum(int(size) * (1024 if unit == "g" else 1) for size, unit in sizes) < limit, name
        # Only the folder of compiled kernels may hold code.
        code = [entry.partition(":")[0] for entry in service["tmpfs"] if entry.endswith(",exec")]
        assert code == (["/home/spacte"] if name in ours(services) else [])


def test_logs_of_ray_are_small_since_their_folder_is_memory(services: dict[str, Any]) -> None:
    for service in ours(services).values():
        kept = 1 + int(service["environment"]["RAY_ROTATION_BACKUP_COUNT"])
        assert int(service["environment"]["RAY_ROTATION_MAX_BYTES"]) * kept <= 20 * 1024**2


def test_the_image_is_pinned_and_its_user_is_not_root() -> None:
    text = (ROOT / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", text, re.MULTILINE)
    outside, inside = stages[0], stages[1:]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", outside[0])
    assert {parent for parent, _ in inside} == {outside[1]}
    assert re.findall(r"^USER (\d+)$", text.rpartition("FROM ")[2], re.MULTILINE) == ["10001"]


def test_the_gateway_joins_the_cluster_before_it_serves(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    for name in ("ray", "spacte"):
        command = tmp_path / name
        command.write_text(f'#!/bin/sh\necho "{name} $* password=${{PGPASSWORD:-}}" >> {calls}\n')
        command.chmod(0o755)
    (tmp_path / "password").write_text("secret\n")
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "RAY_ADDRESS": "ray-head:6379",
        "POSTGRES_PASSWORD_FILE": str(tmp_path / "password"),
    }
    shell = shutil.which("sh") or "sh"
    script = [shell, str(ROOT / "docker" / "gateway.sh"), "--port", "8000"]
    subprocess.run(script, env=environment, check=True)
    assert calls.read_text().splitlines() == [
        "ray start --address=ray-head:6379 --num-cpus=0 --num-gpus=0 --object-store-memory=536870912 password=secret",
        "spacte serve --port 8000 password=secret",
    ]
    del environment["RAY_ADDRESS"]
    assert subprocess.run(script, env=environment, check=False, capture_output=True).returncode != 0
