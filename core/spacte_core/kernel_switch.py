"""Whether kernels are used: what `SPACTE_KERNELS` says, and whether `spacte_core.kernels` is installed.

Everything works without kernels, only slower: consumers ask here, import `spacte_core.kernels` where the answer is yes,
and use PyTorch's own operations where it is no.
"""

import os
from importlib.util import find_spec

from .errors import UserError

VARIABLE = "SPACTE_KERNELS"
"""`on` (the default), `off`, or names with a minus, such as `-amx,-winograd`: all kernels but those."""

_CPU_NAMES = (
    "amx",
    "batch_norm",
    "chain",
    "folding",
    "grid_noise",
    "int8",
    "max_pool",
    "onednn",
    "strided",
    "winograd",
)
_GPU_NAMES = ("cuda_graphs", "parallel_heads", "triton_conv")
NAMES = tuple(sorted(_CPU_NAMES + _GPU_NAMES))
"""What can be switched off by itself; `kernels/README.md` has a row for each."""


class KernelSwitchError(UserError):
    """`SPACTE_KERNELS` is neither `on`, `off` nor a list of known names with a minus each."""


def kernels_enabled(name: str | None = None) -> bool:
    """Whether the kernel of that name, one of `NAMES`, may be used; None: any at all.

    Raises:
        KernelSwitchError: the environment variable cannot be understood.
    """
    value = os.environ.get(VARIABLE, "on").strip().lower()
    if value == "off" or find_spec("spacte_core.kernels") is None:
        return False
    if value in ("on", ""):
        return True
    without = {word.strip() for word in value.split(",")}
    known = {f"-{known}" for known in NAMES}
    if not without <= known:
        wrong = ", ".join(sorted(without - known))
        raise KernelSwitchError(
            f"{VARIABLE} does not know {wrong}: use on, off, or names with a minus from {', '.join(NAMES)}."
        )
    return name is None or f"-{name}" not in without
