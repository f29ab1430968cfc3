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


CALLERS = """
import structlog
from spacte_service.logs import configure_logging
from spacte_service.settings import Settings
configure_logging(Settings(log_format="json", in_process=True))
log = structlog.stdlib.get_logger("spacte.idempotency")
for number in range(100):
    log.warning("kept answers cannot be read", reason=str(number))
    log.warning("an answer is kept in this process only", reason=str(number))
log.error("written")
log.error("written")
"""


@pytest.mark.slow
def test_a_warning_that_callers_cause_is_written_once_a_second() -> None:
    done = subprocess.run([sys.executable, "-c", CALLERS], capture_output=True, text=True, check=True, timeout=60)
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events.count("written") == 2
    assert 2 <= len(events) - 2 <= 8  # where the machine is so busy that seconds pass
