"""The real hub on the simulated disk and network: it starts from a snapshot and its tail, is killed, and is stopped.

Whenever it can be told, the state that the journal alone gives, the state of a snapshot and its tail, and the hub's own
must have one digest.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from tests.simulation.agenda import Past
from tests.simulation.disk import DelayedWorker, SimulatedJournal
from tests.simulation.housekeeping import SETTINGS
from tests.simulation.keeping import AGE_MS, Archivist
from tests.simulation.ledger import Ledger, Sometimes
from tests.simulation.limits import LIMITS
from tests.simulation.network import Learns, Link
from tests.simulation.terms import Violation
from tests.simulation.virtual_time import Clock, VirtualLoop
from tests.simulation.witness import Witness

from synapse.core import kernel
from synapse.core.by import Rules
from synapse.core.events import Row
from synapse.core.retention_events import JournalCompacted
from synapse.core.rooms import Channel, Room
from synapse.core.state import State, decode_state, encode_state, new_state
from synapse.errors import JournalError, StoreFailed
from synapse.hub.connection import Connection
from synapse.hub.paging import recorded_of
from synapse.hub.server import TICK_S, begin
from synapse.hub.threads import Store
from synapse.hub.turn import Turns
from synapse.protocol.names import GENERAL, MAIN_ROOM
from synapse.protocol.session import Session

STEPS_PER_CHECK: Final = 500
DUMP_BYTES_PER_STEP: Final = 8_192
"""A dump that grows with the day is compared less often: so many of its bytes are a step between."""
SNAPSHOT_ROWS: Final = 3_000
FROZEN_MARGIN_MS: Final = 1_250
"""What the lease clock may advance in the first turn after a stall, and a tick."""

ROOMS: Final = {MAIN_ROOM: [GENERAL, "build", "review"], "crew": [GENERAL]}
POOLS: Final = {"gpu": 3, "port": 1}


class Replay:
    """The journal folded by the kernel alone, row by row as they come; and a snapshot of it from time to time."""

    def __init__(self, journal: SimulatedJournal) -> None:
        self.state = new_state()
        self.snapshot = encode_state(self.state)
        self.bases: dict[str, tuple[int, bytes]] = {}
        self._journal = journal
        self._snapshot_seq = journal.base

    def catch_up(self) -> State:
        """The state at the end of the journal."""
        done = max(self.state.seq, self._journal.base)
        for row in self._journal.rows(done + 1, self._journal.head):
            kernel.apply(self.state, recorded_of(row))
        if self.state.seq - self._snapshot_seq >= SNAPSHOT_ROWS:
            self.snapshot, self._snapshot_seq = encode_state(self.state), self.state.seq
        return self.state

    def start(self) -> State:
        """What a new process makes of the snapshot and the rows behind it; of the base, where that is newer."""
        seq, base = self.base()
        if seq > self._snapshot_seq:
            return self._folded(seq, base)
        return self._folded(self._snapshot_seq, self.snapshot)

    def base(self) -> tuple[int, bytes]:
        """The state before which rows may have no body any more, and its seq."""
        compaction = self._journal.compaction()
        if compaction is None:
            return self._journal.base, encode_state(new_state())
        seq, base = self.bases[compaction.base_hash]
        assert seq == compaction.upto, "a base is named by its own compaction"
        return seq, base

    def keep_only(self, compaction: JournalCompacted) -> None:
        """All that this compaction drops is gone: older bases and snapshots are too."""
        seq, base = self.bases[compaction.base_hash]
        for gone in self.bases.keys() - {compaction.base_hash}:
            del self.bases[gone]
        if self._snapshot_seq < seq:
            self.snapshot, self._snapshot_seq = base, seq

    def whole(self) -> State:
        """The state that the journal from its base on gives."""
        return self._folded(*self.base())

    def _folded(self, seq: int, encoded: bytes) -> State:
        state = decode_state(encoded)
        for row in self._journal.rows(seq + 1, self._journal.head):
            kernel.apply(state, recorded_of(row))
        return state


class Life:
    """One process of the hub, as its connections see it (`network.HubSide`)."""

    def __init__(
        self, hub: "SimulatedHub", turns: Turns, writer: DelayedWorker, reader: DelayedWorker, keeper: Archivist
    ) -> None:
        self.is_dead = False
        self.stopped_until_s = 0.0
        self.turns = turns
        self.writer = writer
        self.reader = reader
        self.keeper = keeper
        self.links: dict[int, Link] = {}
        self._hub = hub

    def hear(self, link: Link, frame: bytes) -> None:
        """A frame arrived."""
        assert link.connection is not None
        self._hub.witness.hear(link, frame)
        self._hub.trace(link.number, frame)
        self.turns.peers.hear(link.connection, frame, self._hub.clock.monotonic_ms())
        self._hub.step()

    def tell(self, link: Link, payloads: Sequence[bytes]) -> None:
        """The hub wrote these frames."""
        self._hub.trace(-link.number, *payloads)
        self._hub.witness.tell(link, payloads)

    def lost(self, link: Link) -> None:
        """The hub learned that a connection is gone."""
        self.links.pop(link.number, None)
        assert link.connection is not None
        self._hub.witness.lose(link)
        self.turns.peers.on_closed(link.connection)
        self._hub.step()

    def stuck(self, link: Link, *, is_stuck: bool) -> None:
        """An outbox is half full, or down to a quarter."""
        assert link.connection is not None
        if is_stuck:
            self._hub.sometimes("a peer did not keep up")
            self.turns.peers.on_stuck(link.connection)
        else:
            self._hub.sometimes("a peer that had fallen behind caught up")
            self.turns.peers.on_drained(link.connection)

    def durable(self) -> int:
        """The seq of the last durable event."""
        return self.turns.feeds.durable


class SimulatedHub:
    """The hub over all its lives. on_end: called when a life ends by itself, with why."""

    def __init__(
        self,
        loop: VirtualLoop,
        clock: Clock,
        chance: Random,
        make_ledger: Callable[[SimulatedJournal], tuple[Ledger, Witness]],
        sometimes: Sometimes,
        trace: Callable[..., None],
    ) -> None:
        self.clock = clock
        self.steps = 0
        self.lives = 0
        self.checks = 0
        self.journal = SimulatedJournal(self._on_durable)
        self.ledger, self.witness = make_ledger(self.journal)
        self.journal.on_dropped = self.ledger.archive.drop
        self.journal.on_end_drop = lambda compaction: self._replay.keep_only(compaction)
        self.sometimes = sometimes
        self.trace = trace
        self.life: Life | None = None
        self.on_end: Callable[[str], None] = lambda why: None
        self.on_plan: Callable[[], None] = lambda: None
        self.slow_commits_until_s = 0.0
        self._replay = Replay(self.journal)
        self._loop = loop
        self._chance = chance
        self._rules = Rules(LIMITS)
        self._next_check = STEPS_PER_CHECK
        self._next_link = 1
        self._down_since_ms = 0
        self._read_only_since_ms: int | None = None
        self._has_committed = False
        self._stop = 0.0, 0.0
        self._dying_ms: int | None = None
        self._shown_ms = Past()

    # Its lives.

    def start(self) -> None:
        """Replay what is on the disk, and open the doors."""
        assert self.life is None, "one hub at a time"
        self.lives += 1
        self._has_committed = False  # of a commit that the hub before was not told of
        journal, loop = self.journal, self._loop
        journal.open_again()
        state = self._replay.start()
        replayed = encode_state(self._replay.catch_up())
        if encode_state(state) != replayed:
            raise Violation("digest", f"a snapshot and its tail give another state than the journal, at {journal.head}")
        writer = DelayedWorker(loop, self._commit_delays, self._chance.random, self._on_told)
        reader = DelayedWorker(loop, self._read_delays, self._chance.random)
        tell, look, bases = self.ledger.plan_compaction, self._replay.catch_up, self._replay.bases
        keeper = Archivist(
            loop, self._chance, journal, look, tell, bases, journal.base, lambda: self.on_plan(), self._aged_ms
        )
        turns = Turns(
            state=state,
            rules=self._rules,
            store=Store(journal, journal, writer, reader, keeper),
            clock=self.clock,
            loop=loop,
            token="simulated",
            version="simulated",
            fatal=self._on_fatal,
        )
        self.clock.excused_ms += self.clock.now_ms - self._down_since_ms
        begin(state, journal, self._rules, ROOMS, self.clock.wall_ms(), POOLS)
        turns.begin()
        turns.retention.is_proved, turns.retention.keep = True, SETTINGS
        self.life = Life(self, turns, writer, reader, keeper)
        self._count_read_only(self.life)
        if journal.is_read_only:
            self.ledger.restart(self.clock.now_ms)  # without an event that says so
            self.sometimes("the hub started on a full disk")
        self.trace(0, b"start")
        loop.call_later(TICK_S, self._tick, self.life)

    def crash(self, why: str) -> None:
        """Kill the process: what it had not written is lost, or was written just in time; every connection is cut."""
        life, head = self.life, self.journal.head
        if life is None:
            return
        self.life, life.is_dead = None, True
        self._down_since_ms = self.clock.now_ms
        life.turns.broken = StoreFailed(why)
        life.keeper.is_dead = True
        self._dying_ms = int(life.writer.since_s * 1000)
        outcome = life.writer.die(keep=self._chance.random() < 0.4)
        self._dying_ms = None
        life.reader.die(keep=False)
        if outcome == "lost":
            self.sometimes("a commit was lost with the hub")
        elif outcome == "unheard" or self.journal.head != head:
            self.sometimes("a commit survived the hub, and nobody had been told")
        self.trace(0, b"crash")
        self.witness.restart()
        for link in life.links.values():
            late = self._chance.random() < 0.05
            link.cut(Learns(0.0, self._chance.uniform(1.0, 20.0) if late else self._chance.uniform(0.0, 0.3)))
        self._count_read_only(life)

    def doom(self, act: Callable[[], None]) -> None:
        """Do something in the middle of the next commit."""
        if self.life is not None:
            self.life.writer.doom = act

    def stop_for(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        life, now_s = self.life, self._loop.now_s
        if life is not None and life.stopped_until_s <= now_s:
            until_s = now_s + seconds
            self._stop = now_s, until_s
            life.stopped_until_s = life.writer.stopped_until_s = life.reader.stopped_until_s = until_s
            self.clock.excused_ms += int(seconds * 1000) + 1
            if not life.turns.is_read_only:
                self.clock.frozen_ms += max(0, int(seconds * 1000) - FROZEN_MARGIN_MS)

    def _on_fatal(self, error: JournalError) -> None:
        self.sometimes("the store failed and the hub ended")
        self.crash(str(error))
        self.on_end(str(error))

    def _tick(self, life: Life) -> None:
        if life.is_dead:
            return
        now_s = self._loop.now_s
        if now_s < life.stopped_until_s:
            self._loop.call_at(life.stopped_until_s, self._tick, life)
            return
        life.turns.tick()
        life.turns.retention.tick()
        self._loop.call_later(TICK_S, self._tick, life)

    def _count_read_only(self, life: Life, took_ms: int = 0) -> None:
        """While it is read-only nothing has to end; when it was, its lease clock stood still meanwhile."""
        clock, is_read_only = self.clock, life.turns.is_read_only and not life.is_dead
        if self._read_only_since_ms is not None:
            clock.excused_ms += clock.now_ms - self._read_only_since_ms
        self._read_only_since_ms = clock.now_ms if is_read_only else None
        if is_read_only and clock.read_only_from_ms is None:
            clock.read_only_from_ms = clock.now_ms
        elif not is_read_only and clock.read_only_from_ms is not None:
            clock.frozen_ms += max(0, clock.now_ms - clock.read_only_from_ms - took_ms - FROZEN_MARGIN_MS)
            clock.read_only_from_ms = None

    # Its disk.

    def _commit_delays(self) -> tuple[float, float]:
        chance = self._chance.random()
        if self._loop.now_s < self.slow_commits_until_s:
            return 0.5 + chance * 3, 0.01
        if chance < 0.99:
            return 0.0005 + chance * 0.004, 0.0002
        return 0.02 + (chance - 0.99) * 20, 0.005

    def _read_delays(self) -> tuple[float, float]:
        chance = self._chance.random()
        return (0.0002 + chance * 0.003 if chance < 0.98 else 0.3), 0.0

    def _on_durable(self, rows: Sequence[Row]) -> None:
        life = self.life
        decided_ms = self.clock.now_ms if self._dying_ms is None else self._dying_ms
        if life is not None:
            decided_ms = int(life.writer.since_s * 1000)
        self._has_committed = life is not None
        before_ms: int = self._shown_ms.then[-1] if self._shown_ms.then else 0
        self._shown_ms.become(self.clock.now_ms, max(before_ms, *(row.at_ms for row in rows)))
        for row in rows:
            self.trace(row.seq, row.body)
        self.ledger.fold(rows, decided_ms)
        self.step()

    def _aged_ms(self) -> int:
        """The latest time of the wall in a row that is old by the simulation's own clock."""
        return self._shown_ms.upto(self.clock.now_ms - AGE_MS) or 0

    def _on_told(self, took_s: float) -> None:
        """A job of the writer is over. Only a commit keeps the hub from deciding."""
        is_commit, self._has_committed = self._has_committed, False
        if is_commit and took_s > 0.9:
            self.sometimes("a commit took so long that the lease clock stood still")
            now_s = self._loop.now_s
            stopped_s = max(0.0, min(now_s, self._stop[1]) - max(now_s - took_s, self._stop[0]))
            self.clock.excused_ms += int(took_s * 1000) + 1
            if took_s > 1.01:
                self.clock.frozen_ms += int((took_s - stopped_s) * 1000)
        if self.life is not None:
            self._count_read_only(self.life, int(took_s * 1000))
            if is_commit and self.steps >= self._next_check:
                self.check()

    # Its doors.

    def connect(self, owner: str, chance: Random) -> Link:
        """A new connection to the living hub."""
        life, turns = self.life, self.life.turns if self.life is not None else None
        assert life is not None
        assert turns is not None
        number = self._next_link
        self._next_link += 1
        link = Link(number, owner, life, self._loop, chance, LIMITS.outbox_bytes_max)
        now_ms = self.clock.monotonic_ms()
        link.connection = Connection(
            turns.peers.total + 1,
            link,
            Session(LIMITS),
            kind=link.kind,
            host="simulated",
            host_bucket=turns.peers.host_buckets.of("simulated", now_ms),
            opened_ms=now_ms,
            is_owner=True,
        )
        life.links[number] = link
        turns.peers.open(link.connection)
        return link

    # What is checked.

    def step(self) -> None:
        """Something happened at the hub's door or on its disk."""
        self.steps += 1

    def check(self) -> None:
        """Everything at once, between two turns. Raises `Violation`."""
        assert self.life is not None
        self.checks += 1
        live = self.life.turns.state
        dump = encode_state(live)
        replayed = encode_state(self._replay.catch_up())
        if live.seq != self.journal.head or dump != replayed:
            raise Violation("digest", f"the hub's state at {live.seq} is not the journal's at {self.journal.head}")
        self._next_check = self.steps + max(STEPS_PER_CHECK, len(dump) // DUMP_BYTES_PER_STEP)
        ledger, terms = self.ledger, self.ledger.terms
        terms.check_times()
        terms.check_circles()
        ledger.shelf.check_times()
        ledger.market.check_times()
        ledger.agenda.check(
            {
                (live.rooms.by_id[room].name, task.id): (task.status, task.unmet, task.is_announced)
                for room, plan in live.plan.by_room.items()
                for task in plan.tasks.values()
            },
            live.seq,
        )
        wall_ms, working_ms = self.clock.wall_ms(), self.clock.now_ms - self.clock.excused_ms
        ledger.desk.check(set(live.questions.open), wall_ms, working_ms)
        sessions = live.sessions.by_id.values()
        kept = {run.id: (run.version, run.points, run.is_offered) for run in sessions}
        ledger.records.check(kept, live.seq, wall_ms, working_ms)
        lanes = {lane.id: (lane.state, lane.messages, lane.checkpoints) for lane in live.lanes.by_id.values()}
        ledger.lanes.check(lanes, wall_ms, working_ms)
        files = {it.id: (it.is_complete, len(it.chunks), len(it.received)) for it in live.files.by_id.values()}
        ledger.parcels.check(files, live.files.bytes, wall_ms, working_ms)
        if live.leases.live.keys() != terms.live.keys() or live.leases.places.keys() != terms.places.keys():
            raise Violation("altered", f"the hub has leases {list(live.leases.live)}, there are {list(terms.live)}")
        ids = {agent.id: agent.name for agent in live.agents.by_id.values()}
        ids |= {role.id: f"role:{role.name}" for role in live.roles.by_id.values()}
        inboxes = live.agents.inboxes
        ledger.mail.check(
            {
                name: {seq: (it.lends, it.dead, it.expires_at_ms) for seq, it in inboxes[number].entries.items()}
                for number, name in ids.items()
            },
            {f"role:{role.name}": {ids[agent] for agent in role.members} for role in live.roles.by_id.values()},
        )
        rooms = live.rooms
        places: list[tuple[str, Room | Channel]] = [(it.name, it) for it in rooms.by_id.values() if it.private]
        places += [(rooms.address(it), it) for it in rooms.channels.values() if it.private]
        ledger.privacy.check((name, {ids[i] for i in it.members}, {ids[i] for i in it.invited}) for name, it in places)
        for number, name in ids.items():
            if inboxes[number].last_n != ledger.numbers[f"@{name}"]:
                raise Violation("altered", f"the inbox of {name} is {inboxes[number]}", name)

    def check_replay(self) -> None:
        """The whole journal from its first event on gives the state that there is. Raises `Violation`."""
        if encode_state(self._replay.whole()) != encode_state(self._replay.catch_up()):
            raise Violation("digest", "the whole journal gives another state than its parts")
