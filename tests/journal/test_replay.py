"""Replay: every event once, in order, on a proved chain; journals of older releases too."""

import os
import shutil
from pathlib import Path

import msgspec
import pytest
from tests.journal.conftest import AT_MS, RESERVE_BYTES, post, posts

from synapse.core.events import JournalAdopted, Recorded, to_row
from synapse.core.state import digest
from synapse.errors import JournalRefused
from synapse.journal.admin import verify
from synapse.journal.chain import genesis
from synapse.journal.memory import MemoryJournal
from synapse.journal.recovery import recover
from synapse.journal.replay import replay

FROZEN = Path(__file__).parent / "frozen"


def memory_with(count: int) -> MemoryJournal:
    journal = MemoryJournal(at_ms=AT_MS)
    journal.append(posts(journal.base, count))
    return journal


def test_every_event_is_folded_once_and_in_order() -> None:
    journal = memory_with(2500)
    seen: list[int] = []
    start = genesis(journal.hub_id, journal.base)
    done = replay(journal, lambda r: seen.append(r.seq), after=journal.base, upto=journal.head, prev_hash=start)
    assert seen == list(range(journal.base + 1, journal.head + 1))
    assert done == (journal.head, journal.head_hash, 2500)


def test_a_part_is_folded_from_a_known_hash() -> None:
    journal = memory_with(50)
    after = journal.base + 20
    prev = journal.hash_at(after)
    assert prev is not None
    seen: list[int] = []
    done = replay(journal, lambda r: seen.append(r.seq), after=after, upto=after + 5, prev_hash=prev)
    assert (seen, done.seq, done.events) == (list(range(after + 1, after + 6)), after + 5, 5)


def test_nothing_to_fold_is_fine() -> None:
    journal = memory_with(3)
    done = replay(journal, print, after=journal.head, upto=journal.head, prev_hash=journal.head_hash)
    assert done == (journal.head, journal.head_hash, 0)


def test_another_hash_to_start_from_is_refused() -> None:
    journal = memory_with(5)
    with pytest.raises(JournalRefused, match="is not the one the replay starts from"):
        replay(journal, print, after=journal.base + 2, upto=journal.head, prev_hash=bytes(32))


def test_missing_events_are_refused_with_the_first_seq() -> None:
    journal = memory_with(5)
    with pytest.raises(JournalRefused, match="are missing") as caught:
        replay(
            journal,
            lambda _: None,
            after=journal.base,
            upto=journal.head + 3,
            prev_hash=genesis("0" * 16, journal.base),
        )
    assert caught.value.seq == journal.head + 1


def test_an_adoption_is_folded_across_its_hole() -> None:
    journal = memory_with(2)
    event = JournalAdopted(
        hub_id="c" * 16, journal_id="a" * 16, previous_id="b" * 16, previous_seq=journal.head, reason="adopt"
    )
    journal.append([to_row(Recorded(journal.head + 5000, AT_MS, "operator", event)), post(journal.head + 5001)])
    seen: list[str] = []
    replay(
        journal,
        lambda r: seen.append(type(r.event).__name__),
        after=journal.base,
        upto=journal.head,
        prev_hash=genesis(journal.hub_id, journal.base),
    )
    assert seen == ["MessagePosted", "MessagePosted", "JournalAdopted", "MessagePosted"]


def test_a_replay_stops_when_told() -> None:
    journal = memory_with(3000)
    calls = iter([False, True])
    done = replay(
        journal,
        lambda _: None,
        after=journal.base,
        upto=journal.head,
        prev_hash=genesis(journal.hub_id, journal.base),
        stop=lambda: next(calls),
    )
    assert done.events == 1024


class Expected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a frozen journal must give."""

    head: int
    head_hash: str
    events: int
    state_digest: str


@pytest.mark.parametrize("version", sorted(os.listdir(FROZEN)))
def test_a_journal_of_an_older_release_still_replays(version: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(FROZEN / version, home)
    expected = msgspec.json.decode((home / "expected.json").read_bytes(), type=Expected)
    found = recover(home, AT_MS, reserve_bytes=RESERVE_BYTES)
    found.journal.close()
    assert (found.journal.head, found.journal.head_hash.hex()) == (expected.head, expected.head_hash)
    assert found.replayed_events == expected.events
    assert digest(found.state) == expected.state_digest
    assert verify(home).finding is None
