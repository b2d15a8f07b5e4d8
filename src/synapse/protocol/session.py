"""One connection's conversation, without I/O: the same for WebSocket text frames, lines and the in-memory hub.

    AWAITING_HELLO --hello frame--> GREETING --accept--> OPEN --close--> CLOSED
                   --any other-----> CLOSED     --refuse-> CLOSED

Rule 1: only `hub.identify` and `hello` are heard before the welcome; anything malformed before it ends the connection.
Rule 2: commands pipelined behind the hello wait for its outcome; they are carried out after an accept and never after
a refusal.
Rule 3: every request gets exactly one answer, unless the connection ends first.
"""

from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from synapse.errors import Rejected
from synapse.protocol.codec import BadFrame, Request, RequestId, decode_request, offered_versions
from synapse.protocol.codes import (
    CLOSE_BAD_HELLO,
    CLOSE_NAME_TAKEN,
    CLOSE_UNAUTHORIZED,
    CLOSE_VERSION,
    PROTOCOL_VERSION,
)
from synapse.protocol.commands import Hello, IdentifyHub
from synapse.protocol.limits import Limits

IDENTIFIES_MAX: Final = 4
"""How often a connection may ask for the hub's identity before it says hello."""


class Phase(Enum):
    """Where the conversation stands."""

    AWAITING_HELLO = "awaiting_hello"
    GREETING = "greeting"
    OPEN = "open"
    CLOSED = "closed"


_OPEN: Final = Phase.OPEN
_CLOSED: Final = Phase.CLOSED
# Looking a member up in its enumeration costs 0.1 µs before Python 3.12.


class Refusal(NamedTuple):
    """Answer a request with an error; when `close` is set, end the connection with that code."""

    id: RequestId
    error: Rejected
    close: int | None = None
    traceparent: str | None = None


Heard: TypeAlias = Request | Refusal


class Session:
    """The hub's side of one conversation."""

    __slots__ = ("identifies", "limits", "phase")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.phase = Phase.AWAITING_HELLO
        self.identifies = 0

    def hear(self, frame: bytes) -> Heard:
        """Decode one frame into a request to carry out or a refusal to send. Must not be called once CLOSED."""
        assert self.phase is not _CLOSED, "a closed session hears nothing"
        try:
            request = decode_request(frame, self.limits)
        except BadFrame as bad:
            if self.phase is not Phase.AWAITING_HELLO:
                return Refusal(bad.id, bad.rejected, traceparent=bad.traceparent)
            offer = offered_versions(frame) if bad.rejected.code == "bad_request" else None
            if offer is not None and not _is_spoken(offer):  # its unknown fields are those of another version
                return self._end(bad.id, _version_refused(offer), CLOSE_VERSION)
            return self._end(bad.id, bad.rejected, CLOSE_BAD_HELLO)
        if self.phase is _OPEN and type(request.command) is not Hello:
            return request
        return self._greet(request)

    def hear_binary(self) -> Refusal:
        """A frame that is not text. Must not be called once CLOSED."""
        assert self.phase is not Phase.CLOSED, "a closed session hears nothing"
        error = Rejected("malformed", "a binary frame: every frame is one JSON object as text")
        if self.phase is Phase.AWAITING_HELLO:
            return self._end(None, error, CLOSE_BAD_HELLO)
        return Refusal(None, error)

    def _greet(self, request: Request) -> Heard:
        """Everything around the hello; never on the hot path."""
        command = request.command
        if isinstance(command, Hello):
            if self.phase is not Phase.AWAITING_HELLO:
                return Refusal(request.id, Rejected("already_greeted", "this connection has said hello before"))
            if not _is_spoken(command.protocol):
                return self._end(request.id, _version_refused(command.protocol), CLOSE_VERSION)
            self.phase = Phase.GREETING
            return request
        if self.phase is Phase.GREETING:
            return request
        if isinstance(command, IdentifyHub):
            self.identifies += 1
            if self.identifies <= IDENTIFIES_MAX:
                return request
        error = Rejected(
            "hello_required", "say hello first: the first command of a connection names protocol and agent"
        )
        return self._end(request.id, error, CLOSE_BAD_HELLO)

    def accept(self) -> None:
        """The hello was carried out."""
        assert self.phase is Phase.GREETING
        self.phase = Phase.OPEN

    def refuse(self, request_id: RequestId, error: Rejected) -> Refusal:
        """The hello was refused: what to send, and with which code to close."""
        assert self.phase is Phase.GREETING
        close = {"unauthorized": CLOSE_UNAUTHORIZED, "name_taken": CLOSE_NAME_TAKEN}.get(error.code, CLOSE_BAD_HELLO)
        return self._end(request_id, error, close)

    def close(self) -> None:
        """The connection is gone or going."""
        self.phase = Phase.CLOSED

    def _end(self, request_id: RequestId, error: Rejected, close: int) -> Refusal:
        self.phase = Phase.CLOSED
        return Refusal(request_id, error, close)


def _is_spoken(offer: tuple[int, int]) -> bool:
    low, high = offer
    return low <= PROTOCOL_VERSION <= high


def _version_refused(offer: tuple[int, int]) -> Rejected:
    low, high = offer
    theirs = str(low) if low == high else f"{low} to {high}"
    older = "client" if high < PROTOCOL_VERSION else "hub"
    return Rejected(
        "protocol_version",
        f"the client speaks protocol {theirs}, this hub {PROTOCOL_VERSION}: upgrade the {older}",
        {"client": [low, high], "hub": [PROTOCOL_VERSION, PROTOCOL_VERSION]},
    )
