"""A killed hub's snapshot child lives on for a moment and keeps SQLite's WAL index alive; the next start must not mind.

When the hub dies between writing its last commit to the WAL and noting it in the index, whoever has the database open
goes on without that commit, and the first to open it after everybody closed it finds it again. It was never
acknowledged, so both are right; but one start must not see both.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from synapse.core.events import HubStarted, Recorded, to_row
from synapse.journal.evidence import Evidence
from synapse.journal.store import Journal

WAL_INDEX_HEADER_BYTES = 136

DIES_IN_A_COMMIT = """
import os, signal, subprocess, sys
from pathlib import Path
from synapse.core.events import HubStarted, JournalStarted, Recorded, to_row
from synapse.journal.store import Journal

home, reads = Path(sys.argv[1]), sys.argv[2]
journal = Journal.open(home, at_ms=1_700_000_000_000)
started = JournalStarted(hub_id=journal.hub_id, journal_id=journal.journal_id)
journal.append([to_row(Recorded(journal.head + 1, 1, "hub", started))])
orphan = subprocess.Popen([sys.executable, "-c", reads, str(home)], stdout=subprocess.PIPE)
orphan.stdout.readline()
index, mark = home / "journal.db-shm", home / "journal.mark"
header, acknowledged = index.read_bytes()[:HEADER], mark.read_bytes()
journal.append([to_row(Recorded(journal.head + 1, 1, "hub", HubStarted(version="killed")))])
with index.open("r+b") as file:
    file.write(header)
mark.write_bytes(acknowledged)
print(orphan.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
""".replace("HEADER", str(WAL_INDEX_HEADER_BYTES))

READS = """
import signal, sys
from pathlib import Path
from synapse.journal.reader import JournalReader

reader = JournalReader(Path(sys.argv[1]))
reader.tip()
print("open", flush=True)
signal.pause()
"""


def test_a_start_during_which_the_dead_hubs_child_ends_sees_one_head(tmp_path: Path) -> None:
    home = tmp_path / "home"
    died = subprocess.run(
        [sys.executable, "-c", DIES_IN_A_COMMIT, str(home), READS], stdout=subprocess.PIPE, check=False
    )
    assert died.returncode == -signal.SIGKILL
    orphan = int(died.stdout)
    heads: list[int] = []

    def end_the_child(evidence: Evidence) -> None:
        if not heads:
            os.kill(orphan, signal.SIGKILL)
            while Path(f"/proc/{orphan}/fd").exists() and list(Path(f"/proc/{orphan}").glob("fd/*")):
                pass
        heads.append(evidence.head)

    journal = Journal.open(home, at_ms=1_700_000_000_000, prove=end_the_child)
    try:
        journal.append([to_row(Recorded(journal.head + 1, 2, "hub", HubStarted(version="next")))])
        assert journal.head == heads[-1] + 1
    finally:
        journal.close()
