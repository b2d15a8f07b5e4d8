"""Deadlocks: who waits for whom, and whether one more wait or grant would close a circle.

Who holds is a party: an agent, or one process of it. What was asked for reentrantly is the agent's, whichever process
asked; a non-reentrant lease (`lock`, `client.lease()`) is its process's, which is told by the connection. A process
that waits holds up its agent, so an agent waits for all that its processes wait for; but no process waits for what
another one of its agent waits for, unless that one runs under its lease (a command under `lock`, which ends before the
lease does), or under a lease that was asked for so in turn. A process may wait for what its own agent holds as
such, also behind others of its agent that do, when it runs under no lease. Units of pools larger than one do not count:
any holder may free one, so such waits need a deadline instead.

A circle is told to who asks: who holds or waits in a private room that it may not see is named `private`.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
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


def cycle_of_wait(
    state: "State", ask: Ask, by: By, rank: int, seq: int, view: View, under: int | None = None
) -> list[str] | None:
    """The circle of agent names, the first one again at the end, that would close if `ask` waited with `rank` behind
    the places before `seq`; None when there is none. by: who asks, over the connection of its process. under: the epoch
    of the lease under which that process runs."""
    ahead = [(party, name, ask) for party, name in _in_the_way(state, ask, rank, seq, view, by)]
    passed, mine = _passed(state, ask, rank, seq, view), _of_process(ask, by.connection)
    above = _above(state, under)
    if under is not None:
        if any(party in above for party, _, _ in ahead) or _holds_against(state, under, ask, view):
            return [ask.owner, ask.owner]  # for what ends after it
        cycle = _search(state, ask, by, mine | above, ahead, passed, view, is_nested=True)
        if cycle is not None:
            return cycle
    behind = _blockers(state, _party(ask, by.connection), view, by)
    too = dict.fromkeys(above, ahead)
    return _search(state, ask, by, mine, [*ahead, *behind], passed, view, too, is_nested=under is not None)


def cycle_of_grant(state: "State", ask: Ask, by: By, rank: int, seq: int, view: View) -> list[str] | None:
    """As `cycle_of_wait`, if `ask` were granted past the places that are not ahead of it."""
    first = list(_blockers(state, _party(ask, by.connection), view, by))
    if not first:
        return None
    return _search(state, ask, by, _of_process(ask, by.connection), first, _passed(state, ask, rank, seq, view), view)


def _party(ask: Ask, process: int) -> Party:
    return ask.agent, 0 if ask.reentrant else process


def _party_of_place(soft: "Leasing", place: Place) -> Party:
    return _party(place.ask, soft.attached.get(place.seq, -place.seq))


def _party_of_lease(soft: "Leasing", lease: Lease) -> Party:
    return _party(lease.ask, soft.tied.get(lease.epoch, -lease.epoch))


def _of_process(ask: Ask, process: int) -> set[Party]:
    return {(ask.agent, 0), (ask.agent, process)}


def _chain(state: "State", under: int | None) -> Iterator[Lease]:
    """The live leases under which a process runs, the innermost first; each has an epoch before the last one's."""
    while under is not None and (lease := state.leases.live.get(under)) is not None:
        yield lease
        under = lease.under


def _above(state: "State", under: int | None) -> set[Party]:
    """The other processes that go on only after what runs under their leases. An agent does so anyway."""
    soft = state.soft.leasing
    return {_party_of_lease(soft, lease) for lease in _chain(state, under) if not lease.ask.reentrant}


def _holds_against(state: "State", under: int, ask: Ask, view: View) -> bool:
    """True when a lease under which the process runs is itself in the way."""
    against = list(state.leases.leases_against(_of_single_units(state.leases, ask), view))
    return any(lease in against for lease in _chain(state, under))


def _passed(state: "State", ask: Ask, rank: int, seq: int, view: View) -> dict[Party, Ask]:
    """Parties that will wait for `ask` too, with what they want: the agents and the processes of conflicting places not
    ahead of it, and those under whose leases they run. Of its own agent only other processes do."""
    attached, found = state.soft.leasing.attached, dict[Party, Ask]()
    for place in state.leases.places_behind(ask, rank, seq, view):
        agent = place.ask.agent
        parties = [*_above(state, place.under), (agent, attached.get(place.seq, -place.seq))]
        if agent != ask.agent:
            parties.append((agent, 0))
        for party in parties:
            found.setdefault(party, place.ask)
    return found


Step: TypeAlias = tuple[Party, str, Ask]
"""Who is waited for, its name as it may be told, and what is wanted of it."""


def _search(
    state: "State",
    ask: Ask,
    by: By,
    mine: set[Party],
    first: list[Step],
    passed: dict[Party, Ask],
    view: View,
    too: Mapping[Party, Sequence[Step]] = MappingProxyType({}),
    *,
    is_nested: bool = False,
) -> list[str] | None:
    """Breadth first from who asks along who waits for whom, until it comes back to one of `mine`. too: whom a party
    will wait for besides, once `ask` waits. is_nested: the process that asks runs under a lease, maybe its agent's."""
    paths: dict[Party, list[str]] = {}
    queue: deque[Party] = deque()
    agent = (ask.agent, 0)

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
        if party in passed and not (ask.reentrant and party[0] == ask.agent and not is_nested):
            return [*waited(paths[party], passed[party]), ask.owner]
        for step in chain(_blockers(state, party, view, by), too.get(party, ())):
            if step[0] == agent and party[0] == ask.agent and not is_nested:
                continue  # what its agent holds as such any process may give back, also the one that asks
            if step[0] in mine:
                return [*waited(paths[party], step[2]), ask.owner]
            reach(step, paths[party])
    return None


def _blockers(state: "State", party: Party, view: View, by: By) -> Iterator[Step]:
    """Whom a party waits for: an agent by all its places, a process by those on its connection and by those of what
    runs under its leases."""
    attached, (agent, process) = state.soft.leasing.attached, party
    for place in state.leases.places_of_agent.get(agent, {}).values():
        if place.seq in view.gone_places:
            continue
        if process in (0, attached.get(place.seq, -place.seq)) or party in _above(state, place.under):
            for other, name in _in_the_way(state, place.ask, place.rank, place.seq, view, by):
                yield other, name, place.ask


def _in_the_way(state: "State", ask: Ask, rank: int, seq: int, view: View, by: By) -> Iterator[tuple[Party, str]]:
    leases: Leases = state.leases
    soft = state.soft.leasing
    ask = _of_single_units(leases, ask)
    for item in leases.leases_against(ask, view):
        if isinstance(item, Lease):
            yield _party_of_lease(soft, item), masked(state, item.ask, by).owner
        else:
            yield _party(item, -1), masked(state, item, by).owner
    for place in leases.places_against(ask, rank, seq, view):
        yield _party_of_place(soft, place), masked(state, place.ask, by).owner


def _of_single_units(leases: Leases, ask: Ask) -> Ask:
    single = tuple([(name, units) for name, units in ask.pools if leases.pools[name].capacity == 1])
    return ask if single == ask.pools else msgspec.structs.replace(ask, pools=single)
