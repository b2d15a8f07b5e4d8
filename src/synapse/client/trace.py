"""Trace context: which W3C `traceparent` the requests of this task or thread carry."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from msgspec import UnsetType

from synapse.protocol.trace import traceparent_of

_TRACEPARENT: Final[ContextVar[str | None]] = ContextVar("traceparent", default=None)
current: Final = _TRACEPARENT.get


@contextmanager
def traced(traceparent: str | UnsetType | None) -> Iterator[None]:
    """Requests that are made inside of `with traced(…)` carry this W3C trace context; so do the messages they send.

    traceparent: `00-<trace id>-<parent id>-<flags>`, as OpenTelemetry's `inject` writes it into a carrier and as
    `Message.traceparent` has it; one that says nothing (None, or of a message that has none) ends the trace. It is kept
    in a context variable: tasks begun inside have it too, other tasks and threads do not. Also for `synapse.connect`.
    Raises ValueError for what the recommendation of W3C tells receivers to ignore.
    """
    lawful = traceparent_of(traceparent) if traceparent else None
    if traceparent and lawful is None:
        raise ValueError(f"{traceparent!r:.80} is no traceparent of W3C trace context: 00-<32 hex>-<16 hex>-<2 hex>")
    before = _TRACEPARENT.set(lawful)
    try:
        yield
    finally:
        _TRACEPARENT.reset(before)
