"""What each overlay makes fits the schemas of Kubernetes, KubeRay and KEDA, and Ray's autoscaler reads it."""

from typing import Any

import jsonschema
import kubernetes_validate

from .conftest import VERSIONS, Document, containers, needs_kubectl, one, templates

pytestmark = needs_kubectl

TEMPLATE = {"type": "object", "required": ["metadata", "spec"]}
"""Pod templates are checked as pods."""
PARAMS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}


def fields(required: str, optional: str = "", **known: Any) -> dict[str, Any]:
    """The schema of an object with these fields and no others."""
    properties = {name: known.get(name, {}) for name in f"{required} {optional}".split()}
    return {"type": "object", "required": required.split(), "additionalProperties": False, "properties": properties}


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
