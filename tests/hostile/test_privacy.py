"""Canaries: what is private carries a random marker, and no byte that reaches anybody else contains it.

Private are direct messages (body, subject, thread, the key they were sent under), and secrets and tokens. The stranger
is an agent of the same hub that asks for everything there is to ask, over both doors, before, while and after the
messages pass; beside it the health page, the metrics, and the log at its most talkative.
"""

import contextlib
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest
from tests.crash.websocket import frames_in, masked, shake_hands
from tests.faults.conftest import PATIENCE_S, HubProcess, Line, line_to

from synapse.protocol.codec import encode_request
from synapse.protocol.commands import COMMANDS, AckInbox, Hello, ListInbox, SendMessage, Subscribe, TakeInbox
from synapse.protocol.replies import Acked, Inbox, Sent, Subscribed, Taken

SECRET: Final = "a secret of thirty-two characters, or more"
END: Final = b'{"type":"ping","id":"end"}'


class Ear:
    """A connection of which every byte is kept. said: all that the hub sent to it."""

    def __init__(self, raw: socket.socket, *, is_web: bool) -> None:
        self.said = b""
        self._raw = raw
        self._is_web = is_web

    def ask(self, *frames: bytes) -> bytes:
        """Send frames, and keep what comes up to the answer of the last; that."""
        begin = len(self.said)
        data = [*frames, END]
        self._raw.sendall(b"".join(map(masked, data)) if self._is_web else b"".join(one + b"\n" for one in data))
        while b'"id":"end"' not in self.said[begin:]:
            found = self._raw.recv(1 << 16)
            assert found, f"the hub hung up: {self.said[-500:]!r}"
            self.said += found
        return self.said[begin:]


@contextmanager
def listening(hub: HubProcess, name: str, *, is_web: bool) -> Iterator[Ear]:
    """A stranger who has said hello and follows everything that can be followed."""
    raw = socket.create_connection(("127.0.0.1", hub.port)) if is_web else socket.socket(socket.AF_UNIX)
    with raw:
        raw.settimeout(PATIENCE_S)
        if is_web:
            assert shake_hands(raw, (hub.home / "token").read_text().strip()) == b""
        else:
            raw.connect(str(hub.home / "hub.sock"))
        ear = Ear(raw, is_web=is_web)
        hello = Hello(name=name, secret=f"{name}: {SECRET}", lasting=True)
        everything = Subscribe(channels=("main:general",), inbox=True, presence=True, leases=True)
        ear.ask(encode_request("hello", hello), encode_request("feed", everything))
        assert b'"subscription"' in ear.said
        yield ear


def questions(words: dict[str, list[object]]) -> Iterator[bytes]:
    """Every command, with every word in every field that takes a text or a list of them, and without any."""
    for name, kind in COMMANDS.items():
        if name == "hello":
            continue
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        required = {field.encode_name: _filled(field.type) for field in fields.values() if field.required}
        yield msgspec.json.encode({"type": name, "id": "q", "body": required})
        for field, values in words.items():
            if field in fields:
                for value in values:
                    body = {**required, field: value}
                    yield msgspec.json.encode({"type": name, "id": "q", "body": body})


def _filled(kind: object) -> object:
    """A lawful value of a required field."""
    return {int: 1, bool: True}.get(kind, "main:general") if isinstance(kind, type) else 1


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub that logs all it can."""
    with HubProcess(tmp_path_factory.mktemp("privacy") / "home", "--log-level", "debug") as found:
        yield found.until_ready()


def page(hub: HubProcess, path: str) -> bytes:
    """What a GET answers."""
    with socket.create_connection(("127.0.0.1", hub.port), PATIENCE_S) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        found = b""
        while data := raw.recv(1 << 16):
            found += data
    return found


def test_no_marker_of_a_direct_message_reaches_anybody_but_its_recipients(hub: HubProcess) -> None:
    markers = {part: f"canary-{part}-{secrets.token_hex(8)}" for part in ("body", "subject", "thread", "key", "file")}

    def send(line: Line, number: int) -> Sent:
        body = msgspec.Raw(msgspec.json.encode({"text": markers["body"], "file": [markers["file"], number]}))
        command = SendMessage(body=body, to=("bob",), subject=markers["subject"], thread=markers["thread"])
        return line.ask(command, Sent, f"{markers['key']}-{number}")

    with contextlib.ExitStack() as stack:
        ears = [stack.enter_context(listening(hub, f"eve-{door}", is_web=door == "web")) for door in ("web", "line")]
        ada, bob = stack.enter_context(line_to(hub.home, "ada")), stack.enter_context(line_to(hub.home, "bob"))
        bob.ask(Subscribe(inbox=True), Subscribed)
        first = send(ada, 1)
        ada.post("in public")
        ids = [first.id, send(ada, 2).id]
        words: dict[str, list[object]] = {
            "id": list(ids),
            "ids": [ids],
            "reply_to": list(ids),
            "since": [first.cursor, first.cursor.partition(":")[0] + ":1"],
            "before": [first.cursor],
            "after": list(ids),
            "sender": ["ada", "bob"],
            "text": ["canary", markers["body"][:12]],
            "to": [["bob"], ["ada"]],
            "name": ["ada", "bob"],
            "task": ["T"],
            "channel": ["main:general", "@bob", "main:@bob"],
            "channels": [["main:general"], ["@bob"]],
            "target": ["main:general", "@bob"],
            "room": ["main"],
            "inbox": [True],
            "all": [True],
            "directed_only": [True],
        }
        asked = list(questions(words))
        assert len(asked) > 150
        for ear in ears:
            for number, question in enumerate(asked):
                ear.ask(question)
                if number % 40 == 0:
                    ids.append(send(ada, 100 + len(ids)).id)
            stolen = SendMessage(body=msgspec.Raw(b'"mine"'), target="main:general")
            ear.ask(encode_request("same key", stolen, f"{markers['key']}-1"))
        # Those for whom they are see them all: the markers were there to be seen.
        assert bob.ask(ListInbox(), Inbox).unacked >= 3
        taken = bob.ask(TakeInbox(), Taken)
        assert taken.message is not None
        shown = msgspec.json.encode(taken)
        assert all(markers[part].encode() in shown for part in ("body", "subject", "thread", "file"))
        bob.ask(AckInbox(all=True), Acked)
        for ear in ears:
            ear.ask(*asked[:20])
        heard = {"web": ears[0].said, "line": ears[1].said}
        heard |= {path: page(hub, path) for path in ("/health", "/metrics", "/", "/inbox?agent=bob")}
    log = hub._log.fileno()
    said = Path(f"/proc/{hub.process.pid}/fd/2").read_bytes() if log < 0 else Path(f"/proc/self/fd/{log}").read_bytes()
    heard |= {"log": said, "arguments": Path(f"/proc/{hub.process.pid}/cmdline").read_bytes()}
    assert all(heard.values())
    private = [*(marker.encode() for marker in markers.values()), (hub.home / "token").read_bytes().strip()]
    private += [f"{name}: {SECRET}".encode() for name in ("ada", "bob", "eve-web", "eve-line")]
    leaks = [(where, marker) for where, data in heard.items() for marker in private if marker in data]
    # What a stranger asks with comes back to it in the refusal; those words are its own.
    assert leaks == []


def test_the_ear_hears_what_is_said_to_it(hub: HubProcess) -> None:
    marker = f"canary-{secrets.token_hex(8)}"
    with listening(hub, "mallory", is_web=True) as ear, line_to(hub.home, "ada") as ada:
        ada.post(marker)
        ear.ask()
        assert marker.encode() in ear.said
        frames, rest = frames_in(ear.said)
        assert len(frames) > 3
        assert rest == b""
