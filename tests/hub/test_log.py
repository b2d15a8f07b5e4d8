"""The hub's log: one JSON object a line, whatever is in it."""

import errno
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults.conftest import HubProcess, fill, line_to, small_disk, start_fails

from synapse.hub.log import LOGGER, JsonFormatter, LogFile, LogRefused, log, set_up


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The logger as it was."""
    handlers, propagate, level = LOGGER.handlers[:], LOGGER.propagate, LOGGER.level
    yield
    LOGGER.handlers[:], LOGGER.propagate = handlers, propagate
    LOGGER.setLevel(level)


def test_a_record_is_one_line_with_its_action_and_facts(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info")
    log("hub.ready", "two\nlines \u2028 and \x1b[31m", pid=7, uris=("a", "b"))
    log("hub.detail", "not logged", level=logging.DEBUG)
    [line] = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert line.isascii()
    assert (found["action"], found["level"], found["pid"], found["uris"]) == ("hub.ready", "info", 7, ["a", "b"])
    assert found["text"] == "two\nlines \u2028 and \x1b[31m"
    assert found["at_ms"] > 1_700_000_000_000


def test_an_exception_is_in_the_line_and_not_behind_it() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        record = logging.LogRecord("other", logging.ERROR, "x", 1, "failed", None, sys.exc_info())
    found = json.loads(JsonFormatter().format(record))
    assert found["action"] == "other"
    assert found["traceback"].endswith("ValueError: boom")


# the file


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where the log goes; its handler is closed with the test."""
    yield tmp_path / "hub.log"
    for handler in LOGGER.handlers:
        handler.close()


def begin(path: Path, *, bytes_max: int = 1000, kept: int = 2) -> LogFile:
    handler = LogFile(path, bytes_max=bytes_max, kept=kept)
    set_up("info", handler)
    return handler


def test_a_log_file_is_private_and_goes_on_where_it_ended(path: Path) -> None:
    begin(path).close()
    begin(path)
    log("one", "first")
    log("two", "second")
    assert [line["action"] for line in lines_of(path)] == ["one", "two"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_file_is_put_aside_before_it_grows_too_long_and_only_some_are_kept(path: Path) -> None:
    begin(path, bytes_max=1000, kept=2)
    for number in range(60):
        log("n", "x" * 100, n=number)
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == ["hub.log", "hub.log.1", "hub.log.2"]
    files = [path.parent / name for name in reversed(names)]
    assert all(file.stat().st_size <= 1000 and file.stat().st_mode & 0o777 == 0o600 for file in files)
    numbers = [line["n"] for file in files for line in lines_of(file)]
    assert numbers == list(range(numbers[0], 60)), "in order, without a gap, the newest last"


def test_without_kept_files_there_is_only_the_one(path: Path) -> None:
    begin(path, bytes_max=1000, kept=0)
    for number in range(60):
        log("n", "x" * 100, n=number)
    assert [file.name for file in path.parent.iterdir()] == ["hub.log"]
    assert lines_of(path)[-1]["n"] == 59


def test_a_line_that_is_longer_than_the_bound_is_written_whole(path: Path) -> None:
    begin(path, bytes_max=1000)
    log("long", "x" * 5000)
    log("next", "short")
    assert [line["action"] for line in lines_of(path)] == ["next"]
    assert [line["action"] for line in lines_of(path.parent / "hub.log.1")] == ["long"]


def test_a_disk_that_fails_costs_lines_and_nothing_else(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = begin(path, bytes_max=100_000)
    log("before", "here")
    real = os.write

    def torn(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[:5])

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "write", torn)
    log("torn", "half of it")
    monkeypatch.setattr(os, "write", full)
    log("lost", "all of it")
    assert handler.lost == 2
    monkeypatch.setattr(os, "write", real)
    log("after", "space is back")
    log("later", "as before")
    whole = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    assert [(line["action"], line.get("lost_before")) for line in whole] == [
        ("before", None),
        ("after", 2),
        ("later", None),
    ]


def test_where_no_new_file_can_be_made_lines_are_lost_and_nothing_moves(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = begin(path, bytes_max=300, kept=2)
    log("first", "x" * 200)
    (path.parent / "hub.log.new").mkdir()
    log("second", "x" * 200)
    log("third", "x" * 200)
    assert (handler.lost, sorted(file.name for file in path.parent.iterdir())) == (2, ["hub.log", "hub.log.new"])
    (path.parent / "hub.log.new").rmdir()
    log("fourth", "there is room")
    assert [(line["action"], line["lost_before"]) for line in lines_of(path)] == [("fourth", 2)]


@pytest.mark.parametrize("what", ["directory", "pipe", "device", "nowhere", "below a file"])
def test_what_is_no_file_is_refused_in_one_line(tmp_path: Path, what: str) -> None:
    match what:
        case "directory":
            path = tmp_path
        case "pipe":
            path = tmp_path / "pipe"
            os.mkfifo(path)
        case "device":
            path = Path(os.devnull)
        case "nowhere":
            path = tmp_path / "missing" / "hub.log"
        case _:
            (tmp_path / "file").touch()
            path = tmp_path / "file" / "hub.log"
    with pytest.raises(LogRefused, match="the log cannot be written") as caught:
        LogFile(path, bytes_max=1000, kept=1)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_whose_log_cannot_be_written_does_not_start_and_changes_nothing(tmp_path: Path) -> None:
    refused = start_fails(tmp_path / "home", "--log-file", str(tmp_path / "missing" / "hub.log"))
    assert refused.code == 78
    assert "missing/hub.log: the log cannot be written" in refused.line
    assert list(tmp_path.iterdir()) == []


def test_a_hub_writes_its_log_into_its_file_and_rotates_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    flags = ("--log-file", str(home / "hub.log"), "--log-file-bytes-max", "65536", "--log-files-kept", "1")
    with HubProcess(home, *flags).until_ready() as hub:
        assert hub.stop().code == 0
        assert hub.said == b"", "nothing on stderr"
    assert [line["action"] for line in lines_of(home / "hub.log")][-1] == "hub.stopped"
    (home / "hub.log").write_bytes(b"{}\n" * 21_840)  # nearly as long as it may be
    with HubProcess(home, *flags).until_ready() as hub:
        assert hub.stop().code == 0
    assert lines_of(home / "hub.log")[0]["action"] == "hub.ready"
    assert (home / "hub.log.1").stat().st_size == 3 * 21_840


def test_a_log_whose_disk_is_full_does_not_stop_the_hub(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 1 << 20) as disk:
        (disk / "hub.log").write_bytes(b" " * 4095 + b"\n")  # a whole page: the next line needs another
        filler = fill(disk)
        flags = ("--log-file", str(disk / "hub.log"))
        with HubProcess(tmp_path / "home", *flags).until_ready() as hub, line_to(tmp_path / "home") as ada:
            assert ada.post("while the log's disk is full").n == 1
            assert (disk / "hub.log").stat().st_size == 4096
            filler.unlink()
            assert hub.stop().code == 0
        last = [json.loads(line) for line in (disk / "hub.log").read_text().splitlines() if line.strip()]
        assert [line["action"] for line in last] == ["hub.draining", "hub.stopped"]
        assert last[0]["lost_before"] >= 1
