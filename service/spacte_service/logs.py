"""Structured logs on standard error, ours and every library's alike, each line with the request's id."""

import logging
import sys
from typing import cast

import structlog

from .settings import OperationSettings

QUIET = ("alembic", "uvicorn.access", "uvicorn.error", "asyncio", "PIL", "python_multipart")
"""Libraries whose lines below `warning` say nothing that ours do not."""


OF_CALLERS = ("uvicorn.error", "spacte.idempotency")
"""Loggers whose warnings a caller can cause any number of: malformed requests, keys while the database is away."""


class OnceASecond(logging.Filter):
    """Passes a warning once a second, whatever else its line says."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a line; errors always."""
        if record.levelno >= logging.ERROR:
            return True
        line: object = record.msg  # of our own lines a dictionary
        message = str(cast("dict[str, object]", line)["event"] if isinstance(line, dict) else line)
        if record.created < self._passed.get(message, 0.0) + 1:
            return False
        self._passed[message] = record.created
        return True


SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
"""What every line gets, whoever wrote it."""


def configure_structlog() -> None:
    """Pass our lines to the standard library's logging, which decides what becomes of them."""
    structlog.configure(
        processors=[*SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def configure_logging(settings: OperationSettings) -> None:
    """Write the lines of this process, ours and those of every library, to standard error.

    Tracebacks are plain: those with local variables would show images and keys. Warnings of Python code are lines too.
    """
    configure_structlog()
    if settings.log_format == "json":
        render: list[structlog.typing.Processor] = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    else:
        render = [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=SHARED, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render]
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    logging.captureWarnings(True)
    for name in OF_CALLERS:
        logging.getLogger(name).addFilter(OnceASecond())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
