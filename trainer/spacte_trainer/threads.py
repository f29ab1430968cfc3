"""How idle threads wait, which has to be said before PyTorch is imported."""

import os


def wait_passively() -> None:
    """Let OpenMP's idle threads sleep instead of spinning, unless the environment says otherwise.

    Spinning wins a little on an idle machine. On a busy one it is ruinous: a training step on two threads took
    ten to forty times as long, because threads that waited kept the ones they waited for off the cores.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
