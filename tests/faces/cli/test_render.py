"""People see what others wrote and cannot be fooled by it; programs read it exactly."""

import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.faces.conftest import JOURNAL, Frame, PaperHub, Script, message, reply, welcome

from synapse.faces.cli.main import main
from synapse.faces.cli.render import clock, message_block, print_json, print_words, safe, safe_lines, table

HOSTILE = "\x1b[2J\x07\x9b31m\u202egnp.exe\u2066\u200b\ufeff\u00ad\u2028\U000e0041\u3164\ufe0f"


def test_hostile_characters_are_shown_and_not_obeyed() -> None:
    shown = safe(HOSTILE)
    assert shown.startswith("\\x1b[2J\\x07\\x9b31m\\u202egnp.exe")
    assert shown.isascii()
    assert safe("naïve 日本 🙂") == "naïve 日本 🙂"


@given(st.text())
def test_what_people_see_is_printable(text: str) -> None:
    assert safe(text).isprintable()
    assert all(line.startswith("> ") and line.isprintable() for line in safe_lines(text, "> ").split("\n"))


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_programs_read_is_exact_and_on_one_printable_line(capsys: pytest.CaptureFixture[str], text: str) -> None:
    print_json({"body": text, text: 1})
    out = capsys.readouterr().out
    assert out.endswith("\n")
    assert out[:-1].isprintable()
    assert json.loads(out) == {"body": text, text: 1}


def test_a_body_cannot_pass_for_a_header() -> None:
    forged = "hello\nmain:general #9  12:00:00  boss  m9\r\n  do it"
    header, *body = message_block(message(1, body=forged)).split("\n")
    assert header.startswith("main:general #1")
    assert all(line.startswith("  ") for line in body)
    assert "\\r" in body[1]


def test_a_file_is_told_by_its_name_its_size_and_how_one_gets_it() -> None:
    body = {"type": "file", "path": "/w/a\x1b", "bytes": 7, "sha256": "0" * 64, "host": "box"}
    inbox = {"room": None, "channel": "@bob", "to": ["bob"]}
    assert message_block(message(2, body=body, **inbox)).split("\n")[1:] == [
        "  file /w/a\\x1b  7 bytes: synapse receive m2"
    ]
    kept = {"type": "chunked", "file": "f1", "name": "model.bin", "bytes": 9, "sha256": "0" * 64, "chunks": 1}
    assert message_block(message(3, body=kept)).split("\n")[1:] == [
        "  file model.bin  9 bytes, at the hub: synapse receive m3 main:general --save PATH"
    ]
    assert message_block(message(4, body={"type": "file"})).split("\n")[1:] == ['  {"type":"file"}'], "not one"


def test_a_letter_of_the_hub_is_told_in_facts_and_what_follows_from_them() -> None:
    body = {"type": "question.answered", "question": "q7", "answer": "y\nes", "note": None, "next": "synapse renew T1"}
    told = message_block({"channel": "@ada", "n": 3, "from": "hub", "id": "m9", "kind": "system", "body": body})
    assert told.split("\n")[1:] == ["  question q7, answer y\\nes", "  next: synapse renew T1"]
    assert message_block({"channel": "@ada", "kind": "direct", "body": body}).endswith(
        json.dumps(body, separators=(",", ":"))
    )


def test_a_block_says_who_to_whom_and_how_urgent() -> None:
    block = message_block(
        message(
            2,
            room=None,
            channel="@bob",
            to=["bob"],
            subject="s\x1b",
            priority="urgent",
            body={"a": [1]},
            delivery="stored",
        )
    )
    assert block.split("\n")[0].split("  ")[2:] == ["ada", "→ bob", "m2", "urgent", "stored", "subject=s\\x1b"]
    assert block.split("\n")[1] == '  {"a":[1]}'
    assert block.startswith("@bob #2")


def test_words_go_to_stderr_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_words("a\nb\x1b")
    assert capsys.readouterr() == ("", "synapse: a\\nb\\x1b\n")


def test_columns_line_up() -> None:
    assert table([["A", "B"], ["long", "x"]]) == "A     B\nlong  x"


def test_a_missing_time_is_a_dash() -> None:
    assert clock(None) == "–"
    assert len(clock(0)) == len("1970-01-01 00:00:00")


POINT = {"n": 2, "agent": "ada", "by": "ada", "at_ms": 1, "data": {}, "session": "s1", "seq": 6, "kind": "checkpoint"}
HAPPENED = {"seq": 6, "at_ms": 1, "by": "ada", "change": "released", "text": "T1 is free"}
LINE = {"seq": 6, "task": "T1", "kind": "note", "text": "x", "by": "ada", "at_ms": 1}


@pytest.mark.parametrize("as_json", [[], ["--json"]])
@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["history"], {"messages": [message(6)], "previous": None}),
        (["history", "--since", f"{JOURNAL}:1"], {"messages": [message(6)], "next": None}),
        (["task", "log", "T1"], {"lines": [LINE], "previous": None}),
        (["task", "log", "--since", f"{JOURNAL}:1"], {"lines": [LINE], "next": None}),
        (["why", "T1"], {"events": [HAPPENED], "next": None}),
        (["session", "checkpoints"], {"checkpoints": [POINT], "next": None}),
        (["lane", "show", "l1"], {"info": {"lane": "l1"}, "entries": [POINT], "next": None}),
        (["ingest"], {"events": [{"kind": "message.posted"}], "next": None}),
    ],
)
def test_what_retention_left_is_not_shown_as_all_of_it(
    paper: Callable[[Script], PaperHub],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    body: Frame,
    as_json: list[str],
) -> None:
    more: Frame = {}
    hub = paper(lambda _, request: [welcome(request) if request["type"] == "hello" else reply(request, **body, **more)])
    monkeypatch.setenv("SYNAPSE_HOME", str(hub.home))
    assert main([*words, *as_json]) == 0
    assert capsys.readouterr().err == "", "all of it is there"
    more["first_kept"] = f"{JOURNAL}:5"
    assert main([*words, *as_json]) == 0
    told = capsys.readouterr()
    assert told.out
    assert told.err == f"synapse: what happened up to {JOURNAL}:5 was dropped by retention\n"
