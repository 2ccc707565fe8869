"""System calls that nothing in a sandbox may make; they fail with EPERM.

Two kinds. Calls that read or change another process: the keeper (process 1) runs as the same user as the commands, and
a command that writes into its memory could answer for the verifier, since the keeper starts the shell that grades. So
`sandbox` covers the keeper's /proc/1/mem, too. And calls that make memory which belongs to no process and to no sized
folder, so that no limit counts it: memfd_create, memfd_secret, shmget. Not here: what else a sandbox hides.
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass

from envecho.errors import WorldError

KEEPER_MEMORY = ("/proc/1/mem", "/proc/1/task/1/mem")
"""The files through which a process of the same user could write the keeper's memory."""

_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_X32_BIT = 0x40000000


@dataclass(frozen=True, kw_only=True)
class _Architecture:
    """An architecture's audit number, and the numbers of its refused calls.

    In order: ptrace, process_vm_readv, process_vm_writev, pidfd_getfd, memfd_create, memfd_secret, shmget.
    """

    audit: int
    calls: tuple[int, ...]


_ARCHITECTURES = {
    "x86_64": _Architecture(audit=0xC000003E, calls=(101, 310, 311, 438, 319, 447, 29)),
    "aarch64": _Architecture(audit=0xC00000B7, calls=(117, 270, 271, 438, 279, 447, 194)),
}


def refused_calls_filter() -> bytes:
    """Return a seccomp program (classic BPF) for this machine, as `bwrap --seccomp` reads it.

    Calls of another architecture (32-bit programs, x32) are refused too: their numbers are others.

    Raises:
        WorldError: the numbers for this machine are not known here.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise WorldError(f"the sandbox knows the system calls of {known}, this machine is {machine}")
    architecture = _ARCHITECTURES[machine]
    num_calls = len(architecture.calls)
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_EQUAL, 0, num_calls + 3, architecture.audit),
        (_LOAD, 0, 0, _NUMBER_AT),
        (_AT_LEAST, num_calls + 1, 0, _X32_BIT),
        *((_EQUAL, num_calls - index, 0, call) for index, call in enumerate(architecture.calls)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)
