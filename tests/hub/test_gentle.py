"""Work beside a hub that is in use rests most of the time; beside one that is not, never."""

from pathlib import Path

import pytest
from tests.journal.conftest import run_python

WORK = """
import os, sys, time
from pathlib import Path
from synapse.hub.gentle import be_gentle

wal, in_use = Path(sys.argv[1]), sys.argv[2] == "in use"
rested_s, sleep = 0.0, time.sleep

def counted(seconds):
    global rested_s
    rested_s += seconds
    sleep(seconds)

time.sleep = counted
before = os.nice(0)
be_gentle(wal)
is_low = os.nice(0) == min(19, before + 10)
is_lasting = not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) == os.SCHED_BATCH  # idle ones may wait for ever
began_s = time.process_time()
while time.process_time() - began_s < 0.1:
    if in_use:
        os.utime(wal)
print(rested_s, is_low and is_lasting)
"""


@pytest.mark.parametrize("how", ["in use", "left alone"])
def test_it_rests_for_as_long_as_the_hub_writes(tmp_path: Path, how: str) -> None:
    wal = tmp_path / "journal.db-wal"
    if how == "in use":
        wal.touch()
    script = f"import sys; sys.argv[1:] = [{str(wal)!r}, {how!r}]\n{WORK}"
    done = run_python(script)
    assert done.returncode == 0, done.stderr  # the timer's signal would end the process otherwise
    rested_s, is_so = done.stdout.split()
    assert is_so == "True"
    if how == "in use":
        assert float(rested_s) > 0.1  # longer than it worked, on a machine however slow
    else:
        assert float(rested_s) == 0.0
