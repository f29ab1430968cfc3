"""Promise: whatever a gateway writes to standard error is a line of its log, in the format that was asked for."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging, warnings
from spacte_service.logs import configure_logging
from spacte_service.settings import Settings
configure_logging(Settings(log_format="json", in_process=True))
warnings.warn("a library is unhappy")
logging.getLogger("somebody").error("and another")
try:
    secret = "key-" + str(1234)
    1 / 0
except ZeroDivisionError:
    logging.getLogger("somebody").exception("broken")
"""


@pytest.mark.slow
def test_warnings_and_tracebacks_are_json_lines_too() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    warning, line, broken = (json.loads(line) for line in done.stderr.splitlines())
    assert (warning["logger"], warning["level"]) == ("py.warnings", "warning")
    assert "a library is unhappy" in warning["event"]
    assert (line["logger"], line["level"], line["event"]) == ("somebody", "error", "and another")
    assert "ZeroDivisionError" in broken["exception"]
    assert "key-1234" not in done.stderr  # no local variables
