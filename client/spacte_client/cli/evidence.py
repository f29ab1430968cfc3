"""`spacte evidence`: a job as one folder that a hostile reader can check."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options as opt

if TYPE_CHECKING:
    from spacte_client._client import Client
    from spacte_client.types import CertificateRecord, Job


def evidence(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="A job that has ended.")],
    out: Annotated[Path, typer.Option(help="Folder for the bundle; it must be empty or new.")],
    base_url: opt.BaseUrl = None,
    api_key: opt.ApiKey = None,
) -> None:
    """Write a job's evidence: certificates, summary, digests, the service's signature, and a report to read and print.

    `spacte verify DIR --key PUBLIC` checks the bundle, offline.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise typer.TyperException(f"{out} is not an empty folder: choose another --out.")
    with opt.connect(base_url, api_key) as client:
        job = client.jobs.get(job_id)
        if not job.ended:
            raise typer.TyperException(f"{job_id} is {job.state}; wait for its end (`spacte jobs watch {job_id}`).")
        out.mkdir(parents=True, exist_ok=True)
        signed = write_bundle(client, job, out)
    typer.echo(f"{out}: {'signed by the service' if signed else 'NOT signed: the service has no signing keys'}.")


def write_bundle(client: "Client", job: "Job", out: Path) -> bool:
    """Fetch everything about an ended job and write its bundle; whether the service has signed it."""
    from spacte_client._exceptions import NotFoundError
    from spacte_client.bundles import ATTESTATION, CERTIFICATES, JOB_FILE, KEYS, MODEL, REPORT, SUMMARY, write_json
    from spacte_client.report import report_html

    client.jobs.results_file(job.id, out / CERTIFICATES)
    summary, model = client.jobs.summary(job.id), client.models.get(job.model)
    records = certificates_of(out / CERTIFICATES)
    if not records:
        raise typer.TyperException(f"{job.id} has no certificate; there is nothing to give evidence of.")
    write_json(out / SUMMARY, summary.model_dump(mode="json"))
    write_json(out / JOB_FILE, job.model_dump(mode="json"))
    # The job keeps the version that it began with; what is served by now may be another one.
    write_json(out / MODEL, model.model_dump(mode="json") | {"version": job.model_version})
    keyid = None
    try:
        envelope = client.jobs.attestation(job.id)
    except NotFoundError:
        pass
    else:
        keyid = envelope.signatures[0].keyid
        write_json(out / ATTESTATION, envelope.model_dump(mode="json"))
        (out / KEYS).write_text("".join(key.public_key for key in client.signing_keys()))
    manifest = manifest_of(job, records[0], out, keyid, summary.statement)
    (out / REPORT).write_text(report_html(job, summary, model, records, manifest), encoding="utf-8")
    finish(out, manifest)
    return keyid is not None


def certificates_of(path: Path) -> "list[CertificateRecord]":
    """The images of a results file that have a certificate or an abstention."""
    from spacte_client.types import CertificateRecord

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [CertificateRecord.model_validate(line) for line in lines if line["outcome"] != "errored"]


def manifest_of(
    job: "Job", first: "CertificateRecord", out: Path, keyid: str | None, statement: str | None
) -> dict[str, Any]:
    """What the bundle is about, with the digests of the files that are written so far."""
    from datetime import UTC, datetime

    from spacte_client._version import __version__
    from spacte_client.signatures import sha256_of

    return {
        "schema_version": 1,
        "job": job.id,
        "model": {"name": job.model, "version": job.model_version},
        "input_sha256": job.input_sha256,
        "statement": statement,
        "keyid": keyid,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {**first.versions, "spacte-client": __version__},
        "files": {path.name: sha256_of(path) for path in sorted(out.iterdir())},
    }


def finish(out: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, which also names the report."""
    from spacte_client.bundles import MANIFEST, REPORT, write_json
    from spacte_client.signatures import sha256_of

    files = {**manifest["files"], REPORT: sha256_of(out / REPORT)}
    write_json(out / MANIFEST, {**manifest, "files": files})
