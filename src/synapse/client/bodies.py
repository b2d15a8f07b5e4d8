"""Bodies of messages, data of checkpoints and resources, shared values: plain Python here, JSON on the wire."""

import math
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET

from synapse.errors import Rejected
from synapse.protocol.notices import Message, ValueChanged
from synapse.protocol.replies import Checkpoint
from synapse.protocol.resource_replies import ResourceInfo
from synapse.protocol.session_replies import SessionPoint
from synapse.protocol.value_replies import ValueInfo

_Body = TypeVar("_Body")
MILLISECONDS_MAX: Final = 2**53 - 1
"""Beyond it nothing is a number on the wire."""


def milliseconds(seconds: float, what: str) -> int:
    """Seconds for the wire, rounded up; infinity is the most it takes. Raises as `require_seconds`."""
    require_seconds(seconds, what)
    # What is beyond the hub's bounds goes there, and is refused with them.
    return math.ceil(max(-MILLISECONDS_MAX, min(seconds * 1000, MILLISECONDS_MAX)))


def require_seconds(seconds: float | None, what: str) -> None:
    """Raises `Rejected(bad_request)` for NaN and TypeError for what is no number, as True is none. None and infinity
    are without end, and what is negative is over."""
    if seconds is None:
        return
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"{what} of {seconds!r}: give a number of seconds")
    if math.isnan(seconds):
        raise Rejected("bad_request", f"{what} of {seconds} s: give a number of seconds", {"what": what})


def body_of(message: Message) -> object:
    """A message's body as plain Python data."""
    return msgspec.json.decode(message.body)


def data_of(kept: Checkpoint | ResourceInfo | SessionPoint) -> object:
    """The data of a checkpoint or a resource as plain Python data. Raises ValueError when it carries none."""
    if kept.data is UNSET:
        raise ValueError("no data is told here")
    return msgspec.json.decode(kept.data)


def value_of(value: ValueInfo | ValueChanged) -> object:
    """A shared value, or the one that a change put, as plain Python data. Raises ValueError when it carries none."""
    if value.value is UNSET or (isinstance(value, ValueChanged) and value.change != "put"):
        raise ValueError(f"{value.key}: no value is told here")
    return msgspec.json.decode(value.value)


def body_as(message: Message, kind: type[_Body]) -> _Body:
    """A message's body, checked and converted to a Struct, dataclass, TypedDict, `str`…

    Raises `msgspec.ValidationError`, which is a ValueError, when the sender's body is no `kind`.
    """
    return msgspec.json.decode(message.body, type=kind)


def raw_of(data: object) -> msgspec.Raw:
    """Anything that JSON can say, as one line of it. Raises TypeError for what it cannot: NaN,
    infinity, a lone surrogate, what holds itself."""
    try:
        raw = msgspec.json.encode(data)
    except UnicodeEncodeError:
        raise TypeError("a text with a lone surrogate is not JSON") from None
    except RecursionError:
        raise TypeError("what holds itself, or is nested so deeply, is not JSON here") from None
    if b"null" in raw and _has_no_number(msgspec.to_builtins(data, enc_hook=str)):  # which the encoder writes as null
        raise TypeError("NaN and infinity are not JSON")
    if b"\n" in raw:  # a ready-made `msgspec.Raw` may be pretty-printed, and a frame is one line
        raw = msgspec.json.encode(msgspec.json.decode(raw))
    return msgspec.Raw(raw)


def _has_no_number(data: object) -> bool:
    """True when a float somewhere in plain data is NaN or infinite."""
    if isinstance(data, float):
        return not math.isfinite(data)
    if isinstance(data, dict):
        return any(map(_has_no_number, data.values()))
    return isinstance(data, list | tuple | set | frozenset) and any(map(_has_no_number, data))
