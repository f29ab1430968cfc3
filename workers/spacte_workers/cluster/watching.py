"""Notices that the raylet of this node or the head of the cluster is gone, long before Ray ends this process for it.

Ray's own limits are 15 s for the raylet and 60 s for the head.
"""

import asyncio
import socket
from pathlib import Path
from typing import Any

from .head import is_there

EVERY_S = 1.0  # chosen: a look at a socket and a call of a millisecond
TRIES = 2  # chosen: once may be a moment without descriptors


async def lost_cluster() -> str:
    """Wait until the cluster that this process is connected to is lost, and return a sentence about it."""
    from ray._private.worker import global_worker

    node: Any = global_worker.node
    missing = 0
    while True:
        await asyncio.sleep(EVERY_S)
        lost = ""
        if not await asyncio.to_thread(_listens, node.raylet_socket_name):
            lost = "Ray's raylet on this machine is gone."
        elif not await asyncio.to_thread(is_there, node.gcs_address):
            lost = f"The head of the Ray cluster at {node.gcs_address} is gone."
        missing = missing + 1 if lost else 0
        if missing >= TRIES:
            return lost


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(EVERY_S)
        try:
            client.connect(path.removeprefix("unix://"))
        except TimeoutError:  # it is stopped, or busy
            return True
        except OSError:
            return not Path(path.removeprefix("unix://")).is_absolute()
    return True
