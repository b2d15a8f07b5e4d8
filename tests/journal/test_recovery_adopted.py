"""A journal that was adopted after it had lost everything is one that a hub can run on."""

from pathlib import Path

from synapse.core import kernel
from synapse.core.events import JournalStarted, to_row
from synapse.core.state import new_state
from synapse.journal.admin import adopt
from synapse.journal.recovery import recover
from synapse.journal.store import Journal

AT_MS = 1_800_000_000_000


def test_the_state_of_an_adopted_journal_knows_its_hub_although_the_first_event_is_lost(tmp_path: Path) -> None:
    home = tmp_path / "home"
    journal = Journal.open(home, at_ms=AT_MS)
    hub_id, state = journal.hub_id, new_state()
    state.seq = journal.base
    first = [kernel.record(state, JournalStarted(hub_id=hub_id, journal_id=journal.journal_id), "hub", AT_MS)]
    wal = home / "journal.db-wal"
    before = wal.read_bytes() if wal.exists() else b""
    journal.append([to_row(entry) for entry in first])
    held = {path: path.read_bytes() for path in home.iterdir() if path.is_file() and path != wal}
    journal.close()
    for path, content in held.items():
        path.write_bytes(content)
    wal.write_bytes(before)
    (home / "journal.db-shm").unlink(missing_ok=True)

    adopted = adopt(home, AT_MS + 1)
    recovered = recover(home, AT_MS + 2)
    try:
        assert adopted.dropped >= 1
        assert (recovered.state.hub_id, recovered.state.journal_id) == (hub_id, adopted.journal_id)
    finally:
        recovered.journal.close()
