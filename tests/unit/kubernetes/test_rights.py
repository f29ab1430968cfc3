"""Containers write only where they must, one has a token for Kubernetes, and Ray's ports are closed to others."""

import re

from .conftest import ROOT, Document, containers, is_small, needs_kubectl, one, templates

pytestmark = needs_kubectl

RAY_PORTS = (6379, 8265, 10001, 52365, 8080)
CLUSTER_LABELS = {"ray.io/cluster": "spacte", "app.kubernetes.io/part-of": "spacte"}  # KubeRay adds the first


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
