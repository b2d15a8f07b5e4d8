"""Deadlocks: who waits for whom, and whether one more wait or grant would close a circle.

An agent waits for the holders of leases, and for the agents of places ahead, that stand in the way of what it waits
for. Units of pools larger than one do not count: any holder may free one, so such waits need a deadline instead.
"""

from collections import deque
from collections.abc import Iterator

import msgspec

from synapse.core.events import Ask
from synapse.core.leases import Lease, Leases, View


def cycle_of_wait(leases: Leases, ask: Ask, rank: int, seq: int, view: View) -> list[str] | None:
    """The circle of agent names, the first one again at the end, that would close if `ask` waited with `rank` behind
    the places before `seq`; None when there is none."""
    first = [*_in_the_way(leases, ask, rank, seq, view), *_blockers(leases, ask.agent, view)]
    return _search(leases, ask, first, _passed(leases, ask, rank, seq, view), view)


def cycle_of_grant(leases: Leases, ask: Ask, rank: int, seq: int, view: View) -> list[str] | None:
    """As `cycle_of_wait`, if `ask` were granted past the places that are not ahead of it."""
    first = list(_blockers(leases, ask.agent, view))
    return _search(leases, ask, first, _passed(leases, ask, rank, seq, view), view) if first else None


def _passed(leases: Leases, ask: Ask, rank: int, seq: int, view: View) -> set[int]:
    """Agents that will wait for `ask` too: those of conflicting places that are not ahead of it."""
    return {place.ask.agent for place in leases.places_behind(ask, rank, seq, view)} - {ask.agent}


def _search(leases: Leases, ask: Ask, first: list[tuple[int, str]], passed: set[int], view: View) -> list[str] | None:
    """Breadth first from the agent of `ask` along who waits for whom, until it comes back to it."""
    paths: dict[int, list[str]] = {}
    queue: deque[int] = deque()

    def reach(agent: int, name: str, path: list[str]) -> None:
        if agent not in paths and agent != ask.agent:
            paths[agent] = [*path, name]
            queue.append(agent)

    for agent, name in first:
        reach(agent, name, [ask.owner])
    while queue:
        agent = queue.popleft()
        if agent in passed:
            return [*paths[agent], ask.owner]
        for other, name in _blockers(leases, agent, view):
            if other == ask.agent:
                return [*paths[agent], ask.owner]
            reach(other, name, paths[agent])
    return None


def _blockers(leases: Leases, agent: int, view: View) -> Iterator[tuple[int, str]]:
    """Whom an agent waits for, by all its places."""
    for place in leases.places_of_agent.get(agent, {}).values():
        if place.seq not in view.gone_places:
            yield from _in_the_way(leases, place.ask, place.rank, place.seq, view)


def _in_the_way(leases: Leases, ask: Ask, rank: int, seq: int, view: View) -> Iterator[tuple[int, str]]:
    single = tuple([(name, units) for name, units in ask.pools if leases.pools[name].capacity == 1])
    if single != ask.pools:
        ask = msgspec.structs.replace(ask, pools=single)
    for item in leases.leases_against(ask, view):
        other = item.ask if isinstance(item, Lease) else item
        yield other.agent, other.owner
    for place in leases.places_against(ask, rank, seq, view):
        yield place.ask.agent, place.ask.owner
