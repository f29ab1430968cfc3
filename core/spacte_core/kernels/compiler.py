"""Compiles a C++ kernel once, with the machine's own compiler, and calls it."""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from spacte_core.files import cache_folder
from spacte_core.hardware import cpu_flags, cpu_name

_log = logging.getLogger(__name__)

FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC")
COMPILE_SECONDS = 120  # chosen: thirty times what the slowest kernel takes (4 s on an AMD EPYC with both cores busy)
LOGGED_LINES = 3  # chosen: the first error of a compiler, with the line of source that it quotes


@cache
def compile_library(source: Path, *options: str, needs: tuple[str, ...] = ()) -> ctypes.CDLL | None:
    """The library of a source file, from the user's cache folder or compiled now.

    With `-fopenmp`, OpenMP's library has the name of the one that PyTorch has loaded, so that both share their threads.

    Args:
        source: one C++ file, which may include headers of its folder.
        options: of the compiler, besides `FLAGS`.
        needs: instruction sets, as Linux spells them, without which there is no use in compiling.

    Returns:
        None where the processor lacks an instruction set or there is no compiler, and, with a warning in the log, where
        the compiler or the loader fails.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or not cpu_flags().issuperset(needs):
        return None
    command = [compiler, *FLAGS, *options]
    try:
        # A home folder that several machines share keeps a library for each kind of processor, which is what
        # -march=native compiles for.
        processor = f"{platform.machine()} {cpu_name()} {' '.join(sorted(cpu_flags()))}"
        sources = b"".join(path.read_bytes() for path in (source, *sorted(source.parent.glob("*.h"))))
        key = hashlib.sha256(sources + " ".join((*command, processor)).encode()).hexdigest()[:16]
        folder = cache_folder()
        library = folder / f"{source.stem}_{key}.so"
        if not library.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                part = Path(scratch) / "part.so"
                command += ["-o", str(part), str(source)]
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS)  # noqa: S603
                part.replace(library)  # in one step: other processes may be compiling it, too
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        first = "\n".join(said.strip().splitlines()[:LOGGED_LINES])
        _log.warning("%s does not compile, so that slower code does its work: %s", source.name, first)
        return None


def call(function: Any, *arguments: Any) -> Any:
    """Call a C function: ints and bools are passed as int64_t, tensors as pointers, None as a null pointer.

    Structures, arrays and numbers of `ctypes` are passed as they are.
    """
    return function(*map(_c_value, arguments))


def _c_value(value: Any) -> Any:
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.c_void_p(value.data_ptr()) if isinstance(value, Tensor) else value
