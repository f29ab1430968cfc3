"""Promise: the library reproduces every reference vector, and the check that says so can fail."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parent / "conformance.py"
VECTORS = Path(__file__).parents[2] / "shared" / "reference" / "vectors"
needs_vectors = pytest.mark.skipif(
    not VECTORS.is_dir(), reason="../shared/reference/vectors is not beside the checkout"
)


def conformance(folder: Path) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_vectors
def test_every_vector_is_reproduced() -> None:
    status, lines = conformance(VECTORS)
    files = json.loads((VECTORS / "index.json").read_text())["files"]
    assert lines[-1] == f"{len(files)} passed, 0 failed, 0 not implemented", "\n".join(lines)
    assert status == 0


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """A set of two small files, one of which holds a wrong number, and one of an unknown function."""
    wanted = {"cosine_loss": "loss", "smoothadv_pgd_jeong": "adv"}
    files = json.loads((VECTORS / "index.json").read_text())["files"]
    chosen = [next(entry for entry in files if entry["function"] == function) for function in wanted]
    for entry in chosen:
        shutil.copy(VECTORS / entry["file"], tmp_path)
    with np.load(tmp_path / chosen[1]["file"]) as file:
        arrays = dict(file)
    arrays["adv"] = arrays["adv"] * (1 + 1e-8)
    np.savez(tmp_path / chosen[1]["file"], **arrays)
    unknown = {**chosen[0], "function": "no_such_function"}
    (tmp_path / "index.json").write_text(json.dumps({"files": [*chosen, unknown]}))
    return tmp_path


@pytest.mark.slow
@pytest.mark.shared
@needs_vectors
def test_a_wrong_number_fails_and_an_unknown_function_is_said(vectors: Path) -> None:
    status, lines = conformance(vectors)
    assert status == 1
    assert ": ok (" in lines[0]
    assert "FAILED (adv: off by" in lines[1]
    assert "not implemented (no_such_function)" in lines[2]
    assert lines[-1] == "1 passed, 1 failed, 1 not implemented"
