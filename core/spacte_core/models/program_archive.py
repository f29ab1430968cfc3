"""Screening of `torch.export` archives: only what was looked at is loaded, and reading it runs nothing.

`torch.export.load` unpickles tensors that ask for it, evaluates strings as expressions and as Python
source, and looks up any function of torch by name. A classifier needs none of that. So the archive is
written anew from what a classifier does need, and anything else is refused.
"""

import ast
import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import ExportedProgram

MODEL = "models/model.json"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
PLAIN = re.compile(r"archive_format|archive_version|byteorder|\.data/\w+|data/(weights|constants)/(weight|tensor)_\d+")
OPERATORS = re.compile(
    r"torch\.ops\.aten\.(?!from_file)\w+\.\w+"
    r"|torch\.ops\.higher_order\.wrap_with_(set_grad_enabled|autocast)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|neg|eq|ne|lt|le|gt|ge)"
    r"|torch\.sym_\w+"
)
SYMBOLIC = {"Symbol", "Integer", "Add", "Mul", "Pow", "Max", "Min", "Mod", "FloorDiv", "CleanDiv", "PythonMod"}
CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


class ProgramError(ValueError):
    """An archive that is damaged or asks for more than a classifier needs; says what."""


def screened(archive: bytes) -> bytes:
    """The same program in a fresh archive that holds only what was checked.

    Raises:
        ProgramError: it is no archive of `torch.export.save`, or holds pickled objects, source or foreign operators.
    """
    entries = _entries(archive)
    fresh = io.BytesIO()
    with zipfile.ZipFile(fresh, "w") as target:
        for name, data in entries.items():
            if name == MODEL:
                data = _model(data)
            elif name in CONFIGS:
                _check_config(data)
            elif name == SAMPLE_INPUTS:
                _check_tensors(data)
            elif not PLAIN.fullmatch(name):
                raise ProgramError(f"it holds {name}, which no plain classifier needs")
            entry = zipfile.ZipInfo(f"archive/{name}")  # of no date, so that the same program is the same
            target.writestr(entry, data)
    return fresh.getvalue()


def load(archive: bytes) -> ExportedProgram:
    """The program of an archive that `screened` returned.

    Raises:
        ProgramError: torch cannot read it.
    """
    try:
        return torch.export.load(io.BytesIO(archive))
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ProgramError(f"this torch cannot load it ({type(error).__name__})") from error


def _entries(archive: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as source:
            entries = {info.filename.partition("/")[2]: source.read(info) for info in source.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise ProgramError("it is no zip archive") from error
    if MODEL not in entries:
        raise ProgramError(f"it has no {MODEL}")
    return entries


def _check_tensors(data: bytes) -> None:
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ProgramError("its sample inputs are not tensors") from error


def _check_config(data: bytes) -> None:
    for level in _dictionaries(_json(data)):
        path = level.get("path_name")
        if level.get("use_pickle") or (path is not None and not PLAIN.fullmatch(f"data/weights/{path}")):
            raise ProgramError("it holds pickled objects")


def _model(data: bytes) -> bytes:
    """The graph, without shape guards (which are source code) and stack traces (which name folders)."""
    model = _json(data)
    if not isinstance(model, dict):
        raise ProgramError("its description is damaged")
    model["guards_code"] = []
    for level in _dictionaries(model):
        if "target" in level and not OPERATORS.fullmatch(str(level["target"])):
            raise ProgramError(f"it calls {level['target']}, which is not an operator of a classifier")
        if "target" in level and "metadata" in level:
            level["metadata"] = {}
        if "expr_str" in level:
            _check_expression(level["expr_str"])
        for key, value in level.items():
            if key.endswith("name") and not re.fullmatch(r"[\w.]*", str(value)):
                raise ProgramError(f"it uses the name {value!r}")
            if key in ("in_spec", "out_spec") and value:
                for spec in _dictionaries(_json(value)):
                    if spec.get("type") not in CONTAINERS:
                        raise ProgramError(f"it takes or returns a {spec['type']}")
    return json.dumps(model).encode()


def _check_expression(text: str) -> None:
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ProgramError(f"it has the shape {text!r}") from error
    calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            fits = node.id in SYMBOLIC and id(node) in calls
        elif isinstance(node, ast.Constant):
            fits = isinstance(node.value, int) or bool(re.fullmatch(r"[su]\d+", str(node.value)))
        else:
            fits = isinstance(node, ast.Expression | ast.Call | ast.keyword | ast.Load | ast.UnaryOp | ast.USub)
        if not fits:
            raise ProgramError(f"it has the shape {text!r}")


def _json(data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise ProgramError("its description is damaged") from error


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary in nested JSON."""
    if isinstance(value, dict):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _dictionaries(child)
