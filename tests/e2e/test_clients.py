"""Clients that others wrote against a live gateway: generated ones, readers of streams and metrics, load generators."""

import base64
import csv
import importlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
GENERATOR = shutil.which("openapi-python-client")


@pytest.fixture(scope="module")
def image(models: Path) -> bytes:
    """A sample of the model, which always answers class 2."""
    return (models / "digits" / "samples" / "00005-2.png").read_bytes()


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The package that openapi-python-client makes of the committed description, imported."""
    if GENERATOR is None:
        pytest.skip("uv tool install openapi-python-client: it and typer of today cannot be installed together")
    folder = tmp_path_factory.mktemp("generated")
    description = REPO / "service" / "openapi.json"
    command = [GENERATOR, "generate", "--path", str(description), "--output-path", str(folder / "project")]
    subprocess.run(command, check=True, capture_output=True, text=True)
    packages = [made.parent for made in (folder / "project").glob("*/client.py")]
    assert [package.name for package in packages] == ["spacte_http_api_client"], "it must not shadow the SDK"
    sys.path.insert(0, str(folder / "project"))
    yield importlib.import_module(packages[0].name)
    sys.path.remove(str(folder / "project"))


@pytest.fixture
def parts(generated: ModuleType, address: str) -> Iterator[tuple[Any, ModuleType, ModuleType]]:
    """A client, and its modules of bodies and of files."""
    modules = [importlib.import_module(f"{generated.__name__}.{name}") for name in ("models", "types")]
    with generated.Client(base_url=address, timeout=60) as client:
        yield client, modules[0], modules[1]


def call(package: ModuleType, route: str, client: Any, *arguments: Any, **named: Any) -> Any:
    """The answer of a route by its generated function."""
    return importlib.import_module(f"{package.__name__}.api.{route}").sync(*arguments, client=client, **named)


def test_a_generated_client_certifies(
    generated: ModuleType, parts: tuple[Any, ModuleType, ModuleType], image: bytes
) -> None:
    client, kinds, types = parts
    source = kinds.Base64Image(data=base64.b64encode(image).decode(), type_="base64")
    certificate = call(generated, "answers.certify", client, body=kinds.CertifyRequest(image=source, n=500))
    assert (certificate.label, certificate.n) == (2, 500)
    form = kinds.CertifyFilesBody(
        image=types.File(payload=image, file_name="digit.png"), params=kinds.CertifyParams(n=400)
    )
    assert call(generated, "answers.certify", client, body=form).n == 400
    prediction = call(generated, "answers.predict", client, body=kinds.PredictRequest(image=source, n=100))
    assert prediction.label == 2
    problem = call(generated, "answers.certify", client, body=kinds.CertifyRequest(image=source, model="nobody"))
    assert (problem.status, problem.code) == (404, "model_not_found")


def test_a_generated_client_runs_a_job(
    generated: ModuleType, parts: tuple[Any, ModuleType, ModuleType], image: bytes, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("digit.png", image)
    client, kinds, types = parts
    packed = types.File(payload=(tmp_path / "one.zip").read_bytes(), file_name="one.zip")
    file = call(generated, "files.upload_file", client, body=kinds.UploadFileBody(file=packed))
    asked = kinds.JobRequest(input_=kinds.FileInput(file_id=file.id, type_="file"), params=kinds.CertifyParams(n=100))
    job = call(generated, "jobs.create_job", client, body=asked)
    assert job.state == "queued"
    assert [each.id for each in call(generated, "jobs.list_jobs", client).data] == [job.id]
    assert call(generated, "jobs.get_job", client, job.id).model == "digits"
    assert "digits" in call(generated, "models.info", client).datasets


def test_httpx_sse_reads_a_proof(address: str, image: bytes) -> None:
    import httpx
    from httpx_sse import connect_sse

    form = {"files": {"image": image}, "data": {"params": '{"n": 20000}'}}
    with (
        httpx.Client(timeout=60) as client,
        connect_sse(client, "POST", f"{address}/v1/certify/stream", **form) as source,
    ):
        events = list(source.iter_sse())
    kinds = [event.event for event in events]
    assert (kinds[0], kinds[-1]) == ("started", "result")
    assert set(kinds[1:-1]) <= {"progress"}
    assert events[-1].json()["label"] == 2


def test_prometheus_reads_the_metrics(address: str, image: bytes) -> None:
    import httpx2
    from prometheus_client.parser import text_string_to_metric_families

    httpx2.post(f"{address}/v1/certify", files={"image": image}, timeout=60).raise_for_status()
    families = {family.name: family for family in text_string_to_metric_families(httpx2.get(f"{address}/metrics").text)}
    assert families["spacte_certify_duration_seconds"].type == "histogram"
    assert families["spacte_queue_depth"].type == "gauge"
    drawn = families["spacte_samples_drawn"]
    assert drawn.type == "counter"
    assert sum(sample.value for sample in drawn.samples if sample.name.endswith("_total")) >= 1000
    for family in families.values():
        assert family.documentation, family.name
        assert family.name.startswith(("spacte_", "process_", "python_")), family.name


def test_locust_puts_load_on_it(address: str, tmp_path: Path) -> None:
    locust = Path(sys.executable).with_name("locust")
    command = [
        str(locust),
        "-f",
        "benchmarks/locustfile.py",
        "--host",
        address,
        "--headless",
        "-u",
        "4",
        "-r",
        "4",
        "-t",
        "5s",
    ]
    command += ["--model", "digits", "--noises", "200", "--csv", str(tmp_path / "load"), "--exit-code-on-error", "1"]
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    with (tmp_path / "load_stats.csv").open() as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    assert int(rows["/v1/certify"]["Request Count"]) > 0
    assert rows["/v1/certify"]["Failure Count"] == "0"
