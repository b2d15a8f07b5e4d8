"""The synchronous client, for scripts: the same names as `Client`, each call blocks until it is answered.

    with synapse.connect(name="ada") as hub:
        hub.send("hello", channel="main:general")
        with hub.lease("T1", paths=["src/**"], wait=30) as lease:
            ...

It is `Client` on an event loop in a thread of its own, so it reconnects, repeats and renews while the script does other
things. Calls may come from several threads. What is asynchronous there (`async for`, `async with`) is plain here.

Rule 1: whatever was begun on that loop ends when it stops, by itself or cancelled, and nothing is begun afterwards: no
thread waits for what nobody runs. Rule 2: what only gives something back (the end of a block, or of an iteration) has
nothing to do once the loop has stopped, and raises nothing.
"""

import asyncio
import os
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, suppress
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

from synapse.client.client import Client
from synapse.client.identity import Card
from synapse.client.leases import HeldLease
from synapse.client.subscriptions import PresenceUpdate
from synapse.errors import Disconnected, LeaseLost
from synapse.protocol import replies
from synapse.protocol.codes import CLOSE_NORMAL
from synapse.protocol.notices import (
    Activity,
    LeaseChanged,
    Lent,
    Message,
    PlanChanged,
    QuestionChanged,
    ReceiptChanged,
    Signal,
    ValueChanged,
)
from synapse.protocol.session_replies import Resume
from synapse.protocol.signal_notices import Typing
from synapse.protocol.terms import Artefact

_P = ParamSpec("_P")
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")
_Item_co = TypeVar("_Item_co", covariant=True)

CLOSE_S = 10.0
"""How long `close` waits for the thread."""
ENDING_S = 5.0
"""How long what runs there may take to end by itself, of these."""


def _closed() -> Disconnected:
    return Disconnected(CLOSE_NORMAL, "the client was closed")


class _Loop:
    """An event loop in a thread. As the interpreter ends it freezes the thread, which is then as good as stopped."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._is_stopped = False
        self._lock = threading.RLock()  # whoever has it may collect garbage, and with that end a block, which takes it
        self._thread = threading.Thread(target=self._serve, name="synapse-client", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        """Run until it is stopped. The runner cancels what is left then, ends generators, and closes the loop."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        await self._stopping.wait()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=ENDING_S)

    @property
    def may_be_waited_for(self) -> bool:
        """False when the interpreter ends, and on the loop's own thread: it collects garbage too, with blocks in it."""
        return not sys.is_finalizing() and threading.current_thread() is not self._thread

    def start(self, work: Coroutine[Any, Any, _Result]) -> "Future[_Result]":
        """Begin. Raises `Disconnected` when the client was closed."""
        if not sys.is_finalizing():  # else a frozen thread may have the lock
            with self._lock:
                if not self._is_stopped:
                    return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise _closed()

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do it, and wait for it. Ctrl-C here cancels it there. Raises `Disconnected` also when it was cut off."""
        assert threading.current_thread() is not self._thread, "a callback must not block the client it is called by"
        return self._wait(self.start(work))

    def _wait(self, doing: "Future[_Result]") -> _Result:
        try:
            return doing.result()
        except CancelledError:
            raise _closed() from None
        finally:
            doing.cancel()  # of no effect once it is done

    def give_back(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what ends a block, and wait for it, if there is anything left to end."""
        with suppress(Disconnected):
            doing = self.start(work)
            if self.may_be_waited_for:
                self._wait(doing)

    def stop(self) -> None:
        """End the thread, behind what was begun. Twice is the same as once."""
        if sys.is_finalizing():
            return
        with self._lock:
            if not self._is_stopped:
                self._is_stopped = True
                self._loop.call_soon_threadsafe(self._stopping.set)
        if self.may_be_waited_for:
            self._thread.join(CLOSE_S)


def _blocking(
    method: Callable[Concatenate[Client, _P], Coroutine[Any, Any, _Result]],
) -> Callable[Concatenate["BlockingClient", _P], _Result]:
    """A method of `Client` that waits for its answer."""

    @wraps(method)
    def call(self: "BlockingClient", /, *args: _P.args, **kwargs: _P.kwargs) -> _Result:
        return self._loop.run(method(self._client, *args, **kwargs))

    return call


def _iterated(
    method: Callable[Concatenate[Client, _P], AsyncGenerator[_Item, None]],
) -> Callable[Concatenate["BlockingClient", _P], Iterator[_Item]]:
    """An asynchronous generator of `Client` as a plain one. It has nothing to give back when it is left early."""

    @wraps(method)
    def call(self: "BlockingClient", /, *args: _P.args, **kwargs: _P.kwargs) -> Iterator[_Item]:
        return _each(self._loop, method(self._client, *args, **kwargs))

    return call


async def _next(items: AsyncIterator[_Item]) -> tuple[bool, _Item | None]:
    """The next item, and whether there was one: a future must not carry StopAsyncIteration."""
    try:
        return True, await anext(items)
    except StopAsyncIteration:
        return False, None


def _each(loop: _Loop, items: AsyncIterator[_Item]) -> Iterator[_Item]:
    while True:
        is_there, item = loop.run(_next(items))
        if not is_there:
            return
        yield item  # type: ignore[misc]  # it is there


def _leased(
    method: Callable[Concatenate[Client, _P], HeldLease],
) -> Callable[Concatenate["BlockingClient", _P], "BlockingLease"]:
    """`Client.lease` for a plain `with`."""

    @wraps(method)
    def call(self: "BlockingClient", /, *args: _P.args, **kwargs: _P.kwargs) -> BlockingLease:
        return BlockingLease(self._loop, lambda: method(self._client, *args, **kwargs))

    return call


class _Followed(Protocol[_Item_co]):
    """What the feeds of `Client` have in common."""

    async def __aenter__(self) -> object: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __aiter__(self) -> AsyncIterator[_Item_co]: ...


class BlockingFeed(Generic[_Item]):
    """A feed of `Client`: entered with `with`, then iterated; `cursor` as there. It ends when the client is closed."""

    def __init__(self, loop: _Loop, open_feed: Callable[[], _Followed[_Item]]) -> None:
        self._loop = loop
        self._open_feed = open_feed
        self._feed: _Followed[_Item] | None = None

    @property
    def cursor(self) -> str | None:
        """Position of the last item that was handed out; a presence feed has none."""
        return getattr(self._feed, "cursor", None)

    @property
    def typing(self) -> tuple[Typing, ...]:
        """Who is writing something for the channels of this feed right now; only a feed of messages knows."""

        async def look() -> tuple[Typing, ...]:
            return getattr(self._feed, "typing", ())

        return self._loop.run(look())

    def __enter__(self) -> Self:
        async def enter() -> _Followed[_Item]:
            feed = self._open_feed()
            await feed.__aenter__()
            return feed

        self._feed = self._loop.run(enter())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._feed is not None
        self._loop.give_back(self._feed.__aexit__(kind, error, trace))

    def __iter__(self) -> Iterator[_Item]:
        assert self._feed is not None, "enter the feed first: `with client.subscribe(...) as feed`"
        try:
            yield from _each(self._loop, aiter(self._feed))
        except Disconnected as end:
            if end.code != CLOSE_NORMAL:  # that is: by our own wish
                raise


class BlockingLease:
    """A lease that is held while a `with` block runs, renewed in the background, and given back at its end.

    A block of plain Python cannot be stopped from outside: a long one asks `is_live`, or `check()`, before each step
    that matters. lost: set when the lease is lost; the end of the block raises `LeaseLost` then.
    """

    def __init__(self, loop: _Loop, make: Callable[[], HeldLease]) -> None:
        self.lost = threading.Event()
        self._loop = loop
        self._make = make
        self._held: HeldLease | None = None
        self._holding: Future[None] | None = None
        self._leave: asyncio.Event | None = None

    @property
    def _lease(self) -> HeldLease:
        assert self._held is not None, "enter the lease first: `with client.lease(...) as lease`"
        return self._held

    @property
    def info(self) -> replies.Lease:
        """The answer to the claim."""
        return self._lease.info

    @property
    def task(self) -> str:
        """The task's id."""
        return self._lease.task

    @property
    def epoch(self) -> int:
        """The number of this grant: whoever writes under the lease shows it (a fencing token)."""
        return self._lease.epoch

    @property
    def checkpoint(self) -> replies.Checkpoint | None:
        """What the last holder of the task left, if anything. `data_of` decodes it."""
        return self._lease.checkpoint

    @property
    def resume(self) -> Resume | None:
        """What a run that broke off left for whoever claims its task, if anything."""
        return self._lease.resume

    @property
    def is_live(self) -> bool:
        """True while the lease is certainly held."""
        return self._lease.is_live

    def check(self) -> None:
        """Raises `LeaseLost` unless the lease is certainly held."""
        self._lease.check()

    def save(
        self, data: object = None, artefacts: Iterable[Artefact] = (), *, idem_key: str | None = None
    ) -> replies.Lease:
        """Leave a checkpoint for the next holder; see `HeldLease.save`."""
        return self._loop.run(self._lease.save(data, artefacts, idem_key=idem_key))

    def hand_off(self, to: str, *, idem_key: str | None = None) -> replies.Lease:
        """Pass the lease on; see `HeldLease.hand_off`."""

        async def pass_on() -> replies.Lease:
            reply = await self._lease.hand_off(to, idem_key=idem_key)
            if reply.outcome == "handed_off":  # there is nothing left to hold
                await self._let_go()
            return reply

        return self._loop.run(pass_on())

    def __enter__(self) -> Self:
        """Claim, and wait in line. Raises as `Client.claim`."""
        entered: Future[HeldLease] = Future()
        self._holding = self._loop.start(self._hold(entered))
        self._holding.add_done_callback(lambda done: _tell_failure(done, entered))
        try:
            self._held = entered.result()
        finally:
            if self._held is None:
                self._holding.cancel()
        return self

    async def _hold(self, entered: "Future[HeldLease]") -> None:
        self._leave = asyncio.Event()
        try:
            async with self._make() as held:
                entered.set_result(held)
                await self._leave.wait()
        except LeaseLost:
            self.lost.set()
            raise

    async def _let_go(self) -> None:
        assert self._leave is not None
        self._leave.set()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back. Raises `LeaseLost` when it was lost meanwhile; then another error of the block gets a note."""
        assert self._holding is not None
        self._loop.give_back(self._let_go())
        try:
            if self._loop.may_be_waited_for:
                self._holding.result()
        except LeaseLost as lost:
            if error is None:
                raise
            error.add_note(str(lost))


def _tell_failure(done: "Future[None]", entered: "Future[HeldLease]") -> None:
    """Who waits for the lease hears why it does not come."""
    if entered.done():
        return
    error = None if done.cancelled() else done.exception()
    entered.set_exception(_closed() if error is None else error)


class BlockingClient:
    """One agent's connection to a hub, for scripts. `synapse.connect` makes it; `close`, or its block, ends it."""

    def __init__(self, make: Callable[[], Client]) -> None:
        """make: called on the client's own thread. Raises as `Client.connect`."""
        self._loop = _Loop()

        async def begin() -> Client:
            client = make()
            await client.connect()
            return client

        with ExitStack() as undo:
            undo.callback(self._loop.stop)
            self._client = self._loop.run(begin())
            undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything, in other threads too: waiting calls raise `Disconnected`, feeds and `messages` end quietly,
        a lease is lost. Twice is the same as once."""
        with suppress(Disconnected):
            self._loop.start(self._client.close())
        self._loop.stop()

    @property
    def welcome(self) -> replies.Welcome:
        """What the hub told at the last hello."""
        return self._client.welcome

    @property
    def is_connected(self) -> bool:
        """True while a connection stands."""
        return self._client.is_connected

    request = _blocking(Client.request)
    send = _blocking(Client.send)
    send_file = _blocking(Client.send_file)
    receive_file = _blocking(Client.receive_file)
    history = _blocking(Client.history)
    all_history = _iterated(Client.all_history)
    inbox = _blocking(Client.inbox)
    take = _blocking(Client.take)
    ack = _blocking(Client.ack)
    ack_all = _blocking(Client.ack_all)
    inbox_messages = _iterated(Client.inbox_messages)
    wait_receipt = _blocking(Client.wait_receipt)
    who = _blocking(Client.who)
    declare_status = _blocking(Client.declare_status)
    claim = _blocking(Client.claim)
    renew = _blocking(Client.renew)
    release = _blocking(Client.release)
    withdraw = _blocking(Client.withdraw)
    checkpoint = _blocking(Client.checkpoint)
    hand_off = _blocking(Client.hand_off)
    park = _blocking(Client.park)
    check_lease = _blocking(Client.check_lease)
    check_paths = _blocking(Client.check_paths)
    leases = _blocking(Client.leases)
    why = _blocking(Client.why)
    pools = _blocking(Client.pools)
    receipts = _blocking(Client.receipts)
    dead_letters = _blocking(Client.dead_letters)
    resend = _blocking(Client.resend)
    drop_dead = _blocking(Client.drop_dead)
    drop_all_dead = _blocking(Client.drop_all_dead)
    put = _blocking(Client.put)
    get = _blocking(Client.get)
    delete = _blocking(Client.delete)
    values = _blocking(Client.values)
    keys = _blocking(Client.keys)
    clear = _blocking(Client.clear)
    transfer = _blocking(Client.transfer)
    held = _blocking(Client.held)
    release_held = _blocking(Client.release_held)
    drop_held = _blocking(Client.drop_held)
    files = _blocking(Client.files)
    withdraw_file = _blocking(Client.withdraw_file)
    offer_resource = _blocking(Client.offer_resource)
    withdraw_resource = _blocking(Client.withdraw_resource)
    resources = _blocking(Client.resources)
    set_card = _blocking(Client.set_card)
    card_of = _blocking(Client.card_of)
    manifest = _blocking(Client.manifest)
    declare_task = _blocking(Client.declare_task)
    declare_tasks = _blocking(Client.declare_tasks)
    update_task = _blocking(Client.update_task)
    note_progress = _blocking(Client.note_progress)
    remove_task = _blocking(Client.remove_task)
    task = _blocking(Client.task)
    tasks = _blocking(Client.tasks)
    progress = _blocking(Client.progress)
    ask = _blocking(Client.ask)
    await_answer = _blocking(Client.await_answer)
    answer = _blocking(Client.answer)
    dismiss = _blocking(Client.dismiss)
    withdraw_question = _blocking(Client.withdraw_question)
    question = _blocking(Client.question)
    questions = _blocking(Client.questions)
    digest = _blocking(Client.digest)
    read_events = _blocking(Client.read_events)
    happenings = _iterated(Client.happenings)
    join_role = _blocking(Client.join_role)
    leave_role = _blocking(Client.leave_role)
    roles = _blocking(Client.roles)
    role_info = _blocking(Client.role_info)
    delete_role = _blocking(Client.delete_role)
    start_session = _blocking(Client.start_session)
    append_to_session = _blocking(Client.append_to_session)
    update_session = _blocking(Client.update_session)
    replace_in_session = _blocking(Client.replace_in_session)
    beat_session = _blocking(Client.beat_session)
    checkpoint_session = _blocking(Client.checkpoint_session)
    session_checkpoints = _blocking(Client.session_checkpoints)
    session = _blocking(Client.session)
    sessions = _blocking(Client.sessions)
    end_session = _blocking(Client.end_session)
    signal = _blocking(Client.signal)
    telemetry = _blocking(Client.telemetry)
    recent_signals = _blocking(Client.recent_signals)
    say_typing = _blocking(Client.say_typing)
    offer_lane = _blocking(Client.offer_lane)
    accept_lane = _blocking(Client.accept_lane)
    decline_lane = _blocking(Client.decline_lane)
    close_lane = _blocking(Client.close_lane)
    send_to_lane = _blocking(Client.send_to_lane)
    lane = _blocking(Client.lane)
    lanes = _blocking(Client.lanes)
    rooms = _blocking(Client.rooms)
    channels = _blocking(Client.channels)
    room_info = _blocking(Client.room_info)
    channel_info = _blocking(Client.channel_info)
    join = _blocking(Client.join)
    leave = _blocking(Client.leave)
    invite = _blocking(Client.invite)
    kick = _blocking(Client.kick)
    create_room = _blocking(Client.create_room)
    create_channel = _blocking(Client.create_channel)
    ping = _blocking(Client.ping)
    status = _blocking(Client.status)
    delete_room = _blocking(Client.delete_room)
    delete_channel = _blocking(Client.delete_channel)
    set_pool = _blocking(Client.set_pool)
    delete_pool = _blocking(Client.delete_pool)
    create_token = _blocking(Client.create_token)
    tokens = _blocking(Client.tokens)
    revoke_token = _blocking(Client.revoke_token)
    rebind_agent = _blocking(Client.rebind_agent)
    forget_agent = _blocking(Client.forget_agent)
    verify_journal = _blocking(Client.verify_journal)
    back_up_journal = _blocking(Client.back_up_journal)
    compact_journal = _blocking(Client.compact_journal)

    def subscribe(self, *channels: str, inbox: bool = False, since: str | None = None) -> BlockingFeed[Message]:
        """Follow channels and my inbox: `with client.subscribe(...) as feed: for message in feed`."""
        return BlockingFeed(self._loop, lambda: self._client.subscribe(*channels, inbox=inbox, since=since))

    def messages(self, *channels: str, inbox: bool = False, since: str | None = None) -> Iterator[Message]:
        """`subscribe` for a loop without end. One that may `break` had better use `subscribe`, which ends at once."""
        with self.subscribe(*channels, inbox=inbox, since=since) as feed:
            yield from feed

    def presence(self) -> BlockingFeed[PresenceUpdate]:
        """Who is here: a snapshot, then diffs."""
        return BlockingFeed(self._loop, self._client.presence)

    def lease_changes(self, since: str | None = None) -> BlockingFeed[LeaseChanged]:
        """What becomes of all leases."""
        return BlockingFeed(self._loop, lambda: self._client.lease_changes(since))

    def deliveries(self, prefetch: int = 8, *, directed_only: bool = False) -> BlockingFeed[Lent]:
        """Borrow what comes into my inbox: `with client.deliveries() as feed: for lent in feed`; ack each."""
        return BlockingFeed(self._loop, lambda: self._client.deliveries(prefetch, directed_only=directed_only))

    def receipt_changes(self, since: str | None = None) -> BlockingFeed[ReceiptChanged]:
        """What becomes of the messages that I sent."""
        return BlockingFeed(self._loop, lambda: self._client.receipt_changes(since))

    def value_changes(
        self, prefix: str = "", *, room: str | None = None, since: str | None = None
    ) -> BlockingFeed[ValueChanged]:
        """What becomes of a room's values."""
        return BlockingFeed(self._loop, lambda: self._client.value_changes(prefix, room=room, since=since))

    def question_changes(self, *, room: str | None = None, since: str | None = None) -> BlockingFeed[QuestionChanged]:
        """What becomes of a room's questions."""
        return BlockingFeed(self._loop, lambda: self._client.question_changes(room=room, since=since))

    def plan_changes(self, *, room: str | None = None, since: str | None = None) -> BlockingFeed[PlanChanged]:
        """What becomes of a room's plan."""
        return BlockingFeed(self._loop, lambda: self._client.plan_changes(room=room, since=since))

    def signals(self, *channels: str) -> BlockingFeed[Signal]:
        """Signals of ephemeral channels; without any, telemetry."""
        return BlockingFeed(self._loop, lambda: self._client.signals(*channels))

    def activity(self) -> BlockingFeed[Activity]:
        """What agents do."""
        return BlockingFeed(self._loop, self._client.activity)

    lease = _leased(Client.lease)


def connect(
    uri: str | None = None,
    *,
    name: str | None = None,
    card: Card | None = None,
    room: str | None = None,
    home: str | os.PathLike[str] | None = None,
    token: str | None = None,
    secret: str | None = None,
    operator: bool = False,
    timeout: float = 10.0,
) -> BlockingClient:
    """Connect to a hub, for scripts: `with synapse.connect(name="ada") as hub`. Arguments as for `Client`.

    Raises `HubUnreachable` when no hub answers, `Rejected` when it refuses, `HomeRefused`.
    """
    return BlockingClient(
        lambda: Client(
            uri,
            name=name,
            card=card,
            room=room,
            home=home,
            token=token,
            secret=secret,
            operator=operator,
            timeout=timeout,
        )
    )
