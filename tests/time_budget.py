"""A test run that ends in time: after it tests that take long are skipped and say so; the quick ones are all run."""

import os
import time
from collections.abc import Iterable

UNTIL = "TESTS_UNTIL"
"""Seconds since 1970 at which the time is up; unset: never. `.ci/run` sets it, for machines differ much in speed."""

LONG = frozenset({"slow", "long", "ray", "postgres", "browser"})
"""Markers of tests that are skipped then: what `make test-fast` leaves out."""


def why_skipped(markers: Iterable[str], until: str | None, now: float) -> str | None:
    """Why a test is not run any more; None where it is.

    Args:
        markers: the test's.
        until: what `UNTIL` says.
        now: seconds since 1970.
    """
    if not until or now < float(until) or LONG.isdisjoint(markers):
        return None
    return f"the time of this run is up ({UNTIL})"


def why_skipped_now(markers: Iterable[str]) -> str | None:
    """The same, by the clock and the environment."""
    return why_skipped(markers, os.environ.get(UNTIL), time.time())
