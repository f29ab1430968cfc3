"""`spacte reproduce`: the tables of the papers, trained and certified here in slices, beside what was published.

Names are imported when they are first used, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .merging import merge
    from .study import Study, TimeSlice
    from .tables import TABLES, Protocol, Setting, Table

__all__ = ["TABLES", "Protocol", "Setting", "Study", "Table", "TimeSlice", "merge"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = {"merge": "merging", "Study": "study", "TimeSlice": "study"}.get(name, "tables")
    return getattr(import_module(f".{home}", __name__), name)
