"""Where things live, and who may read them."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from synapse.home import (
    SOCKET_PATH_BYTES_MAX,
    HomeFailed,
    HomeRefused,
    HubFile,
    ensure_home,
    ensure_socket_dir,
    ensure_token,
    fallback_socket_path,
    home_dir,
    place_once,
    read_hub_file,
    read_token,
    remove_hub_file,
    require_home,
    socket_path,
    write_hub_file,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("environ", "home"),
    [
        ({"SYNAPSE_HOME": "/x/y", "XDG_STATE_HOME": "/s"}, "/x/y"),
        ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/synapse"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/synapse"),
        ({"HOME": "/h"}, "/h/.local/state/synapse"),
        ({"SYNAPSE_HOME": "", "HOME": "/h"}, "/h/.local/state/synapse"),
    ],
)
def test_the_home_follows_the_environment(environ: dict[str, str], home: str) -> None:
    assert home_dir(environ) == home


def test_a_home_is_made_private_with_its_parents(tmp_path: Path) -> None:
    ensure_home(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("lost+found",),
        *((name, "hub.pem") for name in ("hub.lock", "journal.db", "token", "config.toml", "secrets")),
    ],
    ids=lambda names: names[0] if names else "empty",
)
def test_an_empty_an_own_or_a_prepared_home_loses_wider_modes(tmp_path: Path, names: tuple[str, ...]) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    for name in names:
        (home / name).touch()
    ensure_home(home)
    assert mode(home) == 0o700


def test_a_directory_of_other_things_is_a_home_only_when_it_is_private_already(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    (home / "thesis.tex").touch()
    for _ in range(2):
        with pytest.raises(HomeRefused, match=r"mode 0755\); nothing was changed: .*chmod 700"):
            ensure_home(home)
        assert mode(home) == 0o755
        assert [path.name for path in home.iterdir()] == ["thesis.tex"]
    home.chmod(0o700)
    ensure_home(home)
    assert mode(home) == 0o700


def test_a_home_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeRefused, match="choose another --home"):
        ensure_home(tmp_path / "file" / "home")


def test_the_socket_moves_when_its_name_would_be_too_long(tmp_path: Path) -> None:
    assert socket_path("/short") == "/short/hub.sock"
    deep = "/" + "d" * 120
    path = socket_path(deep)
    assert path == fallback_socket_path(deep) != fallback_socket_path(deep + "e")
    assert len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX
    assert f"/synapse-{os.getuid()}/" in path


def test_a_temporary_directory_that_is_itself_too_long_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/" + "t" * 120)
    assert fallback_socket_path("/x").startswith("/tmp/synapse-")


def test_the_directory_of_a_fallback_socket_is_private_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "synapse-1" / "x.sock"
    ensure_socket_dir(path)
    assert mode(path.parent) == 0o700
    ensure_socket_dir(path)
    path.parent.chmod(0o755)
    with pytest.raises(HomeRefused, match="mode 0700"):
        ensure_socket_dir(path)
    path.parent.rmdir()
    path.parent.symlink_to(tmp_path)
    with pytest.raises(HomeRefused):
        ensure_socket_dir(path)


def test_hub_json_says_what_was_written_and_only_its_hub_removes_it(tmp_path: Path) -> None:
    file = HubFile(pid=os.getpid(), uris=("unix:/x", "ws://127.0.0.1:1"), journal_id="j", hub_id="h")
    assert read_hub_file(tmp_path) is None
    write_hub_file(tmp_path, file)
    assert read_hub_file(tmp_path) == file
    assert mode(tmp_path / "hub.json") == 0o600
    assert os.listdir(tmp_path) == ["hub.json"]
    remove_hub_file(tmp_path, file.pid + 1)
    assert read_hub_file(tmp_path) == file
    remove_hub_file(tmp_path, file.pid)
    assert read_hub_file(tmp_path) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"pid": 1}', '{"pid":"1","uris":[],"journal_id":"","hub_id":""}', "\xff"]
)
def test_a_hub_json_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "hub.json").write_text(text, encoding="latin-1")
    with pytest.raises(HomeRefused, match="start the hub again"):
        read_hub_file(tmp_path)


def test_a_dead_process_is_known_as_dead_even_before_it_is_waited_for(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    file = HubFile(pid=child.pid, uris=(), journal_id="j", hub_id="h")
    assert file.is_alive
    assert child.stdin is not None
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not file.is_alive
    child.stdin.close()
    child.wait()
    assert not file.is_alive


def test_the_token_is_made_once_private_and_long(tmp_path: Path) -> None:
    token = ensure_token(tmp_path)
    assert len(token) == 43
    assert mode(tmp_path / "token") == 0o600
    assert ensure_token(tmp_path) == token == read_token(tmp_path / "token")


def test_an_empty_or_missing_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" \n")
    with pytest.raises(HomeRefused, match="empty"):
        ensure_token(tmp_path)
    with pytest.raises(HomeRefused, match="no token"):
        read_token(tmp_path / "other")
    for torn in (bytes(43), b"half\nand half"):
        (tmp_path / "token").write_bytes(torn)
        with pytest.raises(HomeRefused, match="holds no token, which is a line of text; remove it"):
            ensure_token(tmp_path)
    assert ensure_token(tmp_path, tmp_path / "elsewhere") == read_token(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "text",
    ["\0" * 44, "one line of words\nand another one", "\x1b[31m" + "a" * 20],
)
def test_what_is_no_token_is_none_of_the_hubs_own(tmp_path: Path, text: str) -> None:
    for path in (tmp_path / "token", tmp_path / "named"):
        path.write_text(text)
        with pytest.raises(
            HomeRefused, match=r"the token file holds no token.*; remove it, and the hub makes a new one"
        ):
            ensure_token(tmp_path, None if path.name == "token" else path)
        assert path.read_text() == text
        path.unlink()
    assert len(ensure_token(tmp_path)) == 43


@pytest.mark.parametrize(
    "text", ["a-token-that-is-long-enough-to-be-one\n", "sixteen_exactly!", "four words with blanks"]
)
def test_a_token_of_somebody_elses_making_is_taken(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    assert ensure_token(tmp_path) == text.strip()


def test_a_token_that_is_no_file_says_so_and_is_left(tmp_path: Path) -> None:
    (tmp_path / "token").symlink_to(tmp_path / "nowhere")
    with pytest.raises(HomeRefused, match=r"No such file.*; remove it, and the hub makes a new one"):
        ensure_token(tmp_path)
    assert os.listdir(tmp_path) == ["token"]


def test_looking_at_a_home_says_what_making_it_would(tmp_path: Path) -> None:
    assert require_home(tmp_path) is True
    assert require_home(tmp_path / "a" / "b") is False
    assert os.listdir(tmp_path) == []
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for place in (tmp_path / "link", tmp_path / "file", tmp_path / "file" / "home"):
        words = []
        for look in (require_home, ensure_home):
            with pytest.raises(HomeRefused, match="cannot be the home") as caught:
                look(place)
            words.append(str(caught.value))
        assert words[0] == words[1] or place.name == "home", "above it, a file is in the way of a directory"
    (tmp_path / "other").mkdir(mode=0o755)
    (tmp_path / "other" / "mine").touch()
    with pytest.raises(HomeRefused, match="has files that are not Synapse's"):
        require_home(tmp_path / "other")


def test_many_who_place_a_file_at_once_agree_on_one(tmp_path: Path) -> None:
    path, won = tmp_path / "f", []
    gate = threading.Barrier(8)

    def place(text: str) -> None:
        gate.wait()
        if place_once(str(path), text):
            won.append(text)

    threads = [threading.Thread(target=place, args=(str(n),)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_text()] == won
    assert os.listdir(tmp_path) == ["f"]


def test_a_system_that_fails_is_no_home_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(HomeFailed, match="no token can be made") as caught:
        ensure_token(tmp_path)
    assert caught.value.exit_code == 74
    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(HomeFailed, match="cannot be the home"):
        ensure_home(tmp_path / "new")
