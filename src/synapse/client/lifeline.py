"""The client's one connection, kept alive: dial, hello, read, and after a break the same again, for ever.

    connect --hello accepted--> up --lost--> backing off --hello accepted--> up …
                                 |               |
                                 +--- 45xx ------+---> ended: every call and subscription raises `Disconnected`

Rule 1: one task, owned here, reads the connection; it never waits for a consumer. Rule 2: what belongs to one
connection lives in that connection's task group and ends with it. Rule 3: time is the loop's, chance is given, so that
both can be simulated.
"""

import asyncio
import math
import random
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from synapse.client.calls import Call, Calls, Heard, OutcomeUnknown, Overdue, RequestTimeout
from synapse.client.identity import Identity
from synapse.client.subscriptions import Feed, Feeds
from synapse.client.transport import LOST, Dial, PushTransport, Transport
from synapse.errors import Disconnected, HubUnreachable, PeerError, Rejected, SynapseError
from synapse.protocol.codec import HubFrame, decode_hub_frame, decode_notice, encode_request
from synapse.protocol.codes import (
    CLOSE_BAD_HELLO,
    CLOSE_GOING_AWAY,
    CLOSE_NAME_TAKEN,
    CLOSE_NORMAL,
    CLOSE_RESTART,
    CLOSE_UNAUTHORIZED,
    CLOSE_VERSION,
)
from synapse.protocol.commands import Command, DeclareStatus, Hello, IdentifyHub
from synapse.protocol.limits import Limits
from synapse.protocol.notices import ClaimQueued, Closing, LeaseLost, Lent, Notice
from synapse.protocol.replies import HubIdentity, Reply, StatusDeclared, Welcome

BACKOFF_FIRST_S: Final = 0.05
BACKOFF_MOST_S: Final = 5.0
STEADY_S: Final = 1.0
"""A connection that held this long starts the backoff anew."""
RETRY_S: Final = 0.25
"""Pause after a refusal that waiting helps against, when the hub named none."""
READS_IN_A_ROW: Final = 64
"""After so many frames of a transport that is asked for each, consumers run, also when more are there already."""
PATIENT: Final = frozenset({"rate_limited", "read_only", "draining"})
"""Refusals after which the same request is tried again, as long as its time allows."""

_ABSENT: Final = frozenset({LOST, CLOSE_GOING_AWAY, CLOSE_RESTART})
"""How a connection ends whose hub was killed or stopped."""

_CLOSE_OF: Final = {
    "unauthorized": CLOSE_UNAUTHORIZED,
    "name_taken": CLOSE_NAME_TAKEN,
    "protocol_version": CLOSE_VERSION,
}

_Reply = TypeVar("_Reply", bound=Reply)
_decoders: Final[dict[type[object], msgspec.json.Decoder[object]]] = {}
"""By the type of a reply, made when it is first asked for: it costs more than decoding."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What tests, simulations and one-shot tools replace.

    dial: makes connections instead of the settings' hub. chance: source of jitter and of idempotency keys.
    lasting: false for a connection that makes its agent recent, not online.
    """

    dial: Dial | None = None
    chance: random.Random = field(default_factory=random.SystemRandom)
    lasting: bool = True


class Lifeline:
    """Requests and subscriptions over whichever connection there is."""

    def __init__(
        self,
        dial: Dial,
        identity: Identity,
        token: Callable[[], str | None],
        chance: random.Random,
        timeout: float,
    ) -> None:
        """token: asked at each hello, after dialling. timeout: seconds for a request, and for a connection attempt.

        generation changes whenever a connection is welcomed, and when it is lost. holders: by epoch, who is told when
        that lease is lost; with None when the client ends.
        """
        self.timeout = timeout
        self.chance = chance
        self.welcome: Welcome | None = None
        self.declared: DeclareStatus | None = None
        self.generation = 0
        self.holders: dict[int, Callable[[LeaseLost | None], None]] = {}
        self._dial = dial
        self._identity = identity
        self._token = token
        self._calls = Calls()
        self._feeds = Feeds()
        self._leaving: set[asyncio.Task[None]] = set()
        self._last_id = 0
        self._is_up = False
        self._transport: Transport | None = None  # while requests go out over it, and wait for it
        self._post: Callable[[bytes], bool] | None = None  # while requests go out through it
        self._keys = 0
        self._key_prefix = ""
        self._group: asyncio.TaskGroup | None = None
        self._runner: asyncio.Task[None] | None = None
        self._errands: set[asyncio.Task[None]] = set()
        self._connecting = asyncio.Lock()
        self._closing: Disconnected | None = None
        self._end: Disconnected | None = None
        self._trouble: str = ""

    @property
    def is_up(self) -> bool:
        """True while a connection stands that takes requests."""
        return self._is_up

    @property
    def limits(self) -> Limits:
        """The hub's limits, as the last welcome told them."""
        return Limits() if self.welcome is None else self.welcome.limits

    # The two ends of its life.

    async def connect(self) -> None:
        """Make the first connection, once.

        Raises `HubUnreachable` also when the hub ended before its welcome, `Rejected` as it refused the hello,
        `Disconnected` after `close` and when the hub closed the connection otherwise, and what the home is refused
        for.
        """
        async with self._connecting:
            self._require_alive()
            if self._runner is not None:
                return
            transport = await self._open()
            if self._end is not None:
                await transport.aclose()
                self._require_alive()
            self._runner = asyncio.get_running_loop().create_task(self._run(transport), name="synapse client")
            self._runner.add_done_callback(self._on_done)

    async def close(self) -> None:
        """End it: calls that wait raise `Disconnected`, iterations end. Closing twice is the same as once."""
        self._finish(Disconnected(CLOSE_NORMAL, "the client was closed"), is_own_wish=True)
        ending = set(self._errands)
        if self._runner is not None and not self._runner.done():
            self._runner.cancel()
            ending.add(self._runner)
        if ending:
            await asyncio.wait(ending)

    def _on_done(self, runner: asyncio.Task[None]) -> None:
        """The runner ended: by `close`, by a close code that forbids coming back, or by an error nobody can mend."""
        error = None if runner.cancelled() else runner.exception()
        if error is None:
            self._finish(Disconnected(CLOSE_NORMAL, "the client's task was cancelled"), is_own_wish=True)
            return
        if isinstance(error, Disconnected):
            self._finish(error, is_own_wish=False)
            return
        end = Disconnected(CLOSE_BAD_HELLO, f"the client ended: {error}")
        end.__cause__ = error
        self._finish(end, is_own_wish=False)

    def _finish(self, end: Disconnected, *, is_own_wish: bool) -> None:
        if self._end is None:
            self._end = end
            self._go_down()
            self._calls.fail(end)
            self._feeds.finish(None if is_own_wish else end)
            for holder in tuple(self.holders.values()):
                holder(None)
            for errand in tuple(self._errands):
                errand.cancel()

    def _go_down(self) -> None:
        """No request goes out any more, until there is another connection."""
        self._is_up = False
        self._transport = self._post = self._group = None

    def _require_alive(self) -> None:
        end = self._end
        if end is not None:
            raise Disconnected(end.code, end.reason) from end.__cause__

    def _require_connected(self) -> None:
        self._require_alive()
        if self._runner is None:
            raise Disconnected(CLOSE_NORMAL, "the client is not connected: `async with client`, or await connect()")

    # Connections.

    async def _open(self) -> Transport:
        """Dial and say hello. Raises as `connect`."""
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(self.timeout):
                    transport = await self._dial()
                    stack.push_async_callback(transport.aclose)
                    self._closing = None
                    welcome = await self._greet(transport)
            except TimeoutError:
                raise HubUnreachable(
                    f"the hub did not take a connection and answer its hello within {self.timeout:g} s"
                ) from None
            except Disconnected as lost:
                if lost.code not in _ABSENT:
                    raise
                raise HubUnreachable(f"the hub ended before it answered the hello: {lost}") from lost
            self._require_same_hub(welcome.hub_id)
            self.welcome = welcome
            self.generation += 1
            stack.pop_all()
        return transport

    async def _greet(self, transport: Transport) -> Welcome:
        hub_id = ""
        if self._identity.needs_hub_id or self.welcome is not None:
            hub_id = (await self._exchange(transport, "identify", IdentifyHub(), HubIdentity)).hub_id
            self._require_same_hub(hub_id)
        hello: Hello = self._identity.hello(hub_id, self._token())
        try:
            return await self._exchange(transport, "hello", hello, Welcome)
        except Rejected as refusal:
            self._identity.refused(refusal)
            raise

    def _require_same_hub(self, hub_id: str) -> None:
        """A hub is told no other hub's secrets and requests. Raises `PeerError`, which ends the client."""
        known = self.welcome
        if known is not None and hub_id != known.hub_id:
            raise PeerError(f"another hub answers now: {hub_id}, not {known.hub_id}; make a new Client for it")

    async def _exchange(self, transport: Transport, request_id: str, command: Command, kind: type[_Reply]) -> _Reply:
        """One request and its answer, before anything else is under way."""
        await transport.send(encode_request(request_id, command))
        while True:
            frame = await self._receive(transport)
            if frame.id == request_id:
                break
        if frame.error:
            error = frame.error
            raise Rejected(error.code, error.detail, error.facts, retry_after_ms=error.retry_after_ms)
        return _decoded(frame, kind)

    async def _receive(self, transport: Transport) -> HubFrame:
        """The next frame that is not a goodbye; the goodbye's code becomes that of the end."""
        while True:
            try:
                frame = decode_hub_frame(await transport.receive())
            except Disconnected as lost:
                raise self._closing or lost from None
            if frame.type != "closing":
                return frame
            notice = decode_notice(frame)
            assert isinstance(notice, Closing), "the catalogue maps closing to Closing"
            self._closing = Disconnected(notice.code, notice.reason)

    async def _run(self, transport: Transport) -> None:
        """Serve connections, one after the other. Raises `Disconnected` when the hub forbids coming back."""
        loop, attempt = asyncio.get_running_loop(), 0
        while True:
            since = loop.time()
            lost = await self._serve(transport)
            if self._end is not None:  # closed in the very moment in which the connection was lost
                return
            self._trouble = str(lost)
            if not lost.may_come_back:
                raise lost
            if loop.time() - since >= STEADY_S:
                attempt = 0
            transport, attempt = await self._reopen(attempt)

    async def _reopen(self, attempt: int) -> tuple[Transport, int]:
        """Try until a connection stands; its transport and the number of the next attempt."""
        pause = 0.0
        while True:
            ceiling = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(attempt, 10))
            attempt += 1
            await asyncio.sleep(max(pause, self.chance.uniform(0.0, ceiling)))
            pause = 0.0
            try:
                return await self._open(), attempt
            except Rejected as refusal:
                if refusal.code not in PATIENT:
                    code = _CLOSE_OF.get(refusal.code, CLOSE_BAD_HELLO)
                    raise Disconnected(code, str(refusal)) from refusal
                pause = (refusal.retry_after_ms or 0) / 1000
                self._trouble = str(refusal)
            except Disconnected as lost:
                if not lost.may_come_back:
                    raise
                self._trouble = str(lost)
            except HubUnreachable as absent:
                self._trouble = str(absent)

    async def _serve(self, transport: Transport) -> Disconnected:
        """Use a connection until it is lost; how it was lost."""
        ends: list[BaseException] = []
        broken: list[BaseException] = []
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._read(transport), name="synapse reader")
                for feed in self._feeds:
                    feed.task = group.create_task(feed.follow(self), name="synapse feed")
                if self.declared is not None and self.generation > 1:
                    group.create_task(self._declare_again(self.declared), name="synapse status")
                if not isinstance(transport, PushTransport):
                    await self._send_all(transport)
        except* Disconnected as lost:
            ends += lost.exceptions
        except* PeerError as error:
            broken += error.exceptions
        finally:
            self._go_down()
            await transport.aclose()
        if broken:
            raise broken[0]
        end = ends[0]
        assert isinstance(end, Disconnected), "tasks of a connection raise no groups"
        self._calls.on_lost(end)
        return end

    async def _read(self, transport: Transport) -> None:
        """Send what waits, and give each frame to whom it belongs, until the connection ends."""
        try:
            if isinstance(transport, PushTransport):
                post = transport.post
                await transport.pump(self._take, lambda: self._flow(post))
            else:
                await self._pull(transport)
        except Disconnected as lost:
            raise self._closing or lost from None
        finally:
            self.generation += 1  # what was lent to this connection is lent no more
            self._go_down()

    def _flow(self, post: Callable[[bytes], bool]) -> None:
        """There is room: send what waits, oldest first, before anything new can go out by itself."""
        if self._end is None:
            self._is_up, self._post = True, post
            for call in self._calls.to_send():
                self._offer(call, post)

    def _offer(self, call: Call, post: Callable[[bytes], bool]) -> None:
        """Send without a wait. What a peer that does not keep up does not take waits for `_flow`."""
        try:
            call.is_out = post(call.frame)
        except Disconnected:
            return  # the reader sees it too; the call waits for the next connection
        call.was_sent = call.was_sent or call.is_out

    async def _pull(self, transport: Transport) -> None:
        """Ask for one frame after the other."""
        frames = 0
        while True:
            self._take(await transport.receive())
            frames += 1
            if frames % READS_IN_A_ROW == 0:
                await asyncio.sleep(0)

    async def _send_all(self, transport: Transport) -> None:
        """Send what waits over a transport that makes its caller wait, as `_flow` does over others."""
        try:
            while waiting := self._calls.to_send():
                for call in waiting:
                    if call in self._calls:  # it may have been cancelled meanwhile
                        call.is_out = call.was_sent = True
                        await transport.send(call.frame)
        except Disconnected:
            self._group = None
            raise
        self._is_up, self._transport = True, transport

    def _take(self, data: bytes) -> None:
        """One frame of the connection. Raises `PeerError`, which ends the client."""
        frame = decode_hub_frame(data)
        if frame.type in ("reply", "error"):
            self._calls.settle(frame)
            return
        notice = decode_notice(frame)
        if notice is not None:
            self._hear(notice, frame)

    def _hear(self, notice: Notice, frame: HubFrame) -> None:
        """Give a notice to the claim that waits, to the holder of the lease, or to its feed.

        A goodbye's code becomes that of the end.
        """
        match notice:
            case Lent():
                self._feeds.deliver(notice)
            case ClaimQueued():
                self._calls.on_queued(notice)
            case LeaseLost():
                holder = self.holders.get(notice.epoch)
                if holder is not None:
                    holder(notice)
            case Closing():
                self._closing = Disconnected(notice.code, notice.reason)
            case _:
                self._feeds.hear(notice, frame.seq, len(bytes(frame.body)))

    def leave_behind(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None] | None:
        """Let something go on that nobody need wait for, over reconnects, until the client ends; None when it has."""
        if self._end is not None:
            work.close()
            return None
        errand = asyncio.get_running_loop().create_task(work, name=name)
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)
        return errand

    async def _declare_again(self, declared: DeclareStatus) -> None:
        """The hub forgets a declared status with the connection's process; say it again."""
        try:
            await self.ask(declared, StatusDeclared)
        except SynapseError:
            return

    # Requests.

    def new_key(self) -> str:
        """An idempotency key that nobody else has: a number behind 96 bits of chance, which are drawn once."""
        if not self._key_prefix:
            self._key_prefix = f"{self.chance.getrandbits(96):024x}"
        self._keys += 1
        return f"{self._key_prefix}{self._keys:08x}"

    def new_call(
        self, command: Command, key: str | None = None, *, heard: Heard | None = None, leftover: Heard | None = None
    ) -> Call:
        """A request with a number of its own. Raises `Rejected(too_large)` for a frame that no hub would take."""
        self._last_id += 1
        call = Call(self._last_id, command, key, heard=heard, leftover=leftover)
        most = self.limits.frame_bytes_max
        if len(call.frame) > most:
            raise Rejected(
                "too_large",
                f"the request has {len(call.frame)} bytes; at most {most}: send a reference to a file instead",
                {"bytes": len(call.frame), "frame_bytes_max": most},
            )
        return call

    async def ask(
        self,
        command: Command,
        kind: type[_Reply],
        *,
        key: str | None = None,
        timeout: float | None = None,
        heard: Heard | None = None,
    ) -> _Reply:
        """Ask and wait for the answer. timeout: seconds, `math.inf` for none; None takes the client's.

        Raises `Rejected`, `RequestTimeout` or `OutcomeUnknown`, `Disconnected` when the client has ended.
        """
        self._require_alive()
        call = self.new_call(command, key, heard=heard)
        return await self.carry_out(call, kind, self.timeout if timeout is None else timeout)

    async def carry_out(self, call: Call, kind: type[_Reply], limit: float) -> _Reply:
        """See a call through, over reconnects and refusals that waiting helps against, for `limit` seconds at most."""
        self._require_connected()
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + limit
        while True:
            try:
                return _decoded(await self._once(call, deadline_s), kind)
            except Rejected as refusal:
                await asyncio.sleep(self._pause(call, refusal, deadline_s))
            except Overdue:
                raise self._late(call, limit) from None
            if loop.time() >= deadline_s:
                raise self._late(call, limit)

    async def _once(self, call: Call, deadline_s: float) -> HubFrame:
        """Send a call that is not out, if there is a connection that keeps up, and wait for its answer."""
        answer = self._calls.put(call, deadline_s)
        try:
            if not call.is_out:
                if self._post is not None:
                    self._offer(call, self._post)
                elif self._transport is not None:
                    await self._send(call, self._transport)
            return await answer
        finally:
            self._calls.leave(call)

    async def _send(self, call: Call, transport: Transport) -> None:
        """Send over a transport that may make its caller wait, until the deadline at most; the answer tells of it."""
        call.is_out = call.was_sent = True
        deadline_s = None if call.deadline_s == math.inf else call.deadline_s
        with suppress(Disconnected, TimeoutError):  # of the first the reader hears too
            async with asyncio.timeout_at(deadline_s):
                await transport.send(call.frame)

    def _pause(self, call: Call, refusal: Rejected, deadline_s: float) -> float:
        """How long to wait before the same again; raises the refusal when that does not help, or does not fit."""
        if refusal.code == "idem_limit" and call.idem_key is not None:
            call.drop_key()
            return 0.0
        if refusal.code not in PATIENT:
            raise refusal
        pause = RETRY_S if refusal.retry_after_ms is None else refusal.retry_after_ms / 1000
        if asyncio.get_running_loop().time() + pause >= deadline_s:
            raise refusal
        return pause

    def _late(self, call: Call, limit: float) -> SynapseError:
        where = "" if self.is_up else f"; there was no connection ({self._trouble})"
        if not call.was_sent:
            return RequestTimeout(f"not sent within {limit:g} s{where}; nothing was changed")
        if not call.changes_something:
            return RequestTimeout(f"no answer within {limit:g} s{where}")
        if call.instead is not None:
            return OutcomeUnknown(f"no answer within {limit:g} s{where}; it may have been done: {call.instead}", None)
        if call.idem_key is not None:
            again = f"repeat it with idem_key {call.idem_key!r}"
        elif call.may_repeat and call.place is None:  # only this very call knows its place
            again = "repeat it, which is the same as once"
        else:
            again = "it cannot be repeated safely"
        return OutcomeUnknown(f"no answer within {limit:g} s{where}; it may have been done: {again}", call.idem_key)

    # Subscriptions.

    async def follow(self, feed: Feed) -> None:
        """Begin a subscription; returns when the hub has confirmed it. Raises as `ask`."""
        self._require_connected()
        self._feeds.add(feed)
        confirmed = False
        try:
            if self._group is not None:
                feed.task = self._group.create_task(self._follow(feed), name="synapse feed")
            async with asyncio.timeout(self.timeout):
                await feed.confirmed()
            confirmed = True
        except TimeoutError:
            raise RequestTimeout(f"the subscription was not confirmed within {self.timeout:g} s") from None
        finally:
            if not confirmed:
                self._let_go(feed)

    async def _follow(self, feed: Feed) -> None:
        """Behind those that were left and that the hub, as far as is known, still has: it may want what they had."""
        if self._leaving:
            await asyncio.wait(self._leaving)
        await feed.follow(self)

    def _let_go(self, feed: Feed) -> None:
        feed.leave()
        self._feeds.remove(feed)
        if feed.task is not None and not feed.task.done():
            self._leaving.add(feed.task)
            feed.task.add_done_callback(self._leaving.discard)

    async def unfollow(self, feed: Feed) -> None:
        """End a subscription, and tell the hub if it can be told in time."""
        feed.leave()
        try:
            if feed.task is not None:
                await asyncio.wait({feed.task}, timeout=self.timeout)
        finally:
            self._let_go(feed)


def _decoded(frame: HubFrame, kind: type[_Reply]) -> _Reply:
    try:
        decoder = _decoders.get(kind)
        if decoder is None:
            decoder = _decoders[kind] = msgspec.json.Decoder(kind)
        reply: _Reply = decoder.decode(frame.body)  # type: ignore[assignment]  # each kind has a decoder of its own
        return reply
    except msgspec.MsgspecError as error:
        raise PeerError(f"the hub sent a reply that is no {kind.__name__}: {error}") from error
