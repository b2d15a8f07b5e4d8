"""Real frames with bytes changed, sent into the hub's own framings without a socket.

What may come of a stream of bytes is little: answers with codes of the closed list, a close with a code of the closed
list, an HTTP refusal, or the cut of the connection. Whatever is refused has changed nothing. Whether a frame may be
taken at all is judged a second time, by another JSON parser and a few lines of rules: what breaks one must be refused.
"""

import asyncio
import json
import os
import random
import re
import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from tests.crash.websocket import PING, frames_in, masked

from synapse.core.kernel import REPEATABLE
from synapse.core.state import digest
from synapse.hub.listeners import Listeners
from synapse.hub.settings import Settings
from synapse.hub.wire import LinePeer, Peer, WebPeer
from synapse.protocol.codec import ErrorBody, decode_hub_frame
from synapse.protocol.codes import CLOSES, ERRORS
from synapse.protocol.commands import COMMANDS
from synapse.protocol.limits import Limits
from synapse.protocol.notices import NOTICES, Closing
from synapse.testing import TOKEN, MemoryHub

SECRET: Final = "a secret of thirty-two characters, or more"
GENEROUS: Final = Limits(rate_agent_per_s=10**8, rate_agent_burst=10**8, rate_host_per_s=10**8, rate_host_burst=10**8)
HELLO: Final = b'{"type":"hello","id":"hello","body":{"name":"fuzz","secret":"%b"}}' % SECRET.encode()
HEAD: Final = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Authorization: Bearer {TOKEN}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()
STATUSES: Final = frozenset({101, 200, 400, 401, 403, 404, 405, 421, 426, 431, 501, 503, 505})
CLOSE, PONG = 0x8, 0xA
LURES: Final = (
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[" * 40,
    b"\0",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xc3",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"NaN",
    b"1e999",
    b"9007199254740993",
    b"-1",
    b"true",
    b"null",
    b"..",
    b"/",
    b"**",
    b"@",
    b":",
    b"\x81",
    b"\x88",
    b"\x89",
    b"\x01",
    b"\x80",
    b"\xc1",
    b"\xff" * 8,
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 99999999999999999999\r\n",
)
"""Bytes that matter to one of the parsers."""


def _nested(depth: int) -> object:
    found: object = 1
    for _ in range(depth):
        found = [found]
    return found


EDGES: Final[tuple[object, ...]] = (
    *("\0", "a\0b", "\ud800", "x" * 300, "", "..", "@", "a:b:c", " "),
    *(float("nan"), float("inf"), 0.5, -1, 0, 2**53 - 1, 2**53, -(2**53), 2**64, 10**30),
    *(True, None, [], {}, {"x": {"y": "\0"}}, _nested(20), _nested(40), _nested(400)),
)
"""What a value may be, and may not be."""


class Outcome(NamedTuple):
    """What came of a stream. codes: of the errors, in order. told: how many replies, the hello's not among them, and
    notices. end: the close code or HTTP status, -1 for a cut, 0 when the connection lives."""

    codes: tuple[str, ...]
    told: int
    end: int


class Wrong(AssertionError):
    """The hub said or did what it never may."""


def real_frames(folder: Path) -> list[bytes]:
    """Every frame that a client sends in the golden dialogues."""
    frames = []
    for path in sorted(folder.glob("*.txt")):
        text = re.sub(r"\n  +", "", path.read_text("utf-8"))
        frames += [found.encode() for found in re.findall(r"^\w+> (\{.*\})$", text, re.MULTILINE)]
    return frames


def made_frames(real: list[bytes]) -> list[bytes]:
    """A lawful frame of each command that the dialogues leave out; and of each that takes a key one that has a key."""
    frames, shown = [], [json.loads(frame) for frame in real if not breaks_a_rule(frame, Limits())]
    bodies = {frame["type"]: frame.get("body", {}) for frame in reversed(shown)}
    for name, kind in COMMANDS.items():
        fields = [field for field in msgspec.structs.fields(kind) if field.required]
        made = {field.encode_name: _filled(field.name, str(field.type)) for field in fields}
        frame = {"type": name, "id": 1, "body": bodies.get(name, made)}
        frames += [] if name in bodies else [frame]
        frames += [{**frame, "idem_key": "a key"}] if kind in REPEATABLE else []
    return [json.dumps(frame, separators=(",", ":")).encode() for frame in frames]


def _filled(name: str, kind: str) -> object:
    """Something lawful for a required field."""
    if "Raw" in kind:
        return {"x": [1, "y"]}
    if "tuple" in kind:
        return ["main:general"]
    if "bool" in kind:
        return True
    if "str" in kind:
        return {"task": "T1", "to": "fuzz", "name": "fuzz", "worktree": "w"}.get(name, "general")
    return 1


def breaks_a_rule(frame: bytes, limits: Limits) -> str:
    """Why a frame may not be taken, as the standard library's parser and the plain rules of the protocol see it; empty
    when they find nothing. Never wrong about what it names; what it does not name may be refused all the same."""

    def refuse(constant: str) -> object:
        raise ValueError(constant)

    try:
        found = json.loads(frame.decode("utf-8"), parse_constant=refuse)
    except (UnicodeDecodeError, RecursionError):
        return "not UTF-8, or far too deep"
    except ValueError as error:
        return f"not JSON: {error}"
    if not isinstance(found, dict):
        return "no object"
    stack: list[tuple[object, int]] = [(found, 1)]
    while stack:
        item, depth = stack.pop()
        if depth > limits.depth_max and isinstance(item, dict | list):
            return "too deep"
        if isinstance(item, str) and ("\0" in item or any("\ud800" <= letter <= "\udfff" for letter in item)):
            return "NUL, or half a character"
        if isinstance(item, float) and item in (float("inf"), float("-inf")):
            return "an infinite number"
        if isinstance(item, int) and not isinstance(item, bool) and abs(item) > limits.int_max:
            return "too large an integer"
        if isinstance(item, dict):
            stack += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            stack += [(part, depth + 1) for part in item]
    if found.get("type") not in [*COMMANDS]:
        return "no command"
    if type(found.get("id")) not in (int, str):
        return "no id"
    if found.keys() - {"type", "id", "body", "idem_key", "traceparent"}:
        return "an unknown member"
    return ""


def bent(frame: bytes, chance: random.Random) -> bytes:
    """A frame that says what no frame may, or what is at the edge, in one place anywhere in it; else as it was."""
    try:
        found = json.loads(frame)
    except ValueError:
        return frame
    places: list[tuple[Any, Any]] = []
    stack = [found]
    while stack:
        item = stack.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        places += [(item, key) for key in keys]
        stack += [item[key] for key in keys]
    if not places:
        return frame
    holder, key = chance.choice(places)
    if isinstance(holder, dict) and chance.random() < 0.2:
        holder[chance.choice(("", "x", "\0", "type", "id"))] = holder.pop(key)
    else:
        holder[key] = chance.choice(EDGES)
    return json.dumps(found, separators=(",", ":")).encode()


def mutated(data: bytes, chance: random.Random, most: int = 4) -> bytes:
    """A few bytes of it changed, lost, doubled, moved, or replaced by what matters to a parser."""
    found = bytearray(data)
    for _ in range(chance.randint(1, most)):
        at = chance.randrange(len(found) + 1)
        upto = min(len(found), at + chance.choice((1, 1, 2, 4, 16, 64)))
        match chance.randrange(7):
            case 0 if upto > at:
                found[at] ^= 1 << chance.randrange(8)
            case 1:
                del found[at:upto]
            case 2:
                found[at:at] = found[at:upto]
            case 3:
                found[at:upto] = chance.choice(LURES)
            case 4:
                found[at:at] = chance.choice(LURES)
            case 5:
                found[at:at] = chance.randbytes(chance.randint(1, 6))
            case _:
                cut = bytes(found[at:upto])
                del found[at:upto]
                back = chance.randrange(len(found) + 1)
                found[back:back] = cut
    return bytes(found)


class FakeSocket:
    """What the peers ask of a socket."""

    def setsockopt(self, *_: object) -> None:
        """Nothing to set."""

    def getsockopt(self, *_: object) -> bytes:
        """The credentials of the hub's own user."""
        return struct.pack("3i", os.getpid(), os.getuid(), os.getgid())


class FakeTransport(asyncio.Transport):
    """Takes what a peer writes, at once, and says when the connection is gone."""

    def __init__(self, peer: Peer) -> None:
        super().__init__({"socket": FakeSocket(), "peername": ("127.0.0.1", 1)})
        self.written = bytearray()
        self.is_paused = False
        self.is_over = False
        self.is_cut = False
        self._peer = peer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_closing(self) -> bool:
        return self.is_over

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.close()

    def close(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._peer.connection_lost(None)

    def abort(self) -> None:
        self.is_cut = self.is_cut or not self.is_over
        self.close()


class Fuzzer:
    """A hub in memory behind its own framings. refused_twice: how many streams the second judge would have refused."""

    def __init__(self, hub: MemoryHub, home: Path) -> None:
        self.hub = hub
        self.refused_twice = 0
        self._settings = Settings(home=home, port=0, limits=hub.rules.limits)

    async def send(self, data: bytes, chance: random.Random, *, is_web: bool) -> Outcome:
        """Send a stream, in pieces, over a new connection. Raises `Wrong`."""
        listeners = Listeners(self.hub.turns, self._settings, asyncio.get_running_loop())
        listeners._next_id = 1_000_000 + self.hub.turns.peers.total
        peer: Peer = WebPeer(listeners) if is_web else LinePeer(listeners)
        transport = FakeTransport(peer)
        peer.connection_made(transport)
        at = 0
        while at < len(data) and not transport.is_over:
            upto = at + chance.choice((1, 7, 100, 1_000, 16_384))
            while transport.is_paused and not transport.is_over:
                await self.hub.settle()
            at = await self._give(peer, data, at, upto)
        await self._quiet()
        is_cut, is_over = transport.is_cut, transport.is_over
        transport.abort()
        await self._quiet()
        return outcome_of(bytes(transport.written), is_web=is_web, is_over=is_over, is_cut=is_cut)

    async def one(self, chance: random.Random, frames: list[bytes]) -> Outcome:
        """Send one mutated stream. Raises `Wrong`, also when what was refused has changed something."""
        is_web, count = chance.random() < 0.7, chance.choice((1, 1, 1, 2, 3))
        picked = [chance.choice(frames) for _ in range(count)]
        opening = stream_of([], is_web=is_web)
        where = chance.randrange(4)
        broken = ""
        if where == 0:  # what a frame says
            changed = [chance.choice((mutated, bent))(frame, chance) for frame in picked]
            data = stream_of(changed, is_web=is_web)
            broken = breaks_a_rule(changed[0], self.hub.rules.limits) if is_web and count == 1 else ""
        elif where == 1:  # how it is framed
            data = opening + mutated(stream_of(picked, is_web=is_web)[len(opening) :], chance)
        elif where == 2:  # the handshake and the hello too
            data = mutated(stream_of(picked, is_web=is_web), chance, 8)
        else:  # only those
            data = mutated(opening, chance, 2) + stream_of(picked, is_web=is_web)[len(opening) :]
        before = self.digest()
        outcome = await self.send(data, chance, is_web=is_web)
        is_heard_in_full = outcome.end == 0 or count == 1
        if where < 2 and not outcome.told and is_heard_in_full and self.digest() != before:
            raise Wrong(f"refused, and the state is another: {outcome} of {data!r}")
        if broken and (outcome.told or not (outcome.codes or outcome.end)):
            raise Wrong(f"taken, and it breaks a rule ({broken}): {outcome} of {data!r}")
        self.refused_twice += bool(broken)
        return outcome

    async def _give(self, peer: Peer, data: bytes, at: int, upto: int) -> int:
        buffer = peer.get_buffer(-1)
        piece = data[at : min(upto, at + len(buffer))]
        buffer[: len(piece)] = piece
        peer.buffer_updated(len(piece))
        await asyncio.sleep(0)
        return at + len(piece)

    async def _quiet(self) -> None:
        for _ in range(4):
            await self.hub.settle()
            await asyncio.sleep(0)

    def digest(self) -> str:
        """Of everything durable."""
        return digest(self.hub.state)


def outcome_of(written: bytes, *, is_web: bool, is_over: bool, is_cut: bool) -> Outcome:
    """What the hub wrote, every byte of it accounted for. Raises `Wrong`."""
    end = (-1 if is_cut else 1000) if is_over else 0
    payloads = [line for line in written.split(b"\n") if line]
    if is_web:
        if not written:
            return Outcome((), 0, end)
        head, blank, rest = written.partition(b"\r\n\r\n")
        status = int(head[9:12])
        if not blank or status not in STATUSES:
            raise Wrong(f"an answer to the handshake that does not exist: {head!r}")
        if status != 101:
            return Outcome((), 0, status)
        frames, left = frames_in(rest)
        if left:
            raise Wrong(f"half a frame: {left!r}")
        closes = [int.from_bytes(payload[:2], "big") for opcode, payload in frames if opcode == CLOSE]
        if closes:
            end = closes[0]
            if len(closes) > 1 or frames[-1][0] != CLOSE:
                raise Wrong("it went on after its close")
            if end and end not in CLOSES:  # a peer's own code comes back to it
                end = 1000
        payloads = [payload for opcode, payload in frames if opcode not in (CLOSE, PING, PONG)]
    codes, told = [], 0
    for payload in payloads:
        frame = decode_hub_frame(payload)
        if frame.type == "error":
            assert isinstance(frame.error, ErrorBody)
            if frame.error.code not in ERRORS or not frame.error.detail:
                raise Wrong(f"an error that does not exist: {payload!r}")
            codes.append(frame.error.code)
        elif frame.type == "reply":
            told += frame.id != "hello"
        elif frame.type not in NOTICES:
            raise Wrong(f"a notice that does not exist: {payload!r}")
        elif frame.type == "closing":
            end = msgspec.json.decode(frame.body, type=Closing).code
        else:
            told += 1
    return Outcome(tuple(codes), told, end)


def stream_of(frames: list[bytes], *, is_web: bool) -> bytes:
    """Frames as a client sends them, behind its hello."""
    if is_web:
        return HEAD + b"".join(masked(frame) for frame in [HELLO, *frames])
    return b"".join(frame + b"\n" for frame in [HELLO, *frames])
