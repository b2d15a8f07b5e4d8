"""`send` against a hub of paper: once and only once, whatever happens to the answer."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faces.conftest import Frame, PaperHub, Script, refusal, reply, welcome

from synapse.faces.cli.main import main

Start = Callable[[Script], PaperHub]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "SYNAPSE_NAME",
        "SYNAPSE_ROOM",
        "SYNAPSE_URI",
        "SYNAPSE_TOKEN_FILE",
        "SYNAPSE_TIMEOUT",
        "SYN_IDENTITY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SYNAPSE_HOME", str(tmp_path / "home"))


def sent(hub: PaperHub, request: Frame) -> list[Frame] | None:
    if request["type"] == "hello":
        return [welcome(request)]
    if request["type"] == "receipt.wait":
        return [reply(request, id=request["body"]["id"], state="acked", acked_by=["bob"])]
    if "to" in request["body"]:
        return [reply(request, id="m7", to=request["body"]["to"])]
    return [reply(request, id="m7", room="main", channel="general", n=3)]


def bodies(hub: PaperHub, kind: str = "message.send") -> list[Frame]:
    return [request["body"] for request in hub.requests if request["type"] == kind]


@pytest.mark.parametrize(
    ("words", "body"),
    [
        (["hi"], {"body": "hi"}),
        (["--to", "bob,eve", "--to", "ann", "hi"], {"body": "hi", "to": ["bob", "eve", "ann"]}),
        (["--channel", "lab:x", "hi"], {"body": "hi", "channel": "lab:x"}),
        (["--channel", "x", "--room", "lab", "hi"], {"body": "hi", "channel": "lab:x"}),
        (["--channel", "x", "hi"], {"body": "hi", "channel": "main:x"}),
        (["--target", "role:r", "hi"], {"body": "hi", "target": "role:r"}),
        (["--body-json", '{"a": [1]}'], {"body": {"a": [1]}}),
        (
            ["--subject", "s", "--thread", "t", "--reply-to", "m1", "--priority", "high", "--create", "hi"],
            {"body": "hi", "subject": "s", "thread": "t", "reply_to": "m1", "priority": "high", "create": True},
        ),
    ],
)
def test_what_goes_to_the_hub(paper: Start, words: list[str], body: Frame) -> None:
    hub = paper(sent)
    assert main(["send", *words]) == 0
    assert bodies(hub) == [body]


def test_the_room_in_force_is_the_home_of_messages_without_address(paper: Start) -> None:
    hub = paper(sent)
    assert main(["--room", "lab", "send", "hi"]) == 0
    assert bodies(hub, "hello")[0]["home"] == "lab:general"


def keys(hub: PaperHub) -> list[object]:
    return [request.get("idem_key") for request in hub.requests if request["type"] == "message.send"]


def test_without_room_for_keys_a_message_goes_without_the_calls_own(paper: Start) -> None:
    def full(hub: PaperHub, request: Frame) -> list[Frame] | None:
        if request["type"] == "message.send" and "idem_key" in request:
            return [refusal(request, "idem_limit")]
        return sent(hub, request)

    hub = paper(full)
    assert main(["send", "hi"]) == 0
    assert [key is None for key in keys(hub)] == [False, True]
    assert main(["send", "--idem-key", "mine", "hi"]) == 3


def test_an_empty_key_is_a_key_and_the_hubs_to_refuse(paper: Start) -> None:
    hub = paper(sent)
    assert main(["send", "--idem-key", "", "hi"]) == 0
    assert keys(hub) == [""]


@pytest.mark.parametrize(
    ("named", "home", "channel"), [("lab", "lab:general", "lab:x"), ("lab:news", "lab:news", "lab:x")]
)
def test_the_room_in_force_may_name_a_channel_as_it_may_in_python(
    paper: Start, monkeypatch: pytest.MonkeyPatch, named: str, home: str, channel: str
) -> None:
    monkeypatch.setenv("SYNAPSE_ROOM", named)
    hub = paper(sent)
    assert main(["send", "hi"]) == 0
    assert main(["send", "--channel", "x", "hi"]) == 0
    assert bodies(hub, "hello")[0]["home"] == home
    assert bodies(hub)[1]["channel"] == channel


def test_an_expiry_becomes_a_date(paper: Start) -> None:
    hub = paper(sent)
    assert main(["send", "--expires", "1h", "hi"]) == 0
    assert bodies(hub)[0]["expires_at_ms"] > 1_700_000_000_000


@pytest.mark.parametrize(
    "words",
    [
        ["--to", "a", "--channel", "x:y", "hi"],
        ["--to", "a", "--target", "b", "hi"],
        ["--wait", "hi"],
        ["--wait", "--channel", "x:y", "hi"],
        ["--wait", "--target", "x:y", "hi"],
        ["--body-json", "{"],
        ["--body-json", "[" * 100_000],
    ],
)
def test_what_cannot_be_meant_is_usage_and_sends_nothing(paper: Start, words: list[str]) -> None:
    hub = paper(sent)
    assert main(["send", *words]) == 2
    assert hub.requests == []


@pytest.mark.parametrize(("data", "text"), [(b"a\nb\n", "a\nb"), (b"a\n\n", "a\n"), (b"", ""), ("é".encode(), "é")])
def test_stdin_is_the_body(paper: Start, monkeypatch: pytest.MonkeyPatch, data: bytes, text: str) -> None:
    hub = paper(sent)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["send", "-"]) == 0
    assert bodies(hub) == [{"body": text}]


@pytest.mark.parametrize("data", [b"\xff", b"x" * (1 << 20) + b"x"])
def test_stdin_that_is_no_text_or_too_much_is_usage(paper: Start, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    hub = paper(sent)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["send", "-"]) == 2
    assert hub.requests == []


def test_a_text_beyond_the_hubs_limit_is_refused_before_it_is_sent(
    paper: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = paper(sent)
    assert main(["send", "--json", "x" * 5000]) == 3
    assert hub.kinds() == ["hello"]
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["facts"]) == ("too_large", {"bytes": 5002, "message_bytes_max": 1000})


def test_an_answer_cut_off_is_asked_for_again_under_the_same_key(
    paper: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut_once(hub: PaperHub, request: Frame) -> list[Frame] | None:
        if request["type"] == "message.send" and len(bodies(hub)) < 3:
            return None
        return sent(hub, request)

    hub = paper(cut_once)
    assert main(["send", "--json", "hi"]) == 0
    keys = {request["idem_key"] for request in hub.requests if request["type"] == "message.send"}
    assert len(bodies(hub)) == 3
    assert len(keys) == 1
    assert json.loads(capsys.readouterr().out)["n"] == 3


def test_a_draining_hub_is_come_back_to(paper: Start) -> None:
    def drain_once(hub: PaperHub, request: Frame) -> list[Frame] | None:
        if request["type"] == "message.send" and len(bodies(hub)) == 1:
            return [refusal(request, "draining")]
        return sent(hub, request)

    hub = paper(drain_once)
    assert main(["send", "hi"]) == 0
    assert hub.connections == 2


def test_giving_up_names_the_key_that_sends_it_once(paper: Start, capsys: pytest.CaptureFixture[str]) -> None:
    hub = paper(lambda hub, request: [] if request["type"] == "message.send" else [welcome(request)])
    assert main(["send", "--timeout", "0.2", "--idem-key", "k1", "hi"]) == 69
    assert "--idem-key k1" in capsys.readouterr().err
    assert hub.requests[-1]["idem_key"] == "k1"


def test_a_connection_that_stays_lost_ends_with_the_timeout(paper: Start, capsys: pytest.CaptureFixture[str]) -> None:
    paper(lambda hub, request: [welcome(request)] if request["type"] == "hello" else None)
    assert main(["send", "--timeout", "0.3", "--json", "hi"]) == 69
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "unreachable"
    assert "--idem-key" in err


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("not_found", 4),
        ("unsupported", 3),
        ("unauthorized", 77),
        ("journal_broken", 78),
        ("deadline", 5),
        ("of_tomorrow", 3),
    ],
)
def test_a_refusal_has_its_exit_code_and_is_an_object(
    paper: Start, capsys: pytest.CaptureFixture[str], code: str, exit_code: int
) -> None:
    paper(
        lambda hub, request: (
            [welcome(request)] if request["type"] == "hello" else [refusal(request, code, "so it is", near=["x"])]
        )
    )
    assert main(["send", "--json", "hi"]) == exit_code
    assert json.loads(capsys.readouterr().out) == {
        "error": {"code": code, "detail": "so it is", "facts": {"near": ["x"]}}
    }
    assert main(["send", "hi"]) == exit_code
    assert capsys.readouterr() == ("", f"synapse: {code}: so it is\n")


def test_a_hub_of_another_protocol_is_one_line_and_78(paper: Start, capsys: pytest.CaptureFixture[str]) -> None:
    paper(lambda hub, request: [refusal(request, "protocol_version", "upgrade the client")])
    assert main(["send", "hi"]) == 78
    assert capsys.readouterr().err == "synapse: protocol_version: upgrade the client\n"


def test_wait_brings_the_first_receipt(paper: Start, capsys: pytest.CaptureFixture[str]) -> None:
    hub = paper(sent)
    assert main(["send", "--to", "bob", "--wait=5", "--json", "hi"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["id"], answer["receipt"]) == ("m7", {"state": "acked", "acked_by": ["bob"]})
    assert bodies(hub, "receipt.wait")[0]["wait_ms"] <= 5000


def test_wait_over_a_lost_connection_does_not_send_again(paper: Start) -> None:
    def cut_once(hub: PaperHub, request: Frame) -> list[Frame] | None:
        if request["type"] == "receipt.wait" and len(bodies(hub, "receipt.wait")) == 1:
            return None
        return sent(hub, request)

    hub = paper(cut_once)
    assert main(["send", "--to", "bob", "--wait", "hi"]) == 0
    assert len(bodies(hub)) == 1
    assert len(bodies(hub, "receipt.wait")) == 2


def test_wait_that_nobody_acks_is_5_and_still_names_the_message(
    paper: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(hub: PaperHub, request: Frame) -> list[Frame] | None:
        return [refusal(request, "deadline")] if request["type"] == "receipt.wait" else sent(hub, request)

    paper(never)
    assert main(["send", "--to", "bob", "--wait=0", "--json", "hi"]) == 5
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["facts"]["id"]) == ("deadline", "m7")
