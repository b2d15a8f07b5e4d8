"""What the log says of single requests: refusals at level debug, slow commits at any; with traces, without words."""

import json
import logging
from collections.abc import Iterator
from typing import Any, Final

import pytest
from msgspec import UNSET, Raw
from tests.hub.conftest import Voice, direct, voice

from synapse.core.events import Delivery, MessageSent, PoolDeleted, Recorded, to_row
from synapse.hub.log import LOGGER, JsonFormatter
from synapse.hub.observed import TRACES_MAX, observe_commit
from synapse.hub.work import Totals, Turn
from synapse.protocol.codec import encode_request
from synapse.protocol.commands import ReleaseLease
from synapse.protocol.limits import Limits
from synapse.testing import MemoryHub

TRACE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Lines(logging.Handler):
    """What was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = []
        self.setFormatter(JsonFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(json.loads(self.format(record)))

    def of(self, action: str) -> list[dict[str, Any]]:
        """The facts of one action's lines."""
        lines = [dict(line) for line in self.found if line["action"] == action]
        for line in lines:
            del line["action"], line["at_ms"], line["text"]
        return lines


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The hub's log at its most talkative."""
    before = LOGGER.handlers[:], LOGGER.propagate, LOGGER.level
    handler = Lines()
    LOGGER.handlers[:], LOGGER.propagate = [handler], False
    LOGGER.setLevel(logging.DEBUG)
    yield handler
    LOGGER.handlers[:], LOGGER.propagate = before[0], before[1]
    LOGGER.setLevel(before[2])


async def asked(who: Voice, frame: bytes) -> None:
    await who.peer.send(frame)
    await who.listen()


async def test_a_refusal_is_told_with_its_trace_and_without_its_words(lines: Lines) -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await asked(ada, encode_request(1, ReleaseLease(task="no-such-task"), None, TRACE))
        await asked(ada, b'{"type":"message.send","id":2,"traceparent":"%s","body":{"txt":"hush"}}' % TRACE.encode())
        await asked(ada, b'{"type":"no.such.command","id":3}')
    first, second, third = lines.of("request.refused")
    common = {"level": "debug", "agent": "ada", "connection": first["connection"]}
    assert first == {**common, "code": "not_found", "type": "lease.release", "traceparent": TRACE}
    assert second == {**common, "code": "bad_request", "traceparent": TRACE}
    assert third == {**common, "code": "unknown_type"}
    said = json.dumps(lines.found)
    assert not [word for word in ("no-such-task", "txt", "hush", "no.such") if word in said]


async def test_who_asks_too_fast_is_told_with_its_trace(lines: Lines) -> None:
    async with MemoryHub(limits=Limits(rate_agent_per_s=1, rate_agent_burst=2)) as hub:
        ada = await voice(hub)
        for number in range(6):
            await asked(ada, encode_request(f"n{number}", direct("bob", "hi"), None, TRACE))
    assert {"rate_limited", "not_found"} == {line["code"] for line in lines.of("request.refused")}
    assert {TRACE} == {line["traceparent"] for line in lines.of("request.refused")}


async def test_a_log_of_the_usual_level_has_no_line_for_a_refusal(lines: Lines) -> None:
    LOGGER.setLevel(logging.INFO)
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await asked(ada, encode_request(1, ReleaseLease(task="no-such-task")))
    assert lines.of("request.refused") == []


def test_a_slow_commit_is_told_with_the_traces_of_what_is_in_it(lines: Lines) -> None:
    def sent(seq: int, traceparent: str | None) -> Recorded:
        # A text may look like the field.
        to, body = (Delivery("bob", 3, 1),), Raw(b'{"traceparent":"x"}')
        event = MessageSent(to=to, body=body, traceparent=UNSET if traceparent is None else traceparent)
        return Recorded(seq, 1, "ada", event)

    totals = Totals(0)
    traces = [f"{TRACE[:-3]}-{number:02x}" for number in range(TRACES_MAX + 5)]
    events = [sent(10, None), sent(11, TRACE), sent(12, TRACE), Recorded(13, 1, "hub", PoolDeleted(name="p"))]
    turn = Turn(rows=[to_row(recorded) for recorded in events], head=13)
    observe_commit(totals, turn, 0.9)
    assert lines.found == []
    observe_commit(totals, turn, 1.5)
    observe_commit(totals, Turn(rows=turn.rows[:1], head=10), 2.0)
    observe_commit(totals, Turn(rows=[to_row(sent(14, trace)) for trace in traces]), 2.0)
    told, plain, many = lines.of("commit.slow")
    assert told == {"level": "warning", "took_ms": 1500, "events": 4, "seq": 13, "traceparents": [TRACE]}
    assert plain == {"level": "warning", "took_ms": 2000, "events": 1, "seq": 10}
    assert many["traceparents"] == traces[:TRACES_MAX]
    assert totals.commit_s.sum == 0.9 + 1.5 + 2.0 + 2.0
