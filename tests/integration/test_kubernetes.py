"""Every container of deploy/kubernetes by its exact command line, without a cluster: a certificate, and a job.

Of Ray's containers the command line is what KubeRay 1.5 makes of `rayStartParams` and the limits. The two containers of
the gateway's pod are started in one place, since they share their volumes, processes and address. Probes are sent by
the machine to each pod's address, as a node sends them. Not shown: Kubernetes, KubeRay and KEDA themselves.
"""

import json
import os
import pwd
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
from tests.containers import ROOT, SLOWER, USER, Container, Machine, needs_namespaces

from spacte_service.keys import make_key, write_keys

pytestmark = [
    pytest.mark.ray,
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.postgres,
    pytest.mark.timeout(1500),
    *needs_namespaces,
]

HEAD = "spacte-head-svc"
"""The name by which KubeRay's service makes the head known."""
UNITS = {"Gi": 1024**3, "Mi": 1024**2}


@pytest.fixture(params=["cpu", "small"])
def documents(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """What an overlay for CPUs makes, by kind; of kinds with several the last."""
    try:
        command = ["kubectl", "kustomize", str(ROOT / "deploy" / "kubernetes" / "overlays" / request.param)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        pytest.skip("kubectl is not installed")
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def bytes_of(quantity: str) -> int:
    return int(quantity[:-2]) * UNITS[quantity[-2:]]


def ray_start(group: dict[str, Any], *, head: bool) -> list[str]:
    """As KubeRay 1.5 makes it (ray-operator, common/pod.go): the parameters, and what the limits add, by name."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    params = {"memory": str(bytes_of(limits["memory"]))} | group["rayStartParams"]
    if "cpu" in limits:
        params.setdefault("num-cpus", limits["cpu"])
    if not head:
        params.setdefault("address", f"{HEAD}:6379")
    words = [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in sorted(params.items())]
    start = f"ulimit -n 65536; ray start {'--head ' if head else ''}{'  '.join(words)} "
    if not head:  # its container `wait-gcs-ready`
        start = f"until ray health-check --address {HEAD}:6379 > /dev/null 2>&1; do sleep 1; done; {start}"
    return ["bash", "-c", "--", start]


def substituted(command: list[str], environment: dict[str, str]) -> list[str]:
    """`$(NAME)` as the kubelet fills it in."""
    for name, value in environment.items():
        command = [word.replace(f"$({name})", value) for word in command]
    return command


def service(pod: dict[str, Any], command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """A pod, in the words of the Compose file; its first container has the most mounts."""
    tmpfs, volumes = [], []
    kinds = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in pod["containers"][0]["volumeMounts"]:
        volume, place = kinds[mount["name"]], mount["mountPath"]
        if "emptyDir" not in volume:
            volumes.append(f"{mount['name']}:{place}" + (":ro" if mount.get("readOnly") else ""))
        elif place != "/dev/shm":
            tmpfs.append(f"{place}:size={volume['emptyDir']['sizeLimit'][:-2]}g,mode=1777,exec")
    return {
        "command": command,
        "environment": environment,
        "networks": ["pods"],
        "tmpfs": tmpfs,
        "shm_size": f"{kinds['shm']['emptyDir']['sizeLimit'][:-2]}gb",
        "volumes": volumes,
        "secrets": [],
        "read_only": pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"],
        "cap_drop": pod["containers"][0]["securityContext"]["capabilities"]["drop"],
        "pids_limit": 4096,
        "restart": "unless-stopped",  # KubeRay makes the pod anew
        "stop_grace_period": f"{pod['terminationGracePeriodSeconds']}s",
    }


def gateway_service(documents: dict[str, dict[str, Any]], database: str) -> dict[str, Any]:
    """Both containers of the gateway's pod, the sidecar started again whenever it ends."""
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    node, gateway = pod["initContainers"][0], pod["containers"][0]
    environment = dict(documents["ConfigMap"]["data"]) | plain(node["env"]) | plain(gateway["env"])
    environment["SPACTE_DATABASE"] = database
    path = node["startupProbe"]["httpGet"]["path"]
    joined = f"curl -sf http://$(hostname -i | cut -d' ' -f1):52365{path}"
    script = f"while true; do {shlex.join(substituted(node['command'], environment))}; sleep 1; done & "
    script += f"until {joined}; do sleep 1; done; exec {shlex.join(gateway['command'])}"
    return service(pod, ["bash", "-c", script], environment)


def plain(env: list[dict[str, Any]]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in env if "value" in each}


@pytest.fixture
def pods(documents: dict[str, dict[str, Any]], sources: dict[str, Path]) -> dict[str, dict[str, Any]]:
    spec = documents["RayCluster"]["spec"]
    head, worker = spec["headGroupSpec"], spec["workerGroupSpecs"][0]
    made: dict[str, dict[str, Any]] = {}
    for name, group in ((HEAD, head), ("worker", worker)):
        pod = group["template"]["spec"]
        address = "127.0.0.1" if name == HEAD else HEAD
        environment = plain(pod["containers"][0]["env"]) | {"RAY_ADDRESS": f"{address}:6379"}  # KubeRay's
        made[name] = service(pod, ray_start(group, head=name == HEAD), environment)
    postgres = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["postgres"]
    password = (sources["postgres_password"]).read_text().strip()
    made["gateway"] = gateway_service(documents, f"postgresql://spacte:{password}@postgres/spacte")
    return made | {"postgres": postgres | {"networks": ["pods"]}}


@pytest.fixture
def sources(tmp_path: Path, make_checkpoint: Callable[..., str]) -> dict[str, Path]:
    """Volumes, and secrets owned as Kubernetes has them for `fsGroup`."""
    owners = {"data": USER, "compiled": USER, "postgres": pwd.getpwnam("postgres").pw_uid}
    for name, owner in owners.items():
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, owner, owner)
    (tmp_path / "postgres_password").write_text(os.urandom(32).hex())
    secret, key = make_key("alice", "user")
    (tmp_path / "secret").write_text(secret)
    write_keys(tmp_path / "keys" / "keys.json", [key])
    (tmp_path / "ray-token").mkdir()
    (tmp_path / "ray-token" / "token").write_text(os.urandom(32).hex())
    for file in (tmp_path / "ray-token" / "token", tmp_path / "keys" / "keys.json"):
        os.chown(file, 0, USER)
        file.chmod(0o440)
    make_checkpoint(tmp_path / "models" / "digits")
    return {name: tmp_path / name for name in (*owners, "models", "ray-token", "keys", "postgres_password")}


class Release:
    """The pods, started in an order that nobody guarantees: all at once."""

    def __init__(self, pods: dict[str, dict[str, Any]], folder: Path, sources: dict[str, Path]) -> None:
        self.machine = Machine({"services": pods, "networks": {"pods": {"internal": True}}})
        self.pods = {name: Container(self.machine, name, pod, folder, sources) for name, pod in pods.items()}
        self._key = (folder / "secret").read_text()

    def curl(self, *arguments: str) -> str:
        """What is answered to the machine, as to a node or an ingress controller."""
        key = ["--header", f"Authorization: Bearer {self._key}"]
        command = [*self.machine.inside, "curl", "--silent", "--fail", "--max-time", "120", *key, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def url(self, name: str, port: int, path: str) -> str:
        return f"http://{self.machine.addresses[name]['pods']}:{port}{path}"

    def passes(self, name: str, container: dict[str, Any], probe: str) -> float:
        """Send a probe until it succeeds, for longer than Kubernetes would; the seconds that it took."""
        get, began = container[probe]["httpGet"], time.monotonic()
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        url = self.url(name, ports.get(get["port"], get["port"]), get["path"])
        headers = [word for each in get.get("httpHeaders", ()) for word in ("--header", f"Host: {each['value']}")]
        while time.monotonic() - began < SLOWER * 180:
            for pod in self.pods.values():
                pod.restart_if_over()
            try:
                self.curl(*headers, url)
            except subprocess.CalledProcessError:
                time.sleep(1)
            else:
                return round(time.monotonic() - began, 1)
        raise AssertionError(f"{name} does not answer {url}\n{self.pods[name].log()}")


@pytest.fixture
def release(pods: dict[str, dict[str, Any]], tmp_path: Path, sources: dict[str, Path]) -> Iterator[Release]:
    started = Release(pods, tmp_path, sources)
    yield started
    started.machine.end()


def test_a_certificate_and_a_job_on_what_kubernetes_starts(
    release: Release, documents: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    spec = documents["RayCluster"]["spec"]
    head = spec["headGroupSpec"]["template"]["spec"]["containers"][0]
    worker = spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    node, gateway = pod["initContainers"][0], pod["containers"][0]
    probes = [(HEAD, head, "startupProbe"), ("worker", worker, "startupProbe"), ("gateway", node, "startupProbe")]
    probes += [("gateway", gateway, "livenessProbe"), ("gateway", gateway, "readinessProbe")]
    for name, container, probe in probes:
        print(f"{name}: {container['name']} passes its {probe} after {release.passes(name, container, probe)} s")
    metrics = release.curl(release.url("gateway", 9090, "/metrics"))
    assert "spacte_queue_depth" in metrics
    # One has a worker; the other waits for one, and Ray's autoscaler would see it waiting.
    assert 'spacte_samplers{state="ready"} 1.0' in metrics
    assert 'spacte_samplers{state="starting"} 1.0' in metrics

    picture = tmp_path / "digit.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(picture)
    form = ("-F", f"image=@{picture}", "-F", 'params={"n": 1000}')
    certify = (*form, release.url("gateway", 8000, "/v1/certify"))
    certificate = json.loads(release.curl(*certify))
    assert certificate["n"] == sum(certificate["counts"]) == 1000, certificate

    # A job: its driver writes into the volume that the gateway reads, whether it runs on the head or beside it.
    jobs = release.url("gateway", 8000, "/v1/jobs")
    body = {"input": {"type": "dataset", "name": "digits", "limit": 4}, "params": {"n": 1000}}
    job = json.loads(release.curl("--json", json.dumps(body), jobs))
    deadline = time.monotonic() + 300
    while job["state"] in ("queued", "running") and time.monotonic() < deadline:
        time.sleep(1)
        job = json.loads(release.curl(f"{jobs}/{job['id']}"))
    assert (job["state"], job["counts"]["errored"], job["counts"]["remaining"]) == ("succeeded", 0, 0), job

    # The head is lost, and another one takes its place: the gateway's node joins that one, and the gateway with it.
    release.pods[HEAD].stop()
    while release.passes("gateway", gateway, "livenessProbe") and _is_ready(release):
        time.sleep(1)
    seconds = release.passes("gateway", gateway, "readinessProbe")
    print(f"ready again {seconds} s after the head was lost")
    assert json.loads(release.curl(*certify))["n"] == 1000
    assert release.pods["gateway"].stop() == 0, release.pods["gateway"].log()


def _is_ready(release: Release) -> bool:
    try:
        release.curl(release.url("gateway", 8000, "/readyz"))
    except subprocess.CalledProcessError:
        return False
    return True
