"""Deadlocks: who waits for whom, and whether one more wait or grant would close a circle.

Who holds is a party: an agent, or one process of it. What was asked for reentrantly is the agent's, whichever process
asked; a non-reentrant lease (`lock`, `client.lease()`) is its process's, which is told by the connection. A process
that waits holds up its agent, so an agent waits for all that its processes wait for; but no process waits for what
another one of its agent waits for. Units of pools larger than one do not count: any holder may free one, so such waits
need a deadline instead.

A circle is told to who asks: who holds or waits in a private room that it may not see is named `private`.
"""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from synapse.core.by import By
from synapse.core.events import Ask
from synapse.core.leases import Lease, Leases, Place, View
from synapse.core.refusals import PRIVATE, masked

if TYPE_CHECKING:
    from synapse.core.leasing import Leasing
    from synapse.core.state import State

Party: TypeAlias = tuple[int, int]
"""An agent id, and 0 for the agent itself, the connection of a process, or the negative seq of what no connection is
known for."""


def cycle_of_wait(state: "State", ask: Ask, by: By, rank: int, seq: int, view: View) -> list[str] | None:
    """The circle of agent names, the first one again at the end, that would close if `ask` waited with `rank` behind
    the places before `seq`; None when there is none. by: who asks, over the connection of its process."""
    first = [(party, name, ask) for party, name in _in_the_way(state, ask, rank, seq, view, by)]
    first += _blockers(state, _party(ask, by.connection), view, by)
    return _search(state, ask, by, first, _passed(state, ask, rank, seq, view), view)


def cycle_of_grant(state: "State", ask: Ask, by: By, rank: int, seq: int, view: View) -> list[str] | None:
    """As `cycle_of_wait`, if `ask` were granted past the places that are not ahead of it."""
    first = list(_blockers(state, _party(ask, by.connection), view, by))
    return _search(state, ask, by, first, _passed(state, ask, rank, seq, view), view) if first else None


def _party(ask: Ask, process: int) -> Party:
    return ask.agent, 0 if ask.reentrant else process


def _party_of_place(soft: "Leasing", place: Place) -> Party:
    return _party(place.ask, soft.attached.get(place.seq, -place.seq))


def _party_of_lease(soft: "Leasing", lease: Lease) -> Party:
    return _party(lease.ask, soft.tied.get(lease.epoch, -lease.epoch))


def _passed(state: "State", ask: Ask, rank: int, seq: int, view: View) -> dict[Party, Ask]:
    """Parties that will wait for `ask` too, with what they want: the agents and the processes of conflicting places not
    ahead of it."""
    attached, found = state.soft.leasing.attached, dict[Party, Ask]()
    for place in state.leases.places_behind(ask, rank, seq, view):
        agent = place.ask.agent
        if agent != ask.agent:
            for party in ((agent, 0), (agent, attached.get(place.seq, -place.seq))):
                found.setdefault(party, place.ask)
    return found


Step: TypeAlias = tuple[Party, str, Ask]
"""Who is waited for, its name as it may be told, and what is wanted of it."""


def _search(
    state: "State", ask: Ask, by: By, first: list[Step], passed: dict[Party, Ask], view: View
) -> list[str] | None:
    """Breadth first from who asks along who waits for whom, until it comes back to its agent or its process."""
    mine = {(ask.agent, 0), (ask.agent, by.connection)}
    paths: dict[Party, list[str]] = {}
    queue: deque[Party] = deque()

    def waited(path: list[str], wanted: Ask) -> list[str]:
        """The path, where whoever is last waits for `wanted`, of which who asks may not know."""
        is_told = len(path) == 1 or masked(state, wanted, by) is wanted
        return path if is_told else [*path[:-1], PRIVATE]

    def reach(step: Step, path: list[str]) -> None:
        party, name, wanted = step
        if party not in paths and party not in mine:
            paths[party] = [*waited(path, wanted), name]
            queue.append(party)

    for step in first:
        reach(step, [ask.owner])
    while queue:
        party = queue.popleft()
        if party in passed:
            return [*waited(paths[party], passed[party]), ask.owner]
        for step in _blockers(state, party, view, by):
            if step[0] in mine:
                return [*waited(paths[party], step[2]), ask.owner]
            reach(step, paths[party])
    return None


def _blockers(state: "State", party: Party, view: View, by: By) -> Iterator[Step]:
    """Whom a party waits for: an agent by all its places, a process by those on its connection."""
    attached, (agent, process) = state.soft.leasing.attached, party
    for place in state.leases.places_of_agent.get(agent, {}).values():
        if place.seq not in view.gone_places and process in (0, attached.get(place.seq, -place.seq)):
            for other, name in _in_the_way(state, place.ask, place.rank, place.seq, view, by):
                yield other, name, place.ask


def _in_the_way(state: "State", ask: Ask, rank: int, seq: int, view: View, by: By) -> Iterator[tuple[Party, str]]:
    leases: Leases = state.leases
    soft = state.soft.leasing
    single = tuple([(name, units) for name, units in ask.pools if leases.pools[name].capacity == 1])
    if single != ask.pools:
        ask = msgspec.structs.replace(ask, pools=single)
    for item in leases.leases_against(ask, view):
        if isinstance(item, Lease):
            yield _party_of_lease(soft, item), masked(state, item.ask, by).owner
        else:
            yield _party(item, -1), masked(state, item, by).owner
    for place in leases.places_against(ask, rank, seq, view):
        yield _party_of_place(soft, place), masked(state, place.ask, by).owner
