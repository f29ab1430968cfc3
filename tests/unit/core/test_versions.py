"""Promises about versions: named where they are known, and no reason to fail where they are not."""

from importlib.metadata import PackageNotFoundError, version

import pytest

from spacte_core import versions
from spacte_core.versions import installed_version
from spacte_trainer.recipes import load_recipe
from spacte_trainer.runs import describe


def test_an_installed_distribution_has_its_version():
    assert installed_version("torch") == version("torch")
    assert installed_version("spacte-nowhere") == "unknown"


def test_a_bare_source_tree_describes_its_checkpoints(monkeypatch: pytest.MonkeyPatch):
    """On PYTHONPATH alone there is no metadata; a finished run must not be lost for that."""

    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(versions, "version", absent)
    described = describe(load_recipe("digits-gaussian"), list("0123456789"), {})
    assert described.versions["spacte_trainer"] == "unknown"
    assert described.versions["torch"] != "unknown"
