"""Nothing from outside is installed unless its hash, or the digest of its image, is in this repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECTS = sorted(ROOT.glob("*/pyproject.toml"))
OURS = {f"spacte-{path.parent.name}" for path in PROJECTS}
IN_THE_IMAGE = {"spacte-client", "spacte-core", "spacte-workers", "spacte-service"}


def pins(text: str) -> dict[str, list[tuple[Requirement, list[str]]]]:
    """Each requirement of a file with its hashes, by name: several where they depend on the environment."""
    found = defaultdict(list)
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    for line in joined.splitlines():
        requirement, *hashes = re.split(r"\s+--hash=", line.strip())
        found[canonicalize_name(Requirement(requirement).name)].append((Requirement(requirement), hashes))
    return found


@pytest.fixture(scope="module")
def pinned() -> dict[str, list[tuple[Requirement, list[str]]]]:
    return pins((ROOT / "constraints.txt").read_text())


def wanted() -> list[Requirement]:
    """What the packages, their builds and the developers' tools ask for by name."""
    root = tomllib.loads((ROOT / "pyproject.toml").read_text())
    texts = list(root["dependency-groups"]["dev"])
    for path in PROJECTS:
        project = tomllib.loads(path.read_text())
        texts += project["build-system"]["requires"] + project["project"]["dependencies"]
        for extra in project["project"].get("optional-dependencies", {}).values():
            texts += extra
    return [requirement for requirement in map(Requirement, texts) if requirement.name not in OURS]


def test_every_pin_is_exact_and_has_hashes(pinned: dict[str, list[tuple[Requirement, list[str]]]]) -> None:
    assert len(pinned) > 200
    for requirement, hashes in (entry for entries in pinned.values() for entry in entries):
        assert re.fullmatch(r"==[^*]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), requirement


def test_the_pins_name_no_host() -> None:
    assert not re.search(r"://|^--|@", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_whatever_is_asked_for_is_pinned_to_a_version_that_fits(
    pinned: dict[str, list[tuple[Requirement, list[str]]]],
) -> None:
    for requirement in wanted():
        entries = pinned[canonicalize_name(requirement.name)]
        assert entries, requirement
        for pin, _ in entries:
            assert requirement.specifier.contains(next(iter(pin.specifier)).version, prereleases=True), (
                pin,
                requirement,
            )


def test_no_command_installs_what_has_no_hash() -> None:
    commands = []
    for name in ("Makefile", "Dockerfile", "docker/install.sh", "docker/lock.sh", ".ci/run"):
        text = re.sub(r"\\\n\s*", "", (ROOT / name).read_text())
        commands += re.findall(r"^(?!\s*#).*\b(?:pip install|uv build|uvx|uv tool|npm install).*$", text, re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        ours_alone = "--no-deps" in command and ("--no-index" in command or "--no-build-isolation" in command)
        assert "--require-hashes" in command or ours_alone, command


def test_torch_without_cuda_is_the_same_version(pinned: dict[str, list[tuple[Requirement, list[str]]]]) -> None:
    file = ROOT / "docker" / "torch-cpu.txt"  # written where PyTorch's own index can be reached
    for name, entries in pins(file.read_text() if file.exists() else "").items():
        for requirement, hashes in entries:
            assert hashes, requirement
            assert any(pin.specifier.contains(str(requirement.specifier)[2:]) for pin, _ in pinned[name]), requirement


def test_make_lock_image_writes_digests_and_hashes(tmp_path: Path) -> None:
    for name in ("Dockerfile", "docker-compose.yml", "constraints.txt", "docker/lock.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    digest = "sha256:" + "5" * 64
    commands = {"docker": f'echo "$*" >> calls; echo {digest}', "uv": 'echo "$*" >> calls; cat >> calls'}
    for name, script in commands.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    subprocess.run(["sh", "docker/lock.sh"], cwd=tmp_path, env={"PATH": path}, check=True)
    calls = (tmp_path / "calls").read_text()
    for name in ("Dockerfile", "docker-compose.yml"):
        was, now = (re.findall(r"(\S+)@(sha256:[0-9a-f]+)", (folder / name).read_text()) for folder in (ROOT, tmp_path))
        assert was
        assert now == [(image, digest) for image, _ in was]
        assert all(f"imagetools inspect {image} " in calls for image, _ in now)
    torch = re.findall(r"^torch(?:vision)?==\S+", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(torch) == 2
    assert calls.splitlines()[-2:] == torch
    assert "--torch-backend cpu" in calls


def test_updates_are_proposed_for_whatever_is_pinned() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"pip", "docker", "docker-compose"}


def test_the_threat_model_names_files_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(
        r"`((?:client|core|workers|service|docker|tests|\.github)/[\w./-]+|[\w-]+\.(?:txt|yml)|Dockerfile)`", text
    )
    assert len(named) > 25
    # Secrets are made by the operator.
    assert [path for path in named if not (ROOT / path).exists() and path != "docker/secrets/"] == []


def run(command: list[str], root: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PATH": f"{sys.prefix}/bin:{os.environ['PATH']}", "UV_LINK_MODE": "hardlink"}
    done = subprocess.run(command, cwd=root, env=environment, check=False, capture_output=True, text=True)
    if "error sending request" in done.stderr:
        pytest.skip("no package index can be reached")
    return done


def install_for_the_image(folder: Path, root: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return run(["sh", "docker/install.sh", str(folder), "cuda"], root)


@pytest.mark.long
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_hashes_are_of_the_files_of_either_machine(machine: str, tmp_path: Path) -> None:
    platform = ["--python-version", "3.11", "--python-platform", f"{machine}-manylinux_2_28", "--only-binary", ":all:"]
    pinned = ["--require-hashes", "--no-deps", "--constraint", "constraints.txt"]
    named = re.findall(r"^(?:torchvision|pyarrow)==\S+", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    done = run(["uv", "pip", "install", "--target", str(tmp_path), *platform, *pinned, *named])
    assert done.returncode == 0, done.stderr


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_image_lists_its_packages(tmp_path: Path) -> None:
    done = install_for_the_image(tmp_path / "image")
    assert done.returncode == 0, done.stderr
    listed = json.loads((tmp_path / "image" / "sbom.cdx.json").read_text())
    shutil.rmtree(tmp_path / "image")
    assert listed["bomFormat"] == "CycloneDX"
    names = {component["name"] for component in listed["components"]}
    assert names & OURS == IN_THE_IMAGE
    assert {"torch", "ray", "fastapi"} <= names
    assert not {"pytest", "tensorboard", "cyclonedx-bom"} & names
    assert all(component["purl"].startswith("pkg:pypi/") for component in listed["components"])
    assert "file:" not in json.dumps(listed)  # no path of the machine that built it


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["hatchling", "prometheus-client"])
def test_a_file_of_another_hash_is_refused(name: str, tmp_path: Path) -> None:
    for part in ("client", "core", "workers", "service", "docker/install.sh"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).symlink_to(ROOT / part)
    entry = re.compile(rf"(^{name}==(?:.*\\\n)+.*$)", re.MULTILINE)
    before, pin, after = entry.split((ROOT / "constraints.txt").read_text())
    (tmp_path / "constraints.txt").write_text(before + re.sub(r"sha256:.{4}", "sha256:0000", pin) + after)
    done = install_for_the_image(tmp_path / "image", tmp_path)
    assert done.returncode != 0
    assert f"Hash mismatch for `{name}==" in done.stderr
