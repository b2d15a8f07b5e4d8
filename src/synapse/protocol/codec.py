"""Bytes to requests and answers to bytes, in two stages: envelope first, body second, so a bad body still has its id.

Ingress is strict. What JSON parsers let through is refused here: depth, integers beyond 2^53 - 1, NaN and infinities,
lone surrogates, NUL. Free JSON (a message's body) is decoded and encoded again, so that what is stored, hashed and
fanned out are our bytes: compact, one line, valid UTF-8, each key once.
"""

import re
from typing import Annotated, Final, NamedTuple, TypeAlias, Union

import msgspec
from msgspec import UNSET, UnsetType

from synapse.errors import PeerError, Rejected
from synapse.protocol.commands import COMMANDS, TYPE_OF, Command, SaveCheckpoint, SendMessage
from synapse.protocol.lane_commands import LANE_COMMANDS
from synapse.protocol.limits import Limits
from synapse.protocol.names import clipped, shown
from synapse.protocol.notices import NOTICES, Notice
from synapse.protocol.question_commands import AskQuestion
from synapse.protocol.replies import Reply
from synapse.protocol.resource_commands import OfferResource
from synapse.protocol.session_commands import SESSION_COMMANDS
from synapse.protocol.terms import Int
from synapse.protocol.trace import traceparent_of
from synapse.protocol.value_commands import PutValue

RequestId: TypeAlias = str | int | None

REQUEST_ID_CHARS_MAX: Final = 64
LABEL_BYTES: Final = 8 * 1024
"""How far the id of a frame that is no JSON is looked for."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """A request as it travels. id: chosen by the client, echoed in the answer; the others: see PROTOCOL.md."""

    type: str
    id: str | int
    body: msgspec.Raw = msgspec.Raw(b"{}")
    idem_key: str | None = None
    traceparent: str | None = None


class ReplyFrame(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="reply", gc=False
):
    """An answer. seq: the commit it reflects. replayed: the effect is that of an earlier request with this idem_key."""

    id: RequestId
    seq: int
    body: Reply
    replayed: bool = False


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal: stable code, a sentence, the same as data, and how long to wait when waiting helps."""

    code: str
    detail: str
    facts: dict[str, object]
    retry_after_ms: int | None


class ErrorFrame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """A refusal of one request; id is null when the frame had none that could be read."""

    id: RequestId
    seq: int
    error: ErrorBody


class NoticeFrame(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Something the hub says unasked. seq: the journal position it reflects."""

    type: str
    seq: int
    body: Notice


class HubFrame(msgspec.Struct, frozen=True, kw_only=True):
    """Any frame of the hub, as a client reads it first: the body is decoded by what was asked, or by the notice."""

    type: str
    seq: int = 0
    id: RequestId = None
    body: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorBody | UnsetType = UNSET
    replayed: bool = False


class Request(NamedTuple):
    """One decoded request. raw: its body in our own bytes, for the idempotency hash. traceparent: a lawful one."""

    id: RequestId
    command: Command
    idem_key: str | None
    raw: bytes
    traceparent: str | None


class BadFrame(PeerError):
    """A frame that cannot be carried out; `rejected` is the answer, under `id` when it could be read, as is
    `traceparent`."""

    def __init__(self, request_id: RequestId, rejected: Rejected, traceparent: str | None = None) -> None:
        super().__init__(str(rejected))
        self.id = request_id
        self.rejected = rejected
        self.traceparent = traceparent


_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_any = msgspec.json.Decoder().decode
_request: Final = tuple.__new__
"""Makes a `Request` at half the cost of calling the class."""
_decode_hub_frame = msgspec.json.Decoder(HubFrame).decode
_RequestId: TypeAlias = Annotated[str, msgspec.Meta(max_length=REQUEST_ID_CHARS_MAX)] | Int
_FRAMES: Final = [
    msgspec.defstruct(
        f"{kind.__name__}Frame",
        [("id", _RequestId), ("body", kind), ("idem_key", str | None, None), ("traceparent", str | None, None)],
        tag_field="type",
        tag=name,
        frozen=True,
        forbid_unknown_fields=True,
        gc=False,
    )
    for name, kind in COMMANDS.items()
]
_decode_frame: Final = msgspec.json.Decoder(Union[tuple(_FRAMES)]).decode  # noqa: UP007 - made at run time
"""All of a good frame at once, at two thirds of the cost of its two stages."""
_COMMAND_DECODERS: Final = {name: msgspec.json.Decoder(kind).decode for name, kind in COMMANDS.items()}
_WITH_FREE_JSON: Final = frozenset(
    kind for kind in COMMANDS.values() if any(field.type is msgspec.Raw for field in msgspec.structs.fields(kind))
)
_FREE_JSON: Final[dict[type[Command], str]] = {
    kind: field.name
    for kind in (*SESSION_COMMANDS.values(), *LANE_COMMANDS.values(), AskQuestion)
    for field in msgspec.structs.fields(kind)
    if field.type is msgspec.Raw
}
"""Commands with free JSON in one field."""
_NOTICE_DECODERS: Final = {name: msgspec.json.Decoder(kind).decode for name, kind in NOTICES.items()}
_NOTICE_TYPE: Final[dict[type[Notice], str]] = {kind: name for name, kind in NOTICES.items()}
_DIGITS: Final = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
_LONG_NUMBER: Final = b"0" * 16
"""What a number too long for a double becomes under `_DIGITS`; it may also be digits in a text."""
_EIGHTHS: Final = b"00"
_NOT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_id_value = re.compile(rb'\s*:\s*(?:"([ !#-\[\]-~]{0,64})"|(-?\d{1,15}))\s*[,}]')
_string = re.compile(rb'"(?:[^"\\]+|\\.)*"?', re.DOTALL)
_half_pair = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
_HALF_PAIR: Final = (
    "Input data was truncated",
    "JSON is malformed: unexpected end of hex escape",
    "JSON is malformed: invalid utf-16 surrogate pair",
)
"""What the decoder says of the first half of a surrogate pair without the second."""
_token = re.compile(rb'"(?:[^"\\]+|\\.)*"?|[\[\]{}]', re.DOTALL)


def decode_request(data: bytes, limits: Limits) -> Request:
    """Decode one request frame.

    Raises `BadFrame` with `malformed` (not the JSON we accept), `unknown_type`, or `bad_request` (with the JSON path).
    """
    try:
        frame = _decode_frame(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _decode_in_stages(data, limits)
    command = frame.body
    if frame.idem_key is None and frame.traceparent is None and not _has_nul(data):
        if type(command) is SendMessage:
            text = bytes(command.body)
            if _is_our_text(text) and len(text) <= limits.message_bytes_max:
                return _request(Request, (frame.id, command, None, b"", None))
        elif type(command) not in _WITH_FREE_JSON:
            return _request(Request, (frame.id, command, None, b"", None))
    return _checked(frame, frame.id, command, data, limits)


def _is_our_text(body: bytes) -> bool:
    """True for a JSON text as we would write it: there is one way to write such a text."""
    return body[:1] == b'"' and b"\\" not in body and body.isascii()


def _decode_in_stages(data: bytes, limits: Limits) -> Request:
    """Envelope first, body second: what is wrong with a frame, under its id if that can be read."""
    try:
        envelope = _decode_envelope(data)
        request_id = _require_id(envelope.id, limits)
        decode_body = _COMMAND_DECODERS.get(envelope.type)
        if decode_body is None:
            _require_plain_json(data, limits)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame(_label(data), _envelope_refusal(error, data, limits)) from None
    except Rejected as error:
        raise BadFrame(_label(data), error) from None
    parent = _parent(envelope)
    if decode_body is None:
        raise BadFrame(request_id, _unknown_type(envelope.type), parent)
    try:
        command = decode_body(envelope.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        try:
            _require_plain_json(data, limits)
        except Rejected as plain:
            raise BadFrame(request_id, plain, parent) from None
        raise BadFrame(request_id, _body_refusal(error), parent) from None
    return _checked(envelope, request_id, command, data, limits)


def _parent(envelope: Envelope) -> str | None:
    return None if envelope.traceparent is None else traceparent_of(envelope.traceparent)


def _require_id(request_id: str | int, limits: Limits) -> str | int:
    if isinstance(request_id, str):
        if len(request_id) > REQUEST_ID_CHARS_MAX:
            raise Rejected("malformed", f"the id has {len(request_id)} characters; at most {REQUEST_ID_CHARS_MAX}")
    else:
        _walk(request_id, limits.int_max)
    return request_id


def _checked(envelope: Envelope, request_id: str | int, command: Command, data: bytes, limits: Limits) -> Request:
    """What the types do not say: size of the key, NUL, and free JSON in our own bytes. Only free JSON can be too deep
    or hold too large an integer, and a message's body not when it is a text."""
    key, parent = envelope.idem_key, _parent(envelope)
    try:
        if type(command) is SendMessage:
            theirs = bytes(command.body)
            if theirs[:1] != b'"' or _has_nul(data):
                _require_plain_json(data, limits)
            ours = theirs if _is_our_text(theirs) else _encode(_decode_any(theirs))
            if ours != theirs or len(ours) > limits.message_bytes_max:
                command = _with_body(command, ours, limits)
        elif type(command) is SaveCheckpoint:
            _require_plain_json(data, limits)
            ours = _encode(_decode_any(bytes(command.data)))
            command = msgspec.structs.replace(command, data=msgspec.Raw(ours))
        elif type(command) is PutValue:
            _require_plain_json(data, limits)
            ours = _encode(_decode_any(bytes(command.value)))
            command = msgspec.structs.replace(command, value=msgspec.Raw(ours))
        elif type(command) is OfferResource:
            _require_plain_json(data, limits)
            ours = _encode(_decode_any(bytes(command.data)))
            command = msgspec.structs.replace(command, data=msgspec.Raw(ours))
        elif type(command) in _FREE_JSON:
            _require_plain_json(data, limits)
            name = _FREE_JSON[type(command)]
            ours = _encode(_decode_any(bytes(getattr(command, name))))
            command = msgspec.structs.replace(command, **{name: msgspec.Raw(ours)})
        elif _has_nul(data):
            _require_plain_json(data, limits)
        if key is not None and not 0 < len(key) <= limits.idem_key_chars_max:
            raise Rejected(
                "bad_request",
                f"idem_key has {len(key)} characters; 1 to {limits.idem_key_chars_max} - at `$.idem_key`",
                {"path": "$.idem_key"},
            )
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        try:
            _require_plain_json(data, limits)
        except Rejected as plain:
            raise BadFrame(request_id, plain, parent) from None
        raise BadFrame(request_id, _body_refusal(error), parent) from None
    except Rejected as error:
        raise BadFrame(request_id, error, parent) from None
    return Request(request_id, command, key, b"" if key is None else _encode(command), parent)


class _OfferedBody(msgspec.Struct, frozen=True, kw_only=True):
    protocol: tuple[int, int]


class _Offer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="hello"):
    body: _OfferedBody


_decode_offer = msgspec.json.Decoder(_Offer).decode


def offered_versions(data: bytes | bytearray | memoryview) -> tuple[int, int] | None:
    """The versions a hello offers, whatever fields of a newer protocol it carries; None when it is no hello."""
    try:
        return _decode_offer(bytes(data)).body.protocol
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _with_body(command: SendMessage, body: bytes, limits: Limits) -> SendMessage:
    """The command with its free JSON as we encoded it. Raises `Rejected(too_large)`."""
    if len(body) > limits.message_bytes_max:
        raise Rejected(
            "too_large",
            f"the body has {len(body)} bytes; at most {limits.message_bytes_max}: send a reference to a file instead",
            {"bytes": len(body), "message_bytes_max": limits.message_bytes_max},
        )
    return SendMessage(
        body=msgspec.Raw(body),
        to=command.to,
        target=command.target,
        room=command.room,
        channel=command.channel,
        create=command.create,
        subject=command.subject,
        thread=command.thread,
        reply_to=command.reply_to,
        priority=command.priority,
        expires_at_ms=command.expires_at_ms,
    )


def _require_plain_json(data: bytes, limits: Limits) -> None:
    """Refuse depth, big integers and NUL; cheap scans first, a walk over the values only when one of them hits."""
    if _has_brackets(data, limits.depth_max + 1) and _is_deeper(data, limits.depth_max):
        raise _too_deep(limits)
    if _has_long_number(data) or _has_nul(data):
        try:
            value = _decode_any(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Rejected("malformed", _sentence(error, "$")) from None
        _walk(value, limits.int_max)


# Each of these scans looks at every byte of a frame. On 180 kB one that calls `find` takes 10 µs, which runs in the
# machine's own words; `count`, `translate` and the search for more than one byte take 200 to 300.


def _has_nul(data: bytes) -> bool:
    """True when NUL is escaped in it; also where the backslash is escaped itself."""
    return b"\\" in data and b"\\u0000" in data


def _has_brackets(data: bytes, count: int) -> bool:
    """True when so many brackets open in it, in strings too."""
    for bracket in (b"{", b"["):
        at = data.find(bracket)
        while at >= 0:
            count -= 1
            if not count:
                return True
            at = data.find(bracket, at + 1)
    return False


def _has_long_number(data: bytes) -> bool:
    """True when sixteen digits follow each other, in strings too. Such a run holds two of every eighth byte."""
    if len(data) > LABEL_BYTES and _EIGHTHS not in data[::8].translate(_DIGITS):
        return False
    return _LONG_NUMBER in data.translate(_DIGITS)


def _is_deeper(data: bytes, depth_max: int) -> bool:
    """True when brackets nest deeper outside strings. A whole frame of them takes a few milliseconds."""
    depth = 0
    for bracket in _string.sub(b"", data).translate(None, _NOT_BRACKETS):
        if bracket in b"[{":
            depth += 1
            if depth > depth_max:
                return True
        else:
            depth -= 1
    return False


def _too_deep(limits: Limits) -> Rejected:
    return Rejected("malformed", f"JSON nested deeper than {limits.depth_max} levels", {"depth_max": limits.depth_max})


def _walk(value: object, int_max: int) -> None:
    """Refuse integers beyond ±`int_max` and strings with NUL anywhere in a decoded value."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if "\0" in item:
                raise Rejected("malformed", "a string holds the character NUL")
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, int) and not -int_max <= item <= int_max:
            raise Rejected("malformed", f"the integer {item if abs(item) < 1 << 80 else '…'} is beyond ±(2^53 - 1)")


def _label(data: bytes) -> RequestId:
    """The id of a frame that is otherwise wrong, if it can be read: the last key `"id"` at the outermost level.

    Only the first `LABEL_BYTES` are looked at, so that a frame of garbage cannot hold up everybody else.
    """
    depth = 0
    label: RequestId = None
    for match in _token.finditer(data, 0, LABEL_BYTES):
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
        elif token in (b"}", b"]"):
            depth -= 1
            if depth == 0:
                break
        elif depth == 1 and token == b'"id"':
            value = _id_value.match(data, match.end())
            if value is not None:
                label = int(value[2]) if value[2] else value[1].decode("ascii")
    return label


def _unknown_type(name: str) -> Rejected:
    near = [known for known in COMMANDS if known.split(".")[-1] == name.split(".")[-1]][:3]
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    return Rejected("unknown_type", f"no command has the type {shown(name)}{hint}", {"type": clipped(name)})


def _envelope_refusal(error: Exception, data: bytes, limits: Limits) -> Rejected:
    """Why a frame has no envelope that can be read: what the scans find first, else what the decoder said."""
    if _is_deeper(data, limits.depth_max):
        return _too_deep(limits)
    if str(error).startswith(_HALF_PAIR) and _half_pair.search(data):
        return Rejected("malformed", "a string holds a lone surrogate: half of a pair such as \\ud83d\\ude00 - at `$`")
    return Rejected("malformed", _sentence(error, _path_of(error)))


def _body_refusal(error: Exception) -> Rejected:
    """`malformed` for what is no JSON of ours (a bool where a number belongs too), else `bad_request`."""
    text = str(error)
    is_wrong_number = text.startswith(("Integer value out of range", "Number out of range"))
    is_bool = text.startswith("Expected ") and ", got `bool`" in text
    is_grammar = not isinstance(error, msgspec.ValidationError) or is_wrong_number or is_bool
    path = _path_of(error).replace("$", "$.body", 1)
    return Rejected("malformed" if is_grammar else "bad_request", _sentence(error, path), {"path": path})


def _path_of(error: Exception) -> str:
    """The JSON path that the decoder names at the end of its words; `$` without one."""
    text = str(error)
    return text.rsplit("- at `", 1)[1].rstrip("`") if "- at `" in text else "$"


def _sentence(error: Exception, path: str) -> str:
    text = str(error).split(" - at `")[0]  # it may quote a key of the peer's, as long as a frame
    return f"{text if len(text) <= 160 else text[:157] + '...'} - at `{path}`"


def encode_request(
    request_id: RequestId, command: Command, idem_key: str | None = None, traceparent: str | None = None
) -> bytes:
    """A request frame, for clients. The hub checks it; nothing is checked here."""
    frame: dict[str, object] = {"type": TYPE_OF[type(command)], "id": request_id, "body": command}
    if idem_key is not None:
        frame["idem_key"] = idem_key
    if traceparent is not None:
        frame["traceparent"] = traceparent
    return _encode(frame)


def encode_reply(request_id: RequestId, seq: int, body: Reply, *, replayed: bool = False) -> bytes:
    """A reply frame."""
    return _encode(ReplyFrame(id=request_id, seq=seq, body=body, replayed=replayed))


def encode_error(request_id: RequestId, seq: int, error: Rejected) -> bytes:
    """An error frame."""
    body = ErrorBody(code=error.code, detail=error.detail, facts=error.facts, retry_after_ms=error.retry_after_ms)
    return _encode(ErrorFrame(id=request_id, seq=seq, error=body))


def encode_notice(seq: int, body: Notice) -> bytes:
    """A notice frame."""
    return _encode(NoticeFrame(type=_NOTICE_TYPE[type(body)], seq=seq, body=body))


def decode_hub_frame(data: bytes | str) -> HubFrame:
    """First stage of a hub frame, for clients. Raises `PeerError` when it is none."""
    try:
        return _decode_hub_frame(data)
    except msgspec.MsgspecError as error:
        raise PeerError(f"the hub sent a frame that is not the protocol: {error}") from error


def decode_notice(frame: HubFrame) -> Notice | None:
    """Second stage of a notice; None for a notice type of a newer hub. Raises `PeerError` if it does not fit."""
    decode = _NOTICE_DECODERS.get(frame.type)
    if decode is None:
        return None
    try:
        return decode(frame.body)
    except msgspec.MsgspecError as error:
        raise PeerError(f"the hub sent a {frame.type} notice that does not fit: {error}") from error
