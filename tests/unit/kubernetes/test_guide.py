"""What docs/operating.md has its reader write and apply: overlays with signing or an object store, a pod for models."""

import re
import shutil
from pathlib import Path

import kubernetes_validate
import yaml

from .conftest import FOLDER, ROOT, VERSIONS, Document, containers, needs_kubectl, one, rendered, settings_of, templates

pytestmark = needs_kubectl


def in_the_guide(pattern: str) -> str:
    """The group of the pattern where the guide has it."""
    found = re.search(pattern, (ROOT / "docs" / "operating.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def overlay_of_the_guide(folder: Path, component: str, setting: str = "") -> list[Document]:
    """What the overlay of the guide makes with one of its components, and a line more of settings."""
    shutil.copytree(FOLDER, folder / "spacte-source" / "deploy" / "kubernetes")
    written = in_the_guide(r"^```yaml\n(apiVersion: kustomize.*?)^```")
    components = in_the_guide(rf"`(components: \[[^`]*{component}\])`")
    (folder / "spacte").mkdir()
    (folder / "spacte" / "kustomization.yaml").write_text(f"{written}{setting}{components}\n")
    return rendered(folder / "spacte")


def test_the_overlay_of_the_guide_with_signing(tmp_path: Path) -> None:
    """As docs/operating.md has it: image, storage and settings are the reader's, and the signing keys are mounted."""
    documents = overlay_of_the_guide(tmp_path, "signing")
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
    documents = overlay_of_the_guide(
        tmp_path, "object-storage", f"      {in_the_guide(r'`(- SPACTE_JOB_STORAGE=.*?)`')}\n"
    )
    secret = in_the_guide(r"create secret generic (\S+) --from-literal=AWS_ACCESS_KEY_ID=")
    claims = [each["metadata"]["name"] for each in documents if each["kind"] == "PersistentVolumeClaim"]
    assert claims == ["spacte-models"]
    assert settings_of(documents)["SPACTE_JOB_STORAGE"] == "s3://BUCKET/PREFIX"
    pods = templates(documents)
    volumes = {volume["name"]: volume for volume in pods["gateway"]["spec"]["volumes"]}
    assert "emptyDir" in volumes["data"]
    assert "data" not in [volume["name"] for volume in pods["head"]["spec"]["volumes"]]
    gets_in = {"secretRef": {"name": secret, "optional": True}}
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
