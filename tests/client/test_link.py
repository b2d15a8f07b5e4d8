"""One blocking connection, against a hub of paper and, on a WebSocket, a real server of the library."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.faces.conftest import HUB_ID, JOURNAL, Frame, PaperHub, Script, refusal, reply, welcome
from websockets.exceptions import ConnectionClosedError
from websockets.sync.server import ServerConnection, serve

from synapse.client.home import Surroundings
from synapse.client.link import Link, NoAnswer, open_link
from synapse.errors import Disconnected, HubUnreachable, PeerError, Rejected
from synapse.home import HubFile, write_hub_file

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def around(home: Path, **flags: str) -> Surroundings:
    return Surroundings(flags, {"SYNAPSE_HOME": str(home)})


def polite(hub: PaperHub, request: Frame) -> list[Frame]:
    if request["type"] == "hello":
        return [welcome(request)]
    if request["type"] == "hub.identify":
        return [reply(request, hub_id=HUB_ID)]
    return [reply(request, echo=request["body"])]


@contextmanager
def linked(tmp_path: Path, script: Script = polite, timeout_s: float = 5) -> Iterator[tuple[PaperHub, Link]]:
    hub = PaperHub(tmp_path / "home", script)
    try:
        with open_link(around(tmp_path / "home"), timeout_s) as link:
            yield hub, link
    finally:
        hub.close()


def test_a_request_goes_out_behind_the_hello(tmp_path: Path) -> None:
    with linked(tmp_path) as (hub, link):
        link.greet("ada", kind="human", home="main:general")
        assert hub.requests == []
        assert link.ask("ping", {"a": 1}, idem_key="k")["echo"] == {"a": 1}
        hello, ping = hub.requests
    assert ping["idem_key"] == "k"
    assert hello["body"]["protocol"] == [1, 1]
    assert hello["body"]["name"] == "ada"
    assert len(hello["body"]["secret"]) == 64
    assert hello["body"]["kind"] == "human"
    assert "token" not in hello["body"]
    assert link.welcome is not None
    assert link.welcome["journal_id"] == JOURNAL


def test_an_answer_may_be_had_as_text(tmp_path: Path) -> None:
    def script(hub: PaperHub, request: Frame) -> list[Frame]:
        return polite(hub, request) if request["type"] != "no" else [refusal(request, "not_found")]

    with linked(tmp_path, script) as (_, link):
        link.greet("ada")
        assert json.loads(link.ask_text("ping", {"a": "é"}))["echo"] == {"a": "é"}
        with pytest.raises(Rejected, match="because"):
            link.ask_text("no", {})
        assert link.ask("ping", {"a": 2})["echo"] == {"a": 2}


@pytest.mark.parametrize(
    ("given", "carried"), [(TRACE, TRACE), (f"01{TRACE[2:]}-more", TRACE), ("words", None), ("", None)]
)
def test_requests_carry_the_trace_of_the_environment_if_it_is_one(
    tmp_path: Path, given: str, carried: str | None
) -> None:
    hub = PaperHub(tmp_path / "home", polite)
    try:
        here = Surroundings({}, {"SYNAPSE_HOME": str(tmp_path / "home"), "TRACEPARENT": given})
        with open_link(here, 5) as link:
            link.greet("ada")
            link.ask("ping", {})
        hello, ping = hub.requests
    finally:
        hub.close()
    assert "traceparent" not in hello
    assert ping.get("traceparent") == carried


def test_the_card_is_told_only_when_the_name_is_new_here(tmp_path: Path) -> None:
    with linked(tmp_path) as (hub, link):
        link.greet("ada", kind="human")
        link.await_welcome()
        with open_link(around(tmp_path / "home"), 5) as again:
            again.greet("ada", kind="human")
            again.await_welcome()
        first, second = (request["body"] for request in hub.requests)
    assert first["secret"] == second["secret"]
    assert "client" in first
    assert not {"client", "kind"} & second.keys()


def test_an_operator_names_no_agent_and_shows_no_secret(tmp_path: Path) -> None:
    with linked(tmp_path) as (hub, link):
        link.greet(None)
        link.await_welcome()
        assert hub.requests[0]["body"] == {"protocol": [1, 1], "operator": True}


def test_a_refused_hello_is_raised_by_whatever_was_asked_behind_it(tmp_path: Path) -> None:
    def script(hub: PaperHub, request: Frame) -> list[Frame] | None:
        return [refusal(request, "name_taken", kind="agent")] if request["type"] == "hello" else None

    with linked(tmp_path, script) as (_, link):
        link.greet("ada")
        with pytest.raises(Rejected) as caught:
            link.ask("ping", {})
    assert (caught.value.code, caught.value.facts) == ("name_taken", {"kind": "agent"})
    assert list((tmp_path / "home" / "secrets").glob("*/*")) == [], "a secret that means nothing stays behind"


def test_a_hub_of_another_id_than_hub_json_says_is_not_trusted(tmp_path: Path) -> None:
    with linked(tmp_path, lambda hub, request: [welcome(request, "another")]) as (_, link):
        link.greet("ada")
        with pytest.raises(PeerError, match="not the one that"):
            link.await_welcome()


def test_an_explicit_address_is_asked_for_its_id_before_the_secret_is_told(tmp_path: Path) -> None:
    hub = PaperHub(tmp_path / "other", polite)
    try:
        with open_link(around(tmp_path / "mine", uri=f"unix:{hub.path}"), 5) as link:
            link.greet("ada")
            link.await_welcome()
        assert hub.kinds() == ["hub.identify", "hello"]
        assert (tmp_path / "mine" / "secrets" / HUB_ID / "ada").exists()
    finally:
        hub.close()


def test_answers_may_come_in_any_order_with_notices_between(tmp_path: Path) -> None:
    held: list[Frame] = []

    def script(hub: PaperHub, request: Frame) -> list[Frame]:
        held.append(request)
        notice = {"type": "message", "seq": 3, "body": {"n": len(held)}}
        return [notice] if len(held) == 1 else [notice, *(reply(late, n=late["id"]) for late in reversed(held))]

    with linked(tmp_path, script) as (_, link):
        first, second = link.post("ping", {}), link.post("ping", {})
        assert link.answer(first)["n"] == first
        assert link.answer(second)["n"] == second
        assert [link.notice(1).body["n"], link.notice(1).body["n"]] == [1, 2]
        with pytest.raises(TimeoutError):
            link.notice(0.01)


def test_silence_is_an_error_that_says_what_is_not_known(tmp_path: Path) -> None:
    with (
        linked(tmp_path, lambda hub, request: [], timeout_s=0.05) as (_, link),
        pytest.raises(NoAnswer, match="done or"),
    ):
        link.ask("ping", {})


def test_a_cut_connection_may_come_back(tmp_path: Path) -> None:
    with linked(tmp_path, lambda hub, request: None) as (_, link):
        with pytest.raises(Disconnected) as caught:
            link.ask("ping", {})
        assert caught.value.may_come_back


def test_the_hubs_own_words_of_goodbye_are_kept(tmp_path: Path) -> None:
    closing = {"type": "closing", "seq": 1, "body": {"code": 4501, "reason": "taken"}}
    with linked(tmp_path, lambda hub, request: [closing]) as (_, link):
        with pytest.raises(Disconnected) as caught:
            link.ask("ping", {})
        assert (caught.value.code, caught.value.may_come_back) == (4501, False)


@pytest.mark.parametrize("frame", [[], 1, "x"])
def test_what_is_no_frame_is_no_hub(tmp_path: Path, frame: object) -> None:
    with linked(tmp_path, lambda hub, request: [frame]) as (_, link), pytest.raises(PeerError, match="no hub"):  # type: ignore[list-item]  # on purpose
        link.ask("ping", {})


def test_a_socket_nobody_listens_on_is_unreachable_and_says_why(tmp_path: Path) -> None:
    uri = f"unix:{tmp_path / 'none.sock'}"
    write_hub_file(tmp_path, HubFile(pid=2**22 + 1, uris=(uri,), journal_id="j", hub_id="h"))
    with pytest.raises(HubUnreachable, match=r"stale.*is gone; start one: synapse hub"):
        open_link(around(tmp_path), 1)
    with pytest.raises(HubUnreachable, match=r"none\.sock"):
        open_link(around(tmp_path, uri=uri), 1)
    with pytest.raises(HubUnreachable, match="no hub answers at ws://127"):
        open_link(around(tmp_path, uri="ws://127.0.0.1:1"), 1)


def test_a_websocket_that_is_lost_in_its_handshake_is_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise ConnectionClosedError(None, None)  # what the library says when the request cannot be sent

    monkeypatch.setattr("websockets.sync.client.connect", lost)
    with pytest.raises(HubUnreachable, match="lost in the handshake"):
        open_link(around(tmp_path, uri="ws://127.0.0.1:1"), 1)


def test_the_same_conversation_on_a_websocket_shows_the_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    heard: list[Frame] = []

    def handle(connection: ServerConnection) -> None:
        for text in connection:
            request = json.loads(text)
            heard.append(request)
            if request["type"] == "end":
                connection.close(4501, "taken")
                return
            answer = [reply(request, hub_id=HUB_ID)] if request["type"] != "hello" else [welcome(request)]
            for frame in answer:
                connection.send(json.dumps(frame))

    with serve(handle, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        with open_link(around(tmp_path, uri=f"ws://127.0.0.1:{port}"), 5) as link:
            link.greet("ada")
            assert link.ask("ping", {})["hub_id"] == HUB_ID
            with pytest.raises(Disconnected) as caught:
                link.ask("end", {})
        server.shutdown()
        thread.join()
    assert caught.value.code == 4501
    assert [request["type"] for request in heard] == ["hub.identify", "hello", "ping", "end"]
    assert heard[1]["body"]["token"] == "t0ken"
