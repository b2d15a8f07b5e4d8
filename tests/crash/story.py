"""An honest history for the checkers of the team: a small story, told by a hub in memory, which lies are planted in.

The clock of the requests is made up: each comes after the answer to the one before it.
"""

import asyncio
import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cache

from tests.crash.history import Frame, History, Op, brief
from tests.crash.team_load import HUMAN_SECRET, ROLE

from synapse.core.events import Recorded
from synapse.journal.upcast import decode
from synapse.testing import MemoryHub, MemoryPeer

STEP_NS = 1_000_000


@dataclass(slots=True)
class Story:
    """What was asked, and the journal at the end."""

    ops: list[Op]
    journal: list[Recorded]

    @property
    def history(self) -> History:
        return History(ops=self.ops)

    def op(self, type_: str, nth: int = 0) -> Op:
        """The nth request of a type."""
        return [op for op in self.ops if op.type == type_][nth]

    def at(self, kind: type, nth: int = 0) -> int:
        """Where in the journal the nth event of a kind stands."""
        return [place for place, recorded in enumerate(self.journal) if isinstance(recorded.event, kind)][nth]


@dataclass(slots=True)
class Teller:
    """Agents that talk to one hub, in turn."""

    hub: MemoryHub
    ops: list[Op] = field(default_factory=list)
    peers: dict[str, MemoryPeer] = field(default_factory=dict)

    async def come(self, agent: str, **more: object) -> None:
        """A connection and its hello."""
        self.peers[agent] = self.hub.connect()
        await self.ask(agent, "hello", {"name": agent, "secret": agent.ljust(40, "s"), "lasting": True, **more})

    async def ask(self, agent: str, type_: str, body: Frame, key: str | None = None, connection: int = 1) -> Frame:
        """One request; its answer, which may be a refusal."""
        number = len(self.ops) + 1
        frame: Frame = {"type": type_, "id": number, "body": body}
        if key is not None:
            frame["idem_key"] = key
        await self.peers[agent].send(json.dumps(frame).encode())
        answer: Frame = brief(await self._answer(agent, number))
        begun = number * STEP_NS
        self.ops.append(Op(agent, agent, connection, number, type_, key, body, begun, begun + 1_000, answer))
        return answer

    async def _answer(self, agent: str, number: int) -> Frame:
        """The answer, which may take the hub several turns: reads go over its reader."""
        for _ in range(100):
            await self.hub.settle()
            for data in self.peers[agent].received_now():
                frame: Frame = json.loads(data) if data.strip() else {}
                if frame.get("id") == number:
                    return frame
        raise AssertionError(f"request {number} is not answered")

    async def must(self, agent: str, type_: str, body: Frame, key: str | None = None) -> Frame:
        """The body of the reply."""
        answer = await self.ask(agent, type_, body, key)
        assert answer["type"] == "reply", answer
        found: Frame = answer["body"]
        return found


async def _questions(tell: Teller) -> None:
    lease = await tell.must("asker-1", "lease.claim", {"task": "T", "ttl_ms": 600_000}, "a1")
    first = await tell.must("asker-1", "question.ask", {"title": "first", "task": "T"}, "a2")
    await tell.must("asker-1", "question.ask", {"title": "second", "deadline_ms": 2_000, "default": "no"}, "a3")
    third = await tell.must("asker-1", "question.ask", {"title": "third"}, "a4")
    await tell.must("person-1", "question.list", {"limit": 50})
    await tell.must("person-1", "question.answer", {"id": first["id"], "answer": "yes"}, "p1")
    await tell.ask("person-1", "question.answer", {"id": first["id"], "answer": "other"}, "p2")
    await tell.must("asker-1", "question.withdraw", {"id": third["id"]}, "a5")
    await tell.must("asker-1", "question.show", {"id": first["id"]})
    await tell.hub.advance(3_000)
    fourth = await tell.must("asker-1", "question.ask", {"title": "fourth"}, "a6")
    await tell.must("person-1", "question.dismiss", {"id": fourth["id"], "reason": "never mind"}, "p3")
    for number in range(4):
        taken = await tell.must("asker-1", "inbox.take", {})
        await tell.must("asker-1", "inbox.ack", {"ids": [taken["message"]["id"]]}, f"a7.{number}")
    await tell.must("asker-1", "lease.release", {"task": "T", "epoch": lease["epoch"]}, "a8")


async def _sessions(tell: Teller) -> None:
    started = await tell.must("runner-1", "session.start", {"display_name": "one"}, "r1")
    session = {"session": started["session"]}
    update = {**session, "if_version": started["version"], "append": {"decisions": ["1 first"]}}
    told = await tell.must("runner-1", "session.update", update, "r2")
    await tell.ask("runner-1", "session.update", update, "r3")
    again = {**session, "if_version": told["version"], "append": {"decisions": ["2 second"]}}
    await tell.must("runner-1", "session.update", again, "r4")
    for number in range(2):
        await tell.must("runner-1", "session.checkpoint", {**session, "data": {"mark": number}}, f"r5.{number}")
    await tell.must("runner-1", "session.show", session)
    await tell.must("runner-1", "session.list", {"agent": "runner-1", "state": "working"})
    await tell.must("runner-1", "session.checkpoints", {**session, "limit": 5})
    offer = {**session, "to": "runner-2", "context": {"mark": "c"}, "timeout_ms": 10_000}
    lane = {"lane": (await tell.must("runner-1", "lane.offer", offer, "r6"))["lane"]}
    other = {"lane": (await tell.must("runner-1", "lane.offer", offer, "r7"))["lane"]}
    await tell.must("runner-1", "lane.offer", offer, "r8")
    await tell.must("runner-2", "lane.list", {"receiver": "runner-2", "state": "offered"})
    await tell.must("runner-2", "lane.accept", lane, "s1")
    await tell.must("runner-2", "lane.decline", {**other, "reason": "busy"}, "s2")
    await tell.must("runner-2", "lane.send", {**lane, "body": {"mark": "hello"}}, "s3")
    await tell.must("runner-1", "lane.show", {**lane, "limit": 5})
    await tell.must("runner-1", "lane.close", {**lane, "reason": "done"}, "r9")
    await tell.hub.advance(11_000)
    for runner, letters in (("runner-1", 4), ("runner-2", 4)):
        for number in range(letters):
            taken = await tell.must(runner, "inbox.take", {})
            await tell.must(runner, "inbox.ack", {"ids": [taken["message"]["id"]]}, f"i.{number}")
        await tell.ask(runner, "inbox.take", {})
    await tell.must("runner-1", "session.end", {**session, "reason": "over"}, "r10")
    await tell.must("runner-1", "session.show", session)


async def _queue(tell: Teller) -> None:
    for member in ("member-1", "member-2"):
        await tell.must(member, "role.join", {"role": ROLE.partition(":")[2]}, "j")
    for number in range(3):
        sent = {"target": ROLE, "create": True, "body": {"mark": f"w{number}"}}
        await tell.must("caller-1", "message.send", sent, f"c{number}")
    for member in ("member-1", "member-2", "member-1"):
        taken = await tell.must(member, "inbox.take", {})
        ack = {"ids": [taken["message"]["id"]]}
        await tell.must(member, "inbox.ack", ack, f"ack.{len(tell.ops)}")
        await tell.must(member, "inbox.ack", ack)
    await tell.must("member-2", "role.leave", {"role": ROLE.partition(":")[2]}, "l")


async def _offers(tell: Teller) -> None:
    offer = {"resource": "gpu", "kind": "tool", "capacity": 2, "data": {"mark": "x"}}
    await tell.must("lender-1", "resource.offer", offer, "o1")
    await tell.must("lender-1", "resource.list", {"owner": "lender-1"})
    await tell.must("lender-1", "resource.withdraw", {"resource": "gpu"}, "o2")
    await tell.ask("lender-1", "resource.withdraw", {"resource": "gpu"}, "o3")
    await tell.must("lender-1", "resource.list", {"owner": "lender-1"})
    card = {"description": "me", "skills": [{"id": "s", "name": "s", "description": "s"}]}
    await tell.must("lender-1", "card.set", card, "d1")
    await tell.must("lender-1", "card.get", {"name": "lender-1"})


async def _told() -> Story:
    async with MemoryHub() as hub:
        tell = Teller(hub)
        tell.peers["operator"] = hub.connect()
        await tell.ask("operator", "hello", {"operator": True})
        digest = hashlib.sha256(HUMAN_SECRET.encode()).hexdigest()
        await tell.must("operator", "token.create", {"hash": digest, "role": "human"})
        await tell.come("person-1", token=HUMAN_SECRET)
        for agent in ("asker-1", "runner-1", "runner-2", "member-1", "member-2", "caller-1", "lender-1"):
            await tell.come(agent)
        for part in (_questions, _sessions, _queue, _offers):
            await part(tell)
        rows = hub.journal.scan(hub.journal.base, hub.journal.head, 1 << 20)
        return Story(tell.ops, [Recorded(row.seq, row.at_ms, row.actor, decode(row)) for row in rows])


@cache
def _once() -> Story:
    return asyncio.run(_told())


def honest() -> Story:
    """The story, for one lie."""
    told = _once()
    ops = [replace(op, body=json.loads(json.dumps(op.body)), frame=json.loads(json.dumps(op.frame))) for op in told.ops]
    return Story(ops, list(told.journal))
