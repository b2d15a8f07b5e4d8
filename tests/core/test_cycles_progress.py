"""No wait is for ever: processes that claim one thing after the other, wait, and give back, all come to an end.

Nothing here knows how circles are found. Each process does one thing at a time, holds what it locked until it is done
with what it claimed behind it, and a command under a lock ends before the lock does. What an agent claimed as such is
given back by some other process of it. If nobody can go on and somebody waits, a wait should have been refused.
"""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.lease_world import LeaseWorld, claim

from synapse.core.claims import decide_attach
from synapse.core.events import LeaseGranted, LeaseHandedOff, LeaseQueued, LeaseUnqueued, Recorded
from synapse.errors import Rejected
from synapse.protocol.commands import HandOffLease, ReleaseLease

AGENTS = ("ada", "bob", "cy")
REFUSALS = ("deadlock", "lease_held", "lease_queued")


@dataclass
class Process:
    """One thing at a time. held: what it locked, the latest last. place: where it waits. epoch: what it runs under.
    children: commands under its latest lock that have not ended. is_back: it has a connection."""

    agent: str
    connection: int
    epoch: int | None = None
    held: list[tuple[str, int]] = field(default_factory=list)
    place: int | None = None
    children: int = 0
    parent: "Process | None" = None
    is_back: bool = True


class Yard:
    """Processes, and what their agents hold as such: epochs with the number of commands that run under each."""

    def __init__(self) -> None:
        self.world = LeaseWorld()
        self.world.pool("one", 1)
        self.processes = [
            Process(agent, 10 * at + number) for at, agent in enumerate(AGENTS, 1) for number in (1, 2, 3)
        ]
        self.of_agents: dict[int, tuple[str, str]] = {}
        self.under: dict[int, int] = {}
        self.connections = 100
        self.refused = self.waited = self.handed = 0

    def able(self) -> list[Process]:
        """Who is there, and neither waits nor has a command under its lock to wait for."""
        return [
            process for process in self.processes if process.place is None and not process.children and process.is_back
        ]

    def restart(self) -> None:
        """The hub forgets which connection was whose."""
        soft = self.world.state.soft.leasing
        for process in self.processes:
            process.is_back = False
            if process.place is not None:
                soft.detach(process.place)
            for _, epoch in process.held:
                soft.untie(epoch)

    def come_back(self, process: Process, *, is_half: bool = False) -> None:
        """On a new connection its leases are renewed, and its place is taken up again. is_half: not the latter yet."""
        soft = self.world.state.soft.leasing
        self.connections += 1
        process.connection = self.connections
        for _, epoch in process.held:
            soft.tie(epoch, process.connection)
        if process.place is not None and not is_half:
            soft.attach(process.place, process.connection)
            place = self.world.place(process.place)
            self.hear(self.world.record(decide_attach(self.world.state, place), process.agent))
        process.is_back = not is_half

    def claim(self, process: Process, task: str, *paths: str, **fields: Any) -> None:
        """Granted, in line, or refused. What it locked itself it does not claim again: it would wait for itself, which
        a process that does several things beside each other may. Nor what a process above it locked that is not back
        after a restart: whose that is the hub knows only when it is back."""
        above, locked = process.parent, list(process.held)
        while above is not None:
            locked += [] if above.is_back else above.held
            above = above.parent
        mine = [self.world.lease(epoch).ask for _, epoch in locked]
        wanted = {task, *paths, *fields["pools"]}
        if any(wanted & {ask.task, *ask.paths, *dict(ask.pools)} for ask in mine):
            return
        command = claim(task, *paths, wait_ms=None, under=process.epoch, tied=not fields["reentrant"], **fields)
        by = self.world.by(process.agent, connection=process.connection)
        try:
            events = self.world.decide(command, by)
        except Rejected as refused:
            assert refused.code in REFUSALS, refused
            self.refused += 1
            return
        recorded = self.world.record(events, process.agent)
        if events and isinstance(events[0], LeaseQueued):
            process.place = recorded[0].seq
            self.world.state.soft.leasing.attach(process.place, process.connection)
            self.waited += 1
        self.hear(recorded, process)

    def hear(self, recorded: list[Recorded], asker: Process | None = None) -> None:
        """Whoever was granted something has it now."""
        for item in recorded:
            if isinstance(item.event, LeaseHandedOff):
                self.of_agents.pop(item.event.previous)
                self.of_agents[item.seq] = (item.event.ask.owner, item.event.ask.task)
            elif isinstance(item.event, LeaseUnqueued):  # answered by what was handed over
                next(p for p in self.processes if p.place == item.event.place).place = None
            elif isinstance(item.event, LeaseGranted):
                place = item.event.place
                process = asker if place is None else next(p for p in self.processes if p.place == place)
                assert process is not None
                process.place = None if place is not None else process.place
                self.of_agents.pop(item.event.replaces or 0, None)
                if item.event.ask.reentrant:
                    self.of_agents[item.seq] = (process.agent, item.event.ask.task)
                else:
                    self.world.state.soft.leasing.tie(item.seq, process.connection)
                    process.held.append((item.event.ask.task, item.seq))

    def start(self, process: Process) -> None:
        """A command under the latest lock."""
        self.connections += 1
        self.processes.append(Process(process.agent, self.connections, process.held[-1][1], parent=process))
        process.children += 1

    def start_under(self, epoch: int) -> None:
        """A command under what its agent holds as such."""
        self.connections += 1
        self.processes.append(Process(self.of_agents[epoch][0], self.connections, epoch))
        self.under[epoch] = self.under.get(epoch, 0) + 1

    def hand_off(self, epoch: int, to: str) -> None:
        """What an agent holds as such becomes another one's; what runs under it has nothing any more to run under."""
        agent, task = self.of_agents[epoch]
        by = self.world.by(agent)
        try:
            events = self.world.decide(HandOffLease(task=task, to=to, epoch=epoch), by)
        except Rejected as refused:
            assert refused.code in (*REFUSALS, "bad_request"), refused
            self.refused += 1
            return
        self.handed += 1
        self.hear(self.world.record(events, agent))

    def go_on(self, process: Process) -> bool:
        """It gives its latest lock back, or ends when it is a command that has none."""
        if process.held:
            task, epoch = process.held.pop()
            self.hear(self.world.do(ReleaseLease(task=task, epoch=epoch), process.agent)[0])
            return True
        if process.epoch is None:
            return False
        self.processes.remove(process)
        if process.parent is not None:
            process.parent.children -= 1
        else:
            self.under[process.epoch] -= 1
        return True

    def give_back(self) -> bool:
        """What an agent holds as such, and nothing runs under any more."""
        for epoch, (agent, task) in self.of_agents.items():
            if not self.under.get(epoch):
                del self.of_agents[epoch]
                self.hear(self.world.do(ReleaseLease(task=task, epoch=epoch), agent)[0])
                return True
        return False

    def finish(self) -> None:
        """Everybody comes back, and ends what was begun."""
        for process in self.processes:
            if not process.is_back:
                self.come_back(process)
        while any(self.go_on(process) for process in self.able()) or self.give_back():
            pass
        waiting = [
            (p.agent, p.connection, self.world.place(p.place).ask) for p in self.processes if p.place is not None
        ]
        assert waiting == [], "these wait for ever"
        assert self.world.held == []


steps = st.tuples(
    st.integers(0, 99),
    st.sampled_from(
        ["claim"] * 6 + ["start", "start", "start_under", "go_on", "hand_off", "restart", "come_back", "come_back"]
    ),
    st.sampled_from([("a",), ("b",), ("c",), ("a", "b"), ("b", "c"), ()]),
    st.sampled_from([False, False, True]),
    st.sampled_from(["low", "normal", "normal", "high"]),
    st.sampled_from(["exclusive", "exclusive", "shared"]),
)


def run(script: list[tuple[int, str, tuple[str, ...], bool, str, str]]) -> Yard:
    """The script, and then to the end."""
    yard = Yard()
    for draw, what, paths, reentrant, priority, mode in script:
        able = yard.able()
        process = able[draw % len(able)] if able else None
        if what == "start_under":
            if yard.of_agents:
                yard.start_under(sorted(yard.of_agents)[draw % len(yard.of_agents)])
        elif what == "hand_off":
            if yard.of_agents:
                yard.hand_off(sorted(yard.of_agents)[draw % len(yard.of_agents)], AGENTS[draw % len(AGENTS)])
        elif what == "restart":
            if draw % 4 == 0:
                yard.restart()
        elif what == "come_back":
            away = [process for process in yard.processes if not process.is_back]
            if away:
                yard.come_back(away[draw % len(away)], is_half=draw % 2 == 0)
        elif process is None:
            continue
        elif what == "claim":
            pools = {} if paths else {"one": 1}
            task = f"T{draw % 4}" if reentrant else f"L{draw}"
            yard.claim(process, task, *paths, reentrant=reentrant, priority=priority, mode=mode, pools=pools)
        elif what == "start" and process.held:
            yard.start(process)
        else:
            yard.go_on(process)
    yard.finish()
    return yard


def test_who_waits_gets_what_it_waits_for_when_all_give_back_what_they_can() -> None:
    reached = {"refused": 0, "waited": 0, "handed": 0}

    @settings(max_examples=300)
    @given(st.lists(steps, min_size=25, max_size=50))
    def check(script: list[tuple[int, str, tuple[str, ...], bool, str, str]]) -> None:
        yard = run(script)
        for name in reached:
            reached[name] += getattr(yard, name)

    check()
    assert min(reached.values()) > 100, reached
