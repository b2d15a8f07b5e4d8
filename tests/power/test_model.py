"""The model itself: what strace's lines mean, what a sync covers, and what may be lost without one."""

import random
from pathlib import Path
from typing import Final

import pytest
from tests.power.disk import DRAWS, Change, Disk, sectors
from tests.power.steps import ROOT, Namespace, Rename, Resize, Step, Sync, Unmodelled, Write
from tests.power.strace import Call, Data, Descriptor, read_calls

FILE: Final = 1
MADE: Final = Rename((((ROOT, "a"), FILE),))


def hexed(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def lines(*texts: str) -> list[bytes]:
    return [f"{text}\n".encode() for text in texts]


def after(*steps: Step, directories: frozenset[int] = frozenset({ROOT})) -> Disk:
    disk = Disk(directories)
    for step in steps:
        disk.take(step)
    return disk


def test_a_line_of_strace_is_a_call() -> None:
    [call] = read_calls(lines(f'7 pwrite64(6<{hexed("/r/a b")}>, "{hexed("x, (y)")}", 6, 0) = 6'))
    assert call == Call(7, "pwrite64", (Descriptor(6, "/r/a b", False), Data(b"x, (y)", False), 6, 0), 6, 0, 0)


def test_a_call_in_whose_middle_another_thread_ran_begins_and_ends_apart() -> None:
    found = read_calls(
        lines(
            f"7 fdatasync(6<{hexed('/r/w')}> <unfinished ...>",
            f'8 sendto(9<{hexed("socket:[5]")}>, "{hexed("hi")}", 2, 0, NULL, 0) = 2',
            "7 <... fdatasync resumed>) = 0",
            f"8 recvfrom(9<{hexed('socket:[5]')}>,  <unfinished ...>",
            f'8 <... recvfrom resumed>"{hexed("yo")}", 65536, 0, NULL, NULL) = 2',
            f"7 fsync(6<{hexed('/r/w')}>(deleted) <unfinished ...>",
            "7 <... ??? resumed>) = ?",
            "8 <... ??? resumed>) = ?",
            "7 +++ killed by SIGKILL +++",
        )
    )
    sent, synced, heard, cut_off = found
    assert (sent.name, sent.begun, sent.ended) == ("sendto", 1, 1)
    assert (synced.name, synced.begun, synced.ended, synced.result) == ("fdatasync", 0, 2, 0)
    assert heard.data() == Data(b"yo", False)
    assert cut_off.result is None
    assert cut_off.descriptor().is_deleted


def test_a_message_in_pieces_is_one_text_and_a_long_one_is_known_as_cut() -> None:
    sent, written = read_calls(
        lines(
            f'7 sendmsg(9<{hexed("s")}>, {{msg_iov=[{{iov_base="{hexed("ab")}", iov_len=2}}, {{iov_base="{hexed("c")}",'
            " iov_len=1}], msg_iovlen=2}, 0) = 3",
            f'7 write(6<{hexed("/r/w")}>, "{hexed("ab")}"..., 9) = 9',
        )
    )
    assert sent.data().value == b"abc"
    assert written.data().is_cut


def test_steps_follow_a_file_through_its_names() -> None:
    space = Namespace("/r")
    space.follow(
        read_calls(
            lines(
                f'7 openat(AT_FDCWD<{hexed("/")}>, "{hexed("/r/a")}", O_RDWR|O_CREAT|O_TRUNC|O_CLOEXEC, 0600) = 5',
                f'7 write(5<{hexed("/r/a")}>, "{hexed("ab")}", 2) = 2',
                f'7 write(5<{hexed("/r/a")}>, "{hexed("c")}", 1) = 1',
                f"7 fsync(5<{hexed('/r/a')}> <unfinished ...>",
                f'8 pwrite64(6<{hexed("/r/a")}>, "{hexed("C")}", 1, 2) = 1',
                "7 <... fsync resumed>) = 0",
                f'8 rename("{hexed("/r/a")}", "{hexed("/r/b")}") = 0',
                f'8 unlink("{hexed("/r/b")}") = 0',
                f'7 write(5<{hexed("/r/b")}>(deleted), "{hexed("d")}", 1) = 1',
                f'8 unlink("{hexed("/elsewhere")}") = 0',
            )
        )
    )
    moved = Rename((((ROOT, "a"), None), ((ROOT, "b"), FILE)))
    gone = Rename((((ROOT, "b"), None),))
    written = [Write(FILE, 0, b"ab"), Write(FILE, 2, b"c"), Write(FILE, 2, b"C")]
    assert space.steps == [MADE, *written, Sync(FILE, 3), moved, gone]


@pytest.mark.parametrize(
    "line",
    [
        "7 sync() = 0",
        f"7 mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, 5<{hexed('/r/a')}>, 0) = 0x7f0000000000",
        f"7 copy_file_range(5<{hexed('/x')}>, NULL, 6<{hexed('/r/a')}>, NULL, 9, 0) = 9",
        f'7 write(5<{hexed("/r/a")}>, "{hexed("opened by nobody")}", 16) = 16',
    ],
)
def test_a_write_that_nobody_understands_is_not_passed_over(line: str) -> None:
    space = Namespace("/r")
    space.begin_with({"a": b""})
    with pytest.raises(Unmodelled):
        space.follow(read_calls(lines(line)))


def test_what_was_not_synced_may_be_lost_and_what_was_may_not() -> None:
    disk = after(MADE, Write(FILE, 0, b"old"), Sync(FILE, 2), Sync(ROOT, 2), Write(FILE, 0, b"new!"), Resize(FILE, 2))
    assert disk.image([]) == {"a": b"old"}
    assert disk.image(list(disk.waiting.values())) == {"a": b"ne"}


def test_a_sync_of_a_file_does_not_make_its_name_durable() -> None:
    assert after(MADE, Write(FILE, 0, b"x"), Sync(FILE, 2)).image([]) == {}


def test_a_sync_of_a_directory_does_not_make_bytes_durable() -> None:
    assert after(MADE, Write(FILE, 0, b"x"), Sync(ROOT, 2)).image([]) == {"a": b""}


def test_a_sync_covers_only_what_had_ended_when_it_began() -> None:
    disk = after(MADE, Sync(ROOT, 1), Write(FILE, 0, b"1"), Write(FILE, 1, b"2"), Sync(FILE, 3))
    assert disk.image([]) == {"a": b"1"}


def test_a_rename_between_directories_is_durable_with_either_and_with_what_came_before() -> None:
    made = Rename((((ROOT, "d"), 2),))
    other = Rename((((2, "a"), 3),))
    moved = Rename((((ROOT, "a"), None), ((2, "a"), FILE)))
    disk = after(made, MADE, other, moved, Sync(ROOT, 4), directories=frozenset({ROOT, 2}))
    assert disk.image([]) == {"d": None, "d/a": b""}
    assert disk.names[2, "a"] == FILE
    assert not disk.waiting


def test_writes_tear_where_sectors_begin() -> None:
    pieces = list(sectors(Write(FILE, 500, bytes(range(100)))))
    assert [(piece.offset, len(piece.data)) for piece in pieces] == [(500, 12), (512, 88)]
    assert b"".join(piece.data for piece in pieces) == bytes(range(100))


@pytest.mark.parametrize("draw", DRAWS)
def test_a_draw_keeps_the_order_and_invents_nothing(draw: str) -> None:
    waiting: list[Change] = [MADE, *(Write(FILE, at * 512, bytes([at]) * 1024) for at in range(9)), Resize(FILE, 700)]
    for seed in range(50):
        kept = DRAWS[draw](waiting, random.Random(seed))
        disk = after(MADE, Sync(ROOT, 1))
        content = disk.image([change for change in kept if change != MADE])["a"]
        assert isinstance(content, bytes)
        assert len(content) <= 5120
        for at in range(0, len(content), 512):
            assert set(content[at : at + 512]) <= {0, at // 512, max(at // 512 - 1, 0)}


def test_the_files_below_a_root_can_be_the_start(tmp_path: Path) -> None:
    space = Namespace(str(tmp_path))
    space.begin_with({"d": None, "d/a": b"text", "journal.reserve": 9})
    disk = after(*space.steps, directories=frozenset(space.directories))
    assert disk.image([]) == {"d": None, "d/a": b"text", "journal.reserve": 9}
