"""Commands, settings, probes, ports and volumes of each overlay fit the image, the gateway, Ray and Compose."""

import json
import re

import yaml

from .conftest import ROOT, Document, containers, is_small, needs_kubectl, one, settings_of, templates

pytestmark = needs_kubectl


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


def test_every_pod_runs_the_same_image(documents: list[Document]) -> None:
    images = {container["image"] for _, container in containers(documents)}
    assert len(images) == 1  # Ray mixes no versions of itself or of Python
    assert re.fullmatch(r"registry\.example/spacte:(cpu|cuda)", images.pop())


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


def _script(name: str) -> str:
    """With the values that a container gives it."""
    return (ROOT / "docker" / name).read_text().replace('"$RAY_ADDRESS"', "$(RAY_ADDRESS)")


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
