"""What earlier loads of a classifier chose on this kind of machine: the next one need not measure and fit again.

An entry is found by everything that the choice hangs on: the network's code and weights, the calibration rows, what was
asked for, the processor, the software. It saves work and no check: the form is held to be one fixed function at every
load. Entries lie in the user's cache folder, not beside the checkpoint, which may be read-only or signed as it is.
"""

import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import fx, nn

from spacte_core.files import cache_folder, replacing
from spacte_core.forms import Classifier, Form, logits_of
from spacte_core.hardware import cpu_flags, cpu_name
from spacte_core.kernel_switch import kernels_enabled

from .calibration import Calibration
from .forms import forms
from .selection import SelectedForm
from .self_checks import is_one_function, same_logits

VARIABLE = "SPACTE_LOAD_CACHE"
"""`off` chooses anew at every load."""

_LAYOUT = 1  # of an entry
_KEPT = 64  # entries, the latest. Chosen: more models than a machine serves; one of int8 has as many bytes as weights
_ENVIRONMENT = ("SPACTE_CPU", "SPACTE_KERNELS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Variables by which kernels are chosen."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadCache:
    """The entry of one classifier, for what is asked of it.

    Attributes:
        classifier: on its device.
        rows: its calibration rows.
        path: of the entry's file; None where there is no cache.
    """

    classifier: Classifier
    rows: Calibration
    path: Path | None

    @classmethod
    def of(cls, classifier: Classifier, rows: Calibration, asked: dict[str, Any]) -> Self:
        """The entry.

        Args:
            classifier: on its device.
            rows: its calibration rows.
            asked: the options of `select_form`.
        """
        if os.environ.get(VARIABLE, "").strip().lower() == "off":
            return cls(classifier, rows, None)
        key = hashlib.sha256()
        for part in (_LAYOUT, sorted(asked.items()), *_machine(rows.compared.device), *_content(classifier, rows)):
            key.update(part if isinstance(part, bytes) else f"{part}\n".encode())
        return cls(classifier, rows, cache_folder() / "loads" / f"{key.hexdigest()[:32]}.pt")

    def load(self) -> SelectedForm | None:
        """What was chosen, made and checked again; None where nothing is known, or it does not pass its checks here."""
        if self.path is None or not self.path.exists():
            return None
        try:
            entry = torch.load(self.path, weights_only=True)
            fit, chosen = entry["fit"], entry["chosen"]
            if fit is not None and not self._take_fit(fit):
                return None
        except Exception as error:  # noqa: BLE001  a file that was cut or is of another layout fails in any way it likes
            _log.warning("what an earlier load chose cannot be read, so that it is chosen again: %s", error)
            return None
        form = self._made(chosen["precision"], chosen["form"], chosen["batch"])
        if form is None:
            return None
        small = None
        if chosen["small"] is not None:
            other = replace(form, batch=chosen["small"]) if form.any_batch else None
            small = other or self._made(chosen["precision"], chosen["form"], chosen["small"])
            rows_NCHW = self.rows.compared[: form.batch]
            if small is None or not same_logits(logits_of(small, rows_NCHW), logits_of(form, rows_NCHW)):
                return None
        os.utime(self.path)  # one of the latest
        return SelectedForm(form, small, chosen["vote_agreement"])

    def keep(self, selected: SelectedForm) -> None:
        """Write the entry; a folder that cannot be written is told in the log."""
        if self.path is None:
            return
        form, small = selected.form, selected.small
        chosen = {"form": form.name, "precision": form.precision, "batch": form.batch}
        chosen |= {"small": small and small.batch, "vote_agreement": selected.vote_agreement}
        fit = self.classifier.fitted.get("int8") if form.precision == "int8" else None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Threads of one process may load the same model: each has a name of its own until its file is whole.
            part = self.path.with_suffix(f".{threading.get_ident()}")
            with replacing(part, mode=0o600) as file:
                torch.save({"chosen": chosen, "fit": None if fit is None else fit.as_plain()}, file)
            part.replace(self.path)
            for old in sorted(self.path.parent.glob("*.pt"), key=lambda path: -path.stat().st_mtime)[_KEPT:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("the next load of this model is as slow as this one: %s", error)

    def _take_fit(self, plain: Any) -> bool:
        from spacte_core.kernels.int8.form import Fit

        fit = Fit.of_plain(plain, self.rows.fitted)
        if fit is not None:
            self.classifier.fitted["int8"] = fit
        return fit is not None

    def _made(self, precision: str, name: str, batch: int) -> Form | None:
        for form in forms(self.classifier, precision, batch, self.rows.fitted, only=name):
            if is_one_function(form, self.rows.compared):
                return form
        return None


def _machine(device: torch.device) -> Iterator[Any]:
    """Processor, threads and software."""
    yield torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    yield from (cpu_name(), sorted(cpu_flags()), torch.get_num_threads(), torch.__version__, _sources())
    yield [os.environ.get(name, "") for name in _ENVIRONMENT]


def _content(classifier: Classifier, rows: Calibration) -> Iterator[Any]:
    """Code and weights of the parts, and the rows."""
    yield classifier.encoding
    for part in (classifier.trunk, *classifier.heads):
        yield part.code if isinstance(part, fx.GraphModule) else part
        for name, module in part.named_modules():
            yield name, type(module).__qualname__
            yield from _code(module)
        for name, value in part.state_dict().items():
            yield name
            if isinstance(value, torch.Tensor):
                yield str((value.dtype, tuple(value.shape)))
                yield _bytes(value)
    yield _bytes(rows.fitted)
    yield _bytes(rows.compared)


def _code(module: nn.Module) -> Iterator[Any]:
    """What the module computes, as far as its own lines go."""
    code = getattr(type(module).forward, "__code__", None)
    if code is not None:
        yield code.co_code
        yield code.co_names, [constant for constant in code.co_consts if isinstance(constant, int | float | str)]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@cache
def _sources() -> str:
    """A digest of the modules and kernels that make and choose forms: in another version of them nothing is known."""
    folders = [Path(__file__).parent]
    if kernels_enabled():
        from spacte_core import kernels

        folders.append(Path(kernels.__file__).parent)
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".cpp", ".h"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
