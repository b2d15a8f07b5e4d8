"""`task declare --file`: what a file may say, how it is sent, and what is said when a part is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faces.conftest import Frame, PaperHub, RealHub, Script, refusal, reply, welcome

from synapse.faces.cli import declare
from synapse.faces.cli.declare import FIELDS, read_entries
from synapse.faces.cli.main import main
from synapse.faces.cli.options import UsageError
from synapse.protocol.plan_commands import TaskSpec

ADA = {"SYNAPSE_NAME": "ada"}


def test_the_fields_are_those_of_the_protocol() -> None:
    assert TaskSpec.__struct_fields__ == FIELDS


def test_a_list_and_an_object_a_line_say_the_same(hub: RealHub, tmp_path: Path) -> None:
    tasks = [{"task": "a", "title": "A"}, {"task": "b", "depends_on": ["a"], "labels": ["x"]}]
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(tasks, indent=2), "utf-8")
    told = hub.json("task", "declare", "--file", str(file), SYNAPSE_NAME="ada")
    assert (told["declared"], told["unchanged"], told["batches"], told["room"]) == (2, 0, 1, "main")
    assert set(told["tasks"]) == {"a", "b"}
    lines = "\n".join(json.dumps(task) for task in tasks)
    again = hub.run("task", "declare", "--file", "-", text=f"\n{lines}\n\n", **ADA)
    assert again.stdout == "0 tasks declared in room main, 2 were so already\n"
    assert hub.json("task", "list", SYNAPSE_NAME="ada")["ready"] == ["a"]


def test_many_tasks_go_in_batches_that_fit(hub: RealHub, tmp_path: Path) -> None:
    file = tmp_path / "plan"
    tasks = [{"task": f"t{n:04}", "description": "é" * 300, "depends_on": [f"t{n + 1:04}"]} for n in range(1200)]
    file.write_text("\n".join(json.dumps(task, ensure_ascii=False) for task in tasks), "utf-8")
    told = hub.json("task", "declare", "--file", str(file), SYNAPSE_NAME="ada")
    assert (told["declared"], len(told["tasks"])) == (1200, 1200)
    assert told["batches"] > 3, "a frame is full before 500 such tasks"
    assert len(hub.json("task", "list", SYNAPSE_NAME="ada")["tasks"]) == 1200


def test_more_than_a_request_may_hold_is_refused_here_and_nothing_is_sent(hub: RealHub, tmp_path: Path) -> None:
    file = tmp_path / "plan"
    file.write_text(json.dumps([{"task": "all", "depends_on": [f"d{n}" for n in range(100_000)]}]))
    error = hub.json("task", "declare", "--file", str(file), code=3, SYNAPSE_NAME="ada")["error"]
    assert error["code"] == "too_large"
    assert error["facts"]["bytes"] > error["facts"]["frame_bytes_max"] == 256 * 1024
    hub.end()
    hub.start(SYNAPSE_LIMIT_FRAME_BYTES_MAX="65536", SYNAPSE_LIMIT_MESSAGE_BYTES_MAX="16384")
    words = ("kv", "put", "k", json.dumps("x" * 100_000))
    assert hub.json(*words, code=3, SYNAPSE_NAME="ada")["error"]["code"] == "disconnected", "a hub that takes less"
    assert hub.json("kv", "keys", SYNAPSE_NAME="ada")["keys"] == []


def test_a_refused_batch_is_named_and_what_came_before_it_stands(
    paper: Callable[[Script], PaperHub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(hub: PaperHub, request: Frame) -> list[Frame]:
        if request["type"] == "hello":
            answer = welcome(request)
            answer["body"]["limits"] |= {"page_items_max": 2, "frame_bytes_max": 100_000}
            return [answer]
        tasks = [task["task"] for task in request["body"]["tasks"]]
        if "c" in tasks:
            return [refusal(request, "cycle", "c would depend on itself: c -> a -> c", path=["c", "a", "c"])]
        return [reply(request, room="main", declared=len(tasks), unchanged=0, tasks=dict.fromkeys(tasks, 7))]

    hub = paper(script)
    file = tmp_path / "plan"
    file.write_text("\n".join(f'{{"task":"{name}"}}' for name in "abcde"), "utf-8")
    words = ["task", "declare", "--file", str(file), "--home", str(hub.home), "--name", "ada"]
    assert main(words) == 3
    assert capsys.readouterr().err == (
        "synapse: cycle: tasks 3 to 4 (c to d): c would depend on itself: c -> a -> c; the 2 before them stand\n"
    )
    assert hub.kinds().count("task.declare_all") == 2
    assert main([*words, "--json"]) == 3
    facts = json.loads(capsys.readouterr().out)["error"]["facts"]
    assert facts == {"path": ["c", "a", "c"], "batch": 2, "first": "c", "last": "d", "stand": 2}


@pytest.mark.bad_input("BI-53")
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "plan has no task in it"),
        ("[]", "plan has no task in it"),
        ("{a}", "plan:1 is not JSON"),
        ('[{"task":"a"}', "plan is not JSON"),
        ('{"task":"a"}\n7\n', "plan:2: a task is an object"),
        ('[{"title":"a"}]', "plan, item 1: the task has no id"),
        ('[{"task":7}]', "plan, item 1: the task has no id"),
        ('{"task":"a","needs":["b"]}', "plan:1: a task has no field 'needs', but task, title"),
        ('{"task":"a"}\n\n{"task":"a"}', "plan:3: 'a' stands at plan:1 already"),
        (b"\xff", "plan is not UTF-8"),
        ("[" * 50_000, "nested too deep"),
    ],
)
def test_a_file_that_is_no_plan_is_refused_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | bytes, complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=r"^plan") as refused:
        read_entries("plan")
    assert complaint in str(refused.value)


def test_a_file_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declare, "FILE_BYTES_MAX", 20)
    file = tmp_path / "plan"
    file.write_text('{"task":"a"}' + " " * 9, "utf-8")
    with pytest.raises(UsageError, match="more than 20 bytes"):
        read_entries(str(file))


def test_a_file_that_is_not_there_and_words_beside_a_file(hub: RealHub) -> None:
    gone = hub.run("task", "declare", "--file", "/nonexistent", **ADA)
    assert (gone.returncode, "/nonexistent" in gone.stderr) == (1, True)
    for words in (("t1",), ("--title", "x"), ("--depends-on", "y")):
        done = hub.run("task", "declare", "--file", "plan", *words, **ADA)
        assert done.returncode == 2
        assert words[0] in done.stderr


def test_a_field_of_the_wrong_type_is_refused_by_the_hub_with_its_path(hub: RealHub) -> None:
    done = hub.run("task", "declare", "--file", "-", text='{"task":"a","labels":"x"}', **ADA)
    assert done.returncode == 3
    assert "$.body.tasks[0].labels" in done.stderr
    assert "nothing was declared" in done.stderr
