"""Kernels made on the machine: C++ by its own compiler, once, and whether Triton could."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from spacte_core.hardware import cpu_flags, cpu_name

FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC")
COMPILE_SECONDS = 120


@cache
def compiled(source: Path, *options: str) -> ctypes.CDLL | None:
    """The library of a source file, from the user's cache folder or made now in seconds; None where it cannot be.

    With `-fopenmp`, OpenMP's library has the name of the one that PyTorch has loaded already, so both share their
    threads.

    Args:
        source: one C++ file.
        options: of the compiler, besides those of every library.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    try:
        command = [compiler, *FLAGS, *options]
        # A home that several machines share keeps a library for each kind of processor.
        made_from = source.read_bytes() + " ".join((*command, _processor())).encode()
        name = hashlib.sha256(made_from).hexdigest()[:16]
        folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "spacte"
        library = folder / f"{source.stem}_{name}.so"
        if not library.exists():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                part = Path(scratch) / "part.so"
                command += ["-o", str(part), str(source)]
                subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)  # noqa: S603
                part.replace(library)  # in one step: other processes may be at it too
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError, RuntimeError):
        return None


def _processor() -> str:
    """What `-march=native` goes by."""
    return f"{platform.machine()} {cpu_name()} {' '.join(sorted(cpu_flags()))}"
