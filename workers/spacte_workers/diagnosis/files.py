"""A diagnosis beside its model, from where the gateway shows it. It is no part of the model's version."""

from pathlib import Path

from pydantic import ValidationError

from spacte_client.types import Diagnosis
from spacte_core.files import replace_file

FILE = "diagnosis.json"


def read_diagnosis(folder: Path) -> Diagnosis | None:
    """The diagnosis in a model's folder; None where there is none that can be read."""
    try:
        return Diagnosis.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def write_diagnosis(folder: Path, diagnosis: Diagnosis) -> None:
    """Put it there; raises OSError where the folder cannot be written."""
    replace_file(folder / FILE, (diagnosis.model_dump_json(indent=2) + "\n").encode())
