"""What a decoding process may do: so much memory, no core file, no network, no other program.

The network is closed by a filter of system calls (seccomp, Linux 3.5), which needs no privilege. Elsewhere only the
limits hold.
"""

import ctypes
import platform
import resource
import sys
from pathlib import Path

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38  # <linux/prctl.h>
_SECCOMP_MODE_FILTER = 2  # <linux/seccomp.h>
_ALLOW, _FAIL_WITH_EACCES = 0x7FFF0000, 0x00050000 | 13
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # <linux/bpf_common.h>
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in struct seccomp_data

_X32_BIT = 0x40000000
"""Marks the system calls of x86-64's 32-bit sibling, under which each has a second number."""

_REFUSED = {
    # socket, execve, execveat, ptrace, process_vm_readv, process_vm_writev, io_uring_setup; by <asm/unistd.h>
    "x86_64": (0xC000003E, (41, 59, 322, 101, 310, 311, 425)),
    "aarch64": (0xC00000B7, (198, 221, 281, 117, 270, 271, 425)),
}
"""Of each machine: its name in <linux/audit.h>, and the numbers of the calls that fail."""


class _Instruction(ctypes.Structure):
    """struct sock_filter."""

    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def limit_memory(more_bytes: int) -> None:
    """Let this process take so many bytes beyond what it has; further allocations fail. No core file is written."""
    most = _data_bytes() + more_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_time(seconds: float) -> None:
    """Let this process compute for so many seconds from now; then the system ends it, also without its parent."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def close_network() -> bool:
    """Make new sockets and other programs impossible, for good; False where the system has no such filter."""
    known = _REFUSED.get(platform.machine())
    if not sys.platform.startswith("linux") or known is None:
        return False
    architecture, numbers = known
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _FAIL_WITH_EACCES),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_JUMP_IF_AT_LEAST, len(numbers) + 1, 0, _X32_BIT),
        *((_JUMP_IF_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL_WITH_EACCES),
    ]
    instructions = (_Instruction * len(program))(*program)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    filtered = _Program(len(program), instructions)
    return libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filtered), 0, 0) == 0


def _data_bytes() -> int:
    """What counts as data of this process by now (proc(5), VmData)."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))
