"""`task …` against a real hub."""

import json

from tests.faces.conftest import RealHub

ADA, BOB = {"SYNAPSE_NAME": "ada"}, {"SYNAPSE_NAME": "bob"}


def plan_of_two(hub: RealHub) -> None:
    """`test` waits for `build`; ada declared both."""
    hub.json("task", "declare", "build", "--title", "Build it", SYNAPSE_NAME="ada")
    hub.json("task", "declare", "test", "--depends-on", "build", SYNAPSE_NAME="ada")


def test_a_task_is_claimed_and_done_and_what_waits_for_it_is_ready(hub: RealHub) -> None:
    plan_of_two(hub)
    assert hub.json("task", "list", SYNAPSE_NAME="bob")["ready"] == ["build"]
    waiting = hub.json("task", "show", "test", SYNAPSE_NAME="bob")
    assert (waiting["ready"], waiting["waits_for"]) == (False, {"build": "open"})
    epoch = hub.json("claim", "build", SYNAPSE_NAME="bob")["epoch"]
    assert hub.json("task", "show", "build", SYNAPSE_NAME="ada")["status"] == "in_progress"
    done = hub.json(
        "task", "update", "build", "--status", "done", "--epoch", str(epoch), "--note", "green", SYNAPSE_NAME="bob"
    )
    wanted = {"task", "title", "status", "ready", "depends_on", "suggested_owner", "cursor"}
    assert wanted <= done.keys()
    assert (done["status"], done["title"]) == ("done", "Build it")
    assert hub.json("state")["leases"] == []
    listed = hub.json("task", "list", "--ready", SYNAPSE_NAME="ada")
    assert ([task["task"] for task in listed["tasks"]], listed["ready"], listed["total"]) == (["test"], ["test"], 2)
    assert hub.json("task", "reopen", "build", SYNAPSE_NAME="bob")["status"] == "open"
    assert hub.json("task", "list", "--ready", SYNAPSE_NAME="ada")["ready"] == ["build"]


def test_who_claims_a_task_too_early_is_told_what_it_waits_for(hub: RealHub) -> None:
    plan_of_two(hub)
    assert hub.run("claim", "test", **BOB).stdout.endswith("\n  in the plan it waits for build (open)\n")
    assert "in the plan" not in hub.run("claim", "build", **BOB).stdout


def test_who_claims_a_task_that_has_ended_is_told_so(hub: RealHub) -> None:
    plan_of_two(hub)
    hub.json("task", "update", "build", "--status", "done", SYNAPSE_NAME="ada")
    assert "it has ended as done: synapse task reopen build begins it again" in hub.run("claim", "build", **ADA).stdout
    assert "ended" not in hub.run("claim", "test", **ADA).stdout


def test_within_lock_the_epoch_is_sent_by_itself(hub: RealHub) -> None:
    plan_of_two(hub)
    old = hub.json("claim", "build", SYNAPSE_NAME="bob")["epoch"]
    hub.json("release", "build", SYNAPSE_NAME="bob")
    hub.json("claim", "build", SYNAPSE_NAME="bob")
    within = {"SYNAPSE_EPOCH": str(old), **BOB}
    for words in (("task", "update", "--status", "done"), ("task", "reopen"), ("task", "progress", "build", "x")):
        done = hub.run(*words, SYNAPSE_TASK="build", **within)
        assert (done.returncode, "stale_epoch" in done.stderr) == (3, True), done.stderr
    assert hub.run("task", "progress", "build", "x", SYNAPSE_TASK="another", **within).returncode == 0
    assert hub.run("task", "show", SYNAPSE_TASK="build", **within).stdout.startswith("build  Build it\n")


def test_a_refusal_names_who_or_what_stands_in_the_way(hub: RealHub) -> None:
    plan_of_two(hub)
    epoch = hub.json("claim", "build", SYNAPSE_NAME="bob")["epoch"]
    for words, code, said in (
        (("update", "build", "--status", "done"), 3, f"leased to bob (epoch {epoch}) for another 15 min 0 s unless"),
        (
            ("update", "build", "--status", "done"),
            3,
            "synapse claim build --wait, or ask bob to release or hand it off",
        ),
        (("update", "test", "--status", "review"), 3, "illegal_transition: test is open, and can become"),
        (("update", "test", "--status", "finished"), 3, "in_progress"),
        (("update", "none", "--status", "done"), 4, "room main has no task 'none' in its plan"),
        (("update", "test"), 2, "--status S"),
        (("declare", "build", "--depends-on", "test"), 3, "build -> test -> build"),
        (("declare", "build", "--if-version", "7"), 3, "has version"),
        (("declare", "build", "--if-version", "-7"), 2, "whole number from 0"),
        (("declare", "../x"), 3, "bad_name"),
        (("declare",), 2, "which task?"),
        (("progress", "test"), 2, "something is missing"),
        (("progress", "test", " "), 3, "at least one character"),
        (("progress", "test", "x", "--kind", "rumour"), 3, "finding"),
        (("progress", "none", "x"), 4, "none"),
        (("log", "none", "--since", "5"), 3, "cursor"),
        (("show", "none"), 4, "none"),
        (("show",), 2, "which task?"),
        (("list", "--status", "finished"), 3, "cancelled"),
        (("remove", "build"), 3, "bob holds it with epoch"),
        (("remove", "test"), 3, "it is open"),
    ):
        done = hub.run("task", *words, **ADA)
        assert done.returncode == code, (words, done.stderr)
        assert said in done.stderr, (words, done.stderr)
        assert done.stdout == ""


def test_who_has_no_name_declares_and_looks_and_does_not_hold_work(hub: RealHub) -> None:
    assert hub.json("task", "declare", "a")["declared_by"] != ""
    assert "for an agent with a name of its own" in hub.run("task", "update", "a", "--status", "done").stderr
    assert hub.run("task", "reopen", "a").returncode == 2
    assert hub.json("task", "progress", "a", "from a person")["kind"] == "note"
    hub.json("claim", "a", SYNAPSE_NAME="bob")
    assert hub.json("task", "update", "a", "--status", "cancelled", "--operator")["status"] == "cancelled"
    assert hub.json("state")["leases"] == []
    assert hub.json("task", "remove", "a")["removed"] is True


def test_the_ledger_is_written_and_read_by_task_agent_kind_and_cursor(hub: RealHub) -> None:
    plan_of_two(hub)
    first = hub.json("task", "progress", "build", "it compiles", "--kind", "finding", SYNAPSE_NAME="ada")
    assert (first["task"], first["kind"], first["by"]) == ("build", "finding", "ada")
    hub.json("task", "progress", "test", "none yet", SYNAPSE_NAME="bob")
    done = hub.run("task", "progress", "build", "-", text="two\nlines\x1b[2J", **BOB)
    assert done.returncode == 0
    texts = [line["text"] for line in hub.lines("task", "log", SYNAPSE_NAME="ada")]
    assert texts == ["it compiles", "none yet", "two\nlines\x1b[2J"]
    assert [line["text"] for line in hub.lines("task", "log", "build", SYNAPSE_NAME="ada")] == [texts[0], texts[2]]
    assert [
        line["text"] for line in hub.lines("task", "log", "--agent", "bob", "--limit", "1", SYNAPSE_NAME="ada")
    ] == texts[2:]
    assert [line["by"] for line in hub.lines("task", "log", "--kind", "finding", SYNAPSE_NAME="ada")] == ["ada"]
    assert hub.lines("task", "log", SYNAPSE_NAME="ada")[0]["cursor"] == first["cursor"]
    after = hub.lines("task", "log", "--since", first["cursor"], "--limit", "1", SYNAPSE_NAME="ada")
    assert [line["text"] for line in after] == texts[1:2]
    unknown = hub.run("task", "log", "biuld", **ADA)
    assert (unknown.returncode, unknown.stdout, "biuld" in unknown.stderr) == (4, "", True)
    shown = hub.run("task", "log", "build", **ADA).stdout
    assert "\x1b" not in shown
    assert "\n  two\n  lines\\x1b[2J\n" in shown


def test_a_key_does_it_once(hub: RealHub) -> None:
    plan_of_two(hub)
    for _ in range(2):
        line = hub.json("task", "progress", "build", "once", "--idem-key", "k", SYNAPSE_NAME="ada")
    assert [found["seq"] for found in hub.lines("task", "log", SYNAPSE_NAME="ada")] == [line["seq"]]


def test_a_list_is_narrowed_and_says_what_it_left_out(hub: RealHub) -> None:
    plan_of_two(hub)
    hub.json("task", "declare", "docs", "--owner", "bob", "--label", "text,web", SYNAPSE_NAME="ada")
    hub.json("claim", "build", SYNAPSE_NAME="bob")
    for words, found in (
        (("--owner", "bob"), ["build", "docs"]),
        (("--label", "web"), ["docs"]),
        (("--status", "open"), ["docs", "test"]),
        (("--status", "open", "--ready"), ["docs"]),
        (("--room", "main"), ["build", "docs", "test"]),
    ):
        assert [task["task"] for task in hub.json("task", "list", *words, SYNAPSE_NAME="ada")["tasks"]] == found
    assert hub.run("task", "list", "--status", "done", **ADA).stdout == "none of the 3 tasks\n"
    lines = hub.run("task", "list", **ADA).stdout.splitlines()
    assert lines[1:] == ["docs  ready  for bob", "test  open  waits for build (in_progress)"]
    assert lines[0].startswith("build  in_progress  Build it  by bob (epoch ")


def test_what_is_declared_anew_keeps_the_rest_and_may_be_emptied(hub: RealHub) -> None:
    words = ("--owner", "bob", "--label", "x", "--priority", "high", "--description", "-")
    done = hub.run("task", "declare", "b", "--depends-on", "a1, a2", *words, "--json", text="so\nmuch\n", **ADA)
    first = json.loads(done.stdout)
    assert (first["depends_on"], first["description"], first["labels"]) == (["a1", "a2"], "so\nmuch", ["x"])
    again = hub.json("task", "declare", "b", "--depends-on", "", "--owner", "", "--label", "", SYNAPSE_NAME="ada")
    assert (again["depends_on"], again["suggested_owner"], again.get("labels", [])) == ([], None, [])
    assert (again["description"], again["priority"], again["changed"]) == ("so\nmuch", "high", True)
    same = hub.run("task", "declare", "b", "--priority", "high", **ADA)
    assert "it was so already" in same.stdout
    assert "version_conflict" in hub.run("task", "declare", "b", "--title", "mine", **BOB).stderr
    version = str(again["version"])
    assert (
        hub.json("task", "declare", "b", "--title", "mine", "--if-version", version, SYNAPSE_NAME="bob")["title"]
        == "mine"
    )
    assert hub.json("task", "declare", "b", "--title", "ours", "--operator")["title"] == "ours"


def test_everything_about_a_task_is_shown_and_others_texts_do_no_harm(hub: RealHub) -> None:
    words = ("--title", "T\x1b[31m", "--description", "line\x07\nsynapse: forged", "--label", "web")
    hub.json("task", "declare", "t", "--depends-on", "gone", *words, SYNAPSE_NAME="ada")
    hub.json("task", "progress", "t", "x", SYNAPSE_NAME="ada")
    shown = hub.run("task", "show", "t", **BOB).stdout
    assert shown.startswith("t  T\\x1b[31m\n  open, since ")
    assert "    line\\x07\n    synapse: forged\n" in shown
    for said in (
        "declared by ada",
        "labels web",
        "depends on gone",
        "waits for gone (undeclared)",
        "1 lines of progress",
    ):
        assert said in shown
