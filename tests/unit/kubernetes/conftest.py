"""The documents that kubectl makes of each overlay of deploy/kubernetes, and the parts of them that tests look at."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
VERSIONS = ("1.33", "1.37")
"""Of Kubernetes: the first whose sidecars are stable, and the newest whose schemas are at hand."""
Document = dict[str, Any]

needs_kubectl = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")


def rendered(folder: Path) -> list[Document]:
    """What kubectl makes of an overlay."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # deprecated fields
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=OVERLAYS)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    """What each overlay makes."""
    return rendered(FOLDER / "overlays" / request.param)


def one(documents: list[Document], kind: str) -> Document:
    """The only document of its kind."""
    (found,) = (document for document in documents if document["kind"] == kind)
    return found


def templates(documents: list[Document]) -> dict[str, Document]:
    """The pod templates, by who they are."""
    spec = one(documents, "RayCluster")["spec"]
    groups = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    gateway = one(documents, "Deployment")["spec"]["template"]
    return {"gateway": gateway, "head": spec["headGroupSpec"]["template"], **groups}


def containers(documents: list[Document]) -> Iterator[tuple[Document, Document]]:
    """Each container with its pod's specification; that of the autoscaler as KubeRay makes it in the head's pod."""
    for template in templates(documents).values():
        spec = template["spec"]
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            yield spec, container
    options = dict(one(documents, "RayCluster")["spec"]["autoscalerOptions"])
    for name in ("version", "idleTimeoutSeconds"):
        del options[name]
    yield templates(documents)["head"]["spec"], {"name": "autoscaler", **options}


def settings_of(documents: list[Document]) -> dict[str, str]:
    """The environment that gateways are given."""
    return one(documents, "ConfigMap")["data"]


def is_small(documents: list[Document]) -> bool:
    """Whether it is the overlay with one gateway."""
    return settings_of(documents).get("SPACTE_JOB_DRIVERS") == "gateway"
