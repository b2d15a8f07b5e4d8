"""What leases must do, written a second time: plain lists, every overlap by trying all paths, every circle by walking.

The model knows nothing of `synapse.core`. It is told what the journal got (`rows`, as plain JSON), takes the numbers of
events from there, and says what else must hold: who is answered what, what is held, who waits, and when it ends.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from typing import Any, TypeAlias

NAMES = "abcxyz"
UNIVERSE = ["/".join(parts) for depth in (1, 2, 3) for parts in product(NAMES, repeat=depth)]
"""All paths there are. Deep enough: whichever two of the scopes below overlap, they do so within."""
SCOPES: list[tuple[str, ...]] = [
    (),
    (),
    ("a",),
    ("b",),
    ("a/x",),
    ("a", "b"),
    ("c", "b/y"),
    ("*/x",),
    ("a/**",),
    ("**/y", "c"),
]
AGENTS = ("ada", "bob", "cy", "hal")
PRIORITIES = ("low", "normal", "high", "urgent")
WAITING_MAX = 8
"""How many requests of one connection may wait."""
TREE = "box:/repo"

Row: TypeAlias = dict[str, Any]
"""An event of the journal: its body, with `seq` and `type`."""


def matches(pattern: str, path: str) -> bool:
    """What the patterns above mean."""
    parts = path.split("/")
    if pattern == "*/x":
        return len(parts) == 2 and parts[1] == "x"
    if pattern == "a/**":
        return parts[0] == "a" and len(parts) > 1
    if pattern == "**/y":
        return parts[-1] == "y"
    return path == pattern or path.startswith(f"{pattern}/")


@cache
def files_of(paths: tuple[str, ...], whole: bool) -> frozenset[str]:
    """The paths of a scope, one by one."""
    return frozenset(path for path in UNIVERSE if whole or any(matches(pattern, path) for pattern in paths))


@dataclass(frozen=True)
class Want:
    """What a claim asks for."""

    agent: str
    task: str
    paths: tuple[str, ...] = ()
    whole: bool = False
    pools: tuple[tuple[str, int], ...] = ()
    mode: str = "exclusive"
    reentrant: bool = True

    @property
    def files(self) -> frozenset[str]:
        """The paths it covers."""
        return files_of(self.paths, self.whole)

    @property
    def scope(self) -> tuple[object, ...]:
        """What must be equal for one lease to be what both asked for."""
        return self.paths, self.whole, self.pools, self.mode

    @property
    def is_bare(self) -> bool:
        """It names neither paths nor pools."""
        return not (self.paths or self.whole or self.pools)

    def is_met_by(self, other: "Want") -> bool:
        """Who wants this is content with a lease of the other, which it did not claim itself."""
        return self.is_bare or self.scope == other.scope


def contend(a: Want, b: Want) -> bool:
    """The two cannot be held at once, pools aside."""
    if a.mode == b.mode == "shared" or (a.agent == b.agent and a.reentrant and b.reentrant):
        return False
    return a.task == b.task or bool(a.files & b.files)


Party: TypeAlias = tuple[str, int]
"""Who waits or holds: an agent (0), or one process of it, by its connection."""
Node: TypeAlias = tuple[str, int]
"""A party, or `place` or `lease` and the seq of one."""
Wait: TypeAlias = tuple[int, int, int, Want, int | None]
"""Rank, seq, the process that waits, what it waits for, and the epoch under which it runs."""


def party(want: Want, process: int) -> Party:
    """What is reentrant is the agent's."""
    return want.agent, 0 if want.reentrant else process


@dataclass
class Held:
    """A live lease."""

    epoch: int
    want: Want
    ttl_ms: int
    deadline: int
    tied: bool = False
    note: str | None = None
    place: int | None = None
    parked: bool = False
    reason: str = "ttl"
    tie: int | None = None
    left: int | None = None
    offered_to: str | None = None
    offer: int | None = None
    under: int | None = None


@dataclass
class Waiter:
    """A place in the queue. connection, request: where somebody waits at it."""

    seq: int
    want: Want
    ttl_ms: int
    rank: int
    wait_ms: int | None
    tied: bool
    note: str | None
    key: str | None
    payload: object
    until: int | None
    deadline: int | None = None
    connection: int | None = None
    request: int | None = None
    under: int | None = None


@dataclass(frozen=True)
class Claim:
    """A claim as it is sent. under: the epoch of the lease under which its process says that it runs; no part of what
    is equal under an idempotency key."""

    want: Want
    ttl_ms: int
    wait_ms: int | None = 0
    priority: str = "normal"
    tied: bool = False
    preempt: bool = False
    note: str | None = None
    place: int | None = None
    under: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Answer:
    """What a request must be answered. kind: lease, queued, refused, done, later (from the queue). held: the lease as
    it was then, when that may have changed since."""

    kind: str
    code: str = ""
    epoch: int = 0
    outcome: str = ""
    live: bool = True
    replayed: bool = False
    position: int = 0
    held: Held | None = None


@dataclass
class Model:
    """All that is known about leases. out: answers to others than who asks, by connection and request. of_under: how
    many waits were refused for what their process runs under, and for nothing else."""

    tie_grace_ms: int
    reattach_ms: int
    parked_ms_max: int
    pools: dict[str, int]
    now: int = 0
    leases: dict[int, Held] = field(default_factory=dict)
    places: dict[int, Waiter] = field(default_factory=dict)
    kept: dict[str, tuple[int, str, int]] = field(default_factory=dict)
    online: dict[str, set[int]] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    done: dict[tuple[str, str], tuple[object, Answer]] = field(default_factory=dict)
    handed: dict[str, set[int]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    out: list[tuple[int, int, Answer]] = field(default_factory=list)
    of_under: int = 0

    # The journal.

    def pull(self, kind: str, **fields: object) -> Row:
        """The event that must have happened."""
        for row in self.rows:
            if row["type"] == kind and all(row.get(name) == value for name, value in fields.items()):
                self.rows.remove(row)
                return row
        raise AssertionError(f"{kind} {fields} is not in the journal: {self.rows}")

    def pull_ask(self, kind: str, want: Want, **fields: object) -> Row:
        """The same, with what was asked for."""
        row = self.pull(kind, **fields)
        ask = row["ask"]
        found = Want(
            ask["owner"],
            ask["task"],
            tuple(ask.get("paths", ())),
            ask.get("whole", False),
            tuple((name, units) for name, units in ask.get("pools", ())),
            ask.get("mode", "exclusive"),
            ask.get("reentrant", True),
        )
        assert found == want, f"{kind}: {found} instead of {want}"
        return row

    # What stands in the way.

    def own(self, want: Want) -> Held | None:
        """The lease that a grant of `want` would replace."""
        mine = [h for h in self.leases.values() if h.want.agent == want.agent and h.want.task == want.task]
        mine = [h for h in mine if h.want.reentrant and want.reentrant]
        assert len(mine) <= 1, f"{want.agent} has two reentrant leases on {want.task}"
        return mine[0] if mine else None

    def free(self, pool: str, without: Held | None) -> int:
        """Units nobody holds."""
        held = [dict(h.want.pools).get(pool, 0) for h in self.leases.values() if h is not without]
        return self.pools[pool] - sum(held)

    def leases_against(self, want: Want, without: Held | None) -> list[Held]:
        """Who holds what it needs."""
        short = {pool for pool, units in want.pools if self.free(pool, without) < units}
        return [
            h
            for h in self.leases.values()
            if h is not without and (contend(want, h.want) or short & {pool for pool, _ in h.want.pools})
        ]

    def is_short(self, want: Want, without: Held | None) -> bool:
        """A pool has not enough units."""
        return any(self.free(pool, without) < units for pool, units in want.pools)

    def places_against(self, want: Want, rank: int, seq: int, without: Held | None) -> list[Waiter]:
        """Who stands ahead and needs the same."""
        ahead = [p for p in self.places.values() if p.rank > rank or (p.rank == rank and p.seq < seq)]
        against = {p.seq: p for p in ahead if contend(want, p.want)}
        for pool, units in want.pools:
            waiting = [p for p in ahead if pool in dict(p.want.pools)]
            if waiting and self.free(pool, without) - sum(dict(p.want.pools)[pool] for p in waiting) < units:
                against |= {p.seq: p for p in waiting}
        return list(against.values())

    def is_free(self, want: Want, rank: int, seq: int, own: Held | None) -> bool:
        """Nothing and nobody ahead is in the way."""
        return not (
            self.leases_against(want, own) or self.is_short(want, own) or self.places_against(want, rank, seq, own)
        )

    # Circles.

    @staticmethod
    def held_up_by(asks: Want, other: Want, process: int, node: Node) -> set[Node]:
        """Who must go on before `asks` can, because of what another wants or has: the agent, or the process. What is
        told of neither (the process has no connection now) is for its own agent the lease or place itself."""
        if other.reentrant or process <= 0:
            is_own = asks.agent == other.agent
            return ({(other.agent, 0)} if other.reentrant or not is_own else set()) | ({node} if is_own else set())
        return {(other.agent, process)}

    def line(self, without: Iterable[Waiter]) -> list[Wait]:
        """Places: rank, seq, the process that waits there, what, and under which lease that process runs."""
        return [
            (p.rank, p.seq, -p.seq if p.connection is None else p.connection, p.want, p.under)
            for p in self.places.values()
            if p not in without
        ]

    def chain(self, under: int | None, gone: Iterable[Held] = ()) -> list[Held]:
        """The leases that end only after what a process asks for that runs under this epoch; up to one that has ended.
        gone: those that end with what is decided now are there still."""
        live = {h.epoch: h for h in [*self.leases.values(), *gone]}
        found: list[Held] = []
        while under in live:
            found.append(live[under])
            under = live[under].under
        return found

    def needs_same_unit(self, a: Want, b: Want) -> bool:
        """Both want the only unit of a pool."""
        return any(self.pools[pool] == 1 and pool in dict(b.pools) for pool, _ in a.pools)

    def closes(
        self,
        want: Want,
        process: int,
        *,
        rank: int = len(PRIORITIES),
        is_wait: bool = False,
        minus: Iterable[Held] = (),
        without: Iterable[Waiter] = (),
        under: int | None = None,
    ) -> bool:
        """Whether what it asks for on this connection would be part of a circle: held past all that stand not ahead
        of this rank, or in the queue. minus: the leases that end with that."""
        gone, agent, new = list(minus), want.agent, 1 << 60
        held = [h for h in self.leases.values() if h not in gone]
        old = self.line(list(without))
        places = [*old, (rank, new, process, want, under)] if is_wait else old
        me, mine = party(want, process), {(agent, 0), (agent, process)}

        def is_kept_from(want: Want, it: Want) -> bool:
            return contend(want, it) or self.needs_same_unit(want, it)

        def processes_above(epoch: int | None) -> set[Node]:
            """Who goes on only after who runs under this lease. An agent waits for all of its processes anyway."""
            chain = [h for h in self.chain(epoch, gone) if not h.want.reentrant]
            return {("lease", h.epoch) if h.tie is None else (h.want.agent, h.tie) for h in chain}

        def needs(place: Wait, *, is_nested: bool) -> set[Node]:
            """Whose leases must end, and which places ahead must come to their turn, and end."""
            at, seq, _, asks, _ = place
            found = set[Node]()
            for h in held:
                if is_kept_from(asks, h.want):
                    found |= self.held_up_by(asks, h.want, h.tie or 0, ("lease", h.epoch))
            for before, number, waiting, it, _ in places:
                if (before, -number) > (at, -seq) and is_kept_from(asks, it):
                    found |= self.held_up_by(asks, it, waiting, ("place", number))
            if asks.agent == agent and not is_nested:  # what its agent holds as such any process may give back
                found.discard((agent, 0))
            return found

        def waits_of(who: Node) -> list[Wait]:
            if who[0] == "place":
                return [place for place in places if place[1] == who[1]]
            if who[0] == "lease":
                [known] = [h for h in [*held, *gone] if h.epoch == who[1]]
                if not known.want.reentrant:  # any process of its agent may have it, hardly the one that asks
                    return [place for place in old if place[3].agent == known.want.agent]
                return [place for place in places if known in self.chain(place[4], gone)]
            mine = [place for place in places if place[3].agent == who[0]]
            return [p for p in mine if who[1] == 0 or p[2] < 0 or p[2] == who[1] or who in processes_above(p[4])]

        def leads(start: Wait, *, to: set[Node], is_nested: bool = False) -> bool:
            """Whether what is waited for at a place waits, over whatever, for one of these; the same process aside."""
            own = mine | {("place", number) for _, number, waiting, _, _ in places if waiting == process}
            seen, todo = set[Node](), list(needs(start, is_nested=is_nested) - own)
            while todo:
                who = todo.pop()
                if who in to:
                    return True
                if who not in seen:
                    seen.add(who)
                    for place in waits_of(who):
                        todo += [("place", place[1]), *needs(place, is_nested=is_nested)]
            return False

        if is_wait:
            above = processes_above(under)
            if needs(places[-1], is_nested=True) & above or any(is_kept_from(want, h.want) for h in self.chain(under)):
                return True
            if leads(places[-1], to={*mine, *above, ("place", new)}, is_nested=under is not None):
                return True
        behind: set[Node] = {
            ("place", number)
            for before, number, _, it, _ in old
            if before < rank and is_kept_from(it, want) and not (want.reentrant and it.agent == agent)
        }
        places = old
        return any(leads(place, to=behind) for place in waits_of(me))

    def has_circle(self) -> bool:
        """Whether agents wait for each other without end, as far as they ask as agents and not as single processes."""
        held = [h.want for h in self.leases.values() if h.want.reentrant]
        places = [(rank, seq, want) for rank, seq, _, want, _ in self.line([]) if want.reentrant]
        edges: dict[str, set[str]] = {}
        for rank, seq, want in places:
            others = held + [it for at, number, it in places if at > rank or (at == rank and number < seq)]
            others = [it for it in others if contend(want, it) or self.needs_same_unit(want, it)]
            edges.setdefault(want.agent, set()).update(it.agent for it in others if it.agent != want.agent)
        free = set(AGENTS)
        while gone := {agent for agent in free if not edges.get(agent, set()) & free}:
            free -= gone
        return bool(free)

    # Ends and grants.

    def end(self, held: Held) -> None:
        """A lease is over."""
        del self.leases[held.epoch]

    def serve(self) -> None:
        """Everybody who is attached and whose turn it is."""
        again = True
        while again:
            again = False
            for p in sorted(self.places.values(), key=lambda p: (-p.rank, p.seq)):
                own = self.own(p.want)
                if p.connection is None or not self.is_free(p.want, p.rank, p.seq, own):
                    continue
                del self.places[p.seq]
                row = self.pull_ask("lease.granted", p.want, place=p.seq, ttl_ms=p.ttl_ms, under=p.under)
                assert row.get("replaces") == (None if own is None else own.epoch)
                if own is not None:
                    self.end(own)
                    again = True
                held = Held(row["seq"], p.want, p.ttl_ms, self.now + p.ttl_ms, p.tied, p.note, p.seq, under=p.under)
                held.tie = p.connection if p.tied else None
                self.leases[held.epoch] = held
                answer = Answer("lease", epoch=held.epoch, outcome="granted")
                if p.key is not None:
                    self.done[p.want.agent, p.key] = (p.payload, answer)
                assert p.request is not None
                self.out.append((p.connection, p.request, replace(answer, held=replace(held))))

    def unqueue(self, p: Waiter, reason: str, code: str) -> None:
        """A wait ends without a grant of its own. Who has got the lease in another way is answered with that."""
        self.pull("lease.unqueued", place=p.seq, reason=reason)
        del self.places[p.seq]
        if p.connection is not None and p.request is not None:
            answer = Answer("refused", code)
            if not code:
                held = self.own(p.want)
                assert held is not None
                answer = Answer("lease", epoch=held.epoch, outcome="granted", held=replace(held))
            self.out.append((p.connection, p.request, answer))

    def unqueue_for(self, p: Waiter, want: Want, reason: str) -> None:
        """The same, when the agent has got `want` on the task: it is what was waited for, or takes its place."""
        if p.want.is_met_by(want):
            self.unqueue(p, reason, "")
        else:
            self.unqueue(p, "replaced", "withdrawn")

    # Claims.

    def claim(self, agent: str, connection: int, request: int, claim: Claim, key: str | None) -> Answer:
        """What becomes of a claim."""
        if key is not None:
            if (agent, key) in self.done:
                return self.repeat(agent, key, claim)
            for p in self.places.values():
                if p.want.agent == agent and p.key == key and p.payload != claim:
                    return Answer("refused", "idem_conflict")
        if claim.wait_ms != 0:
            if sum(p.connection == connection and p.request is not None for p in self.places.values()) >= WAITING_MAX:
                return Answer("refused", "limit")
            for p in self.places.values():
                is_it = (key is not None and p.key == key) or (p.seq == claim.place and p.want.task == claim.want.task)
                if p.want.agent == agent and is_it:
                    return self.attach(p, connection, request)
        answer = self._claim(agent, claim, key, connection, request)
        if answer.kind == "lease":
            self.renewal(self.leases[answer.epoch], connection)
            is_event = answer.outcome != "renewed"
            if key is not None and (is_event or self._was_event):
                self.done[agent, key] = (claim, answer)
        return answer

    _was_event: bool = False

    def renewal(self, held: Held, connection: int) -> None:
        """A full TTL from now."""
        if held.tied:
            held.tie = connection
        if held.parked:
            held.left = held.ttl_ms
        else:
            held.deadline, held.reason = self.now + held.ttl_ms, "ttl"

    def repeat(self, agent: str, key: str, payload: object) -> Answer:
        """The same key again."""
        before, answer = self.done[agent, key]
        if before != payload:
            return Answer("refused", "idem_conflict")
        return replace(answer, replayed=True, live=answer.epoch in self.leases)

    def attach(self, p: Waiter, connection: int, request: int) -> Answer:
        """Somebody waits at a place (again)."""
        if p.connection is not None and p.request is not None:
            self.out.append((p.connection, p.request, Answer("refused", "withdrawn")))
        p.connection, p.request, p.deadline = connection, request, p.until
        own = self.own(p.want)
        if self.is_free(p.want, p.rank, p.seq, own):
            self.serve()
            return Answer("later")
        return Answer("queued", epoch=p.seq, position=1 + len(self.places_against(p.want, p.rank, p.seq, None)))

    def _claim(self, agent: str, claim: Claim, key: str | None, connection: int, request: int) -> Answer:
        want = claim.want
        if claim.preempt and agent != "hal":
            return Answer("refused", "not_permitted")
        if any(units > self.pools[pool] for pool, units in want.pools):
            return Answer("refused", "bad_request")
        self._was_event = False
        offered: Held | None = None
        for held in sorted(self.leases.values(), key=lambda h: h.epoch):
            if held.want.task != want.task:
                continue
            if held.offered_to == agent and want.is_met_by(held.want):
                offered = held
            if held.want.agent == agent and claim.place is not None and held.place == claim.place:
                return Answer("lease", epoch=held.epoch, outcome="granted")
        own = self.own(want)
        if own is None and offered is not None:
            return self.pass_on(offered, agent, claim, connection)
        if own is not None:
            if want.is_bare:
                want = replace(own.want, mode=want.mode)
            if want == own.want:
                return self._renewed(own, claim.ttl_ms, claim.note)
            if any(units > self.pools[pool] for pool, units in want.pools):
                return Answer("refused", "bad_request")
        if claim.preempt:
            return self._preempt(want, claim, own, connection)
        return self._acquire(want, claim, own, key, connection, request)

    def _renewed(self, own: Held, ttl_ms: int | None, note: str | None) -> Answer:
        ttl_ms = own.ttl_ms if ttl_ms is None else ttl_ms
        note = own.note if note is None else note
        if (ttl_ms, note) != (own.ttl_ms, own.note):
            self.pull("lease.renewed", epoch=own.epoch, ttl_ms=ttl_ms, note=note)
            own.ttl_ms, own.note, self._was_event = ttl_ms, note, True
        return Answer("lease", epoch=own.epoch, outcome="renewed")

    def _acquire(
        self, want: Want, claim: Claim, own: Held | None, key: str | None, connection: int, request: int
    ) -> Answer:
        rank = PRIORITIES.index(claim.priority)
        above = self.leases.get(claim.under or 0)
        under = claim.under if above is not None and above.want.agent == want.agent else None
        against = self.leases_against(want, own)
        is_upgrade = own is not None and own.want.mode == "shared" and want.mode == "exclusive"
        if is_upgrade and any(h.want.mode == "shared" for h in against):
            return Answer("refused", "deadlock")
        ahead = self.places_against(want, rank, 1 << 60, own)
        is_narrower = own is not None and (
            (want.mode == own.want.mode or want.mode == "shared")
            and (own.want.whole or (not want.whole and all(is_below(path, own.want.paths) for path in want.paths)))
            and all(units <= dict(own.want.pools).get(pool, 0) for pool, units in want.pools)
        )
        if not against and not self.is_short(want, own) and (is_narrower or not ahead):
            if self.closes(want, connection, rank=rank, minus=[] if own is None else [own]):
                return Answer("refused", "deadlock")
            return self._granted(want, claim, own, under=under)
        if claim.wait_ms == 0:
            return Answer("refused", "lease_held" if against else "lease_queued")
        if claim.wait_ms is None and any(self.pools[pool] > 1 for pool, _ in want.pools):
            return Answer("refused", "bad_request")
        if self.closes(want, connection, rank=rank, is_wait=True, under=under):
            self.of_under += not self.closes(want, connection, rank=rank, is_wait=True)
            return Answer("refused", "deadlock")
        row = self.pull_ask("lease.queued", want, ttl_ms=claim.ttl_ms, under=under)
        until = None if claim.wait_ms is None else self.now + claim.wait_ms
        p = Waiter(row["seq"], want, claim.ttl_ms, rank, claim.wait_ms, claim.tied, claim.note, key, claim, until)
        p.under = under
        self.places[p.seq] = p
        answer = self.attach(p, connection, request)
        assert answer.kind == "queued", "what was queued is not free"
        return answer

    def _granted(
        self, want: Want, claim: Claim, own: Held | None, fulfilled: Iterable[Waiter] = (), under: int | None = None
    ) -> Answer:
        row = self.pull_ask("lease.granted", want, ttl_ms=claim.ttl_ms, place=None, under=under)
        assert row.get("replaces") == (None if own is None else own.epoch)
        if own is not None:
            self.end(own)
        held = Held(row["seq"], want, claim.ttl_ms, self.now + claim.ttl_ms, claim.tied, claim.note, under=under)
        self.leases[held.epoch] = held
        for p in fulfilled:
            self.unqueue_for(p, want, "preempted")
        self.serve()
        return Answer("lease", epoch=held.epoch, outcome="granted")

    def mine_waiting(self, agent: str, task: str) -> list[Waiter]:
        """Reentrant places of an agent for a task."""
        return [p for p in self.places.values() if p.want.agent == agent and p.want.task == task and p.want.reentrant]

    def _preempt(self, want: Want, claim: Claim, own: Held | None, connection: int) -> Answer:
        victims: list[Held] = []
        kept = dict(self.leases)
        while against := self.leases_against(want, own):
            victims.append(max(against, key=lambda h: h.epoch))
            del self.leases[victims[-1].epoch]
        fulfilled = self.mine_waiting(want.agent, want.task) if want.reentrant else []
        minus = [*victims, *([] if own is None else [own])]
        # Past the queue: whoever needs the same waits for it, ahead or not.
        is_closed = self.closes(want, connection, minus=minus, without=fulfilled)
        if is_closed:
            self.leases = kept
            return Answer("refused", "deadlock")
        for victim in victims:
            self.pull("lease.revoked", epoch=victim.epoch, reason="preempted")
        return self._granted(want, claim, own, fulfilled)

    # Under a lease.

    def find(self, agent: str, task: str, epoch: int | None) -> Held | str:
        """The lease that a command means, or the code of the refusal."""
        found = [h for h in sorted(self.leases.values(), key=lambda h: h.epoch) if h.want.task == task]
        mine = [h for h in found if h.want.agent == agent]
        if epoch is not None:
            exact = [h for h in mine if h.epoch == epoch]
            return exact[0] if exact else "stale_epoch"
        if mine:
            return mine[-1]
        return "not_holder" if found else "not_found"

    def under(self, agent: str, task: str, epoch: int | None, act: Callable[[Held], Answer]) -> Answer:
        """Do something with the lease that is meant."""
        held = self.find(agent, task, epoch)
        return Answer("refused", held) if isinstance(held, str) else act(held)

    def renew(self, held: Held, connection: int, ttl_ms: int | None, note: str | None) -> Answer:
        """A renewal."""
        answer = self._renewed(held, ttl_ms, note)
        self.renewal(held, connection)
        return answer

    def release(self, held: Held) -> Answer:
        """The lease is given back."""
        self.pull("lease.released", epoch=held.epoch)
        self.end(held)
        self.serve()
        return Answer("done", epoch=held.epoch)

    def checkpoint(self, held: Held, value: int | None) -> Answer:
        """Something for the next."""
        self.pull("lease.checkpointed", epoch=held.epoch)
        if value is None:
            self.kept.pop(held.want.task, None)
        else:
            self.kept[held.want.task] = (value, held.want.agent, held.epoch)
        return Answer("lease", epoch=held.epoch, outcome="checkpointed")

    def park(self, held: Held, *, parked: bool) -> Answer:
        """The TTL stands still, or runs on."""
        answer = Answer("lease", epoch=held.epoch, outcome="parked" if parked else "resumed")
        if held.parked == parked:
            return answer
        self.pull("lease.parked" if parked else "lease.resumed", epoch=held.epoch)
        held.parked = parked
        if parked:
            held.left, held.tie = max(0, held.deadline - self.now), None
            held.deadline, held.reason = self.now + self.parked_ms_max, "parked"
        else:
            left = held.ttl_ms if held.left is None else held.left
            held.deadline, held.reason, held.left = self.now + left, "ttl", None
        return answer

    def mail(self, agent: str) -> set[int]:
        """What the hub put into its inbox: leases that were handed to it, and the offers that still stand."""
        offers = {h.offer for h in self.leases.values() if h.offered_to == agent and h.offer is not None}
        return self.handed.get(agent, set()) | offers

    def is_offline(self, agent: str) -> bool:
        """Neither connected nor active within five minutes."""
        return not self.online.get(agent) and (agent not in self.seen or self.now - self.seen[agent] >= 300_000)

    def hand_off(self, held: Held, to: str) -> Answer:
        """To another agent, or an offer."""
        if to == held.want.agent:
            return Answer("refused", "bad_request")
        if not self.is_offline(to):
            return self.pass_on(held, to)
        if held.offered_to != to:
            held.offer = self.pull("lease.offered", epoch=held.epoch)["seq"]
            held.offered_to = to
        return Answer("lease", epoch=held.epoch, outcome="offered")

    def pass_on(self, held: Held, to: str, claim: Claim | None = None, connection: int = 0) -> Answer:
        """One event, checked against everybody else. claim: what accepts an offer, on this connection."""
        is_accepted = claim is not None
        want = replace(held.want, agent=to, reentrant=claim is None or claim.want.reentrant)
        if self.leases_against(want, held) or self.own(want) is not None:
            return Answer("refused", "lease_held")
        fulfilled = [p for p in self.mine_waiting(to, want.task) if is_accepted or p.want.is_met_by(want)]
        fulfilled = fulfilled if want.reentrant else []
        if self.closes(want, connection, minus=[held], without=fulfilled):
            return Answer("refused", "deadlock")
        row = self.pull_ask("lease.handed_off", want, previous=held.epoch, sender=held.want.agent)
        assert (row.get("delivery") is None) is is_accepted
        if not is_accepted:
            self.handed.setdefault(to, set()).add(row["seq"])
        self.end(held)
        ttl_ms = held.ttl_ms if claim is None else claim.ttl_ms
        new = Held(row["seq"], want, ttl_ms, self.now + ttl_ms, note=held.note, parked=held.parked)
        if claim is not None:
            above = self.leases.get(claim.under or 0)
            new.under = claim.under if above is not None and above.want.agent == to else None
            new.tied, new.note = claim.tied, held.note if claim.note is None else claim.note
        if held.parked:
            new.left = ttl_ms
            new.deadline, new.reason = self.now + self.parked_ms_max, "parked"
        self.leases[new.epoch] = new
        for p in fulfilled:
            self.unqueue_for(p, want, "handed_off")
        self.serve()  # what the receiver waits for with another scope may take the place of it at once
        return Answer("lease", epoch=new.epoch, outcome="handed_off", live=new.epoch in self.leases)

    def withdraw(self, agent: str, task: str) -> Answer:
        """All places of an agent for a task end."""
        mine = [p for p in self.places.values() if p.want.agent == agent and p.want.task == task]
        for p in mine:
            self.unqueue(p, "withdrawn", "withdrawn")
        self.serve()
        return Answer("done") if mine else Answer("refused", "not_found")

    def set_pool(self, name: str, capacity: int) -> Answer:
        """More or less of a pool."""
        if self.pools[name] != capacity:
            self.pull("pool.set", name=name, capacity=capacity)
            self.pools[name] = capacity
            left = [p for p in self.places.values() if dict(p.want.pools).get(name, 0) > capacity]
            for p in sorted(left, key=lambda p: (-p.rank, p.seq)):
                self.unqueue(p, "too_few_units", "withdrawn")
            self.serve()
        return Answer("done")

    # Time, connections, restarts.

    def tick(self) -> None:
        """Whatever is due ends, the earliest first; of equals the one that the journal names first."""
        while True:
            due = [(h.deadline, "lease", h.epoch) for h in self.leases.values() if h.deadline <= self.now]
            due += [
                (p.deadline, "place", p.seq)
                for p in self.places.values()
                if p.deadline is not None and p.deadline <= self.now
            ]
            if not due:
                return
            first = min(due)[0]
            equals = {(kind, key) for at, kind, key in due if at == first}
            kind, key = min(equals, key=self._named_at)
            if kind == "lease":
                held = self.leases[key]
                self.pull("lease.expired", epoch=held.epoch, reason=held.reason)
                self.end(held)
            else:
                p = self.places[key]
                reason = "gone" if p.connection is None else "deadline"
                self.unqueue(p, reason, "deadline")
            self.serve()

    def _named_at(self, due: tuple[str, int]) -> int:
        kind, key = due
        for at, row in enumerate(self.rows):
            if row.get("epoch" if kind == "lease" else "place") == key:
                return at
        return len(self.rows)

    def disconnect(self, agent: str, connection: int) -> None:
        """A connection is gone."""
        self.online.get(agent, set()).discard(connection)
        self.seen[agent] = self.now
        for held in self.leases.values():
            if held.tie == connection:
                held.tie = None
                if self.now + self.tie_grace_ms < held.deadline and not held.parked:
                    held.deadline, held.reason = self.now + self.tie_grace_ms, "connection"
        for p in self.places.values():
            if p.connection == connection:
                p.connection = p.request = None
                self._expect(p)

    def _expect(self, p: Waiter) -> None:
        p.deadline = self.now + self.reattach_ms
        if p.until is not None:
            p.deadline = min(p.deadline, p.until)

    def restart(self) -> None:
        """The hub was killed: deadlines are full again, nobody is there."""
        self.now = 0
        self.online.clear()
        self.seen.clear()
        for held in self.leases.values():
            held.tie = held.left = None
            held.reason = "parked" if held.parked else "ttl"
            held.deadline = self.parked_ms_max if held.parked else held.ttl_ms
        for p in self.places.values():
            p.connection = p.request = None
            p.until = p.wait_ms
            self._expect(p)

    # What must always hold.

    def check(self) -> None:
        """Promises 1 to 3, and that nobody waits in vain."""
        held = list(self.leases.values())
        for at, one in enumerate(held):
            for other in held[:at]:
                assert not contend(one.want, other.want), f"{one} and {other}"
        for pool, capacity in self.pools.items():
            assert sum(dict(h.want.pools).get(pool, 0) for h in held) <= max(capacity, 3)
        for p in self.places.values():
            own = self.own(p.want)
            assert p.connection is None or not self.is_free(p.want, p.rank, p.seq, own), f"{p} could be granted"
        assert not self.has_circle(), "agents wait for each other"


def is_below(path: str, olds: Iterable[str]) -> bool:
    """True when an old path is the same, or spells out a directory above it, or all below one."""
    parts = path.split("/")
    heads = {"/".join(parts[:count]) for count in range(1, len(parts))}
    plain = {head for head in heads if not any(sign in head for sign in "*?[")}
    return path in olds or bool({"**", *plain, *(f"{head}/**" for head in plain)}.intersection(olds))
