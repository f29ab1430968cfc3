"""One vector file: its arrays, its tolerance, and the verdict on what the library makes of it."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Value = Any
"""A tensor, a number or a list of numbers."""


@dataclass
class Case:
    """An entry of index.json with the file that it names; `case["x"]` is an array as a tensor."""

    folder: Path
    entry: dict[str, Any]

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        """All arrays of an npz file."""
        with np.load(self.folder / self.entry["file"]) as file:
            return {name: torch.from_numpy(np.array(file[name])) for name in file.files}

    @cached_property
    def document(self) -> dict[str, Any]:
        """The JSON of a json file, or beside an npz file."""
        return json.loads((self.folder / self.entry.get("spec", self.entry["file"])).read_text())

    @property
    def function(self) -> str:
        """Which function the file is about."""
        return self.entry["function"]

    @property
    def outputs(self) -> set[str]:
        """Names of the outputs of an npz file: each has to be compared."""
        return set(self.entry.get("outputs", ())) if self.entry["file"].endswith(".npz") else set()

    @property
    def tolerance(self) -> tuple[float, float]:
        """(relative, absolute)."""
        text = self.entry.get("tolerance") or ""
        single = "float32" in self.entry.get("dtype", "")
        relative = re.search(r"(?:rtol|relative)\s+([\d.e+-]+)", text)
        absolute = re.search(r"atol\s+([\d.e+-]+)", text)
        default = (1e-5, 1e-7) if single else (1e-9, 1e-11)
        return (float(relative[1]) if relative else default[0], float(absolute[1]) if absolute else default[1])

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def number(self, name: str) -> float:
        """A scalar array as a float."""
        return float(self.arrays[name])

    def whole(self, name: str) -> int:
        """A scalar array as an int."""
        return int(self.arrays[name])


Comparison = tuple[str, Value, Value]
"""What is compared, what the library says, what the file says."""

CHECKS: dict[str, Callable[[Case], Iterator[Comparison]]] = {}
"""By function: yields every comparison of a case."""


def checks(*functions: str) -> Callable[[Callable[[Case], Iterator[Comparison]]], Callable[..., Any]]:
    """Register a generator of comparisons for these functions."""

    def register(check: Callable[[Case], Iterator[Comparison]]) -> Callable[[Case], Iterator[Comparison]]:
        CHECKS.update(dict.fromkeys(functions, check))
        return check

    return register


@dataclass
class Outcome:
    """The verdict on a file."""

    file: str
    state: str
    notes: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """One line for people."""
        word = {"pass": "ok", "FAIL": "FAILED", "none": "not implemented"}[self.state]
        return f"{self.file}: {word}" + (f" ({'; '.join(self.notes)})" if self.notes else "")


def check(case: Case) -> Outcome:
    """Compare everything that the file holds; an output that no comparison covered is a failure too."""
    file = case.entry["file"]
    if case.function not in CHECKS:
        return Outcome(file, "none", [case.function])
    rtol, atol = case.tolerance
    failures: list[str] = []
    seen: set[str] = set()
    try:
        for name, got, want in CHECKS[case.function](case):
            seen.add(name)
            if difference := _difference(got, want, rtol, atol):
                failures.append(f"{name}: {difference}")
    except NotImplementedError as error:
        return Outcome(file, "none", [str(error)])
    except Exception as error:  # noqa: BLE001 - a check that breaks is a failed file, and the others still run
        failures.append(f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}")
    failures += [f"{name}: never compared" for name in sorted(case.outputs - seen)]
    if not seen:
        failures.append("nothing was compared")
    return Outcome(file, "FAIL" if failures else "pass", failures or [f"{len(seen)} compared"])


def _difference(got: Value, want: Value, rtol: float, atol: float) -> str:
    """What is wrong, or nothing."""
    got, want = (torch.as_tensor(value).detach() for value in (got, want))
    if got.shape != want.shape:
        return f"shape {list(got.shape)} instead of {list(want.shape)}"
    if not want.is_floating_point():
        return "" if torch.equal(got.to(want.dtype), want) else f"{got.tolist()} instead of {want.tolist()}"
    if got.dtype != want.dtype:
        return f"{got.dtype} instead of {want.dtype}"
    if torch.allclose(got, want, rtol=rtol, atol=atol, equal_nan=False):
        return ""
    return f"off by {(got - want).abs().max().item():.3g} at a scale of {want.abs().max().item():.3g}"
