"""Hold every thread of a process but its main one, as if each hung in the call it is in: run in the machine, as root, with the process ID.

Once it holds them it tells systemd that it is ready, and reaps what it holds until the process has ended: a held thread is also its
tracer's to wait for (ptrace(2)).
"""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

_SEIZE, _INTERRUPT = 0x4206, 0x4207
_ANY_THREAD = 0x40000000  # __WALL


def main() -> None:
    """Hold the threads, and wait until they are gone."""
    process = int(sys.argv[1])
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for thread in (int(task.name) for task in Path(f"/proc/{process}/task").iterdir()):
        # one that runs may hold the lock of the interpreter, without which the main thread could not go on
        if thread == process or not _sleeps(process, thread):
            continue
        for request in (_SEIZE, _INTERRUPT):
            if ptrace(request, thread, None, None):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, _ANY_THREAD)


def _sleeps(process: int, thread: int) -> bool:
    return (
        Path(f"/proc/{process}/task/{thread}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        == "S"
    )


if __name__ == "__main__":
    main()
