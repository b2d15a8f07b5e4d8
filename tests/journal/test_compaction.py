"""Compaction: what is kept is all there, what went is proved, and a death at any step costs nothing."""

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from tests.journal.traffic import CHANNELS, DAY_MS, Traffic

from synapse.core.events import LEASES, Row, keys_of
from synapse.core.kernel import apply
from synapse.core.retention import floor_of, kind_of, pinned
from synapse.core.state import State, encode_state
from synapse.hub.reads import read_message, recorded_of
from synapse.journal import compaction
from synapse.journal.admin import verify
from synapse.journal.compaction import compact
from synapse.journal.reader import JournalReader
from synapse.journal.recovery import recover
from synapse.journal.snapshot import core_folding, take_snapshot
from synapse.journal.store import Journal
from synapse.journal.upcast import decode

KEEP = {"messages": 2 * DAY_MS, "leases": DAY_MS, "values": DAY_MS}


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
                assert row.type == "journal.compacted"
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


@pytest.mark.parametrize("seed", range(6))
def test_a_compacted_journal_has_all_that_is_kept_and_dies_at_any_step(
    seed: int, tmp_path: Path, deaths: Deaths
) -> None:
    traffic = Traffic.begin(tmp_path / "home", seed)
    gone = [count for _, count in rounds(traffic, deaths, 4)]
    assert gone[-1] > 20, "the test reached what it is about"
    assert gone == sorted(gone)
