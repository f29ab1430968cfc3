"""Promise: a test run with an end leaves out what takes long, and nothing else, once its time is up."""

import pytest
from tests.time_budget import LONG, UNTIL, why_skipped

pytest_plugins = ["pytester"]


@pytest.mark.parametrize("until", [None, "", "1000.5"])
def test_before_its_end_everything_is_run(until: str | None) -> None:
    assert all(why_skipped([marker], until, 1000) is None for marker in LONG)


def test_after_its_end_quick_tests_are_run() -> None:
    assert all(why_skipped(["parametrize", marker], "1000", 1000) for marker in LONG)
    assert why_skipped([], "1000", 2000) is None
    assert why_skipped(["parametrize", "shared"], "1000", 2000) is None


@pytest.mark.slow
def test_they_say_why(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """With the hook that the tests of this repository have, whose fixtures are not begun either."""
    monkeypatch.setenv(UNTIL, "1")
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))
    pytester.makeini("[pytest]\nmarkers = slow: takes long\n")
    pytester.makeconftest("from tests.conftest import pytest_runtest_setup\n")
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def costly():
            raise RuntimeError

        @pytest.mark.slow
        def test_slow(costly):
            raise AssertionError

        def test_quick():
            pass
        """
    )
    result = pytester.runpytest_subprocess("-rs", "-p", "no:randomly")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*the time of this run is up*"])
