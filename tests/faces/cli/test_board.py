"""`board`: once over all pages, and live."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
from tests.faces.conftest import Frame, PaperHub, RealHub, Script, environment, reply, welcome

from synapse.client.home import Surroundings
from synapse.client.link import Notice, open_link
from synapse.faces.cli import board
from synapse.faces.cli.main import main

ADA = {"SYNAPSE_NAME": "ada"}


def declare(hub: RealHub, *tasks: Mapping[str, object]) -> None:
    done = hub.run("task", "declare", "--file", "-", text="\n".join(map(json.dumps, tasks)), **ADA)
    assert done.returncode == 0, done.stderr


TWO: tuple[dict[str, object], ...] = ({"task": "build", "title": "Build it"}, {"task": "test", "depends_on": ["build"]})


def test_the_whole_plan_is_told_over_all_pages(hub: RealHub) -> None:
    declare(hub, *({"task": f"t{n:04}", "depends_on": [f"t{n - 1:04}"] if n % 3 else []} for n in range(1100)))
    told = hub.json("board", SYNAPSE_NAME="ada")
    assert list(told) == ["seq", "room", "tasks", "ready", "total", "cursor"]
    assert [task["task"] for task in told["tasks"]] == [f"t{n:04}" for n in range(1100)]
    assert told["ready"] == [f"t{n:04}" for n in range(0, 1100, 3)]
    assert told["cursor"].endswith(f":{told['seq']}")
    shown = hub.run("board", **ADA)
    assert "  and 347 more\n" in shown.stdout
    assert len(shown.stdout.splitlines()) < 60
    assert len(hub.run("board", "--all", **ADA).stdout.splitlines()) == 1100 + 5


def test_a_plan_is_shown_as_sections_columns_or_a_tree_without_colour(hub: RealHub) -> None:
    declare(hub, *TWO)
    hub.json("claim", "build", SYNAPSE_NAME="bob")
    plain = hub.run("board", NO_COLOR="", **ADA).stdout
    assert re.search(r"\nin progress\n  build  Build it  bob \(epoch \d+, 1\d min \d+ s left\)  since ", plain)
    assert "\n  test  waits for build (in_progress)\n" in plain
    assert "\n  build  in progress" in hub.run("board", "--tree", **ADA).stdout
    assert "in progress (1)" in hub.run("board", "--columns", **ADA).stdout
    assert "\x1b" not in plain
    assert hub.run("board", "--tree", "--columns", **ADA).returncode == 2
    assert hub.run("board", "--room", "nowhere", **ADA).returncode == 4


def test_what_others_wrote_cannot_break_what_is_passed_on(hub: RealHub) -> None:
    forged = '","x"],"ready":["t9"],"tasks":[{"task":"t9"}],"next":null}\x1b\u202e\n漢'
    declare(hub, {"task": "a", "title": forged}, {"task": "b", "labels": ["ready"], "depends_on": ["a"]})
    told = hub.json("board", SYNAPSE_NAME="ada")
    listed = hub.json("task", "list", SYNAPSE_NAME="ada")
    assert (told["tasks"], told["ready"], told["total"]) == (listed["tasks"], ["a"], 2)
    assert told["tasks"][0]["title"] == forged
    assert len(hub.run("board", "--json", **ADA).stdout.splitlines()) == 1
    assert hub.json("board", "--room", "main", SYNAPSE_NAME="ada")["room"] == "main"
    hub.json("room", "create", "empty", SYNAPSE_NAME="ada")
    nothing = hub.json("board", "--room", "empty", SYNAPSE_NAME="ada")
    assert (nothing["tasks"], nothing["ready"], nothing["total"]) == ([], [], 0)


def test_a_page_in_another_order_is_told_as_well(
    paper: Callable[[Script], PaperHub], capsys: pytest.CaptureFixture[str]
) -> None:
    def script(hub: PaperHub, request: Frame) -> list[Frame]:
        if request["type"] == "hello":
            return [welcome(request)]
        told = {"ready": ["a"], "seq": 7, "room": "main", "total": 2, "next": None}
        return [reply(request, **told, tasks=[{"task": "a"}, {"task": "b", "title": '"tasks":['}])]

    hub = paper(script)
    assert main(["board", "--json", "--home", str(hub.home), "--name", "ada"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tasks"], told["ready"]) == ([{"task": "a"}, {"task": "b", "title": '"tasks":['}], ["a"])


def pages(seqs: list[int], *, has_changes: bool) -> Script:
    """A plan of two pages, with these positions in turn; has_changes: it changes before every second page."""
    left = iter(seqs)

    def script(hub: PaperHub, request: Frame) -> list[Frame]:
        if request["type"] == "hello":
            return [welcome(request)]
        if request["type"] == "feed.subscribe":
            return [reply(request, subscription=1)]
        is_last = "after" in request["body"]
        name, seq = "b" if is_last else "a", next(left)
        told = {"seq": seq, "room": "main", "tasks": [{"task": name}], "ready": [name], "total": 2}
        page = reply(request, **told, next=None if is_last else "a")
        change: Frame = {
            "type": "plan.changed",
            "seq": seq,
            "body": {"change": "noted", "room": "main", "tasks": ["a"]},
        }
        return [change, page] if has_changes and is_last else [page]

    return script


def test_pages_of_several_positions_are_read_again_while_the_plan_changes(
    paper: Callable[[Script], PaperHub], capsys: pytest.CaptureFixture[str]
) -> None:
    hub = paper(pages([1, 2, 3, 3], has_changes=True))
    words = ["board", "--json", "--home", str(hub.home), "--name", "ada"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["seq"], [task["task"] for task in told["tasks"]], told["ready"]) == (3, ["a", "b"], ["a", "b"])
    assert "torn" not in told


def test_who_follows_already_is_not_told_each_change_twice(
    paper: Callable[[Script], PaperHub], capsys: pytest.CaptureFixture[str]
) -> None:
    hub = paper(pages([1, 2, 3, 3], has_changes=True))
    with open_link(Surroundings({}, {"SYNAPSE_HOME": str(hub.home)}), 5) as link:
        link.greet("ada")
        assert board.look(link, {}, is_following=True)["seq"] == 3
        assert "feed.subscribe" not in hub.kinds()
    with open_link(Surroundings({}, {"SYNAPSE_HOME": str(hub.home)}), 5) as link:
        link.greet("ada")
        hub.script = pages([1, 2, 3, 3], has_changes=True)
        assert board.look(link, {})["seq"] == 3
        assert hub.kinds().count("feed.subscribe") == 1
    assert capsys.readouterr().err == ""


def test_pages_are_whole_when_only_something_else_happened_between_them(
    paper: Callable[[Script], PaperHub], capsys: pytest.CaptureFixture[str]
) -> None:
    hub = paper(pages([1, 2, 3, 4], has_changes=False))
    assert main(["board", "--json", "--home", str(hub.home), "--name", "ada"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["seq"], "torn" in told) == (4, False)


def test_a_plan_that_never_stands_still_is_told_with_a_word_about_it(
    paper: Callable[[Script], PaperHub], capsys: pytest.CaptureFixture[str]
) -> None:
    hub = paper(pages(list(range(1, 13)), has_changes=True))
    assert main(["board", "--json", "--home", str(hub.home), "--name", "ada"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["torn"] is True
    assert "not of one moment" in said.err
    assert hub.kinds().count("task.list") == 12


def test_changes_are_told_a_line_each_and_go_on_over_a_hub_that_dies(hub: RealHub) -> None:
    declare(hub, *TWO)
    watcher = hub.begin("board", "--watch", **ADA)
    assert watcher.stderr is not None
    assert watcher.stdout is not None
    assert watcher.stderr.readline() == "synapse: watching the plan of main\n"
    hub.json("claim", "build", SYNAPSE_NAME="bob")
    hub.json("task", "update", "build", "--status", "done", SYNAPSE_NAME="bob")
    lines = [watcher.stdout.readline().split("  ", 1)[1] for _ in range(3)]
    assert re.fullmatch(r"moved  build  open -> in_progress  claimed bob epoch \d+  by hub\n", lines[0])
    assert re.fullmatch(r"moved  build  in_progress -> done  asked bob epoch \d+  by bob\n", lines[1])
    assert lines[2] == "ready  test  by hub\n"
    hub.end(signal.SIGKILL)
    assert "coming back" in watcher.stderr.readline()
    hub.start()
    hub.json("task", "progress", "test", "after", SYNAPSE_NAME="ada")
    assert watcher.stdout.readline().endswith("noted  test  note  by ada  after\n")


def test_with_json_the_plan_comes_first_and_then_an_object_for_each_change(hub: RealHub) -> None:
    declare(hub, *TWO)
    watcher = hub.begin("board", "--watch", "--json", **ADA)
    assert watcher.stdout is not None
    told = json.loads(watcher.stdout.readline())
    assert (told["ready"], len(told["tasks"])) == (["build"], 2)
    hub.json("task", "update", "build", "--status", "done", SYNAPSE_NAME="ada")
    changes = [json.loads(watcher.stdout.readline()) for _ in range(2)]
    assert [(change["type"], change["change"], change["tasks"]) for change in changes] == [
        ("plan.changed", "moved", ["build"]),
        ("plan.changed", "ready", ["test"]),
    ]
    assert all(int(change["cursor"].split(":")[1]) > told["seq"] for change in changes)


@pytest.mark.parametrize(
    ("changes", "drawn_s"),
    [
        ([], board.REDRAW_S),
        ([(1.0, "main")], 1.0),
        ([(0.1, "main")], board.REST_S),
        ([(0.1, "main"), (0.2, "main"), (0.3, "main")], 0.25),
        ([(1.0, "elsewhere")], board.REDRAW_S),
    ],
)
def test_a_change_is_drawn_soon_but_not_each_of_many(
    monkeypatch: pytest.MonkeyPatch, changes: list[tuple[float, str]], drawn_s: float
) -> None:
    now_s = 0.0
    left = list(changes)

    class Told:
        """A link that brings these changes at their times."""

        def notice(self, timeout_s: float) -> Notice:
            nonlocal now_s
            if not left or left[0][0] > now_s + timeout_s:
                now_s += timeout_s
                raise TimeoutError
            now_s, room = left.pop(0)
            return Notice("plan.changed", 7, {"change": "noted", "room": room})

    monkeypatch.setattr(board, "monotonic", lambda: now_s)
    board._await_change(Told(), "main")  # type: ignore[arg-type]  # as much of a link as it needs
    assert now_s == pytest.approx(drawn_s)


@contextmanager
def on_a_terminal(home: Path, *words: str) -> Iterator[Callable[[str], str]]:
    """A command on a terminal of 60 columns and 12 lines; a function that reads until a text has come."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 60, 0, 0))
    env = {key: text for key, text in environment(home, TERM="xterm").items() if key != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, "-m", "synapse", *words, "--name", "ada"], env=env, stdout=theirs, stderr=theirs, stdin=theirs
    )
    os.close(theirs)
    seen = b""

    def read_until(text: str) -> str:
        nonlocal seen
        deadline_s = monotonic() + 15
        while not (picture := seen.rpartition(b"\x1b[2J")[2]).endswith(text.encode()):
            assert monotonic() < deadline_s, seen
            if select.select([ours], [], [], 0.1)[0]:
                seen += os.read(ours, 1)  # a terminal may hand out a picture in pieces: always the smallest
        return picture.decode()

    try:
        yield read_until
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_terminal_is_drawn_anew_with_each_change_and_fits(hub: RealHub) -> None:
    declare(hub, *TWO, *({"task": f"more-{n}", "title": "long " * 40} for n in range(30)))
    with on_a_terminal(hub.home, "board", "--watch") as read_until:
        picture = read_until(" more\r\n\r\n")
        lines = [re.sub(r"\x1b\[\w*", "", line) for line in picture.split("\r\n")]
        assert len(lines) <= 12
        assert max(map(len, lines)) == 60
        assert "\x1b[32m  build" in picture
        hub.json("claim", "build", SYNAPSE_NAME="bob")
        read_until("bob (epoch ")
        hub.end()
        hub.start()
        hub.json("task", "update", "build", "--status", "done", SYNAPSE_NAME="bob")
        read_until("1 done")
