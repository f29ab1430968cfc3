"""Makes the C allocator keep freed memory, so that each layer's output is not paid for with fresh page faults.

By default glibc returns large blocks to the system when they are freed: about 160 page faults a noisy sample of a
ResNet-20, which cost a quarter to a half of the throughput (benchmarks/results/engine_cpu.md, "kept allocator").
"""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # parameters of `mallopt`, from glibc's <malloc.h>
_THRESHOLD = 1 << 30  # bytes: larger than any feature map of a batch
_LARGEST_MMAP_THRESHOLD = 32 << 20  # HEAP_MAX_SIZE / 2, the most that glibc versions accept which check the value


def keep_freed_memory() -> bool:
    """Set glibc's thresholds for the whole process; calling it again changes nothing. False: this is another C library.

    A thread that has an arena of its own by then keeps returning its memory, so pools call this before their samplers'
    threads allocate.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is None:
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _THRESHOLD) or mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, _THRESHOLD) and mallopt(_M_ARENA_MAX, 1))
