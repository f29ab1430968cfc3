"""Promise: settings that contradict each other, or cannot be read, are refused with the remedy."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spacte_service import Settings
from spacte_service.server import TlsError, check_tls

CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"tls_cert": Path("cert.pem")}, "--tls-cert and --tls-key belong together"),
    ({"samplers_min": 3, "samplers": 2}, "--samplers must not be below"),
    ({"model_roots": "/models"}, "--model-roots are prefixes such as s3://bucket/models"),
    ({"model_roots": "gopher://x"}, "no driver for gopher"),
    ({"model_sources": f"digits=memory://b/digits#sha256={'a' * 64}"}, "below no prefix that is allowed .none."),
    ({"model_roots": "memory://b", "model_sources": "digits=memory://b/digits"}, "does not pin what is fetched"),
    ({"job_samplers_min": 3, "job_samplers_max": 2}, "--job-samplers-max must not be below"),
    ({"max_concurrent_requests": 4, "max_client_batch_size": 5}, "must not exceed --max-concurrent-requests"),
    ({"datasets": "cifar10"}, "is not NAME=SOURCE"),
    ({"api_keys": "alice"}, "name:scope:sha256"),
    ({"port": 65_536}, "65535"),
    ({"no_such_setting": 1}, "no_such_setting"),
]


@pytest.mark.parametrize(("values", "remedy"), CONTRADICTIONS)
def test_what_cannot_be_meant_is_refused(values: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        Settings(**values)


def test_data_sets_are_named_beside_the_digits() -> None:
    sources = Settings(datasets="cifar10=parquet:/data/cifar10,own=folder:/data=1").dataset_sources
    assert sources == {"digits": "digits", "cifar10": "parquet:/data/cifar10", "own": "folder:/data=1"}


def test_files_that_are_no_certificate_are_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no PEM")
    for cert in (tmp_path / "text", tmp_path / "none"):
        with pytest.raises(TlsError, match="as PEM files"):
            check_tls(Settings(tls_cert=cert, tls_key=cert))
    check_tls(Settings())


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_without_a_folder_of_models_nothing_is_started(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "models"
    if kind == "file":
        place.write_text("")
    command = [Path(sys.executable).with_name("spacte"), "serve", "--models", place, "--port", "0"]
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True, text=True, timeout=100)
    said = "is no folder" if kind == "file" else "does not exist"
    sentence = f"{place} {said}: name the folder that holds the models' folders with --models."
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in " ".join(done.stderr.split())
