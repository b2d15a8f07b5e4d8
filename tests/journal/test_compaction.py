"""Compaction: what is kept is all there, what went is proved, and a death at any step costs nothing."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from tests.journal.conftest import flip, journal_bytes, run_python
from tests.journal.traffic import CHANNELS, DAY_MS, KEEP_ALL_SHORT, Traffic

from synapse.core.events import LEASES, Recorded, Row, keys_of, to_row
from synapse.core.kernel import apply
from synapse.core.retention import Retained, floor_of, kind_of, pinned
from synapse.core.state import State, decode_state, digest, encode_state
from synapse.errors import DiskFull, JournalRefused, Rejected
from synapse.hub.paging import recorded_of
from synapse.hub.reads import read_message
from synapse.journal import compaction, dropping, store, tasks
from synapse.journal.admin import adopt, backup, bring_in, restore, verify
from synapse.journal.compaction import compact
from synapse.journal.export import export
from synapse.journal.files import Files
from synapse.journal.memory import MemoryJournal
from synapse.journal.reader import JournalReader
from synapse.journal.recovery import recover
from synapse.journal.snapshot import core_folding, take_snapshot
from synapse.journal.store import Journal
from synapse.journal.upcast import decode

KEEP = KEEP_ALL_SHORT


class Killed(BaseException):
    """The process died."""


class Deaths:
    """Dies before or behind the n-th step of a compaction: each write of the base, append, drop and clearing up."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left = -1
        for where, name in (
            (compaction, "write_base"),
            (Journal, "append"),
            (Journal, "drop"),
            (Journal, "end_drop"),
        ):
            self._wrap(patch, where, name)

    def _wrap(self, patch: pytest.MonkeyPatch, where: object, name: str) -> None:
        step = getattr(where, name)

        def dying(*values: object) -> object:
            self._count()
            result = step(*values)
            self._count()
            return result

        patch.setattr(where, name, dying)

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> Deaths:
    """With blocks of the index so small that there are many."""
    monkeypatch.setattr(tasks, "BLOCK", 16)
    monkeypatch.setattr(store, "EVENTS_PER_INDEXING", 20)
    return Deaths(monkeypatch)


def recovered(home: Path, at_ms: int) -> State:
    found = recover(home, at_ms)
    found.journal.close()
    return found.state


def readable(state: State) -> list[str]:
    """All keys that somebody may read by."""
    return [
        *(f"ch/{channel}" for channel in state.rooms.channels),
        *(f"in/{agent}" for agent in state.agents.by_id),
        *(f"kv/{room}" for room in state.rooms.by_id),
        *(f"pl/{room}" for room in state.rooms.by_id),
        *(f"pt/{room}/{task}" for room, plan in state.plan.by_room.items() for task in plan.tasks),
        *(f"ta/{room}/T{n}" for room in state.rooms.by_id for n in range(5)),
        LEASES,
    ]


def require_truth(traffic: Traffic, state: State, young_ms: int) -> int:
    """Rows, pages, inboxes and repeats are as they were, but for what went; how many bodies did. young_ms: from there
    on nothing may have gone."""
    first = {row.seq: row for row in traffic.world.rows}
    floors, needed = state.retention.floors, frozenset(pinned(state))
    gone: list[Row] = []
    with closing(JournalReader(traffic.home)) as reader:
        for row in reader.scan(reader.identity.base, state.seq, -1):
            before = first.get(row.seq)
            if before is None:
                assert row.type in ("journal.compacted", "journal.adopted")
            elif row.body:
                assert row == before._replace(also=())
            else:
                assert row == before._replace(also=(), body=b"")
                assert before.at_ms <= young_ms
                assert kind_of(row.type) is not None
                assert row.seq not in needed
                gone.append(before)
        of_key = {
            key: [row for row in first.values() if key in keys_of(row.seq, decode(row))] for key in readable(state)
        }
        gone_of_key = {key for row in gone for key in keys_of(row.seq, decode(row))}
        for key, touching in of_key.items():
            floor = floor_of(floors, key)
            assert bool(floor) or key not in gone_of_key
            kept = [row._replace(also=()) for row in touching if row.seq > floor]
            for trusts_index in (True, False):
                reader.trusts_index = trusts_index
                assert reader.page([key], floor, state.seq, 10_000) == kept
                assert [row for row in reader.page_back([key], state.seq + 1, 10_000) if row.seq > floor] == kept
        for agent, inbox in state.agents.inboxes.items():
            for seq in inbox.entries:
                assert read_message(reader, state.journal_id, seq, agent) is not None
    repeated = [said for said in traffic.said if (said.actor, said.key) in state.idempotency.by_key]
    assert {said.key for said in traffic.said if said.at_ms > traffic.world.at_ms - DAY_MS} <= {s.key for s in repeated}
    for said in repeated:
        assert traffic.replay_of(state, said) == said.answer
    return len(gone)


def rounds(traffic: Traffic, deaths: Deaths, count: int) -> Iterator[tuple[State, int]]:
    """Traffic and compactions in turn, some of which die; the state after each, and how many bodies are gone."""
    dice, world = traffic.dice, traffic.world
    for left in reversed(range(count)):
        traffic.go_on(dice.randint(40, 160))
        traffic.journal.close()
        if dice.random() < 0.4:
            take_snapshot(traffic.home, core_folding())
        ages = {kind: dice.choice((DAY_MS, 2 * DAY_MS, 4 * DAY_MS, 0)) for kind in dice.sample(sorted(KEEP), 2)}
        if dice.random() < 0.5:
            ages[dice.choice(CHANNELS)] = dice.choice((DAY_MS, 9 * DAY_MS, 0))
        deaths.left = dice.choice((-1, -1, *range(1, 12)))
        if not left:
            ages, deaths.left = KEEP, -1
        with suppress(Killed):
            compact(traffic.home, ages, world.at_ms, dry_run=False)
        deaths.left = -1
        expected = world.state
        found = recover(traffic.home, world.at_ms)
        if found.journal.head > expected.seq:
            with closing(JournalReader(traffic.home)) as reader:
                row = reader.row(found.journal.head)
            assert row is not None
            apply(expected, recorded_of(row))
            world.rows.append(row)
            traffic.written += 1
        assert encode_state(found.state) == encode_state(expected)
        report = verify(traffic.home)
        assert report.finding is None
        yield found.state, require_truth(traffic, found.state, world.at_ms - DAY_MS)
        traffic.journal, world.state = found.journal, found.state
    traffic.journal.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_compacted_journal_has_all_that_is_kept_and_dies_at_any_step(
    seed: int, tmp_path: Path, deaths: Deaths
) -> None:
    traffic = Traffic.begin(tmp_path / "home", seed)
    gone = [count for _, count in rounds(traffic, deaths, 4)]
    assert gone[-1] > 20, "the test reached what it is about"
    assert gone == sorted(gone)


@pytest.fixture(scope="module")
def compacted_once(tmp_path_factory: pytest.TempPathFactory) -> Traffic:
    """A compacted journal, closed, with traffic behind the compaction."""
    traffic = Traffic.begin(tmp_path_factory.mktemp("compacted") / "home", 11)
    traffic.go_on(250)
    traffic.journal.close()
    assert compact(traffic.home, KEEP, traffic.world.at_ms, dry_run=False).rows > 60
    found = recover(traffic.home, traffic.world.at_ms)
    traffic.world.state, traffic.journal = found.state, found.journal
    with closing(JournalReader(traffic.home)) as reader:
        last = reader.row(found.journal.head)
    assert last is not None
    traffic.world.rows.append(last)
    traffic.written += 1
    traffic.go_on(30)
    traffic.journal.close()
    return traffic


@pytest.fixture
def compacted(compacted_once: Traffic, tmp_path: Path) -> Traffic:
    """A copy of it, to break."""
    shutil.copytree(compacted_once.home, tmp_path / "home")
    return replace(compacted_once, home=tmp_path / "home")


def base_of(home: Path) -> Path:
    [path] = Files(home).bases.iterdir()
    return path


def refusal(home: Path, at_ms: int) -> JournalRefused:
    with pytest.raises(JournalRefused) as caught:
        recover(home, at_ms)
    assert caught.value.exit_code == 78
    return caught.value


def test_no_flipped_bit_in_the_base_is_believed(compacted: Traffic) -> None:
    path, at_ms = base_of(compacted.home), compacted.world.at_ms
    size = path.stat().st_size
    for offset in (0, 40, size // 2, size - 1):
        flip(path, offset)
        assert "is not the one that the journal names" in str(refusal(compacted.home, at_ms))
        report = verify(compacted.home)
        assert report.finding is not None
        assert "is not the one that the journal names" in report.finding
        flip(path, offset)
    assert verify(compacted.home).is_whole
    path.rename(path.with_name("elsewhere"))
    assert "is missing" in str(refusal(compacted.home, at_ms))
    with pytest.raises(JournalRefused, match="is missing"):
        backup(compacted.home, compacted.home / "backup.db")


def test_a_newer_snapshot_makes_up_for_a_lost_base_and_the_next_compaction_writes_another(compacted: Traffic) -> None:
    at_ms, before = compacted.world.at_ms, digest(recovered(compacted.home, compacted.world.at_ms))
    keep = {"messages": 300 * DAY_MS}
    would_go = compact(compacted.home, keep, at_ms, dry_run=True).rows
    assert take_snapshot(compacted.home, core_folding()) is not None
    base_of(compacted.home).unlink()
    assert digest(recovered(compacted.home, at_ms)) == before
    assert not verify(compacted.home).is_whole
    report = compact(compacted.home, keep, at_ms, dry_run=False)
    assert report.rows == would_go, "what is no longer needed since, with a base or without"
    assert verify(compacted.home).is_whole
    for path in Files(compacted.home).snapshots.iterdir():
        path.unlink()
    assert recovered(compacted.home, at_ms).events > 0


def test_a_snapshot_from_before_the_compaction_is_not_folded_on(tmp_path: Path) -> None:
    traffic = Traffic.begin(tmp_path / "home", 5)
    traffic.go_on(120)
    written = take_snapshot(traffic.home, core_folding())
    assert written is not None
    kept = written.path.read_bytes()
    traffic.go_on(120)
    traffic.journal.close()
    compact(traffic.home, KEEP, traffic.world.at_ms, dry_run=False)
    assert list(Files(traffic.home).snapshots.iterdir()) == []
    written.path.write_bytes(kept)
    found = recover(traffic.home, traffic.world.at_ms)
    found.journal.close()
    assert found.snapshot_seq is None
    assert [note for note in found.notes if "events behind it were dropped" in note]


@pytest.mark.parametrize("which", ["young", "pinned"])
def test_a_body_removed_by_hand_is_missed(which: str, compacted: Traffic) -> None:
    state = recovered(compacted.home, compacted.world.at_ms)
    floor = max(state.retention.cuts.values())
    needed = sorted(pinned(state))
    young = [row.seq for row in compacted.world.rows if row.type == "message.posted" and row.seq > floor]
    seq = young[-1] if which == "young" else needed[0]
    assert which == "young" or seq <= floor
    with closing(sqlite3.connect(Files(compacted.home).database)) as connection, connection:
        (body,) = connection.execute("SELECT body FROM events WHERE seq = ?", (seq,)).fetchone()
        connection.execute("UPDATE events SET body = NULL, body_hash = ? WHERE seq = ?", (sha256(body).digest(), seq))
        connection.execute("DELETE FROM touches WHERE seq = ?", (seq,))
    report = verify(compacted.home)
    assert report.finding is not None
    assert f"event {seq} has no body" in report.finding
    if which == "young":
        assert f"event {seq} has no body" in str(refusal(compacted.home, compacted.world.at_ms))


def test_backup_restore_export_and_import_take_the_base_along(compacted: Traffic, tmp_path: Path) -> None:
    at_ms = compacted.world.at_ms
    backup(compacted.home, tmp_path / "backup.db")
    with closing(JournalReader.of_file(tmp_path / "backup.db")) as reader, (tmp_path / "lines").open("wb") as out:
        export(reader, out)
    restore(tmp_path / "restored", tmp_path / "backup.db", at_ms)
    bring_in(tmp_path / "imported", tmp_path / "lines", at_ms)
    for home in (tmp_path / "restored", tmp_path / "imported"):
        assert verify(home).finding is None
        state = recovered(home, at_ms)
        assert digest_but_ids(state) == digest_but_ids(recovered(compacted.home, at_ms))
        require_truth(replace(compacted, home=home, said=[]), state, at_ms - DAY_MS)
        assert compact(home, {"values": DAY_MS}, at_ms + 300 * DAY_MS, dry_run=False).rows > 0
        assert verify(home).is_whole


def digest_but_ids(state: State) -> str:
    """Of what a restore leaves as it was."""
    plain = decode_state(encode_state(state))
    plain.journal_id, plain.seq, plain.events = "", 0, 0
    return digest(plain)


def test_a_changed_base_in_an_export_is_found(compacted: Traffic, tmp_path: Path) -> None:
    with closing(JournalReader(compacted.home)) as reader, (tmp_path / "lines").open("wb") as out:
        export(reader, out)
    lines = (tmp_path / "lines").read_bytes().splitlines(keepends=True)
    [at] = [number for number, line in enumerate(lines) if line.startswith(b'{"base":')]
    for changed in (lines[:at] + lines[at + 1 :], [*lines[:at], lines[at].replace(b"A", b"B", 1), *lines[at + 1 :]]):
        (tmp_path / "lines").write_bytes(b"".join(changed))
        with pytest.raises(JournalRefused, match="the base of the compacted journal is not in it, or damaged"):
            bring_in(tmp_path / "new", tmp_path / "lines", compacted.world.at_ms)
    assert not Files(tmp_path / "new").database.exists()


def test_an_export_without_bodies_has_no_base_and_is_not_imported(compacted: Traffic, tmp_path: Path) -> None:
    with closing(JournalReader(compacted.home)) as reader, (tmp_path / "lines").open("wb") as out:
        export(reader, out, bodies=False)
    assert b'{"base":' not in (tmp_path / "lines").read_bytes()
    with pytest.raises(JournalRefused, match="export with bodies"):
        bring_in(tmp_path / "new", tmp_path / "lines", compacted.world.at_ms)


def test_a_compacted_journal_is_adopted_with_its_base_and_not_cut_before_its_compaction(compacted: Traffic) -> None:
    home, at_ms = compacted.home, compacted.world.at_ms
    with closing(sqlite3.connect(Files(home).database)) as connection, connection:
        connection.execute("DELETE FROM touches WHERE key LIKE 'ch/%'")
    report = adopt(home, at_ms)
    assert report.aside is not None
    assert (report.aside / "bases").is_dir()
    assert verify(home).finding is None
    upto = recovered(home, at_ms).retention.upto
    with closing(sqlite3.connect(Files(home).database)) as connection, connection:
        connection.execute("UPDATE events SET actor = 'eve' WHERE seq = ?", (upto - 3,))
    with pytest.raises(JournalRefused, match="ends before the last compaction"):
        adopt(home, at_ms, drop=True)


def test_a_dry_run_changes_nothing_and_says_what_would_go(compacted_once: Traffic, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(compacted_once.home, home)
    before = journal_bytes(home)
    at_ms = compacted_once.world.at_ms + 300 * DAY_MS
    planned = compact(home, KEEP, at_ms, dry_run=True)
    assert journal_bytes(home) == before
    assert [path.name for path in Files(home).bases.iterdir()] == [base_of(compacted_once.home).name]
    done = compact(home, KEEP, at_ms, dry_run=False)
    assert (done.rows, done.bytes, done.kept) == (planned.rows, planned.bytes, planned.kept)
    assert done.rows > 0
    again = compact(home, KEEP, at_ms, dry_run=False)  # what the keys needed that ended with the compaction's own date
    last = compact(home, KEEP, at_ms, dry_run=False)
    assert (last.rows, last.head) == (0, again.head)


def test_a_retention_that_cannot_be_is_refused_and_makes_no_journal(tmp_path: Path, compacted: Traffic) -> None:
    for keep in ({"messages": DAY_MS - 1}, {"lab:nowhere": DAY_MS}, {"mesages": DAY_MS}):
        with pytest.raises(Rejected):
            compact(compacted.home, keep, compacted.world.at_ms, dry_run=False)
    with pytest.raises(JournalRefused, match="there is no such file"):
        compact(tmp_path / "new", KEEP, compacted.world.at_ms, dry_run=False)
    assert not (tmp_path / "new").exists()


def test_a_jump_of_the_clock_keeps_more_and_never_less(tmp_path: Path) -> None:
    traffic = Traffic.begin(tmp_path / "home", 3)
    traffic.go_on(60)
    before = traffic.world.state.seq
    traffic.world.at_ms += 40 * DAY_MS
    traffic.go_on(3)
    traffic.world.at_ms -= 40 * DAY_MS
    traffic.go_on(60)
    traffic.journal.close()
    at_ms = traffic.world.at_ms + 10 * DAY_MS
    assert compact(traffic.home, KEEP, at_ms, dry_run=False).rows > 0
    assert max(recovered(traffic.home, at_ms).retention.cuts.values()) <= before


def in_memory(traffic: Traffic) -> MemoryJournal:
    """The journal of a life once more, in memory."""
    memory = MemoryJournal(
        at_ms=1_700_000_000_000, hub_id=traffic.journal.hub_id, journal_id=traffic.journal.journal_id
    )
    assert memory.base == traffic.journal.base
    memory.append(traffic.world.rows)
    return memory


def test_on_disk_and_in_memory_the_same_rows_go(compacted_once: Traffic) -> None:
    traffic = Traffic.begin(compacted_once.home.parent / "other", 11)
    traffic.go_on(250)
    traffic.journal.close()
    memory = in_memory(traffic)
    planning = compaction.survey(memory, traffic.world.state, KEEP, traffic.world.at_ms, base=memory.base)
    event = planning.event(memory.head, "")
    compaction.drop_all(memory, compaction.Plan(compaction=event, is_due=True, pins=tuple(planning.pins)))
    compact(traffic.home, KEEP, traffic.world.at_ms, dry_run=False)
    with closing(JournalReader(traffic.home)) as reader:
        assert reader.rows(memory.base + 1, memory.head) == memory.rows(memory.base + 1, memory.head)
    assert sum(1 for row in memory.rows(memory.base + 1, memory.head) if not row.body) == event.rows > 60


def test_dropping_leaves_commits_as_durable_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = Traffic.begin(tmp_path / "home", 9)
    traffic.go_on(200)
    journal, world = traffic.journal, traffic.world
    planning = compaction.survey(in_memory(traffic), world.state, KEEP, world.at_ms, base=journal.base)
    compacted = planning.event(journal.head, "")
    rule = compaction.Plan(compaction=compacted, is_due=True, pins=tuple(planning.pins)).rule
    journal.append([to_row(Recorded(journal.head + 1, world.at_ms, "operator", compacted))])

    def synchronous() -> int:
        return int(journal._connection.execute("PRAGMA synchronous").fetchone()[0])

    seen: list[int] = []

    def watched(connection: sqlite3.Connection, rule: dropping.Rule, after: int, indexed: int) -> dropping.Dropped:
        seen.append(synchronous())
        return dropping.drop_some(connection, rule, after, indexed)

    def refused(*_: object) -> dropping.Dropped:
        journal._connection.execute("BEGIN IMMEDIATE")
        raise full_disk()

    monkeypatch.setattr(store, "drop_some", watched)
    assert journal.drop(rule, journal.base).rows > 0
    assert (seen, synchronous()) == ([1], 2)
    monkeypatch.setattr(store, "drop_some", refused)
    with pytest.raises(DiskFull):
        journal.drop(rule, journal.base)
    assert synchronous() == 2
    journal.close()


def full_disk() -> sqlite3.OperationalError:
    """What SQLite says of one."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


def test_a_compaction_killed_at_any_time_leaves_a_whole_journal(tmp_path: Path) -> None:
    traffic = Traffic.begin(tmp_path / "home", 8)
    traffic.go_on(400)
    traffic.journal.close()
    script = f"""
import os, threading, time
from pathlib import Path
from tests.journal.traffic import KEEP_ALL_SHORT
from synapse.journal import dropping
from synapse.journal.compaction import compact
dropping.ROWS_PER_STEP = 4
threading.Thread(target=lambda: (time.sleep(WHEN), os.kill(os.getpid(), 9))).start()
compact(Path({str(traffic.home)!r}), KEEP_ALL_SHORT, {traffic.world.at_ms}, dry_run=False)
"""
    before = traffic.world.state
    for when in (0.1, 0.2, 0.3):
        assert run_python(script.replace("WHEN", str(when))).returncode in (0, -9)
        state = recovered(traffic.home, traffic.world.at_ms)
        assert verify(traffic.home).finding is None
        assert digest_but_compactions(state) == digest_but_compactions(before)
        require_truth(traffic, state, traffic.world.at_ms - DAY_MS)


def digest_but_compactions(state: State) -> str:
    """Of all but the compactions themselves."""
    plain = decode_state(encode_state(state))
    plain.seq, plain.events, plain.retention = 0, 0, Retained()
    return digest(plain)
