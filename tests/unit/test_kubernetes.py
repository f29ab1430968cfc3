"""deploy/kubernetes: each overlay is rendered by kubectl, and fits Kubernetes, Ray, the image and our settings."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
VERSIONS = ("1.33", "1.37")
"""Of Kubernetes: the first whose sidecars are stable, and the newest whose schemas are at hand."""
RAY_PORTS = (6379, 8265, 10001, 52365, 8080)
CLUSTER_LABELS = {"ray.io/cluster": "spacte", "app.kubernetes.io/part-of": "spacte"}  # KubeRay adds the first

Document = dict[str, Any]

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")

TEMPLATE = {"type": "object", "required": ["metadata", "spec"]}
"""Pod templates are checked as pods."""
PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}


def fields(required: str, optional: str = "", **known: Any) -> dict[str, Any]:
    """The schema of an object with these fields and no others."""
    properties = {name: known.get(name, {}) for name in f"{required} {optional}".split()}
    return {"type": "object", "required": required.split(), "additionalProperties": False, "properties": properties}


COUNT = {"type": "integer", "minimum": 0}
RAY_CLUSTER = fields(
    "headGroupSpec workerGroupSpecs enableInTreeAutoscaling autoscalerOptions",
    enableInTreeAutoscaling={"const": True},
    autoscalerOptions=fields(
        "version idleTimeoutSeconds image imagePullPolicy env securityContext resources volumeMounts",
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    ),
    headGroupSpec=fields("rayStartParams template", rayStartParams=PARAMS, template=TEMPLATE),
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            "groupName minReplicas maxReplicas rayStartParams template",
            groupName={"type": "string"},
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=PARAMS,
            template=TEMPLATE,
        ),
    },
)
"""What is used here of ray.io/v1 (KubeRay, raycluster_types.go)."""
SCALED_OBJECT = fields(
    "scaleTargetRef triggers minReplicaCount maxReplicaCount pollingInterval fallback advanced",
    scaleTargetRef=fields("name"),
    minReplicaCount=COUNT,
    maxReplicaCount=COUNT,
    pollingInterval=COUNT,
    fallback=fields("failureThreshold replicas", failureThreshold=COUNT, replicas=COUNT),
    advanced=fields("horizontalPodAutoscalerConfig", horizontalPodAutoscalerConfig=fields("behavior")),
    triggers={
        "type": "array",
        "minItems": 1,
        "items": fields(
            "type metadata",
            type={"const": "prometheus"},
            metadata={**fields("serverAddress query threshold"), "additionalProperties": False},
        ),
    },
)
"""What is used here of keda.sh/v1alpha1; the values of a trigger's metadata are texts."""


@pytest.fixture(scope="module", params=OVERLAYS)
def documents(request: pytest.FixtureRequest) -> list[Document]:
    """What an overlay makes."""
    command = ["kubectl", "kustomize", str(FOLDER / "overlays" / request.param)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # deprecated fields
    return list(yaml.safe_load_all(done.stdout))


def one(documents: list[Document], kind: str) -> Document:
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
    return one(documents, "ConfigMap")["data"]


def is_small(documents: list[Document]) -> bool:
    """Whether it is the overlay with one gateway."""
    return settings_of(documents).get("SPACTE_JOB_DRIVERS") == "gateway"


def test_the_data_are_where_the_drivers_of_jobs_run(documents: list[Document]) -> None:
    gateway = one(documents, "Deployment")["spec"]["template"]["spec"]
    places = {
        "head": templates(documents)["head"]["spec"]["containers"][0],
        "node": gateway["initContainers"][0],
        "gateway": gateway["containers"][0],
    }
    having = {
        name for name, each in places.items() if "/data" in [mount["mountPath"] for mount in each["volumeMounts"]]
    }
    modes = {
        mode for each in documents if each["kind"] == "PersistentVolumeClaim" for mode in each["spec"]["accessModes"]
    }
    small = is_small(documents)
    assert having == {"gateway", "node" if small else "head"}
    assert modes == {"ReadWriteOnce" if small else "ReadWriteMany"}
    strategy = one(documents, "Deployment")["spec"]["strategy"]
    assert strategy == {"type": "Recreate"} if small else "rollingUpdate" in strategy


def test_kubernetes_takes_every_document(documents: list[Document]) -> None:
    checked = 0
    for document in documents:
        if document["apiVersion"] in ("ray.io/v1", "keda.sh/v1alpha1"):
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
        checked += 1
    assert checked >= 10
    assert {document["metadata"].get("namespace", "spacte") for document in documents} == {"spacte"}


def test_kubernetes_takes_the_pods_that_kuberay_makes(documents: list[Document]) -> None:
    for name, template in templates(documents).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **template["metadata"]}}
        spec = template["spec"]
        if name == "head":
            autoscaler = [container for _, container in containers(documents) if container["name"] == "autoscaler"]
            spec = {**spec, "containers": spec["containers"] + autoscaler}
        kubernetes_validate.validate(pod | {"spec": spec}, VERSIONS[0], strict=True)


def test_kuberay_and_keda_know_the_fields(documents: list[Document]) -> None:
    jsonschema.validate(one(documents, "RayCluster")["spec"], RAY_CLUSTER)
    for document in documents:
        if document["kind"] == "ScaledObject":
            jsonschema.validate(document["spec"], SCALED_OBJECT)
            metadata = document["spec"]["triggers"][0]["metadata"]
            assert all(isinstance(value, str) for value in metadata.values())


def test_rays_autoscaler_reads_the_cluster(documents: list[Document]) -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config

    read = autoscaling_config._derive_autoscaling_config_from_ray_cr(one(documents, "RayCluster"))
    types = read["available_node_types"]
    gigabyte = 1024**3
    assert types["headgroup"]["resources"] == {"CPU": 0, "GPU": 0, "memory": 6 * gigabyte}
    assert types["cpu"]["resources"] == {"CPU": 4, "memory": 8 * gigabyte}
    assert types["gpu"]["resources"] == {"CPU": 4, "GPU": 1, "memory": 16 * gigabyte}
    assert read["idle_timeout_minutes"] == 5
    grows = {name for name in ("cpu", "gpu") if types[name]["max_workers"] > types[name]["min_workers"]}
    image = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert grows == {"gpu" if image.endswith(":cuda") else "cpu"}


def test_every_pod_runs_the_same_image(documents: list[Document]) -> None:
    images = {container["image"] for _, container in containers(documents)}
    assert len(images) == 1  # Ray mixes no versions of itself or of Python
    assert re.fullmatch(r"registry\.example/spacte:(cpu|cuda)", images.pop())


def test_no_container_can_write_or_gain_rights(documents: list[Document]) -> None:
    user = re.findall(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for spec, container in containers(documents):
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"]
        assert [str(pod["runAsUser"])] == user
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        own = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert container["securityContext"] == own
        assert set(container["resources"]) == {"requests", "limits"}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert "/tmp" in writable
        models = {"/models"} if is_small(documents) else set[str]()  # `kubectl cp` writes there
        assert writable <= {"/tmp", "/dev/shm", "/home/spacte", "/data"} | models


def test_only_the_autoscaler_has_a_token_for_kubernetes(documents: list[Document]) -> None:
    assert one(documents, "ServiceAccount")["automountServiceAccountToken"] is False
    place = "/var/run/secrets/kubernetes.io/serviceaccount"
    holders = set()
    for spec, container in containers(documents):
        assert spec["automountServiceAccountToken"] is False
        if any(mount["mountPath"] == place for mount in container["volumeMounts"]):
            holders.add(container["name"])
    assert holders == {"autoscaler"}


def test_whatever_is_named_is_there(documents: list[Document]) -> None:
    claims = {each["metadata"]["name"] for each in documents if each["kind"] == "PersistentVolumeClaim"}
    maps = {one(documents, "ConfigMap")["metadata"]["name"]}
    guide = (ROOT / "docs" / "operating.md").read_text()
    for spec, container in containers(documents):
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        assert {each["configMapRef"]["name"] for each in container.get("envFrom", ())} <= maps
        ports = {port["name"] for port in container.get("ports", ())}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            port = container.get(probe, {}).get("httpGet", {}).get("port", 0)
            assert isinstance(port, int) or port in ports
        used = {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in volumes.values()
            if "persistentVolumeClaim" in volume
        }
        assert used <= claims
        keys = [item["key"] for volume in volumes.values() for item in volume.get("secret", {}).get("items", ())]
        keys += [each["valueFrom"]["secretKeyRef"]["key"] for each in container.get("env", ()) if "valueFrom" in each]
        for key in keys:  # whoever follows the guide makes it
            assert re.search(rf"--from-(file|literal)={re.escape(key)}=", guide), key
    scaled = [each["spec"]["scaleTargetRef"]["name"] for each in documents if "scaleTargetRef" in each.get("spec", {})]
    assert scaled == ([] if is_small(documents) else [one(documents, "Deployment")["metadata"]["name"]])


def test_the_gateway_knows_its_options_and_its_folders(documents: list[Document]) -> None:
    from spacte_service.settings import Settings

    pod = one(documents, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][:2] == ["spacte", "serve"]
    flags = {word for word in container["command"] if word.startswith("--")}
    assert flags <= {"--" + name.replace("_", "-") for name in Settings.model_fields}
    variables = {name for name in settings_of(documents) if name.startswith("SPACTE_")}
    variables |= {each["name"] for each in container["env"] if each["name"].startswith("SPACTE_")}
    assert variables <= {f"SPACTE_{name.upper()}" for name in Settings.model_fields}
    values = {name[7:].lower(): value for name, value in settings_of(documents).items() if name.startswith("SPACTE_")}
    settings = Settings(host="0.0.0.0", **values)  # it does not refuse to start
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.port, "metrics": settings.metrics_port}
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(settings.keys_file.parent) in mounted
    stage = (ROOT / "Dockerfile").read_text()
    assert {re.findall(rf"{name}=(\S+)", stage)[0] for name in ("SPACTE_MODELS", "SPACTE_DATA_DIR")} <= mounted
    stop = 5 + settings.drain_timeout_s
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert stop < pod["terminationGracePeriodSeconds"]


def test_a_gateway_has_its_samplers_on_workers_of_their_own(documents: list[Document]) -> None:
    values = settings_of(documents)
    assert values["SPACTE_SAMPLERS"] == values["SPACTE_SAMPLERS_MIN"]  # Ray's autoscaler sees what is missing
    limits = templates(documents)["cpu"]["spec"]["containers"][0]["resources"]["limits"]
    assert values["SPACTE_SAMPLER_THREADS"] == limits["cpu"]


def test_probes_ask_what_is_there(documents: list[Document]) -> None:
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    ours = set(json.loads((ROOT / "service" / "openapi.json").read_text())["paths"])
    theirs = {52365: PUBLIC_EXACT_PATHS, 8265: {"/api/gcs_healthz"}}
    asked = set()
    for _, container in containers(documents):
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                get = container[probe]["httpGet"]
                assert get["path"] in (ours if get["port"] == "http" else theirs[get["port"]])
                asked.add((container["name"], get["path"]))
    assert {("gateway", "/livez"), ("gateway", "/readyz"), ("ray-head", "/api/gcs_healthz")} < asked


def test_ray_knows_its_options_and_its_address(documents: list[Document]) -> None:
    from ray.scripts.scripts import start

    known = {name for option in start.params for name in option.opts}
    cluster = one(documents, "RayCluster")
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        assert {f"--{name}" for name in group["rayStartParams"]} <= known
        assert group["rayStartParams"]["dashboard-agent-listen-port"] == "52365"
    node = one(documents, "Deployment")["spec"]["template"]["spec"]["initContainers"][0]
    assert node["restartPolicy"] == "Always"
    assert node["command"][:2] == ["ray", "start"]
    assert {option.partition("=")[0] for option in node["command"][2:]} <= known
    head = groups[0]["template"]["spec"]["containers"][0]
    port = {each["name"]: each["containerPort"] for each in head["ports"]}["gcs-server"]
    assert settings_of(documents)["RAY_ADDRESS"] == f"{cluster['metadata']['name']}-head-svc:{port}"


def test_compose_says_the_same(documents: list[Document]) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    gateway = one(documents, "Deployment")["spec"]["template"]["spec"]
    assert gateway["containers"][0]["command"][2:] == services["gateway"]["command"][1:]
    assert set(gateway["initContainers"][0]["command"]) - {"--dashboard-agent-listen-port=52365", "--block"} == {
        *re.findall(r"^(ray) (start) (\S+) (\S+) (\S+) (\S+)$", _script("gateway.sh"), re.MULTILINE)[0]
    }
    for key in ("SPACTE_MAX_CONNECTIONS_PER_ADDRESS", "SPACTE_IDLE_TIMEOUT_S"):
        assert settings_of(documents)[key] == services["gateway"]["environment"][key]
    same = ("RAY_AUTH_MODE", "RAY_ROTATION_MAX_BYTES", "RAY_ROTATION_BACKUP_COUNT")
    for name in ("head", "cpu", "gpu"):
        own = {each["name"]: each["value"] for each in templates(documents)[name]["spec"]["containers"][0]["env"]}
        assert {key: own[key] for key in same} == {key: services["ray-head"]["environment"][key] for key in same}
    params = one(documents, "RayCluster")["spec"]["headGroupSpec"]["rayStartParams"]
    options = dict(option[2:].split("=") for option in services["ray-head"]["command"][3:] if "=" in option)
    assert {name: params.get(name) for name in options if name != "port"} == {
        name: value for name, value in options.items() if name != "port"
    }


def _script(name: str) -> str:
    """With the values that a container gives it."""
    return (ROOT / "docker" / name).read_text().replace('"$RAY_ADDRESS"', "$(RAY_ADDRESS)")


def test_the_metric_of_the_queue_is_one_of_ours(documents: list[Document]) -> None:
    from spacte_service.admission import Admission
    from spacte_service.metrics import Metrics
    from spacte_workers.serving.pools import PoolStatus

    scaled = [document for document in documents if document["kind"] == "ScaledObject"]
    if is_small(documents):
        assert one(documents, "Deployment")["spec"]["replicas"] == 1
        return
    if not scaled:
        assert one(documents, "HorizontalPodAutoscaler")["spec"]["minReplicas"] > 1
        return
    metrics = Metrics()
    metrics.watch(Admission(1, 1), lambda: PoolStatus(0, 0, 0, "cpu"))
    (query,) = (trigger["metadata"]["query"] for trigger in scaled[0]["spec"]["triggers"])
    name, namespace = re.fullmatch(r'sum\((\w+)\{namespace="(\w+)"\}\)', query).groups()
    assert f"\n{name}{{" in metrics.text().decode()
    assert namespace == scaled[0]["metadata"]["namespace"]


def selects(selector: Document, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def admitted(
    documents: list[Document], pod: dict[str, str], source: tuple[str, dict[str, str]], port: int | str
) -> bool:
    """Whether the policies let a pod of a namespace reach a port of a pod of the release (networking.k8s.io/v1)."""
    policies = [each["spec"] for each in documents if each["kind"] == "NetworkPolicy"]
    policies = [each for each in policies if selects(each["podSelector"], pod) and "Ingress" in each["policyTypes"]]
    namespace, labels = source

    def is_meant(peer: Document) -> bool:
        if "namespaceSelector" in peer:
            return selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace})
        return namespace == "spacte" and selects(peer["podSelector"], labels)

    return not policies or any(
        (not rule.get("from") or any(map(is_meant, rule["from"])))
        and (not rule.get("ports") or port in [each["port"] for each in rule["ports"]])
        for policy in policies
        for rule in policy["ingress"]
    )


def test_rays_ports_are_closed_to_all_but_the_release(documents: list[Document]) -> None:
    pods = {name: template["metadata"]["labels"] for name, template in templates(documents).items()}
    for name in ("head", "cpu", "gpu"):
        pods[name] = pods[name] | CLUSTER_LABELS
    strangers = [("default", {}), ("default", pods["gateway"]), ("spacte", {"app": "other"}), ("monitoring", {})]
    for labels in pods.values():
        for port in RAY_PORTS:
            assert not any(admitted(documents, labels, stranger, port) for stranger in strangers)
            assert all(admitted(documents, labels, ("spacte", friend), port) for friend in pods.values())
    gateway = pods["gateway"]
    assert all(admitted(documents, gateway, stranger, "http") for stranger in strangers)
    assert [admitted(documents, gateway, stranger, "metrics") for stranger in strangers] == [False] * 3 + [True]


def test_workers_call_nobody_but_the_release_and_the_name_service(documents: list[Document]) -> None:
    (policy,) = (
        each["spec"]
        for each in documents
        if each["kind"] == "NetworkPolicy" and "Egress" in each["spec"]["policyTypes"]
    )
    assert selects(policy["podSelector"], CLUSTER_LABELS | {"ray.io/node-type": "worker"})
    assert not selects(policy["podSelector"], CLUSTER_LABELS | {"ray.io/node-type": "head"})
    release, names = policy["egress"]
    assert release == {"to": [{"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "spacte"}}}]}
    assert {each["port"] for each in names["ports"]} == {53}


def rendered(folder: Path) -> list[Document]:
    text = subprocess.run(["kubectl", "kustomize", str(folder)], check=True, capture_output=True, text=True).stdout
    return list(yaml.safe_load_all(text))


def test_the_overlay_of_the_guide_with_signing(tmp_path: Path) -> None:
    """As docs/operating.md has it: image, storage and settings are the reader's, and the signing keys are mounted."""
    shutil.copytree(FOLDER, tmp_path / "spacte-source" / "deploy" / "kubernetes")
    guide = (ROOT / "docs" / "operating.md").read_text()
    written = re.search(r"^```yaml\n(apiVersion: kustomize.*?)^```", guide, re.MULTILINE | re.DOTALL)
    component = re.search(r"`(components: \[.*?signing\])`", guide)
    assert written
    assert component
    (tmp_path / "spacte").mkdir()
    (tmp_path / "spacte" / "kustomization.yaml").write_text(f"{written[1]}{component[1]}\n")
    documents = rendered(tmp_path / "spacte")
    assert {container["image"] for _, container in containers(documents)} == {"REGISTRY/spacte:cpu"}
    claims = [each["spec"] for each in documents if each["kind"] == "PersistentVolumeClaim"]
    assert [claim["storageClassName"] for claim in claims] == ["YOUR-CLASS"] * 2
    assert settings_of(documents)["SPACTE_ALLOWED_HOSTS"] == "spacte.example,localhost"
    (container,) = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    hosts = {
        each["value"]
        for probe in ("livenessProbe", "readinessProbe")
        for each in container[probe]["httpGet"]["httpHeaders"]
    }
    assert hosts == {"localhost"}  # so that the probes are answered with the setting
    folder = Path(settings_of(documents)["SPACTE_SIGNING_KEYS_FILE"]).parent
    assert str(folder) in {mount["mountPath"] for mount in container["volumeMounts"]}
    kubernetes_validate.validate(one(documents, "Deployment"), VERSIONS[0], strict=True)


def test_the_overlay_of_the_guide_with_jobs_in_an_object_store(tmp_path: Path) -> None:
    """No volume with data is left; gateway and head, where drivers run, get in by the secret of the guide."""
    shutil.copytree(FOLDER, tmp_path / "spacte-source" / "deploy" / "kubernetes")
    guide = (ROOT / "docs" / "operating.md").read_text()
    written = re.search(r"^```yaml\n(apiVersion: kustomize.*?)^```", guide, re.MULTILINE | re.DOTALL)
    component = re.search(r"`(components: \[.*?object-storage\])`", guide)
    literal = re.search(r"`(- SPACTE_JOB_STORAGE=.*?)`", guide)
    secret = re.search(r"create secret generic (\S+) --from-literal=AWS_ACCESS_KEY_ID=", guide)
    assert written
    assert component
    assert literal
    assert secret
    (tmp_path / "spacte").mkdir()
    (tmp_path / "spacte" / "kustomization.yaml").write_text(f"{written[1]}      {literal[1]}\n{component[1]}\n")
    documents = rendered(tmp_path / "spacte")
    claims = [each["metadata"]["name"] for each in documents if each["kind"] == "PersistentVolumeClaim"]
    assert claims == ["spacte-models"]
    assert settings_of(documents)["SPACTE_JOB_STORAGE"] == "s3://BUCKET/PREFIX"
    pods = templates(documents)
    volumes = {volume["name"]: volume for volume in pods["gateway"]["spec"]["volumes"]}
    assert "emptyDir" in volumes["data"]
    assert "data" not in [volume["name"] for volume in pods["head"]["spec"]["volumes"]]
    gets_in = {"secretRef": {"name": secret[1], "optional": True}}
    having = {name for name, pod in pods.items() if gets_in in pod["spec"]["containers"][0].get("envFrom", ())}
    assert having == {"gateway", "head"}
    for _, container in containers(documents):
        assert "spacte-data" not in str(container)
    kubernetes_validate.validate(one(documents, "Deployment"), VERSIONS[0], strict=True)


def test_the_pod_that_models_are_copied_by() -> None:
    pod = yaml.safe_load((FOLDER / "copy-models.yaml").read_text())
    kubernetes_validate.validate(pod, VERSIONS[0], strict=True)
    claims = [each["metadata"]["name"] for each in yaml.safe_load_all((FOLDER / "base" / "storage.yaml").read_text())]
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] in claims
    assert pod["spec"]["securityContext"]["fsGroup"] == pod["spec"]["securityContext"]["runAsUser"] == 10001
