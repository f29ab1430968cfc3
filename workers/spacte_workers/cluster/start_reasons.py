"""Why an actor is not up yet, in Ray's words: its state, what is free, and the last complaint in Ray's own logs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

_STATES = {
    "DEPENDENCIES_UNREADY": "Ray waits for what its call needs",
    "PENDING_CREATION": "Ray has not started its process",
    "RESTARTING": "its process died and is started again",
    "DEAD": "Ray has given it up",
}
_TAIL_BYTES = 16_384  # chosen: some hundred lines
_LONGEST = 300  # of a line that is told; chosen: a log line stays a line
_COMPLAINT = re.compile(r"^\[?[\d\-: ,]+ [WEF] [^\]]*\] ?|^.*\b(?:ERROR|WARNING)\b[\s:\-]*")
"""Of Ray's C++ logs (`[time W pid tid] `) and of its Python logs."""


def why_not_up(actor: Any, needed: dict[str, float]) -> str:
    """One sentence without its full stop. It blocks, for seconds where the cluster does not answer.

    Args:
        actor: its handle.
        needed: what Ray reserves for it, such as `num_cpus`.
    """
    from ray._private.state import actors

    table = actors(actor._actor_id.hex())  # noqa: SLF001  its public twin needs the dashboard
    state = _STATES.get(table.get("State", ""), "its process is up and does not answer")
    free = ray.available_resources()
    lacking = [name for name in ("CPU", "GPU") if free.get(name, 0) < needed.get(f"num_{name.lower()}s", 0)]
    parts = [state]
    if table.get("State") == "PENDING_CREATION" and lacking:
        parts = [f"{state}: it needs {needed}, and {', '.join(f'{free.get(n, 0):g} {n}' for n in lacking)} is free"]
    logs = _logs()
    if logs is not None:
        complaint = next(_complaints(logs), None)
        parts.append(f"Ray's last complaint is: {complaint}" if complaint else f"Ray's logs in {logs} say nothing")
    return "; ".join(parts)


def _logs() -> Path | None:
    """The folder of Ray's logs on this node."""
    from ray._private.worker import global_worker

    node: Any = global_worker.node
    return Path(node.get_logs_dir_path()) if node else None


def _complaints(logs: Path) -> Iterator[str]:
    """The last warning or error of each log, the latest log first."""
    patterns = ("worker-*.err", "runtime_env_setup-*.log", "raylet.err", "raylet.out")
    files = [file for pattern in patterns for file in logs.glob(pattern) if file.stat().st_size]
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        lines = file.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").splitlines()
        found = [line for line in lines if _COMPLAINT.match(line) or (file.suffix == ".err" and line.strip())]
        if found:
            yield f"{_COMPLAINT.sub('', found[-1]).strip()[:_LONGEST]} ({file})"
