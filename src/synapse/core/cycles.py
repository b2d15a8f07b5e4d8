"""Deadlocks: who waits for whom, and whether one more wait or grant would close a circle.

Who holds is a party: an agent, or one process of it. What was asked for reentrantly is the agent's, whichever process
asked; a non-reentrant lease (`lock`, `client.lease()`) is its process's, which is told by the connection. A process
that waits holds up its agent, so an agent waits for all that its processes wait for; but no process waits for what
another one of its agent waits for, unless that one runs under its lease (a command under `lock`, which ends before the
lease does), or under a lease that was asked for so in turn. A process may wait for what its own agent holds as such,
when it runs under no lease: any process may give that back, once what runs under it has ended. What its agent as such
only waits for nobody can give back yet, so behind such a place it waits for what that place waits for. While no
connection of a process is known (the hub was started again, and the process is not back yet), what it holds and where
it waits may be any process's of its agent. Units of pools larger than one do not count: any holder may free one, so
such waits need a deadline instead.

A circle is told to who asks: who holds or waits in a private room that it may not see is named `private`.
"""

from collections import deque
from collections.abc import Collection, Container, Iterable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from synapse.core.by import By
from synapse.core.events import Ask
from synapse.core.leases import NO_LEASES, NO_PLACES, Lease, Leases, Place, View
from synapse.core.refusals import PRIVATE, masked

if TYPE_CHECKING:
    from synapse.core.state import State

Party: TypeAlias = tuple[int, int]
"""An agent id, and 0 for the agent itself, or the connection of a process."""
Node: TypeAlias = Party | int
"""Who waits, or the seq of a place, or the epoch of a lease."""
Step: TypeAlias = tuple[Node, str, int]
"""What is waited for, the name of whose it is, as it may be told, and the epoch or place that is in the way."""

_LOOKS_MAX: Final = 64
"""Of so many leases of an agent it is looked at who waits for them, before everybody is."""


def cycle_of_wait(
    state: "State", ask: Ask, by: By, rank: int, seq: int, view: View, under: int | None = None
) -> list[str] | None:
    """The circle of agent names, the first one again at the end, that would close if `ask` waited with `rank` behind
    the places before `seq`; None when there is none. by: who asks, over the connection of its process. under: the epoch
    of the lease under which that process runs."""
    ahead = list(_in_the_way(state, ask, rank, seq, view, by))
    above = _above(state, under)
    if any(step[0] in above for step in ahead) or _holds_against(state, under, ask, view):
        return [ask.owner, ask.owner]  # for what ends after it
    behind = {place.seq for place in state.leases.places_behind(ask, rank, seq, view)}
    if ahead and (behind or _may_be_waited_for(state, ask.agent)):
        cycle = _search(
            state, ask, by, ahead, _of_process(ask, by.connection) | above | behind, view, is_nested=under is not None
        )
        if cycle is not None:
            return cycle
    return cycle_of_grant(state, ask, by, rank, seq, view)  # which those behind will wait for too


def cycle_of_grant(state: "State", ask: Ask, by: By, rank: int, seq: int, view: View) -> list[str] | None:
    """As `cycle_of_wait`, if `ask` were granted past the places that are not ahead of it."""
    waits = list(_places_of(state, _party(ask, by.connection), view))
    if not waits:
        return None
    behind = state.leases.places_behind(ask, rank, seq, view)
    ends = {place.seq for place in behind if not ask.reentrant or place.ask.agent != ask.agent}
    first = [step for place in waits for step in _in_the_way(state, place.ask, place.rank, place.seq, view, by)]
    return _search(state, ask, by, first, ends, view) if ends else None


def _party(ask: Ask, process: int) -> Party:
    return ask.agent, 0 if ask.reentrant else process


def _of_process(ask: Ask, process: int) -> set[Node]:
    return {(ask.agent, 0), (ask.agent, process)}


def _chain(state: "State", under: int | None) -> Iterator[Lease]:
    """The live leases under which a process runs, the innermost first; each has an epoch before the last one's."""
    while under is not None and (lease := state.leases.live.get(under)) is not None:
        yield lease
        under = lease.under


def _above(state: "State", under: int | None) -> set[Node]:
    """The other processes that go on only after what runs under their leases, or their leases. An agent does so
    anyway."""
    tied = state.soft.leasing.tied
    chain = [lease for lease in _chain(state, under) if not lease.ask.reentrant]
    return {(lease.ask.agent, tied[lease.epoch]) if lease.epoch in tied else lease.epoch for lease in chain}


def _holds_against(state: "State", under: int | None, ask: Ask, view: View) -> bool:
    """True when a lease under which the process runs is itself in the way."""
    if under is None:
        return False
    against = list(state.leases.leases_against(_of_single_units(state.leases, ask), view))
    return any(lease in against for lease in _chain(state, under))


def _may_be_waited_for(state: "State", agent: int) -> bool:
    """False when a cheap look shows that nobody waits for what an agent has, or behind where it waits."""
    leases = state.leases
    held, waits = leases.of_agent.get(agent, NO_LEASES), leases.places_of_agent.get(agent, NO_PLACES)
    if len(held) > _LOOKS_MAX:
        return True
    asks = [*(lease.ask for lease in held.values()), *(place.ask for place in waits.values())]
    return any(
        any(leases.pools[name].waiting for name, _ in ask.pools)
        or any(place.ask is not ask for place in leases.places_near(ask))
        for ask in asks
    )


def _search(
    state: "State", ask: Ask, by: By, first: list[Step], ends: Container[Node], view: View, *, is_nested: bool = False
) -> list[str] | None:
    """Breadth first from what `ask` waits for, along what that waits for, until it comes to one of `ends`. What the
    process that asks holds or waits for itself, and what its agent holds, is no first step: a process may do several
    things beside each other. is_nested: that process runs under a lease, maybe its agent's."""
    attached, agent = state.soft.leasing.attached, (ask.agent, 0)

    def is_own(node: Node) -> bool:
        return attached.get(node) == by.connection if isinstance(node, int) else node in _of_process(ask, by.connection)

    steps, path = [step for step in first if not is_own(step[0])], [ask.owner]
    queue: deque[tuple[Place, list[str]]] = deque()
    seen: set[Node] = set()
    settled: set[int] = set()  # places by which nobody else is found any more
    while True:
        for node, name, key in steps:
            if isinstance(node, tuple) and key in state.leases.places:
                settled.add(key)
            if node in seen:
                continue
            if node in ends and node not in state.leases.places:
                return [*path, ask.owner]
            new = [place for place in _places_of(state, node, view) if place.seq not in seen]
            seen.update([node, *(place.seq for place in new)])
            for place in new:
                told = name if masked(state, place.ask, by) is place.ask else PRIVATE
                if place.seq in ends:
                    return [*path, told, ask.owner]
                queue.append((place, [*path, told]))
        if not queue:
            return None
        place, path = queue.popleft()
        steps = list(_in_the_way(state, place.ask, place.rank, place.seq, view, by, settled))
        if place.ask.agent == ask.agent and not is_nested:
            steps = [step for step in steps if step[0] != agent]  # any process of it may give that back


def _places_of(state: "State", node: Node, view: View) -> Iterable[Place]:
    """Where it is decided when a node is done: a place itself; an agent at all its places, a process at those on its
    connection and at those of what runs under its leases, and a lease of an agent at the latter. Whose process is not
    known may be anybody's of its agent."""
    attached, leases = state.soft.leasing.attached, state.leases
    if isinstance(node, int) and node in leases.places:
        return [leases.places[node]]
    agent = leases.live[node].ask.agent if isinstance(node, int) else node[0]
    places = [place for seq, place in leases.places_of_agent.get(agent, {}).items() if seq not in view.gone_places]
    if isinstance(node, tuple):
        process = node[1]
        return [p for p in places if process in (0, attached.get(p.seq, process)) or node in _above(state, p.under)]
    if not leases.live[node].ask.reentrant:
        return places
    return [place for place in places if any(lease.epoch == node for lease in _chain(state, place.under))]


def _in_the_way(
    state: "State", ask: Ask, rank: int, seq: int, view: View, by: By, but: Collection[int] = ()
) -> Iterator[Step]:
    """Who holds what `ask` wants, and who waits ahead; of its own agent the lease or place, if no process is known.
    but: places that are not looked at."""
    leases: Leases = state.leases
    soft = state.soft.leasing
    ask = _of_single_units(leases, ask)
    for item in leases.leases_against(ask, view):
        if isinstance(item, Lease):
            yield from _steps(state, ask, item.ask, item.epoch, soft.tied, by)
        else:
            yield (item.agent, 0), masked(state, item, by).owner, 0
    if len(but) == len(leases.places):
        return
    for place in leases.places_against(ask, rank, seq, view, but):
        yield from _steps(state, ask, place.ask, place.seq, soft.attached, by)


def _steps(state: "State", ask: Ask, other: Ask, key: int, processes: dict[int, int], by: By) -> Iterator[Step]:
    name = masked(state, other, by).owner
    process = 0 if other.reentrant else processes.get(key, 0)
    if ask.agent == other.agent and not process:
        yield key, name, key
    if ask.agent != other.agent or process or other.reentrant:
        yield (other.agent, process), name, key


def _of_single_units(leases: Leases, ask: Ask) -> Ask:
    single = tuple([(name, units) for name, units in ask.pools if leases.pools[name].capacity == 1])
    return ask if single == ask.pools else msgspec.structs.replace(ask, pools=single)
