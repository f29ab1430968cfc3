"""Let the C allocator keep what it has, so that each layer's output is not paid for with fresh page faults.

By default glibc hands large blocks back to the system when they are freed: about 160 page faults a noisy
sample of a ResNet-20, which cost a quarter to a half of the throughput (see the documentation on
performance).
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 1 << 30
_LARGEST_EVERYWHERE = 32 << 20  # some versions of glibc refuse a larger mmap threshold


def keep_memory() -> bool:
    """Set glibc's thresholds for the whole process; pools call it before their samplers' threads allocate.

    A thread that has an arena of its own by then keeps handing its memory back. Calling it again does no harm.

    Returns:
        Whether this C library knows the settings (glibc does; elsewhere nothing happens).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _LARGE) or mallopt(_M_MMAP_THRESHOLD, _LARGEST_EVERYWHERE)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, _LARGE) and mallopt(_M_ARENA_MAX, 1))
