"""Plan, leases and lifecycle together, against an independent model: any sequence of requests, time and restarts.

The hub in memory, on a clock that stands still. After each request the model says, by rules of its own, which status
each task has, who holds what, what is ready, which openings must have been announced since, and how it was answered.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.figures import tell

from synapse.core.state import decode_state, digest, encode_state
from synapse.protocol.codec import decode_hub_frame, encode_request
from synapse.protocol.commands import ClaimLease, Command, Hello, ReleaseLease
from synapse.protocol.limits import Limits
from synapse.protocol.plan_commands import DeclareTask, DeclareTasks, NoteProgress, RemoveTask, TaskSpec, UpdateTask
from synapse.testing import MemoryHub, MemoryPeer

AGENTS = ("ada", "bob")
TASKS = ("A", "B", "C", "D", "E")
STATUSES = ("open", "in_progress", "blocked", "waiting_for_input", "review", "done", "failed", "cancelled")
TTL_MS = 10_000
LIMITS = Limits(rate_agent_burst=10**9, rate_host_burst=10**9, rate_agent_per_s=10**6, rate_host_per_s=10**6)

LEGAL = {  # written down a second time, from the text of the issue
    "open": {"in_progress", "blocked", "waiting_for_input", "done", "failed", "cancelled"},
    "in_progress": {"open", "blocked", "waiting_for_input", "review", "done", "failed", "cancelled"},
    "blocked": {"open", "in_progress", "waiting_for_input", "failed", "cancelled"},
    "waiting_for_input": {"open", "in_progress", "blocked", "failed", "cancelled"},
    "review": {"open", "in_progress", "done", "failed", "cancelled"},
    "done": {"open"},
    "failed": {"open"},
    "cancelled": {"open"},
}
REACHED: Counter[str] = Counter()

agents, tasks, statuses = st.sampled_from(AGENTS), st.sampled_from(TASKS), st.sampled_from(STATUSES)
wants = st.lists(tasks, max_size=3, unique=True)
epochs = st.sampled_from(["none", "none", "mine", "old"])


@dataclass
class Planned:
    """A task of the model."""

    needs: tuple[str, ...]
    by: str
    status: str = "open"
    version: int = 0


@dataclass
class Model:
    """What must be true. held: task to holder, epoch and deadline. waits: task to who waits, in line."""

    plan: dict[str, Planned] = field(default_factory=dict)
    held: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    waits: dict[str, list[str]] = field(default_factory=dict)
    now: int = 0

    def ready(self) -> set[str]:
        return {
            name
            for name, task in self.plan.items()
            if task.status == "open" and all(n in self.plan and self.plan[n].status == "done" for n in task.needs)
        }

    def closes_a_cycle(self, new: Mapping[str, tuple[str, ...]]) -> bool:
        """By taking away what nothing is needed by, again and again, until nothing is left or a cycle is."""
        needs = {name: set(task.needs) for name, task in self.plan.items()} | {n: set(d) for n, d in new.items()}
        while True:
            free = [name for name, wanted in needs.items() if not wanted & needs.keys()]
            if not free:
                return bool(needs)
            for name in free:
                del needs[name]

    def claimed(self, task: str) -> None:
        if task in self.plan and self.plan[task].status == "open":
            self.plan[task].status = "in_progress"

    def ended(self, task: str) -> None:
        """The only lease on a task has ended by itself, or was given back: who waits gets it, or the task is open."""
        del self.held[task]
        if self.waits.get(task):
            self.held[task] = (self.waits[task].pop(0), 0, self.now + TTL_MS)  # the epoch is read from the hub
            self.claimed(task)
        elif task in self.plan and self.plan[task].status == "in_progress":
            self.plan[task].status = "open"


class PlanMachine(RuleBasedStateMachine):
    """Whatever the hub does, the model says too."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.hub = MemoryHub(limits=LIMITS)
        self.run(self.hub.__aenter__())
        self.model = Model()
        self.requests = 0
        self.old: dict[str, int] = {}
        self.peers: dict[str, MemoryPeer] = {}
        self.dial()
        self.read = self.hub.journal.head
        self.was_ready: set[str] = set()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def dial(self) -> None:
        self.peers = {name: self.hub.connect() for name in (*AGENTS, "operator")}
        for name in AGENTS:
            self.ask(name, Hello(name=name, secret=f"{name:*<32}", lasting=True))
        self.ask("operator", Hello(operator=True))

    def ask(self, name: str, command: Command) -> dict[str, Any] | None:
        """Send and let everything settle: the reply or the error, or None when none came."""
        self.requests += 1
        self.run(self.peers[name].send(encode_request(self.requests, command, None)))
        self.run(self.hub.settle())
        assert self.hub.failure is None
        found = None
        for peer in self.peers.values():
            for data in peer.received_now():
                frame = decode_hub_frame(data)
                if frame.id == self.requests and frame.type in ("reply", "error"):
                    found = {"type": frame.type, **json.loads(data)}
        return found

    def outcome(self, name: str, command: Command) -> str:
        """`ok`, `waits`, or the code of the refusal."""
        frame = self.ask(name, command)
        code = "waits" if frame is None else "ok" if frame["type"] == "reply" else str(frame["error"]["code"])
        REACHED[f"{type(command).__name__} {code}"] += 1
        return code

    def teardown(self) -> None:
        assert self.hub.replayed_digest() == digest(self.hub.state), "replay made another state"
        assert digest(decode_state(encode_state(self.hub.state))) == digest(self.hub.state), "a dump lost something"
        self.run(self.hub.__aexit__(None, None, None))
        self.loop.close()

    # Declaring.

    @rule(agent=agents, task=tasks, needs=st.one_of(st.none(), wants), versioned=st.booleans())
    def declare(self, agent: str, task: str, needs: list[str] | None, versioned: bool) -> None:
        old = self.model.plan.get(task)
        version = None if not versioned else 0 if old is None else old.version
        wanted = (() if old is None else old.needs) if needs is None else tuple(needs)
        command = DeclareTask(task=task, depends_on=None if needs is None else tuple(needs), if_version=version)
        code = self.outcome(agent, command)
        if task in wanted and needs is not None:
            assert code == "cycle"
        elif old is not None and old.needs != wanted and not versioned and old.by != agent:
            assert code == "version_conflict"
        elif self.model.closes_a_cycle({task: wanted}):
            assert code == "cycle"
        else:
            assert code == "ok"
            self.take(task, wanted, agent)

    @rule(agent=agents, chain=st.permutations(TASKS), closed=st.booleans())
    def declare_a_chain(self, agent: str, chain: list[str], closed: bool) -> None:
        new = {task: (chain[at - 1],) for at, task in enumerate(chain) if at or closed}
        specs = [
            TaskSpec(
                task=task, depends_on=needs, if_version=self.model.plan[task].version if task in self.model.plan else 0
            )
            for task, needs in new.items()
        ]
        code = self.outcome(agent, DeclareTasks(tasks=tuple(specs)))
        if self.model.closes_a_cycle(new):
            assert code == "cycle", "none of them is declared"
            return
        assert code == "ok"
        for task, needs in new.items():
            self.take(task, needs, agent)

    def take(self, task: str, needs: tuple[str, ...], agent: str) -> None:
        """The declaration is in the plan; a task that is leased already is being worked on."""
        old = self.model.plan.get(task)
        if old is None:
            self.model.plan[task] = Planned(needs, agent)
            if task in self.model.held:
                self.model.claimed(task)
        else:
            old.needs = needs
        self.model.plan[task].version = self.hub.state.plan.by_room[self.room].tasks[task].version

    @property
    def room(self) -> int:
        return self.hub.state.rooms.by_name["main"].id

    @rule(agent=agents, task=tasks)
    def remove(self, agent: str, task: str) -> None:
        found = self.model.plan.get(task)
        code = self.outcome(agent, RemoveTask(task=task))
        if found is None:
            assert code == "not_found"
        elif found.by != agent:
            assert code == "not_permitted"
        elif (
            task in self.model.held
            or found.status not in ("done", "failed", "cancelled")
            or any(
                task in other.needs and other.status not in ("done", "failed", "cancelled")
                for other in self.model.plan.values()
            )
        ):
            assert code == "not_empty"
        else:
            assert code == "ok"
            del self.model.plan[task]

    # Leases.

    @rule(agent=agents, task=tasks, wait=st.booleans())
    def claim(self, agent: str, task: str, wait: bool) -> None:
        held, line = self.model.held.get(task), self.model.waits.setdefault(task, [])
        if agent in line:
            return
        code = self.outcome(agent, ClaimLease(task=task, ttl_ms=TTL_MS, wait_ms=None if wait else 0))
        if held is None or held[0] == agent:
            assert code == "ok"
            self.model.held[task] = (agent, 0 if held is None else held[1], self.model.now + TTL_MS)
            self.model.claimed(task)
        elif not wait:
            assert code == "lease_held"
        elif code == "waits":
            line.append(agent)
        else:
            assert code == "deadlock"

    @precondition(lambda self: self.model.held)
    @rule(agent=agents, task=tasks)
    def release(self, agent: str, task: str) -> None:
        held = self.model.held.get(task)
        code = self.outcome(agent, ReleaseLease(task=task))
        assert code == ("not_found" if held is None else "ok" if held[0] == agent else "not_holder")
        if code == "ok":
            self.model.ended(task)

    @rule(seconds=st.sampled_from([1, 4, 11]))
    def let_time_pass(self, seconds: int) -> None:
        for _ in range(seconds):
            self.model.now += 1_000
            self.run(self.hub.advance(1_000))
            for task, (_, _, deadline) in sorted(self.model.held.items(), key=lambda item: item[1][2]):
                if deadline <= self.model.now:
                    self.model.ended(task)
                    REACHED["a lease expired"] += 1

    # Moving.

    @rule(who=st.sampled_from([*AGENTS, "operator"]), task=tasks, status=statuses, epoch=epochs)
    def anybody_moves_it(self, who: str, task: str, status: str, epoch: str) -> None:
        self.update(who, task, status, epoch)

    def update(self, who: str, task: str, status: str, epoch: str) -> None:
        found, held = self.model.plan.get(task), self.model.held.get(task)
        given = None
        if epoch == "mine" and held is not None:
            given = held[1]
        elif epoch == "old":
            given = self.old.get(task, 7)
        code = self.outcome(who, UpdateTask(task=task, status=status, epoch=given))
        if found is None:
            assert code == "not_found"
            return
        if given is not None and (held is None or held[1] != given or held[0] != who):
            assert code == "stale_epoch"
        elif held is not None and held[0] != who and who != "operator":
            assert code == "not_holder"
        elif status == found.status:
            assert code == "ok"
        elif status not in LEGAL[found.status]:
            assert code == "illegal_transition"
        else:
            assert code == "ok"
            found.status = status
            if status in ("open", "done", "failed", "cancelled") and held is not None:
                REACHED[f"{status} freed a lease"] += 1
                self.model.ended(task)
            elif status == "open" and held is not None:
                self.model.claimed(task)

    @precondition(lambda self: self.model.held.keys() & self.model.plan.keys())
    @rule(status=statuses, data=st.data(), epoch=st.sampled_from(["none", "mine"]))
    def the_holder_moves_it(self, status: str, data: st.DataObject, epoch: str) -> None:
        task = data.draw(st.sampled_from(sorted(self.model.held.keys() & self.model.plan.keys())))
        self.update(self.model.held[task][0], task, status, epoch)

    @rule(agent=agents, task=tasks, epoch=epochs)
    def note(self, agent: str, task: str, epoch: str) -> None:
        held = self.model.held.get(task)
        given = self.old.get(task, 7) if epoch == "old" else held[1] if epoch == "mine" and held is not None else None
        code = self.outcome(agent, NoteProgress(task=task, text="on it", epoch=given))
        if given is not None and (held is None or held[:2] != (agent, given)):
            assert code == "stale_epoch"
        elif task not in self.model.plan and held is None:
            assert code == "not_found"
        else:
            assert code == "ok"

    @rule(first=tasks, second=tasks)
    def two_agents_close_a_cycle_at_once(self, first: str, second: str) -> None:
        """Two requests of one turn, each lawful alone."""
        if first == second or first in self.model.plan or second in self.model.plan:
            return
        edges = {"ada": (first, second), "bob": (second, first)}
        for name, (task, need) in edges.items():
            self.requests += 1
            request = encode_request(self.requests, DeclareTask(task=task, depends_on=(need,)), None)
            self.run(self.peers[name].send(request))
        self.run(self.hub.settle())
        frames = [json.loads(data) for peer in self.peers.values() for data in peer.received_now()]
        refused = [frame for frame in frames if frame["type"] == "error"]
        before = {n: t.needs for n, t in self.model.plan.items()}
        taken = []
        for task, need in edges.values():
            if not self.model.closes_a_cycle({task: (need,)}):
                self.take_if_there(task, (need,), "ada" if task == first else "bob")
                taken.append(task)
        assert len(refused) == 2 - len(taken), (before, refused)
        assert len(taken) < 2, "never both"
        assert {frame["error"]["code"] for frame in refused} <= {"cycle"}
        REACHED["a race for a cycle"] += 1

    def take_if_there(self, task: str, needs: tuple[str, ...], agent: str) -> None:
        assert task in self.hub.state.plan.by_room[self.room].tasks
        self.take(task, needs, agent)

    @rule()
    def the_hub_is_killed_and_comes_back(self) -> None:
        """Leases have their full time again; who waited and does not come back waits no more."""
        self.run(self.hub.restart())
        self.dial()
        self.model.held = {task: (who, at, self.model.now + TTL_MS) for task, (who, at, _) in self.model.held.items()}
        if any(self.model.waits.values()):
            for _ in range(11):
                self.let_time_pass_for_waits()
        REACHED["a restart"] += 1

    def let_time_pass_for_waits(self) -> None:
        self.model.now += 1_000
        self.run(self.hub.advance(1_000))
        for task in [task for task, (_, _, deadline) in self.model.held.items() if deadline <= self.model.now]:
            self.model.waits[task] = []
            self.model.ended(task)
        places = {place.ask.task for place in self.hub.state.leases.places.values()}
        self.model.waits = {task: line for task, line in self.model.waits.items() if task in places}

    # What must hold.

    @invariant()
    def the_hub_and_the_model_agree(self) -> None:
        state, model = self.hub.state, self.model
        leases = {lease.ask.task: lease for lease in state.leases.live.values()}
        assert {task: lease.ask.owner for task, lease in leases.items()} == {t: h[0] for t, h in model.held.items()}
        for task, (owner, epoch, deadline) in model.held.items():
            if epoch != leases[task].epoch:
                self.old[task] = epoch or leases[task].epoch - 1
                model.held[task] = (owner, leases[task].epoch, deadline)
        plan = state.plan.by_room.get(self.room)
        there = {} if plan is None else plan.tasks
        assert {n: (t.status, t.depends_on, t.declared_by) for n, t in there.items()} == {
            n: (t.status, t.needs, t.by) for n, t in model.plan.items()
        }
        assert {name for name, task in there.items() if task.is_ready} == model.ready()
        assert {name for name, task in there.items() if task.is_announced} == model.ready(), "said, and only what is so"
        assert not model.closes_a_cycle({}), "the plan has a cycle"
        for name, planned in model.plan.items():
            assert not (planned.status == "open" and name in model.held), "open, and somebody works on it"
            assert there[name].unmet == sum(
                other not in model.plan or model.plan[other].status != "done" for other in planned.needs
            )
            assert plan is not None
            assert plan.count_dependents(name) == sum(name in other.needs for other in model.plan.values())
        assert state.plan.count == len(model.plan)
        assert state.plan.bytes == sum(task.size for task in there.values())

    @invariant()
    def each_opening_is_announced_once(self) -> None:
        """From the events alone: a task is announced only while it was not ready before, and each opening is."""
        head = self.hub.journal.head
        for row in self.hub.journal.rows(self.read + 1, head):
            body = json.loads(row.body)
            match row.type:
                case "tasks.ready":
                    for name in body["tasks"]:
                        assert name not in self.was_ready, f"{name} was announced twice for one opening"
                        self.was_ready.add(name)
                        REACHED["an opening"] += 1
                case "task.moved":
                    self.was_ready.discard(body["task"])
                case _:
                    pass
        self.read = head
        self.was_ready &= self.model.ready()
        assert self.was_ready == self.model.ready()


INTERESTING = {
    *("DeclareTask ok", "DeclareTask cycle", "DeclareTask version_conflict", "DeclareTasks ok", "DeclareTasks cycle"),
    *("UpdateTask ok", "UpdateTask illegal_transition", "UpdateTask not_holder", "UpdateTask stale_epoch"),
    *("UpdateTask not_found", "NoteProgress ok", "NoteProgress stale_epoch", "NoteProgress not_found"),
    *("RemoveTask ok", "RemoveTask not_empty", "RemoveTask not_permitted", "RemoveTask not_found"),
    *("ClaimLease ok", "ClaimLease waits", "ClaimLease lease_held", "ReleaseLease ok", "ReleaseLease not_holder"),
    *("a lease expired", "an opening", "a restart", "a race for a cycle", "done freed a lease", "open freed a lease"),
}
"""What a run must have seen to prove anything."""


def check_machine(examples: int, steps: int, *, derandomize: bool) -> None:
    """Raises when the hub and the model differ, or when the run was a dull one."""
    REACHED.clear()
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate] if "SYNAPSE_PLANTED" in os.environ else [Phase.generate, Phase.shrink],
    )
    run_state_machine_as_test(PlanMachine, settings=profile)
    assert INTERESTING - REACHED.keys() == set(), "never reached"


def test_any_sequence_of_requests_keeps_plan_and_leases_as_the_model_says() -> None:
    check_machine(500, 50, derandomize=True)


@pytest.mark.prove
def test_many_sequences_of_requests_keep_plan_and_leases_as_the_model_says() -> None:
    check_machine(650, 60, derandomize=False)
    tell("state machine", "plans: random runs", 650)
    tell("state machine", "plans: answers and events as the model foretold", REACHED.total())
