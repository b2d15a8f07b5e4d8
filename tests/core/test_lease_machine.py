"""Leases against an independent model: any sequence of claims, waits, hand-offs, losses, repeats, time and restarts.

The real hub in memory (turns, kernel, journal) on a clock that stands still; see `lease_model` for the other side.
"""

import asyncio
import json
import os
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.core.lease_model import (
    AGENTS,
    PRIORITIES,
    SCOPES,
    TREE,
    WAITING_MAX,
    Answer,
    Claim,
    Held,
    Model,
    Want,
    contend,
)
from tests.figures import tell

from synapse.core.by import By
from synapse.core.lease_answers import listed_lease
from synapse.core.state import digest, encode_state
from synapse.protocol.codec import decode_hub_frame, encode_request
from synapse.protocol.commands import (
    ClaimLease,
    Command,
    HandOffLease,
    Hello,
    ParkLease,
    ReleaseLease,
    RenewLease,
    SaveCheckpoint,
    SetPool,
    WithdrawClaim,
)
from synapse.protocol.limits import Limits
from synapse.protocol.token_commands import CreateToken
from synapse.testing import MemoryHub, MemoryPeer

PERSON = "hal's token"
TASKS = ["T1", "T2", "T3"]
KEYS = [None, None, None, "k1", "k2"]
LIMITS = Limits(
    tie_grace_ms=3_000,
    reattach_ms=2_000,
    parked_ms_max=20_000,
    rate_agent_burst=10**9,
    rate_host_burst=10**9,
    rate_agent_per_s=10**6,
    rate_host_per_s=10**6,
)

names = st.sampled_from(AGENTS)
tasks = st.sampled_from(TASKS)
slots = st.integers(0, 1)
which = st.sampled_from(["none", "none", "live", "old"])


class Line:
    """One connection. frames: what was heard and not looked at yet."""

    def __init__(self, peer: MemoryPeer, agent: str | None) -> None:
        assert peer.connection is not None
        self.peer, self.agent, self.number = peer, agent, peer.connection.id
        self.requests = 0
        self.frames: list[dict[str, Any]] = []

    def hear(self) -> None:
        for data in self.peer.received_now():
            frame = decode_hub_frame(data)
            self.frames.append({"type": frame.type, "id": frame.id, "data": json.loads(data)})

    def answer(self, request: int) -> dict[str, Any] | None:
        """The frame that answers a request, once."""
        for frame in self.frames:
            if frame["type"] in ("reply", "error") and frame["id"] == request:
                self.frames.remove(frame)
                found: dict[str, Any] = frame["data"]
                return found
        return None

    def queued(self, request: int) -> dict[str, Any] | None:
        """The notice about a claim that waits, once."""
        for frame in self.frames:
            if frame["type"] == "claim.queued" and frame["data"]["body"]["request"] == request:
                self.frames.remove(frame)
                body: dict[str, Any] = frame["data"]["body"]
                return body
        return None


REACHED: Counter[str] = Counter()
"""How often something interesting happened: events of the journal and answers."""


class LeaseMachine(RuleBasedStateMachine):
    """Whatever the hub does, the model says first."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.hub = MemoryHub(limits=LIMITS)
        self.loop.run_until_complete(self.hub.__aenter__())
        self.model = Model(LIMITS.tie_grace_ms, LIMITS.reattach_ms, LIMITS.parked_ms_max, {"one": 1, "two": 2})
        self.lines: dict[tuple[str, int], Line] = {}
        self.sent: list[tuple[str, Command, object, str]] = []
        self.epochs: list[int] = [1]
        self.operators: list[Line] = []
        self.operator = self.dial(None)
        self.operators = [self.operator]
        self.send(self.operator, CreateToken(hash=sha256(PERSON.encode()).hexdigest(), role="human"))
        for pool, capacity in self.model.pools.items():
            self.send(self.operator, SetPool(pool=pool, capacity=capacity))
        self.operator.frames.clear()
        self.read = self.hub.journal.head

    def teardown(self) -> None:
        assert self.hub.replayed_digest() == digest(self.hub.state), "replay made another state"
        self.loop.run_until_complete(self.hub.__aexit__(None, None, None))
        self.loop.close()

    # The hub's side.

    def dial(self, agent: str | None) -> Line:
        line = Line(self.hub.connect(), agent)
        hello = Hello(operator=True, lasting=True)
        if agent is not None:
            hello = Hello(name=agent, secret=f"{agent:*<32}", token=PERSON if agent == "hal" else None, lasting=True)
        self.send(line, hello)
        line.hear()
        line.frames.clear()
        return line

    def send(self, line: Line, command: Command, key: str | None = None) -> int:
        """Send, and let everything settle; the id of the request."""
        line.requests += 1
        request = encode_request(line.requests, command, key)

        async def go() -> None:
            await line.peer.send(request)
            for _ in range(3):  # a repeat is answered from the journal, after its turn
                await self.hub.settle()

        self.loop.run_until_complete(go())
        self.hear()
        return line.requests

    def hear(self) -> None:
        assert self.hub.failure is None
        for line in self.all_lines():
            line.hear()

    def news(self) -> None:
        """What the journal got since the last look, for the model."""
        head = self.hub.journal.head
        rows = [
            {**json.loads(row.body), "seq": row.seq, "type": row.type}
            for row in self.hub.journal.rows(self.read + 1, head)
            if row.type.startswith(("lease.", "pool."))
        ]
        self.read = head
        assert self.model.rows == [], f"unexplained: {self.model.rows}"
        self.model.rows = rows
        REACHED.update(" ".join([row["type"], row.get("reason", "")]).strip() for row in rows)
        REACHED.update("granted " + what for row in rows for what in ("place", "replaces") if row.get(what))
        REACHED.update(f"{row['type']} under" for row in rows if row.get("under"))
        for row in rows:
            if row["type"] in ("lease.granted", "lease.handed_off"):
                assert row["seq"] > self.epochs[-1], "epochs rise"
                self.epochs.append(row["seq"])

    def line(self, agent: str, slot: int) -> Line:
        """A connection of the agent; it is opened when there is none."""
        if (agent, slot) not in self.lines:
            self.lines[agent, slot] = line = self.dial(agent)
            self.model.online.setdefault(agent, set()).add(line.number)
        self.model.seen[agent] = self.model.now
        return self.lines[agent, slot]

    # Comparing.

    def expect(self, line: Line, request: int, answer: Answer) -> None:
        """Whoever asked was answered as the model says, and so was everybody else."""
        if answer.kind == "queued":
            body = line.queued(request)
            assert body is not None, "nobody said that the claim waits"
            assert (body["place"], body["position"]) == (answer.epoch, answer.position)
            assert line.answer(request) is None
        elif answer.kind != "later":
            self.compare(line, request, answer)
        for number, other, expected in self.model.out:
            self.compare(next(found for found in self.all_lines() if found.number == number), other, expected)
        self.model.out.clear()
        assert self.model.rows == [], f"not foreseen: {self.model.rows}"
        for found in self.all_lines():
            left = [frame for frame in found.frames if frame["type"] in ("reply", "error", "claim.queued")]
            assert left == [], f"{found.agent} heard {left}"
            found.frames.clear()

    def all_lines(self) -> list[Line]:
        return [*self.lines.values(), *self.operators]

    def compare(self, line: Line, request: int, answer: Answer) -> None:
        frame = line.answer(request)
        assert frame is not None, f"{line.agent} was not answered; expected {answer}"
        if answer.kind == "refused":
            assert frame["type"] == "error", f"{frame} instead of {answer}"
            assert frame["error"]["code"] == answer.code, f"{frame} instead of {answer}"
            return
        assert frame["type"] == "reply", f"{frame} instead of {answer}"
        assert frame.get("replayed", False) is answer.replayed
        body = frame["body"]
        if answer.kind == "done":
            if answer.epoch:
                assert body["epoch"] == answer.epoch
            return
        assert (body["epoch"], body["outcome"], body["live"]) == (answer.epoch, answer.outcome, answer.live)
        held = self.model.leases.get(answer.epoch) if answer.held is None else answer.held
        if held is None:
            assert (body["status"], body["remaining_ms"], body["expires_at_ms"]) == ("ended", None, None)
        else:
            self.shows(body, held)

    def shows(self, body: dict[str, Any], held: Held) -> None:
        """A live lease, told as the model knows it."""
        want = held.want
        left = None if held.parked else max(0, held.deadline - self.model.now)
        kept = self.model.kept.get(want.task)
        checkpoint = body.get("checkpoint")
        told = None if checkpoint is None else (checkpoint["data"], checkpoint["by"], checkpoint["epoch"])
        assert (
            body["owner"],
            body["task"],
            tuple(body["paths"]),
            body["whole_worktree"],
            tuple(sorted(body["pools"].items())),
            body["mode"],
            body["ttl_ms"],
            body["remaining_ms"],
            body["status"],
            body["tied"],
            body["note"],
            body.get("offered_to"),
            told,
        ) == (
            want.agent,
            want.task,
            want.paths,
            want.whole,
            want.pools,
            want.mode,
            held.ttl_ms,
            left,
            "parked" if held.parked else "held",
            held.tied,
            held.note,
            held.offered_to,
            kept,
        )

    def run(self, agent: str, slot: int, command: Command, act: Any, key: str | None = None) -> None:
        """One command: the hub carries it out, the model foretells it from what the journal got."""
        line = self.line(agent, slot)
        self.news()
        before = encode_state(self.hub.state)
        request = self.send(line, command, key)
        self.news()
        answer: Answer = act(line.number, request)
        REACHED[f"{answer.code or answer.outcome or answer.kind}{' again' * answer.replayed}"] += 1
        REACHED.update(["deadlock under"] * self.model.of_under)
        self.model.of_under = 0
        self.expect(line, request, answer)
        if answer.kind == "refused" or answer.replayed:
            assert encode_state(self.hub.state) == before, "what was refused changed something"

    def epoch(self, choice: str, task: str, draw: int) -> int | None:
        """None, the epoch of a live lease of the task, or any that ever was."""
        if choice == "none":
            return None
        live = [held.epoch for held in self.model.leases.values() if held.want.task == task]
        pool = live if choice == "live" and live else self.epochs
        return pool[draw % len(pool)]

    # The rules.

    @rule(
        agent=names,
        slot=slots,
        task=tasks,
        scope=st.sampled_from(SCOPES),
        whole=st.sampled_from([False] * 7 + [True]),
        pools=st.sampled_from([(), (), (), (("one", 1),), (("two", 1),), (("two", 2),), (("one", 1), ("two", 1))]),
        mode=st.sampled_from(["exclusive", "exclusive", "shared"]),
        reentrant=st.sampled_from([True, True, False]),
        wait_ms=st.sampled_from([0, 0, 4_000, 15_000, None]),
        priority=st.sampled_from(["normal", *PRIORITIES]),
        ttl_ms=st.sampled_from([5_000, 12_000]),
        tied=st.booleans(),
        preempt=st.sampled_from([False] * 5 + [True]),
        note=st.sampled_from([None, None, "n"]),
        key=st.sampled_from(KEYS),
    )
    def claim(
        self,
        agent: str,
        slot: int,
        task: str,
        scope: tuple[str, ...],
        whole: bool,
        pools: tuple[tuple[str, int], ...],
        mode: str,
        reentrant: bool,
        key: str | None,
        **fields: Any,
    ) -> None:
        want = Want(agent, task, () if whole else scope, whole, pools, mode, reentrant)
        fields["preempt"] = fields["preempt"] and agent == "hal"
        self.ask(agent, slot, Claim(want, **fields), key)

    @rule(agent=names, slot=slots, task=tasks, wait_ms=st.sampled_from([0, 15_000, None]), ttl_ms=st.just(5_000))
    def plain_claim(self, agent: str, slot: int, task: str, wait_ms: int | None, ttl_ms: int) -> None:
        self.ask(agent, slot, Claim(Want(agent, task), ttl_ms, wait_ms), None)

    @rule(
        agent=names,
        slot=slots,
        task=tasks,
        scope=st.sampled_from(SCOPES[2:]),
        mode=st.sampled_from(["exclusive", "shared"]),
        wait_ms=st.sampled_from([0, 15_000, None, None]),
        priority=st.sampled_from(["low", "normal", "high"]),
    )
    def scoped_claim(
        self, agent: str, slot: int, task: str, scope: tuple[str, ...], mode: str, wait_ms: int | None, priority: str
    ) -> None:
        self.ask(agent, slot, Claim(Want(agent, task, scope, mode=mode), 12_000, wait_ms, priority), None)

    @rule(
        agent=names,
        task=tasks,
        pools=st.sampled_from([(("one", 1),), (("two", 1),), (("two", 2),), (("two", 3),), (("one", 1), ("two", 1))]),
        wait_ms=st.sampled_from([0, 15_000, 15_000]),
        priority=st.sampled_from(["low", "normal", "normal"]),
    )
    def pool_claim(
        self, agent: str, task: str, pools: tuple[tuple[str, int], ...], wait_ms: int, priority: str
    ) -> None:
        want = Want(agent, f"{task}-{agent}", pools=pools)
        self.ask(agent, 0, Claim(want, 12_000, wait_ms, priority), None)

    def ask(self, agent: str, slot: int, claim: Claim, key: str | None) -> None:
        want = claim.want
        command = ClaimLease(
            task=want.task,
            worktree=TREE if want.paths or want.whole else None,
            paths=want.paths,
            whole_worktree=want.whole,
            pools=dict(want.pools),
            mode=want.mode,
            ttl_ms=claim.ttl_ms,
            wait_ms=claim.wait_ms,
            place=claim.place,
            priority=claim.priority,
            reentrant=want.reentrant,
            tied=claim.tied,
            preempt=claim.preempt,
            note=claim.note,
            under=claim.under,
        )
        if key is not None:
            self.sent.append((agent, command, claim, key))
        self.run(agent, slot, command, lambda number, at: self.model.claim(agent, number, at, claim, key), key)

    @precondition(lambda self: self.model.leases)
    @rule(
        draw=st.integers(0, 99),
        other=st.integers(0, 99),
        slot=slots,
        choice=st.sampled_from(["live", "live", "live", "live", "old", "stranger"]),
        what=st.sampled_from(["held", "held", "held", "new"]),
        wait_ms=st.sampled_from([None, None, 15_000, 0]),
        reentrant=st.sampled_from([False, False, True]),
        priority=st.sampled_from(["normal", "normal", "high"]),
        key=st.sampled_from(KEYS),
    )
    def nested_claim(
        self,
        draw: int,
        other: int,
        slot: int,
        choice: str,
        what: str,
        reentrant: bool,
        key: str | None,
        **fields: Any,
    ) -> None:
        """As a command under `lock` claims: what others hold, or something new, in a process of its own."""
        leases = list(self.model.leases.values())
        above, held = leases[draw % len(leases)], leases[other % len(leases)]
        agent = AGENTS[other % len(AGENTS)] if choice == "stranger" else above.want.agent
        epoch = self.epochs[draw % len(self.epochs)] if choice == "old" else above.epoch
        tied = not reentrant
        want = replace(held.want, agent=agent, reentrant=reentrant, mode="exclusive")
        if what == "new":
            want = Want(agent, TASKS[other % len(TASKS)], SCOPES[draw % len(SCOPES)], reentrant=reentrant)
        self.ask(agent, slot, Claim(want, 12_000, tied=tied, under=epoch, **fields), key)

    @precondition(lambda self: self.model.places)
    @rule(slot=slots, draw=st.integers(0, 99), wait_ms=st.sampled_from([None, 15_000]))
    def reattach(self, slot: int, draw: int, wait_ms: int | None) -> None:
        places = list(self.model.places.values())
        place = places[draw % len(places)]
        claim = Claim(place.want, place.ttl_ms, wait_ms, PRIORITIES[place.rank], place.tied, place=place.seq)
        self.ask(place.want.agent, slot, claim, None)

    @precondition(lambda self: any(held.place for held in self.model.leases.values()))
    @rule(slot=slots, draw=st.integers(0, 99))
    def ask_for_what_was_granted(self, slot: int, draw: int) -> None:
        held = [held for held in self.model.leases.values() if held.place is not None]
        one = held[draw % len(held)]
        self.ask(one.want.agent, slot, Claim(one.want, one.ttl_ms, None, place=one.place), None)

    @precondition(lambda self: self.sent)
    @rule(slot=slots, draw=st.integers(0, 99))
    def repeat(self, slot: int, draw: int) -> None:
        agent, command, payload, key = self.sent[draw % len(self.sent)]
        if isinstance(payload, Claim):
            assert isinstance(command, ClaimLease)
            command, again = msgspec.structs.replace(command, under=None), replace(payload, under=None)
            self.run(agent, slot, command, lambda number, at: self.model.claim(agent, number, at, again, key), key)
        else:
            self.keyed_release(agent, slot, command, key)

    @rule(agent=names, slot=slots, task=tasks, choice=which, draw=st.integers(0, 99), key=st.sampled_from(KEYS))
    def release(self, agent: str, slot: int, task: str, choice: str, draw: int, key: str | None) -> None:
        command = ReleaseLease(task=task, epoch=self.epoch(choice, task, draw))
        if key is not None:
            self.sent.append((agent, command, command, key))
        self.keyed_release(agent, slot, command, key)

    @precondition(lambda self: self.model.leases)
    @rule(slot=slots, draw=st.integers(0, 99))
    def release_one(self, slot: int, draw: int) -> None:
        held = list(self.model.leases.values())[draw % len(self.model.leases)]
        self.keyed_release(held.want.agent, slot, ReleaseLease(task=held.want.task, epoch=held.epoch), None)

    def keyed_release(self, agent: str, slot: int, command: Command, key: str | None) -> None:
        assert isinstance(command, ReleaseLease)
        model = self.model

        def act(_: int, __: int) -> Answer:
            if key is not None and (agent, key) in model.done:
                return model.repeat(agent, key, command)
            if key is not None and any(p.want.agent == agent and p.key == key for p in model.places.values()):
                return Answer("refused", "idem_conflict")
            answer = model.under(agent, command.task, command.epoch, model.release)
            if key is not None and answer.kind == "done":
                model.done[agent, key] = (command, answer)
            return answer

        self.run(agent, slot, command, act, key)

    def one_of_the_leases(self, draw: int, choice: str, other: str) -> tuple[str, str, int | None]:
        """Agent, task and epoch of a live lease; now and then another agent's, or a stale or no epoch."""
        held = list(self.model.leases.values())[draw % len(self.model.leases)]
        agent = other if choice == "other" else held.want.agent
        return agent, held.want.task, self.epoch({"other": "live"}.get(choice, choice), held.want.task, draw)

    @precondition(lambda self: self.model.leases)
    @rule(
        slot=slots,
        draw=st.integers(0, 99),
        choice=st.sampled_from(["none", "live", "live", "old", "other"]),
        other=names,
        ttl_ms=st.sampled_from([None, None, 5_000, 12_000]),
        note=st.sampled_from([None, "m"]),
    )
    def renew(self, slot: int, draw: int, choice: str, other: str, ttl_ms: int | None, note: str | None) -> None:
        agent, task, epoch = self.one_of_the_leases(draw, choice, other)

        def act(number: int, _: int) -> Answer:
            return self.model.under(agent, task, epoch, lambda held: self.model.renew(held, number, ttl_ms, note))

        self.run(agent, slot, RenewLease(task=task, epoch=epoch, ttl_ms=ttl_ms, note=note), act)

    @precondition(lambda self: self.model.leases)
    @rule(
        slot=slots,
        draw=st.integers(0, 99),
        choice=st.sampled_from(["none", "live", "live", "old", "other"]),
        other=names,
        value=st.sampled_from([None, 1, 2]),
    )
    def checkpoint(self, slot: int, draw: int, choice: str, other: str, value: int | None) -> None:
        agent, task, epoch = self.one_of_the_leases(draw, choice, other)

        def act(_: int, __: int) -> Answer:
            return self.model.under(agent, task, epoch, lambda held: self.model.checkpoint(held, value))

        data = msgspec.Raw(json.dumps(value).encode())
        self.run(agent, slot, SaveCheckpoint(task=task, epoch=epoch, data=data), act)

    @precondition(lambda self: self.model.leases)
    @rule(slot=slots, draw=st.integers(0, 99), to=names, is_stale=st.sampled_from([False, False, True]))
    def hand_off(self, slot: int, draw: int, to: str, is_stale: bool) -> None:
        held = list(self.model.leases.values())[draw % len(self.model.leases)]
        agent, task = held.want.agent, held.want.task
        epoch = self.epochs[draw % len(self.epochs)] if is_stale else held.epoch
        for name in AGENTS:
            if name not in self.hub.state.agents.by_name:
                self.line(name, 0)

        def act(_: int, __: int) -> Answer:
            return self.model.under(agent, task, epoch, lambda one: self.model.hand_off(one, to))

        self.run(agent, slot, HandOffLease(task=task, to=to, epoch=epoch), act)

    @precondition(lambda self: self.model.leases)
    @rule(slot=slots, draw=st.integers(0, 99), parked=st.booleans())
    def park(self, slot: int, draw: int, parked: bool) -> None:
        held = list(self.model.leases.values())[draw % len(self.model.leases)]
        agent, task, epoch = held.want.agent, held.want.task, held.epoch

        def act(_: int, __: int) -> Answer:
            return self.model.under(agent, task, epoch, lambda one: self.model.park(one, parked=parked))

        self.run(agent, slot, ParkLease(task=task, epoch=epoch, parked=parked), act)

    @rule(agent=names, slot=slots, task=tasks)
    def withdraw(self, agent: str, slot: int, task: str) -> None:
        self.run(agent, slot, WithdrawClaim(task=task), lambda _, __: self.model.withdraw(agent, task))

    @rule(capacity=st.sampled_from([2, 3]))
    def set_pool(self, capacity: int) -> None:
        self.news()
        request = self.send(self.operator, SetPool(pool="two", capacity=capacity))
        self.news()
        self.expect(self.operator, request, self.model.set_pool("two", capacity))

    @rule(ms=st.sampled_from([300, 1_000, 2_500, 5_000, 12_000]))
    def advance(self, ms: int) -> None:
        left = ms
        while left:
            step = min(left, 1_000)
            left -= step
            self.model.now += step
            self.loop.run_until_complete(self.hub.advance(step))
            self.hear()
            self.news()
            self.model.tick()
            self.expect(self.operator, 0, Answer("later"))

    @precondition(lambda self: self.lines)
    @rule(draw=st.integers(0, 99))
    def disconnect(self, draw: int) -> None:
        agent, slot = sorted(self.lines)[draw % len(self.lines)]
        line = self.lines.pop((agent, slot))

        async def go() -> None:
            await line.peer.aclose()
            await self.hub.settle()

        self.loop.run_until_complete(go())
        self.hear()
        self.news()
        self.model.disconnect(agent, line.number)
        self.expect(self.operator, 0, Answer("later"))

    @rule()
    def restart(self) -> None:
        assert self.hub.replayed_digest() == digest(self.hub.state), "replay makes another state"
        head = self.hub.journal.head
        for line in self.all_lines():
            line.frames.clear()
        self.loop.run_until_complete(self.hub.restart())
        rows = [row.type for row in self.hub.journal.rows(head + 1, self.hub.journal.head)]
        assert rows == ["hub.started"], "a start decides nothing"
        self.lines.clear()
        self.model.restart()
        self.operators = []
        self.operator = self.dial(None)
        self.operators = [self.operator]
        self.news()

    # What always holds.

    @initialize()
    def everybody_is_known(self) -> None:
        for agent in AGENTS:
            self.line(agent, 0)

    @invariant()
    def the_model_is_sane_and_the_hub_agrees(self) -> None:
        self.model.check()
        state, model = self.hub.state, self.model
        leases, soft = state.leases, state.soft.leasing
        assert {
            epoch: (lease.ask.owner, lease.ask.task, lease.ttl_ms, lease.parked, soft.deadlines[epoch])
            for epoch, lease in leases.live.items()
        } == {h.epoch: (h.want.agent, h.want.task, h.ttl_ms, h.parked, h.deadline) for h in model.leases.values()}
        assert {
            seq: (place.ask.owner, place.ask.task, soft.attached.get(seq), soft.deadlines.get(seq))
            for seq, place in leases.places.items()
        } == {p.seq: (p.want.agent, p.want.task, p.connection, p.deadline) for p in model.places.values()}
        mail = {agent.name: set(state.agents.inboxes[agent.id].entries) for agent in state.agents.by_id.values()}
        assert mail == {name: model.mail(name) for name in mail}
        assert soft.tied == {h.epoch: h.tie for h in model.leases.values() if h.tie is not None}

    @invariant()
    def the_list_names_all_who_wait(self) -> None:
        state, places = self.hub.state, self.model.places.values()
        by = By("operator", None, 0, "main:general", 0, 0, operator=True)
        for held in self.model.leases.values():
            waiting = [
                (p.want.agent, p.want.task, p.seq)
                for p in sorted(places, key=lambda p: (-p.rank, p.seq))
                if contend(p.want, held.want) or dict(p.want.pools).keys() & dict(held.want.pools).keys()
            ]
            shown = listed_lease(state, str(held.epoch), by)
            assert isinstance(shown.waiters, tuple)
            assert [(w.owner, w.task, w.place) for w in shown.waiters] == waiting
            assert [w.position for w in shown.waiters] == list(range(1, len(waiting) + 1))
            assert shown.waiting == len(waiting)

    @invariant()
    def the_indexes_agree_with_the_tables(self) -> None:
        leases = self.hub.state.leases
        assert sorted(e for inner in leases.of_task.values() for e in inner) == sorted(leases.live)
        assert sorted(e for inner in leases.of_agent.values() for e in inner) == sorted(leases.live)
        assert sorted(s for inner in leases.places_of_task.values() for s in inner) == sorted(leases.places)
        assert sorted(s for inner in leases.places_of_agent.values() for s in inner) == sorted(leases.places)
        for name, pool in leases.pools.items():
            held = {e: dict(x.ask.pools)[name] for e, x in leases.live.items() if name in dict(x.ask.pools)}
            waiting = {s: dict(p.ask.pools)[name] for s, p in leases.places.items() if name in dict(p.ask.pools)}
            assert (pool.held, pool.waiting) == (held, waiting)
        scoped = [x for x in leases.live.values() if x.ask.worktree is not None]
        assert sorted(leases._shared._scopes) == sorted(x.epoch for x in scoped if x.ask.mode == "shared")
        assert sorted(leases._exclusive._scopes) == sorted(x.epoch for x in scoped if x.ask.mode != "shared")
        waiting_scopes = sorted(p.seq for p in leases.places.values() if p.ask.worktree is not None)
        assert sorted(leases._waiting._scopes) == waiting_scopes


INTERESTING = {
    *("granted", "renewed", "queued", "later", "handed_off", "offered", "checkpointed", "parked", "resumed"),
    *("lease_held", "lease_queued", "deadlock", "stale_epoch", "not_holder", "not_found", "bad_request"),
    *("idem_conflict", "granted again", "done again", "granted place", "granted replaces", "pool.set"),
    *(f"lease.expired {reason}" for reason in ("ttl", "connection", "parked")),
    *(f"lease.unqueued {reason}" for reason in ("deadline", "gone", "withdrawn", "handed_off", "too_few_units")),
    *("lease.granted under", "lease.queued under", "deadlock under", "lease.revoked preempted"),
}
"""What a run must have seen to prove anything."""


def check_machine(examples: int, steps: int, *, derandomize: bool, missed_max: int) -> None:
    """Raises when the hub and the model differ, or when the run was a dull one."""
    REACHED.clear()
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=checks,
        phases=[Phase.generate] if "SYNAPSE_PLANTED" in os.environ else [Phase.generate, Phase.shrink],
    )
    run_state_machine_as_test(LeaseMachine, settings=profile)
    missed = INTERESTING - REACHED.keys()
    assert len(missed) <= missed_max, f"never reached: {missed}"


def test_any_sequence_of_requests_keeps_the_leases_equal_to_the_model() -> None:
    check_machine(400, 50, derandomize=True, missed_max=6)  # what is rare is for the long run


@pytest.mark.prove
def test_many_sequences_of_requests_keep_the_leases_equal_to_the_model() -> None:
    check_machine(1_300, 70, derandomize=False, missed_max=1)
    tell("state machine", "leases: random runs", 1_300)
    tell("state machine", "leases: answers and events as the model foretold", REACHED.total())


def test_a_connection_waits_so_often_and_no_more() -> None:
    """Found by 8 000 runs: the ninth claim that would wait on one connection is refused."""
    machine = LeaseMachine()
    try:
        machine.scoped_claim(agent="ada", mode="exclusive", priority="low", scope=("a",), slot=0, task="T1", wait_ms=0)
        for _ in range(10):
            machine.scoped_claim(
                agent="bob", mode="exclusive", priority="low", scope=("a",), slot=0, task="T1", wait_ms=15_000
            )
            machine.the_model_is_sane_and_the_hub_agrees()
        assert len(machine.model.places) == WAITING_MAX
    finally:
        machine.teardown()


def test_who_waits_twice_for_one_task_is_not_in_its_own_way_once_the_first_is_granted() -> None:
    machine = LeaseMachine()
    try:
        machine.everybody_is_known()
        machine.pool_claim(agent="ada", task="T1", pools=(("two", 2),), wait_ms=0, priority="low")
        machine.pool_claim(agent="hal", task="T1", pools=(("one", 1), ("two", 1)), wait_ms=15_000, priority="low")
        machine.pool_claim(agent="hal", task="T1", pools=(("one", 1),), wait_ms=15_000, priority="low")
        assert len(machine.model.places) == 2
        machine.release_one(slot=0, draw=0)
        [held] = machine.model.leases.values()
        assert (held.want.pools, machine.model.places) == ((("one", 1),), {})
    finally:
        machine.teardown()


def test_a_process_that_waits_for_the_one_above_it_is_found_by_what_that_one_will_wait_for() -> None:
    """Found by 400 runs: a connection waits for the lease under which its next claim says that it runs."""
    machine = LeaseMachine()
    nested: dict[str, Any] = {"choice": "live", "key": None, "priority": "normal", "reentrant": False, "slot": 0}
    bobs: dict[str, Any] = {"agent": "bob", "key": None, "mode": "exclusive", "note": None, "preempt": False}
    bobs |= {"pools": (), "scope": (), "tied": True, "ttl_ms": 12_000, "wait_ms": 0, "priority": "normal"}
    try:
        machine.everybody_is_known()
        machine.claim(**bobs, task="T3", whole=False, reentrant=False, slot=1)
        machine.claim(**bobs, task="T1", whole=True, reentrant=True, slot=0)
        machine.nested_claim(**nested, draw=1, other=0, wait_ms=None, what="held")
        assert len(machine.model.places) == 1, "T3 under T1"
        refused = REACHED["deadlock"]
        machine.nested_claim(**nested, draw=0, other=1, wait_ms=None, what="held")
        assert (len(machine.model.places), REACHED["deadlock"]) == (1, refused + 1), "T1 under T3"
    finally:
        machine.teardown()
