"""Requests on their way: each waits for one answer, over as many connections as that takes.

Rule 1: a call that may be repeated is sent again after a reconnect, unchanged; if it changes something it does so under
its idempotency key, so the hub applies it at most once. Rule 2: calls go out in the order in which they were made.
Rule 3: a call waits for one thing, its answer, and its deadline comes as one; one timer serves all calls.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from synapse.client.trace import current
from synapse.errors import Disconnected, Rejected, SynapseError
from synapse.protocol.codec import ErrorBody, HubFrame, encode_request
from synapse.protocol.commands import AckInbox, ClaimLease, Command, RenewLease
from synapse.protocol.file_commands import PutChunk
from synapse.protocol.keyed import KEYED as TAKE_KEYS
from synapse.protocol.notices import ClaimQueued

KEYED: Final[frozenset[type[Command]]] = TAKE_KEYS - {RenewLease, PutChunk}
"""Commands that get an idempotency key. All others are simply repeated: they change nothing durable or, as renewals
and chunks, are the same twice as once and come too often to spend keys on."""


class RequestTimeout(SynapseError, TimeoutError):
    """No answer came in time, and nothing was changed: what was asked was a question, or never left this process."""


class OutcomeUnknown(RequestTimeout):
    """No answer came, and the hub may have done what was asked, or may not.

    idem_key: repeat the request with it and it is done at most once; None when there is none to repeat it with; the
    text says whether it may be repeated without, or what to do instead.
    """

    def __init__(self, text: str, idem_key: str | None) -> None:
        super().__init__(text)
        self.idem_key = idem_key


class Overdue(Exception):
    """A call's deadline has passed; whoever made the call knows what that means."""


Heard: TypeAlias = Callable[[HubFrame], None]
Queued: TypeAlias = Callable[[ClaimQueued], None]


class Call:
    """One request. heard: told of its reply before any later frame is looked at. instead: what its caller may do when
    the outcome is unknown, who cannot repeat it under its key.

    leftover: where the reply goes when the caller has been cancelled and the hub answers all the same.
    on_queued: told, for a claim, that it waits, and again when it does so anew after a reconnect.
    """

    __slots__ = (
        "answer",
        "command",
        "deadline_s",
        "frame",
        "heard",
        "id",
        "idem_key",
        "instead",
        "is_left",
        "is_out",
        "leftover",
        "on_queued",
        "place",
        "traceparent",
        "was_sent",
    )

    def __init__(
        self,
        request_id: int,
        command: Command,
        idem_key: str | None = None,
        *,
        heard: Heard | None = None,
        leftover: Heard | None = None,
    ) -> None:
        self.id = request_id
        self.command = command
        self.idem_key = idem_key
        self.heard = heard
        self.leftover = leftover
        self.instead: str | None = None
        self.on_queued: Queued | None = None
        self.place: int | None = None
        self.traceparent = current()
        try:
            self.frame = encode_request(request_id, command, idem_key, self.traceparent)
        except UnicodeEncodeError:
            raise TypeError("a text with a lone surrogate is not JSON") from None
        self.answer: asyncio.Future[HubFrame] | None = None
        self.deadline_s = math.inf
        self.is_out = False
        self.was_sent = False
        self.is_left = False

    @property
    def changes_something(self) -> bool:
        """True when not knowing the outcome matters."""
        return type(self.command) in KEYED

    @property
    def may_repeat(self) -> bool:
        """True when sending it twice is the same as once."""
        command = self.command
        is_plain_ack = isinstance(command, AckInbox) and not command.all
        has_place = isinstance(command, ClaimLease) and command.place is not None
        return not self.changes_something or self.idem_key is not None or is_plain_ack or has_place

    @property
    def arrived(self) -> HubFrame | None:
        """The answer, if it is there and no refusal, whether or not its caller has seen it."""
        answer = self.answer
        if answer is None or not answer.done() or answer.cancelled() or answer.exception() is not None:
            return None
        return answer.result()

    def drop_key(self) -> None:
        """Go on without idempotency."""
        self.idem_key = None
        self.frame = encode_request(self.id, self.command, None, self.traceparent)

    def take_place(self, notice: ClaimQueued) -> None:
        """The claim waits in line. Its key brings it back to its place; without one, the place itself does."""
        self.place = notice.place
        if isinstance(self.command, ClaimLease) and self.idem_key is None:
            self.command = msgspec.structs.replace(self.command, place=notice.place)
            self.frame = encode_request(self.id, self.command, None, self.traceparent)
        if self.on_queued is not None and not self.is_left:
            asyncio.get_running_loop().call_soon(self.on_queued, notice)  # what it raises is not the reader's


class Calls:
    """All calls without an answer, in the order of their ids."""

    def __init__(self) -> None:
        self._open: dict[int, Call] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = math.inf

    def __len__(self) -> int:
        return len(self._open)

    def put(self, call: Call, deadline_s: float = math.inf) -> asyncio.Future[HubFrame]:
        """Expect an answer until `deadline_s` of the loop's clock; then the answer is `Overdue`.

        A call that was left behind is taken up again.
        """
        call.is_left = False
        call.deadline_s = deadline_s
        answer = call.answer = asyncio.get_running_loop().create_future()
        self._open[call.id] = call
        if deadline_s < self._alarm_s:
            self._set_alarm(deadline_s)
        return answer

    def _set_alarm(self, at_s: float) -> None:
        """Most calls are answered long before their deadline: the alarm stays for them, and finds nothing to do."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_s = at_s
        self._alarm = None if at_s == math.inf else asyncio.get_running_loop().call_at(at_s, self._on_alarm)

    def _on_alarm(self) -> None:
        now_s, next_s = asyncio.get_running_loop().time(), math.inf
        for call in self._open.values():
            if call.deadline_s > now_s:
                next_s = min(next_s, call.deadline_s)
            elif call.answer is not None and not call.answer.done():
                call.answer.set_exception(Overdue())
        self._set_alarm(next_s)

    def leave(self, call: Call) -> None:
        """Nobody waits any more; with a `leftover` the answer of a call that is out is still looked for."""
        if self._open.get(call.id) is not call:
            return
        if call.is_out and call.leftover is not None:
            call.is_left = True
            call.deadline_s = math.inf
        else:
            del self._open[call.id]

    def __contains__(self, call: Call) -> bool:
        return self._open.get(call.id) is call

    def to_send(self) -> list[Call]:
        """The calls that are not out on this connection, oldest first."""
        return [call for call in self._open.values() if not call.is_out]

    def settle(self, frame: HubFrame) -> None:
        """Give an answer to its call; one that nobody waits for is dropped."""
        call = self._open.pop(frame.id, None) if isinstance(frame.id, int) else None
        if call is None:
            return
        call.is_out = False
        refusal = _refusal(frame)
        if call.is_left:
            if refusal is None and call.leftover is not None:
                call.leftover(frame)
            return
        answer = call.answer
        assert answer is not None, "an open call has somebody who waits"
        if answer.done():  # its caller was cancelled in this very step
            if refusal is None and call.leftover is not None:
                call.leftover(frame)
        elif refusal is not None:
            answer.set_exception(refusal)
        else:
            if call.heard is not None:
                call.heard(frame)
            answer.set_result(frame)

    def on_queued(self, notice: ClaimQueued) -> None:
        """A claim is told its place; one that nobody waits for any more is not."""
        call = self._open.get(notice.request) if isinstance(notice.request, int) else None
        if call is not None:
            call.take_place(notice)

    def on_lost(self, lost: Disconnected) -> None:
        """The connection is gone: what may be repeated waits for the next one."""
        for call in list(self._open.values()):
            was_out, call.is_out = call.is_out, False
            if call.is_left:
                del self._open[call.id]
            elif was_out and not call.may_repeat:
                del self._open[call.id]
                if call.answer is not None and not call.answer.done():
                    text = f"the connection broke ({lost}) and the request had no idempotency key to repeat it under"
                    call.answer.set_exception(OutcomeUnknown(text, None))

    def fail(self, end: Disconnected) -> None:
        """There will be no other connection."""
        for call in self._open.values():
            if call.answer is not None and not call.answer.done():
                error = Disconnected(end.code, end.reason)  # with a traceback of its own
                error.__cause__ = end.__cause__
                call.answer.set_exception(error)
        self._open.clear()
        self._set_alarm(math.inf)


def _refusal(frame: HubFrame) -> Rejected | None:
    error = frame.error
    if not isinstance(error, ErrorBody):
        return None
    return Rejected(error.code, error.detail, error.facts, retry_after_ms=error.retry_after_ms)
