"""Promise: the collector is put off for a block, and is back after it, whatever ends it and whoever overlaps."""

import gc
from contextlib import ExitStack

import pytest

from spacte_core.collector import collecting_later


def test_it_is_back_after_the_block() -> None:
    with collecting_later():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(KeyError), collecting_later():
        raise KeyError
    assert gc.isenabled()


def test_blocks_that_overlap_leave_it_on() -> None:
    """As those of two threads: the one that began first ends first."""
    first, second = ExitStack(), ExitStack()
    first.enter_context(collecting_later())
    second.enter_context(collecting_later())
    first.close()
    assert not gc.isenabled()
    second.close()
    assert gc.isenabled()


def test_what_an_operator_has_turned_off_stays_off() -> None:
    gc.disable()
    try:
        with collecting_later():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
