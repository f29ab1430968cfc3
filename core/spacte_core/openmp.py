"""How idle threads wait, which has to be said before PyTorch is imported."""

import os

SPINS = 10_000  # some tens of microseconds: most gaps between two parallel operations of a training step are shorter


def set_wait_policy() -> None:
    """Let OpenMP's idle threads sleep after a moment of spinning, unless the environment says otherwise.

    Spinning without an end wins nothing more on an idle machine, and on a busy one it is ruinous: a training step on
    two threads took ten to forty times as long, because threads that waited kept the ones they waited for off the
    cores; an engine drew a third of its samples, and fitting int8's codes took four times as long. Sleeping at once
    makes every operation wait for a thread to wake: a step took a fifth longer.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
