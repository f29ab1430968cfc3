"""Promise: a kernel is compiled once, a failure is logged with the compiler's words, and slower code does its work."""

import ctypes
import logging
from pathlib import Path

import pytest
import torch

from spacte_core.kernels import compiler
from spacte_core.kernels.compiler import call, compile_library

SOURCE = """
#include <cstdint>
extern "C" int64_t second(const int64_t* values, int64_t scale, const void* nothing) {
    return nothing ? 0 : values[1] * scale;
}
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "second.cpp"
    path.write_text(SOURCE)
    return path


def test_a_library_is_compiled_once_and_called(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = compile_library(source, "-DFIRST")
    if library is None:
        pytest.skip("there is no C++ compiler on this machine")
    library.second.restype = ctypes.c_int64
    assert call(library.second, torch.tensor([3, 4]), 1 << 40, None) == 4 << 40
    assert [path.suffix for path in (source.parent / "cache" / "spacte").iterdir()] == [".so"]
    monkeypatch.setattr(compiler.subprocess, "run", lambda *_, **__: pytest.fail("it is compiled again"))
    assert compile_library.__wrapped__(source, "-DFIRST") is not None


def test_a_changed_header_makes_another_library(source: Path) -> None:
    source.write_text('#include "factor.h"\nextern "C" int factor() { return FACTOR; }\n')
    for factor in (2, 3):
        source.with_name("factor.h").write_text(f"#define FACTOR {factor}\n")
        library = compile_library.__wrapped__(source)
        if library is None:
            pytest.skip("there is no C++ compiler on this machine")
        assert library.factor() == factor


def test_errors_of_the_compiler_are_logged(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    source.write_text("no C++")
    with caplog.at_level(logging.WARNING):
        compiled = compile_library(source)
    assert compiled is None
    if compiler.shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler on this machine")
    message = caplog.messages[0]
    assert message.startswith("second.cpp does not compile, so that slower code does its work: ")
    assert "error" in message
    assert len(message.splitlines()) <= compiler.LOGGED_LINES


def test_a_library_that_does_not_load_is_logged(
    source: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(source))  # a file: no folder can be made in it
    assert compile_library(source, "-DOTHER") is None
    assert ("second.cpp does not compile" in caplog.text) == (compiler.shutil.which("c++") is not None)


def test_what_the_processor_lacks_is_no_error(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    source.write_text("no C++")
    assert compile_library(source, needs=("an instruction set of tomorrow",)) is None
    assert not caplog.messages


def test_without_a_compiler_there_is_no_library(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.shutil, "which", lambda _: None)
    assert compile_library(source, "-DNONE") is None
