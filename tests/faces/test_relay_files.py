"""The relay's files under kills, rotation and readers that tail: what is there is told once, what is lost is said."""

import fcntl
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synapse.errors import Rejected
from synapse.faces import relay_files
from synapse.faces.relay_files import Relay, RelayAbsent, RelayLocked, read
from synapse.faces.relay_form import RelayBroken

JOURNAL, OTHER = "4a11baa6f94f67a2", "5b22cbb7a05a78b3"
BASE = 3_764_971_081_039_872
Json = dict[str, Any]
SOURCE: list[Json] = [
    {
        "cursor": f"{JOURNAL}:{BASE + 2 * n}",
        "at_ms": 1_795_278_111_940 + 17 * n,
        "by": f"worker-{n % 7}",
        "kind": "message.posted" if n % 3 else "lease.granted",
        "room": "main",
        "body": f"line {n} \x85\u2028 é",
    }
    for n in range(1, 400)
]


def cursor(n: int) -> str:
    return f"{JOURNAL}:{BASE + 2 * n}"


def seq_of(text: str) -> int:
    return int(text.partition(":")[2])


def after(position: str, most: int) -> list[Json]:
    """What the hub would tell behind a cursor."""
    return [line for line in SOURCE if seq_of(str(line["cursor"])) > seq_of(position)][:most]


def started(path: Path, **bounds: Any) -> Relay:
    relay = Relay(str(path), "ada", **bounds)
    if relay.position is None:
        relay.begin(cursor(0), 0)
    return relay


def feed(relay: Relay, most: int) -> None:
    """One page from where the relay is."""
    assert relay.position is not None
    page = after(relay.position, most)
    relay.write(page, str(page[-1]["cursor"]) if page else relay.position)


def proved(told: list[Json], since: str, upto: str) -> int:
    """What was told is the source behind `since`, in order and once each; what is missing was said to be lost, exactly.
    How many were told."""
    position, count = seq_of(since), 0
    expected = {seq_of(str(line["cursor"])): line for line in SOURCE}
    for one in told:
        if "lost" in one:
            assert seq_of(one["lost"]["from"]) == position, "a loss begins where the last line ended"
            position = seq_of(one["lost"]["to"])
            continue
        seq = seq_of(one["cursor"])
        assert [missed for missed in expected if position < missed < seq] == [], "nothing is left out without a word"
        assert seq > position, "nothing is told twice"
        assert json.dumps(one) == json.dumps(expected[seq])
        position, count = seq, count + 1
    assert [missed for missed in expected if position < missed <= seq_of(upto)] == []
    return count


class Killed(Exception):
    """The process is gone."""


class Fuse:
    """Lets so many bytes and renames through, then kills."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bytes_left = self.renames_left = 1 << 40
        self._write, self._rename, self._unlink = os.write, os.rename, os.unlink
        patch.setattr(os, "write", self.write)
        patch.setattr(os, "rename", self.rename)
        patch.setattr(os, "unlink", self.unlink)

    def write(self, descriptor: int, data: bytes) -> int:
        part = bytes(data)[: self.bytes_left]
        done = self._write(descriptor, part)
        self.bytes_left -= done
        if not self.bytes_left:
            raise Killed
        return done

    def rename(self, old: str, new: str) -> None:
        self.step()
        self._rename(old, new)

    def unlink(self, path: str) -> None:
        self.step()
        self._unlink(path)

    def step(self) -> None:
        self.renames_left -= 1
        if self.renames_left < 0:
            raise Killed

    def reset(self) -> None:
        self.bytes_left = self.renames_left = 1 << 40


acts = st.lists(
    st.tuples(st.just("write"), st.integers(0, 12))
    | st.tuples(st.just("tear"), st.integers(1, 1_200))
    | st.tuples(st.just("cut"), st.integers(0, 6))
    | st.tuples(st.just("restart"), st.integers(0, 6)),
    max_size=30,
)


@settings(max_examples=80, deadline=None)
@given(acts, st.integers(1, 4), st.integers(0, 3))
def test_whatever_kills_the_writer_readers_are_told_everything_once_or_that_it_is_lost(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[str, int]], keep: int, patience: int
) -> None:
    """A reader that tails is looked at between any two acts, `patience` acts late; others come at the end."""
    path = tmp_path_factory.mktemp("relay") / "relay.ndjson"
    with pytest.MonkeyPatch.context() as patch:
        fuse = Fuse(patch)
        relay = started(path, bytes_max=1_500, keep=keep)
        tail = Tail(patch, path)
        for number, (act, amount) in enumerate(plan):
            fuse.reset()
            try:
                if act == "tear":
                    fuse.bytes_left = amount
                elif act == "cut":
                    fuse.renames_left = amount
                if act == "restart":
                    raise Killed
                feed(relay, amount if act == "write" else 12)
            except Killed:
                fuse.reset()
                relay.close()
                relay = come_back(fuse, path, keep, amount if act == "restart" else 1 << 40)
            if number % (patience + 1) == 0:
                tail.look()
        fuse.reset()
        feed(relay, 3)
        assert relay.position is not None
        tail.look()
        assert len([entry for entry in os.listdir(path.parent) if "lock" not in entry]) <= keep + 1
        proved(tail.told, cursor(0), relay.position)
        proved(list(read(str(path))), cursor(0), relay.position)
        for since in (cursor(5), relay.position):
            if seq_of(since) <= seq_of(relay.position):
                proved(list(read(str(path), since)), since, relay.position)
        relay.close()


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("steps", range(6))
def test_a_kill_between_any_two_renames_leaves_files_that_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int, steps: int
) -> None:
    fuse, path = Fuse(monkeypatch), tmp_path / "relay.ndjson"
    relay = started(path, bytes_max=1_500, keep=keep)
    for _ in range(4):
        feed(relay, 12)
    fuse.renames_left = steps
    with pytest.raises(Killed):
        for _ in range(6):
            feed(relay, 12)
    relay.close()
    for budget in (steps, 1 << 40):
        relay = come_back(fuse, path, keep, budget)
        assert relay.position is not None
        proved(list(read(str(path))), cursor(0), relay.position)
        relay.close()
    relay = started(path, bytes_max=1_500, keep=keep)
    feed(relay, 12)
    assert relay.position is not None
    proved(list(read(str(path))), cursor(0), relay.position)
    assert len(list(tmp_path.glob("relay.ndjson*"))) <= keep + 1, "the lock is one"
    relay.close()


def come_back(fuse: Fuse, path: Path, keep: int, renames_left: int) -> Relay:
    """The next writer, which may be killed while it puts things in order."""
    fuse.renames_left = renames_left
    try:
        return started(path, bytes_max=1_500, keep=keep)
    except Killed:
        fuse.reset()
        return started(path, bytes_max=1_500, keep=keep)


class Tail:
    """A reader that follows, and hands over when it would wait."""

    def __init__(self, patch: pytest.MonkeyPatch, path: Path, since: str | None = None) -> None:
        self.told: list[Json] = []
        self._patch = patch
        self._path = str(path)
        self._since = since
        self._position: str | None = since

    def look(self) -> None:
        """Read until there is nothing more. (A generator cannot be left in the middle of a sleep: it begins anew, as a
        reader does that comes again with its cursor.)"""

        def idle(seconds: float) -> None:
            if seconds >= relay_files._POLL_S:
                raise Killed

        self._patch.setattr(relay_files, "sleep", idle)
        try:
            for one in read(self._path, self._position, is_following=True):
                self.told.append(one)
                lost = one.get("lost")
                self._position = str(lost["to"] if isinstance(lost, dict) else one["cursor"])
        except Killed:
            return


def paced(patch: pytest.MonkeyPatch, steps: Iterator[Callable[[], None]]) -> None:
    """Whenever a reader would wait, the next step is done; with none left it is over."""

    def idle(seconds: float) -> None:
        step = next(steps, None) if seconds >= relay_files._POLL_S else int
        if step is None:
            raise Killed
        step()

    patch.setattr(relay_files, "sleep", idle)


@pytest.mark.parametrize("pages", [1, 7, 40])
def test_a_reader_that_tails_over_many_rotations_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    path = tmp_path / "relay.ndjson"
    relay = started(path, bytes_max=2_000, keep=4)
    paced(monkeypatch, iter([lambda: feed(relay, pages)] * 30))
    told: list[Json] = []
    with pytest.raises(Killed):
        told.extend(iter_into(told, read(str(path), is_following=True)))
    assert relay.position is not None
    count = proved(told, cursor(0), relay.position)
    if pages == 7:
        assert not any("lost" in one for one in told), "it kept up, and nothing was lost"
        assert count == 210
    relay.close()


def iter_into(told: list[Json], lines: Iterator[Json]) -> Iterator[Json]:
    for line in lines:
        told.append(line)
        yield from ()


def test_a_reader_that_is_overtaken_is_told_what_it_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "relay.ndjson"
    relay = started(path, bytes_max=1_500, keep=2)
    feed(relay, 4)

    def much() -> None:
        for _ in range(20):
            feed(relay, 10)

    paced(monkeypatch, iter([much]))
    told: list[Json] = []
    with pytest.raises(Killed):
        for one in read(str(path), is_following=True):
            told.append(one)
    assert relay.position is not None
    assert sum("lost" in one for one in told) == 1
    proved(told, cursor(0), relay.position)
    relay.close()


def test_files_are_private_bounded_and_say_where_they_begin(tmp_path: Path) -> None:
    path = tmp_path / "relay.ndjson"
    relay = started(path, bytes_max=2_000, keep=3)
    for _ in range(30):
        feed(relay, 5)
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == ["relay.ndjson", "relay.ndjson.1", "relay.ndjson.2", "relay.ndjson.lock"]
    for name in names:
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert (tmp_path / name).stat().st_size <= 2_000
    newest = json.loads((tmp_path / "relay.ndjson").read_text().split("\n")[0])
    older = json.loads((tmp_path / "relay.ndjson.1").read_text().split("\n")[0])
    assert (newest["file"], newest["before"], newest["began"]) == (older["file"] + 1, newest["from"], cursor(0))
    assert json.loads((tmp_path / "relay.ndjson.1").read_text().split("\n")[-2]) == ["end"]
    assert next(read(str(path))) == {"lost": {"from": cursor(0), "to": seen_first(tmp_path)}}
    relay.close()


def seen_first(folder: Path) -> str:
    return str(json.loads((folder / "relay.ndjson.2").read_text().split("\n")[0])["from"])


@pytest.mark.bad_input("BI-106")
@pytest.mark.parametrize("back", range(1, 60, 4))
def test_a_torn_end_is_left_alone_by_readers_and_cut_by_the_next_writer(tmp_path: Path, back: int) -> None:
    path = tmp_path / "relay.ndjson"
    relay = started(path)
    feed(relay, 20)
    relay.close()
    whole = path.read_bytes()
    os.truncate(path, len(whole) - back)
    proved(list(read(str(path))), cursor(0), cursor(18))
    again = started(path)
    assert again.position in (cursor(18), cursor(19))
    feed(again, 20)
    again.close()
    assert proved(list(read(str(path))), cursor(0), cursor(30)) > 30


@pytest.mark.bad_input("BI-106")
def test_what_a_power_cut_left_behind_goes_with_everything_after_it(tmp_path: Path) -> None:
    path = tmp_path / "relay.ndjson"
    relay = started(path)
    feed(relay, 20)
    relay.close()
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:12], b"\0" * 40, *lines[13:]]))
    with pytest.raises(RelayBroken, match="line 13"):
        list(read(str(path)))
    again = started(path)
    feed(again, 30)
    again.close()
    proved(list(read(str(path))), cursor(0), cursor(20))


@pytest.mark.bad_input("BI-107")
def test_a_second_writer_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "relay.ndjson"
    relay = started(path)
    with pytest.raises(RelayLocked, match=rf"ada \(pid {os.getpid()}\)") as refused:
        Relay(str(path), "bob")
    assert refused.value.exit_code == 75
    relay.close()
    Relay(str(path), "bob").close()


@pytest.mark.bad_input("BI-116")
def test_every_file_says_what_it_is_of_and_one_from_before_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "relay.ndjson"
    started(path).close()
    old = path.read_bytes()
    eve = {"name": ["eve"], "kind": ["memory"]}
    Relay(str(path), "eve", of=eve).close()
    assert path.read_bytes() == old, "nothing is known of it, so it goes on"
    relay = Relay(str(path), "eve", of=eve, bytes_max=1)
    feed(relay, 3)
    relay.close()
    with path.open("ab") as full:
        full.write(b'["end"]\n')
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir() if one.suffix != ".lock"}
    with pytest.raises(Rejected, match="is written with --name eve --kind memory, and this is --name bob") as refused:
        Relay(str(path), "bob", of={"name": ["bob"]})
    assert refused.value.facts == {"file": str(path), "of": eve}
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir() if one.suffix != ".lock"} == before
    Relay(str(path), "eve", of=eve).close()
    files = [one.read_bytes().splitlines() for one in sorted(tmp_path.iterdir()) if one.suffix != ".lock"]
    assert [json.loads(lines[0]).get("of") for lines in files] == [eve, eve, eve, None]


@pytest.mark.bad_input("BI-116")
def test_of_a_relay_that_never_began_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "relay.ndjson"
    refused = Relay(str(path), "ada")
    late: list[Relay] = []
    lock = fcntl.flock

    def behind(descriptor: int, how: int) -> None:
        """The lock file is open already when its holder goes and takes it away."""
        monkeypatch.setattr(fcntl, "flock", lock)
        refused.close()
        assert list(tmp_path.iterdir()) == []
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", behind)
    late.append(Relay(str(path), "bob"))
    with pytest.raises(RelayLocked, match="written by bob"):
        Relay(str(path), "cleo")
    late.pop().close()
    assert list(tmp_path.iterdir()) == []
    started(path).close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["relay.ndjson", "relay.ndjson.lock"]
    (tmp_path / "relay.ndjson.lock").unlink()
    tidied = Relay(str(tmp_path / "other"), "ada")
    (tmp_path / "other.lock").unlink()
    tidied.close()


@pytest.mark.bad_input("BI-108")
@pytest.mark.parametrize("content", ["", "hello\n", '{"cursor":"a:1"}\n', '{"relay":9}\n', "x" * 100_000])
def test_a_file_that_is_none_of_a_relay_is_neither_read_nor_written(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(RelayBroken, match=r"notes\.txt is no relay file"):
        list(read(str(path)))
    with pytest.raises(RelayBroken):
        Relay(str(path), "ada")
    assert path.read_text() == content
    with pytest.raises(RelayAbsent):
        list(read(str(tmp_path / "nothing")))


def test_a_file_that_was_moved_away_is_complete_and_the_next_one_goes_on_behind_it(tmp_path: Path) -> None:
    path, moved = tmp_path / "relay.ndjson", tmp_path / "moved"
    relay = started(path)
    feed(relay, 5)
    path.rename(moved)
    with pytest.raises(RelayAbsent, match=r"ada .pid .* makes it with what happens next"):
        list(read(str(path)))
    feed(relay, 5)
    assert proved([*read(str(moved)), *read(str(path))][:5], cursor(0), cursor(5)) == 5
    first, *told = read(str(path))
    assert first == {"lost": {"from": cursor(0), "to": cursor(5)}}
    assert proved([first, *told], cursor(0), cursor(10)) == 5
    path.unlink()
    feed(relay, 0)
    assert not path.exists(), "nothing has happened"
    feed(relay, 5)
    assert proved(list(read(str(path), cursor(10))), cursor(10), cursor(15)) == 5
    path.write_text("mine")
    path.rename(tmp_path / "ours")
    path.write_text("mine")
    with pytest.raises(RelayBroken, match="is another file by now"):
        feed(relay, 5)
    assert path.read_text() == "mine"
    relay.close()


def test_who_follows_waits_for_the_first_file(tmp_path: Path) -> None:
    path = tmp_path / "relay.ndjson"
    told = read(str(path), is_following=True)
    found: list[Json] = []
    waiting = threading.Thread(target=lambda: found.append(next(told)), daemon=True)
    waiting.start()
    relay = started(path)
    feed(relay, 1)
    waiting.join(15)
    assert found == SOURCE[:1]
    relay.close()


def test_a_folder_in_place_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        list(read(str(tmp_path)))


def test_a_loss_that_the_hub_told_is_told_again(tmp_path: Path) -> None:
    path = tmp_path / "relay.ndjson"
    relay = started(path)
    feed(relay, 5)
    relay.lose(cursor(50))
    feed(relay, 5)
    told = list(read(str(path)))
    assert [one for one in told if "lost" in one] == [{"lost": {"from": cursor(5), "to": cursor(50)}}]
    assert proved(told, cursor(0), cursor(55)) == 10
    assert list(read(str(path), cursor(50))) == SOURCE[50:55]
    assert next(read(str(path), cursor(20))) == {"lost": {"from": cursor(20), "to": cursor(50)}}
    assert list(read(str(path), cursor(60))) == []
    relay.close()


def test_another_journal_begins_another_file(tmp_path: Path) -> None:
    path = tmp_path / "relay.ndjson"
    relay = started(path)
    feed(relay, 3)
    relay.begin(f"{OTHER}:70", 0)
    relay.write([{"cursor": f"{OTHER}:71", "kind": "x"}], f"{OTHER}:71")
    told = list(read(str(path)))
    assert told[3:] == [{"lost": {"from": cursor(3), "to": f"{OTHER}:70"}}, {"cursor": f"{OTHER}:71", "kind": "x"}]
    assert list(read(str(path), f"{OTHER}:71")) == []
    with pytest.raises(Rejected) as refused:
        list(read(str(path), "0" * 16 + ":1"))
    assert refused.value.code == "log_diverged"
    with pytest.raises(Rejected) as refused:
        list(read(str(path), "yesterday"))
    assert refused.value.code == "bad_request"
    relay.close()


def test_what_was_passed_by_need_not_be_looked_through_again(tmp_path: Path) -> None:
    path = tmp_path / "relay.ndjson"
    relay = started(path)
    relay.write([], cursor(100))
    assert relay.position == cursor(0), "a little is not worth a line"
    relay.write([], cursor(5_000))
    assert relay.position == cursor(5_000)
    relay.close()
    assert started(path).position == cursor(5_000)
    assert list(read(str(path))) == []
