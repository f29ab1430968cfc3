"""The decoding process itself.

    python -m spacte_workers.decoding.child FD MEMORY_BYTES MODULE

It does the tasks of the module's `Tasks` for whoever holds the other end of the socket FD, and ends with it.
"""

import importlib
import json
import os
import signal
import sys
import warnings
from multiprocessing.connection import Connection
from typing import Any

from .confinement import close_network, limit_memory, limit_time

DAMAGED = "The file is damaged: save or write it anew."
TOO_LARGE = "It needs more memory than there is here for one file."


def answer(tasks: Any, task: str, arguments: tuple[Any, ...]) -> tuple[dict[str, Any], bytes]:
    """Do a task; whatever it raises becomes an answer."""
    from spacte_workers.batch.inputs.base import InputError
    from spacte_workers.images import BadImageError

    try:
        return getattr(tasks, task)(*arguments)
    except (BadImageError, InputError) as error:
        kind, sentence = type(error).__name__, str(error)
    except MemoryError:
        kind, sentence = "MemoryError", TOO_LARGE
    except Exception as error:  # noqa: BLE001  a decoder fails in any way it likes on what a stranger made
        kind, sentence = type(error).__name__, DAMAGED
    return {"error": kind, "detail": sentence.encode("ascii", "backslashreplace").decode()[:2000]}, b""


def main() -> None:
    """Serve one parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    tasks = importlib.import_module(sys.argv[3]).Tasks()
    warnings.simplefilter("ignore")
    limit_memory(int(sys.argv[2]))
    connection.send_bytes(json.dumps({"confined": close_network()}).encode())
    while True:
        try:
            task, arguments, seconds = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        limit_time(seconds)
        fields, data = answer(tasks, task, arguments)
        del arguments
        try:
            connection.send_bytes(json.dumps({**fields, "bytes": len(data)}).encode())
            if data:
                connection.send_bytes(data)
        except OSError:
            os._exit(0)


if __name__ == "__main__":
    main()
