"""Decoding rows of every version: an older body is lifted, version by version, to the one the core knows.

An upcaster takes the fields of a body as raw JSON by name and answers the fields one version later; what it does not
touch stays byte for byte as it was. Rows are never rewritten.
"""

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from synapse.core.events import VERSIONS, Event, Row, from_row
from synapse.errors import JournalRefused

Fields: TypeAlias = dict[str, msgspec.Raw]


def _lend_of_many(fields: Fields) -> Fields:
    """A lend was of one message; its sender, if a receipt was due."""
    of_one = {"message": "messages", "sender": "senders"}
    return {of_one.get(name, name): _in_a_list(value) if name in of_one else value for name, value in fields.items()}


def _in_a_list(value: msgspec.Raw) -> msgspec.Raw:
    return msgspec.Raw(b"[%b]" % bytes(value))


UPCASTERS: dict[tuple[str, int], Callable[[Fields], Fields]] = {("message.lent", 1): _lend_of_many}
"""By (type, version): the step from that version to the next. Each version below today's has one."""

_decode_fields = msgspec.json.Decoder(Fields).decode
_encode = msgspec.json.Encoder().encode


def decode(row: Row) -> Event:
    """The event of a row.

    Raises `JournalRefused` for a type or version this release does not know (a newer one wrote it), for a body that
    does not fit its type, and for a body that retention dropped.
    """
    if row.version != VERSIONS.get(row.type):
        return _decode_old(row)
    try:
        return from_row(row.type, row.body)
    except msgspec.MsgspecError as error:
        raise _unreadable(row, error) from error


def _decode_old(row: Row) -> Event:
    known = VERSIONS.get(row.type)
    if known is None or row.version > known:
        raise JournalRefused(
            f"journal: event {row.seq} is {row.type} version {row.version}, which this release does not know; "
            "start it with the newer release that wrote it",
            seq=row.seq,
        )
    try:
        fields = _decode_fields(row.body)
        for version in range(row.version, known):
            fields = UPCASTERS[row.type, version](fields)
        return from_row(row.type, _encode(fields))
    except msgspec.MsgspecError as error:
        raise _unreadable(row, error) from error


def _unreadable(row: Row, error: msgspec.MsgspecError) -> JournalRefused:
    found = "its body was dropped by retention" if not row.body else str(error)
    return JournalRefused(
        f"journal: event {row.seq} ({row.type} version {row.version}) cannot be read: {found}; "
        "start it with the release that wrote it, or restore a backup",
        seq=row.seq,
    )
