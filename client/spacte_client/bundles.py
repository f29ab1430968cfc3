"""A job's evidence on disk: the names of its files, and whether they are what the service signed.

certificates.ndjson   the results as the service sent them, a certificate a line
summary.json          what they show together
model.json, job.json  what the service says of the model, and of the job with its input
attestation.json      the service's signature over all of that (a DSSE envelope)
signing-keys.pem      the service's public keys, for convenience: trust those that you have from elsewhere
manifest.json         the SHA-256 of every file, versions, and the statement of the joint claim
report.html           the same for people
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .signatures import JOB, PublicKey, SignatureError, opened, same_json, sha256_of, strict_json

CERTIFICATES, SUMMARY, JOB_FILE, MODEL = "certificates.ndjson", "summary.json", "job.json", "model.json"
ATTESTATION, KEYS, MANIFEST, REPORT = "attestation.json", "signing-keys.pem", "manifest.json", "report.html"


def check_bundle(folder: Path, keys: Sequence[PublicKey]) -> list[str]:
    """What in a bundle is not as the service signed it, one sentence a point; empty where all is."""
    try:
        signed = opened(_read(folder / ATTESTATION), keys, JOB)
        manifest = _read(folder / MANIFEST)
        findings = [
            f"{name}: it is not the file that the manifest names."
            for name, digest in manifest["files"].items()
            if not (folder / name).is_file() or sha256_of(folder / name) != digest
        ]
        digests = {subject["name"]: subject["digest"]["sha256"] for subject in signed["subject"]}
        if sha256_of(folder / CERTIFICATES) != digests.get("results.ndjson"):
            findings.append(f"{CERTIFICATES}: these are not the results that were signed.")
        for name, field in ((SUMMARY, "summary"), (JOB_FILE, "job")):
            if not same_json(_read(folder / name), signed["predicate"][field]):
                findings.append(f"{name}: it is not what was signed.")
        model = _read(folder / MODEL)
        if digests.get(f"model/{model['name']}") != model["version"]:
            findings.append(f"{MODEL}: it is not the model that was signed.")
    except SignatureError as error:
        return [str(error)]
    except (OSError, KeyError, TypeError, AttributeError) as error:
        return [f"{folder.name}: it is no whole bundle ({error})."]
    return findings


def write_json(path: Path, value: Any) -> None:
    """A JSON file that people can read, too."""
    path.write_text(json.dumps(value, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any]:
    return strict_json(path.read_bytes())
