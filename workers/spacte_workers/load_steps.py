"""Which step a load of a model is at. Told from deep inside the engine, whose callers need not pass it on. Light."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import get_args

from spacte_client.types import LoadStepName

STEPS: tuple[LoadStepName, ...] = get_args(LoadStepName)
"""In their order."""


@dataclass(frozen=True, slots=True)
class LoadStep:
    """One step of a load: its name, and in a few words what is done now."""

    name: LoadStepName
    doing: str

    @property
    def number(self) -> int:
        """Which of the steps it is, from 1."""
        return STEPS.index(self.name) + 1

    def __str__(self) -> str:
        return f"step {self.number} of {len(STEPS)}, {self.doing}"


Tell = Callable[[LoadStep], None]
"""Told each step when it begins; what it raises ends the load."""

_told: ContextVar[Tell | None] = ContextVar("told", default=None)


@contextmanager
def telling(tell: Tell | None) -> Generator[None]:
    """Tell the steps that begin in this block, in this thread."""
    token = _told.set(tell)
    try:
        yield
    finally:
        _told.reset(token)


def begin(name: LoadStepName, doing: str) -> None:
    """Say that a step begins, to whoever wants to know."""
    tell = _told.get()
    if tell is not None:
        tell(LoadStep(name, doing))


def nobody(_: LoadStep) -> None:
    """A `Tell` for whom it does not matter."""
