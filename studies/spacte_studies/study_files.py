"""A study as a file: cells of recipes, overrides and seeds, and how they are certified.

title: Heads on the digits
seeds: [0, 1]
certify: {every: 20, n0: 100, n: 1000, alpha: 0.001, radii: [0, 0.25, 0.5]}
cells:
  - {name: one head, recipe: digits-gaussian, sigma: 0.25}
  - {name: five heads, recipe: digits-spacte-gaussian, sigma: 0.25, published: 0.5}

YAML or JSON; or a Python file that assigns the same to STUDY.
"""

import re
import runpy
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spacte_core.errors import UserError, reason
from spacte_trainer.config import SIGMA_LEAST, SIGMA_MOST

from .tables import DIGITS, Protocol, Setting, Table

Radius = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]


class StudyFileError(UserError):
    """The file is no study; one sentence that names the remedy."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class _Loader(yaml.SafeLoader):
    """YAML in which a key may stand once: of two, only the last would be seen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"{twice} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


class CertifyPart(_Part):
    """How every cell is certified; the defaults are those of the digits' tables."""

    every: int = Field(default=DIGITS.every, ge=1, strict=True, description="Every how many-th test image.")
    n0: int = Field(default=DIGITS.n0, ge=1, strict=True, description="Selection noises.")
    n: int = Field(default=DIGITS.n, ge=1, strict=True, description="Estimation noises.")
    alpha: float = Field(
        default=DIGITS.alpha, gt=0, lt=1, strict=True, description="Probability of a false certificate."
    )
    radii: list[Radius] = Field(default=list(DIGITS.radii), min_length=1, description="Where accuracy is shown.")


class CellPart(_Part):
    """A row of the table."""

    name: str = Field(min_length=1, max_length=150, description="What the row is called; unique for a sigma.")
    recipe: str = Field(description="As `spacte recipes` lists it, or of a package's entry point `spacte.recipes`.")
    sigma: float = Field(
        ge=SIGMA_LEAST, le=SIGMA_MOST, strict=True, description="Noise level in units of [0, 1] pixels."
    )
    set: dict[str, Any] = Field(default_factory=dict[str, Any], description="Overrides, as `spacte train --set`.")
    published: float | None = Field(
        default=None, ge=0, strict=True, description="A published ACR, to be shown beside ours."
    )


class StudyPart(_Part):
    """The file as a whole."""

    title: str = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**63, strict=True)]] = Field(default=[0], min_length=1)
    certify: CertifyPart = Field(default_factory=CertifyPart)
    cells: list[CellPart] = Field(min_length=1)


def read_study(path: Path) -> Table:
    """The table that a file describes.

    Raises:
        StudyFileError: it cannot be read, or a field is not as it should be.
    """
    try:
        found = _of_python(path) if path.suffix == ".py" else yaml.load(path.read_text(), _Loader)  # noqa: S506
        study = StudyPart.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise StudyFileError(f"{path}: {where}: {first['msg']}.") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StudyFileError(f"{path} cannot be read as a study: {' '.join(str(error).split())}") from error
    if len(set(study.seeds)) < len(study.seeds):
        raise StudyFileError(f"{path}: seeds: one stands there twice, and would count as another training.")
    for cell in study.cells:
        if fixed := {"seed", "sigma"} & cell.set.keys():
            name = min(fixed)
            raise StudyFileError(f"{path}: cell {cell.name!r}: {name} is no setting for `set`: the study has its own.")
    protocol = Protocol(**{**study.certify.model_dump(), "radii": tuple(study.certify.radii)})
    settings = tuple(_setting(path.stem, cell, protocol) for cell in study.cells)
    names = [setting.folder_name(0).lower() for setting in settings]  # one folder where a file system ignores case
    if twice := {name for name in names if names.count(name) > 1}:
        raise StudyFileError(
            f"{path}: two cells are called {min(twice)!r}: give each a name of its own, in whose folder's name only "
            "letters from A to Z, large or small, and digits count."
        )
    return Table(study.title, settings, tuple(study.seeds))


def _of_python(path: Path) -> object:
    """What the file assigns to STUDY."""
    try:
        names = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:  # a user's own code, perhaps one that takes our options for its own
        raise StudyFileError(f"{path} cannot be run: {reason(error)}") from error
    if "STUDY" not in names:
        raise StudyFileError(f"{path} assigns nothing to STUDY: let it be a dictionary, as a YAML file has it.")
    return names["STUDY"]


def _setting(study: str, cell: CellPart, protocol: Protocol) -> Setting:
    changes = tuple(cell.set.items())
    data = f"{_slug(study)}-study" if _slug(study) == "digits" else _slug(study)  # not the built-in table's
    return Setting(data, _slug(cell.name), cell.sigma, protocol, cell.published, cell.recipe, changes, cell.name)


def _slug(name: str) -> str:
    """A name as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-") or "cell"
