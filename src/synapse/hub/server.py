"""The hub as a process: recover the journal, open the doors, run turns, drain.

READY is said after replay and never before; a start that is refused changes nothing and says why in one line.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from typing import Final, TextIO

import synapse
from synapse import home as rendezvous
from synapse.core import kernel
from synapse.core.by import Rules
from synapse.core.events import Event, HubStarted, JournalStarted, to_row
from synapse.core.holding import decide_pools
from synapse.core.rooms import RESERVED, Channel, decide_bootstrap
from synapse.core.signals import PLAIN
from synapse.core.state import State
from synapse.errors import EXIT_FAILED, EXIT_OK, JournalError, JournalRefused, StoreFailed, SynapseError
from synapse.home import HomeRefused
from synapse.hub.children import Children
from synapse.hub.clock import Clock, SystemClock
from synapse.hub.companion import Companion, command_of
from synapse.hub.door import NO_RESOURCE
from synapse.hub.listeners import AddressInUse, Listeners
from synapse.hub.log import LogFile, LogRefused, log, set_up
from synapse.hub.settings import Settings, SettingsRefused
from synapse.hub.supervision import Supervisor
from synapse.hub.threads import ENDING, Store, ThreadWorker, commit, start_thread
from synapse.hub.turn import Turns
from synapse.journal.files import discard_exports
from synapse.journal.interface import Log
from synapse.journal.reader import JournalReader
from synapse.journal.recovery import Recovered, recover, verify_older
from synapse.protocol.cursor import cursor_of

TICK_S: Final = 0.25
GC_THRESHOLDS: Final = (20_000, 2, 50)
"""Allocations between collections of the youngest generation, and how many of these between those of the older ones: a
turn makes thousands of objects and no cycles. A collection holds up everybody, for 3 ms at 5 000 objects, and in all
they cost the same however often they come. So they are rare: with a thousand peers they took the hundredth part of the
time, and were the p99 of everybody's claims."""
VERIFIER_ENDS_S: Final = 0.5
"""How long the end waits for the verifier, which is asked to stop at each thousand rows."""
_STDERR: Final = 2
SWITCH_S: Final = 0.000_5
"""How long one thread of Python may keep the others waiting: by default 5 ms, which the loop waited for its reader of
pages, and the writer for the loop."""


def run(settings: Settings, *, as_json: bool = False) -> int:
    """Run the hub until it is told to stop; its exit code (CLI.md, Exit codes). as_json: say as an object that it is
    ready, and a refusal on stdout too."""
    _fill_standard_streams()
    try:
        supervisor = Supervisor(os.environ)
    except SettingsRefused as error:
        return _refuse(error, as_json=as_json)
    with contextlib.closing(supervisor):
        return _run(settings, supervisor, as_json=as_json)


def _run(settings: Settings, supervisor: Supervisor, *, as_json: bool) -> int:
    clock = SystemClock()
    try:
        _begin_log(settings)
        rendezvous.ensure_home(settings.home)
        supervisor.say(STATUS="replaying the journal")
        recovered = recover(settings.home, clock.wall_ms())
    except (JournalError, HomeRefused, LogRefused) as error:
        return _refuse(error, supervisor, as_json=as_json)
    discard_exports(settings.home)
    gc.collect()
    gc.freeze()  # the replayed state lives as long as the process: collections need not walk it again
    gc.set_threshold(*GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_S)
    with contextlib.closing(recovered.journal):
        try:
            token = rendezvous.ensure_token(settings.home, settings.token_file)
            _try_a_loop()
            return asyncio.run(_Hub(settings, clock, token, recovered, supervisor, as_json=as_json).run())
        except (JournalError, HomeRefused, AddressInUse, SettingsRefused) as error:
            return _refuse(error, supervisor, as_json=as_json)
        except OSError as error:
            if error.errno not in NO_RESOURCE:
                raise
            text = f"{settings.home}: {error.strerror}; let the hub have more (files: ulimit -n), and start it again"
            return _refuse(StoreFailed(text), supervisor, as_json=as_json)


def _try_a_loop() -> None:
    """Take what an event loop takes, and give it back: one that is half made ends in a traceback. Raises OSError."""
    with selectors.DefaultSelector():
        for end in socket.socketpair():
            end.close()


def _fill_standard_streams() -> None:
    """Put the null device where a standard stream is closed: else the next file, the mark for one, would have its
    number, and the last words of a process that dies would go into it."""
    for stream in range(_STDERR + 1):
        try:
            os.fstat(stream)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one


def _ignore_signals(loop: asyncio.AbstractEventLoop) -> None:
    """The hub ends already, and with an exit code of its own: a signal behind its loop would be that code instead."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    for name in ENDING:
        loop.remove_signal_handler(name)
        signal.signal(name, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _begin_log(settings: Settings) -> None:
    """Open the log before anything is changed. Raises `LogRefused`, `HomeRefused`."""
    path = settings.log_file
    if path is None:
        set_up(settings.log_level)
        return
    if path.parent == settings.home:
        rendezvous.ensure_home(settings.home)
    set_up(
        settings.log_level,
        LogFile(path, bytes_max=settings.log_file_bytes_max, kept=settings.log_files_kept),
    )


def _refuse(error: SynapseError, supervisor: Supervisor | None = None, *, as_json: bool) -> int:
    """Say why in one line."""
    if supervisor is not None:
        supervisor.say(STATUS=str(error))
    _say(sys.stderr, f"synapse hub: {error}")
    if as_json:
        _say(sys.stdout, json.dumps({"error": {"code": error.kind, "detail": str(error), "facts": {}}}))
    return int(getattr(error, "exit_code", EXIT_FAILED))


def _say(stream: TextIO | None, line: str) -> None:
    """One line, past all buffers. Where it cannot be written, on a full disk for one, nothing else ends differently.
    stream: None when the hub was started with it closed."""
    if stream is not None:
        with contextlib.suppress(OSError):
            os.write(stream.fileno(), f"{line}\n".encode())


def begin(
    state: State,
    journal: Log,
    rules: Rules,
    rooms: dict[str, list[str]],
    at_ms: int,
    pools: dict[str, int] | None = None,
    ephemeral: dict[str, str] | None = None,
) -> None:
    """The first events of a process: a new journal's birth, the start, and what the configuration wants to exist.

    None of them on a full disk. Raises `StoreFailed`, `SettingsRefused` for a channel that is of the other kind and for
    a new room of a reserved name.
    """
    for address, schema in (ephemeral or {}).items():
        channel = state.rooms.by_address.get(address)
        if channel is not None and (channel.schema or PLAIN if channel.ephemeral else None) != schema:
            raise SettingsRefused(
                f"ephemeral.{address}: the channel is there and is {_kind_of(channel)}; a channel never changes its "
                f"kind: delete it (synapse channel delete {address}), or name another one"
            )
    for name in {*rooms, *(address.partition(":")[0] for address in ephemeral or {})}.intersection(RESERVED):
        if name not in state.rooms.by_name:
            raise SettingsRefused(f"no room is called {name}: {name}:NAME is an address of another kind; rename it")
    if journal.is_read_only:
        return
    first: list[Event] = []
    if journal.is_new:
        state.seq = journal.base
        first.append(JournalStarted(hub_id=journal.hub_id, journal_id=journal.journal_id))
    first.append(HubStarted(version=synapse.__version__))
    recorded = [kernel.record(state, event, "hub", at_ms) for event in first]
    while missing := decide_bootstrap(state, rules, rooms, ephemeral):
        recorded += [kernel.record(state, event, "hub", at_ms) for event in missing]
    recorded += [kernel.record(state, event, "hub", at_ms) for event in decide_pools(state, rules, pools or {})]
    commit(journal, [to_row(entry) for entry in recorded])


def _kind_of(channel: Channel) -> str:
    return f"ephemeral, {channel.schema or PLAIN}" if channel.ephemeral else "one that keeps its messages"


class _Hub:
    """One run of the hub: what lives as long as the process."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        token: str,
        recovered: Recovered[State],
        supervisor: Supervisor,
        *,
        as_json: bool,
    ) -> None:
        self._supervisor = supervisor
        self._as_json = as_json
        self._settings = settings
        self._clock = clock
        self._token = token
        self._recovered = recovered
        self._journal = recovered.journal
        self._exit_code: int | None = None
        self._socket_said_s = -1.0
        self._stop_verifying = threading.Event()
        self._verifier: threading.Thread | None = None
        self._snapshot_at = recovered.state.events - recovered.replayed_events

    async def run(self) -> int:
        """Serve until a signal or a fatal error."""
        settings, state, journal = self._settings, self._recovered.state, self._journal
        loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        loop.set_exception_handler(self._on_bug)
        person = rendezvous.local_person(os.environ)
        rules = Rules(settings.limits, settings.auto_create, settings.create_needs_operator, person)
        for note in self._recovered.notes:
            log("journal.note", note, level=logging.WARNING)
        writer = ThreadWorker("synapse-writer", loop, self._crash)
        reader = ThreadWorker("synapse-reader", loop, self._crash)
        pages = self._pages = JournalReader(settings.home)
        pages.trusts_index = False
        pages.tail = lambda: journal.tail
        self._children = Children(settings.home)
        self._turns = turns = Turns(
            state=state,
            rules=rules,
            store=Store(journal, pages, writer, reader, self._children),
            clock=self._clock,
            loop=loop,
            token=self._token,
            version=synapse.__version__,
            fatal=self._on_fatal,
        )
        turns.retention.keep = settings.retention
        listeners = Listeners(turns, settings, loop, self._supervisor.doors)
        listeners.bind()
        begin(state, journal, rules, settings.rooms, self._clock.wall_ms(), settings.pools, settings.ephemeral)
        turns.begin()
        for name in ENDING:
            if name != signal.SIGHUP or signal.getsignal(name) != signal.SIG_IGN:  # as nohup has it
                loop.add_signal_handler(name, self._stopped.set)
        try:
            listeners.listen()
            older = JournalReader(settings.home)  # before peers take all descriptors
            self._say_ready(listeners)
            self._verify_older(older)
            ticking = asyncio.create_task(self._tick())
            feeding = asyncio.create_task(self._supervisor.feed(turns, writer))
            companion = None
            if settings.supervise:
                companion = asyncio.create_task(Companion(command_of(settings, listeners.uris)).run())
            await self._stopped.wait()
            self._supervisor.say(STOPPING=1, STATUS="draining")
            ticking.cancel()
            feeding.cancel()
            if companion is not None:
                companion.cancel()
                await asyncio.wait({companion})
            return await self._end(listeners)
        finally:
            rendezvous.remove_hub_file(settings.home, os.getpid())
            listeners.cut()
            self._stop_verifying.set()
            await self._children.stop()
            if self._verifier is not None:
                self._verifier.join(VERIFIER_ENDS_S)
            writer.stop()
            reader.stop()
            pages.close()
            _ignore_signals(loop)

    def _say_ready(self, listeners: Listeners) -> None:
        """One line on stdout, and the rendezvous file."""
        journal, uris = self._journal, tuple(listeners.uris)
        content = rendezvous.HubFile(
            pid=os.getpid(),
            uris=uris,
            journal_id=journal.journal_id,
            hub_id=journal.hub_id,
            supervisor=self._supervisor.name,
        )
        try:
            rendezvous.write_hub_file(self._settings.home, content)
        except OSError as error:
            path = self._settings.home / rendezvous.HUB_FILE
            raise StoreFailed(f"{path}: {error.strerror}; start again") from error
        seq = self._turns.feeds.durable
        ready = f"synapse hub ready {' '.join(uris)} journal={journal.journal_id} seq={seq}"
        if self._as_json:
            found = {"ready": True, "pid": content.pid, "uris": uris, "journal_id": journal.journal_id}
            found |= {"hub_id": journal.hub_id, "seq": seq, "cursor": cursor_of(journal.journal_id, seq)}
            ready = json.dumps(found)
        _say(sys.stdout, ready)
        self._supervisor.say(READY=1, STATUS=f"ready at {' '.join(uris)}")
        log("hub.ready", "ready", pid=os.getpid(), replayed=self._recovered.replayed_events, uris=uris)

    def _verify_older(self, reader: JournalReader) -> None:
        """Check what the start did not have to read, in the background, and close the reader."""
        loop, upto = asyncio.get_running_loop(), self._journal.head

        def work() -> None:
            try:
                with contextlib.closing(reader):
                    if verify_older(reader, upto, self._stop_verifying.is_set) is not None:
                        loop.call_soon_threadsafe(self._on_verified, upto)
            except JournalError as error:
                loop.call_soon_threadsafe(self._turns.on_broken, error)

        self._verifier = start_thread("synapse-verifier", work)

    def _on_verified(self, upto: int) -> None:
        self._turns.verified_through = upto
        self._pages.trusts_index = True
        self._turns.retention.is_proved = True
        log("journal.verified", "every row verified", upto=upto)

    async def _tick(self) -> None:
        """Time goes by: soft deadlines, peers, snapshots, the statistics line."""
        turns, settings = self._turns, self._settings
        said_s = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(TICK_S)
            moved_ms = turns.wall_watch.look()
            if moved_ms:
                log("clock.jumped", "the wall clock was set, or the machine slept", moved_ms=moved_ms)
            turns.tick()
            events = turns.state.events
            turns.retention.tick()
            is_busy = turns.is_read_only or turns.retention.is_running
            if events - self._snapshot_at >= settings.snapshot_events and not is_busy:
                self._snapshot_at = events
                self._children.snapshot()
            now_s = asyncio.get_running_loop().time()
            if now_s - said_s >= settings.stats_log_s:
                said_s = now_s
                counts = turns.status().counts
                log("hub.stats", "statistics", **{name: getattr(counts, name) for name in counts.__struct_fields__})

    async def _end(self, listeners: Listeners) -> int:
        """Drain, unless something is broken; then nothing more is answered, and that is raised."""
        self._stop_verifying.set()
        broken = self._turns.broken
        if self._exit_code is not None:
            listeners.cut()
            return self._exit_code
        if broken is not None:
            if isinstance(broken, JournalRefused):
                await asyncio.sleep(0.05)  # the refusal that names the broken row is on its way
            listeners.cut()
            raise broken
        log("hub.draining", "draining")
        await listeners.drain()
        log("hub.stopped", "stopped", seq=self._turns.feeds.durable)
        return EXIT_OK

    def _on_fatal(self, error: JournalError) -> None:
        log("journal.failed", str(error), level=logging.ERROR, exit_code=error.exit_code)
        self._stopped.set()

    def _crash(self, bug: BaseException) -> None:
        log("hub.bug", "".join(traceback.format_exception(bug)), level=logging.ERROR)
        self._exit_code = EXIT_FAILED
        self._stopped.set()

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """An exception nobody caught. Sockets may fail; anything else is our bug: crash, replay tells the truth."""
        error = context.get("exception")
        if isinstance(error, OSError) or not isinstance(error, BaseException):
            # Without a free descriptor asyncio tries as many accepts as the backlog is long, every second.
            if loop.time() - self._socket_said_s < 1:
                return
            self._socket_said_s = loop.time()
            log("hub.socket", str(context.get("message")), level=logging.WARNING, error=str(error))
            return
        self._crash(error)
