"""The plan of the source: no import circle, short functions and files, no package of one file, paths that exist."""

import ast
import re
from graphlib import TopologicalSorter
from itertools import chain
from pathlib import Path

import grimp
import pytest

from spacte_core.kernel_switch import NAMES

ROOT = Path(__file__).parents[2]
PACKAGES = tuple(sorted(path.parent.name for path in ROOT.glob("*/spacte_*/__init__.py")))
SOURCES = sorted(chain.from_iterable(ROOT.glob(f"*/{package}/**/*.py") for package in PACKAGES))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_LINES_OF_A_FUNCTION = 60
MOST_LINES_OF_A_FILE = 400
PATH = re.compile(
    r"`((?:client|core|trainer|workers|studies|service|tests|benchmarks|demo|docs|deploy|docker|models)/[\w./-]*)`"
)


def test_all_six_packages_are_looked_at() -> None:
    assert PACKAGES == (
        "spacte_client", "spacte_core", "spacte_service", "spacte_studies", "spacte_trainer", "spacte_workers"
    )  # fmt: skip


def test_no_import_circle() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    order = TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules})
    order.prepare()  # raises a CycleError that names the circle


@pytest.mark.parametrize("path", SOURCES + TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MOST_LINES_OF_A_FUNCTION, f"{node.name} has {lines} lines"


def test_no_package_of_one_file() -> None:
    folders = {path.parent for path in SOURCES if path.name == "__init__.py"}
    lonely = [folder for folder in folders if len([p for p in folder.iterdir() if p.suffix or p.is_dir()]) < 2]
    assert not lonely


def test_every_kernel_that_can_be_switched_off_is_described() -> None:
    readme = (ROOT / "core" / "spacte_core" / "kernels" / "README.md").read_text()
    assert [name for name in NAMES if f"-{name}`" not in readme] == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"])
def test_paths_that_are_named_exist(page: str) -> None:
    named = PATH.findall((ROOT / page).read_text())
    assert [path for path in named if not (ROOT / path).exists() and path != "demo/models/digits"] == []
