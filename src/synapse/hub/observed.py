"""What the log says of single requests: those that were refused, and commits that took long. Trace contexts are in it,
so that a line is found from a trace; bodies, and the words of a refusal, which may quote them, are not."""

import logging
from typing import Final

import msgspec

from synapse.core.events import Row
from synapse.errors import Rejected
from synapse.hub.connection import Connection
from synapse.hub.log import LOGGER, log
from synapse.hub.work import Totals, Turn
from synapse.protocol.codec import Request
from synapse.protocol.commands import TYPE_OF
from synapse.protocol.session import Refusal

SLOW_COMMIT_S: Final = 1.0
TRACES_MAX: Final = 20
"""Trace contexts in one line."""


class _Traced(msgspec.Struct, frozen=True, kw_only=True):
    traceparent: str | None = None


_decode_traced = msgspec.json.Decoder(_Traced).decode


def observe_refusal(connection: Connection, asked: Request | Refusal, refusal: Rejected) -> None:
    """At level debug: a request was refused in its turn."""
    if not LOGGER.isEnabledFor(logging.DEBUG):
        return
    facts: dict[str, object] = {"code": refusal.code, "connection": connection.id, "agent": connection.agent}
    if isinstance(asked, Request):
        facts["type"] = TYPE_OF[type(asked.command)]
    if asked.traceparent is not None:
        facts["traceparent"] = asked.traceparent
    log("request.refused", "refused", level=logging.DEBUG, **facts)


def observe_commit(totals: Totals, turn: Turn, took_s: float) -> None:
    """Count how long a commit took; one of more than a second is told, with the trace contexts of what is in it."""
    totals.commit_s.observe(took_s)
    if took_s <= SLOW_COMMIT_S:
        return
    facts: dict[str, object] = {"took_ms": round(took_s * 1000), "events": len(turn.rows), "seq": turn.head}
    if traces := _traces(turn.rows):
        facts["traceparents"] = traces
    log("commit.slow", "a commit took more than a second", level=logging.WARNING, **facts)


def _traces(rows: list[Row]) -> list[str]:
    found = dict.fromkeys(_decode_traced(row.body).traceparent for row in rows if b'"traceparent":' in row.body)
    return [trace for trace in found if trace is not None][:TRACES_MAX]
