"""Long work in a process of its own beside a hub that is in use: at low priority, a moment at a time.

Not even idle priority is enough where both run on one core. When the hub's threads hand over to each other, Linux may
give the core to the other process although one of them could run, and takes it back only with the next tick of its
clock, up to 4 ms later. Work that stops by itself after a moment costs the hub no more than that, and need not be at
idle priority then, at which it would wait for minutes where others keep all cores busy, and an operator with it.

`python -m synapse.hub.gentle WAL MODULE ARGUMENT…` runs a module so.
"""

import atexit
import os
import runpy
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Final

NICER: Final = 10
"""A tenth of what others on a busy core get."""
WORK_S: Final = 0.0003
"""Then a rest, while the hub is in use."""
REST_S: Final = 0.003
LOOK_S: Final = 0.05
"""How often it looks whether the hub is in use, while it is not."""
IN_USE_S: Final = 1.0
"""A hub that wrote within this time is in use."""


def be_gentle(wal: Path) -> None:
    """Lower the priority of this process, and let it rest nine tenths of the time for as long as the hub writes. wal:
    the hub's WAL.

    Uses SIGALRM and its timer; for the main thread of a process that does nothing else. A call into C that takes long
    is not interrupted.
    """
    if hasattr(os, "SCHED_BATCH"):  # not what the hub may have been given, such as real time
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.nice(NICER)

    def rest(_: int, __: FrameType | None) -> None:
        is_in_use = _is_in_use(wal)
        if is_in_use:
            time.sleep(REST_S)
        signal.setitimer(signal.ITIMER_REAL, WORK_S if is_in_use else LOOK_S)

    signal.signal(signal.SIGALRM, rest)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, WORK_S)
    # The handler goes before the process does; one that is pending then would only wind up a timer that was stopped.
    atexit.register(signal.signal, signal.SIGALRM, signal.SIG_IGN)


def _is_in_use(wal: Path) -> bool:
    try:
        written_s = wal.stat().st_mtime
    except OSError:
        return False
    return abs(time.time() - written_s) < IN_USE_S


if __name__ == "__main__":
    be_gentle(Path(sys.argv[1]))  # before the imports, which are most of a small one's work
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
