"""What agents do with work sessions and lanes: keep a record, break off, go on, hand over, accept, decline, forget."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from tests.simulation.part import Part
from tests.simulation.planners import OWN
from tests.simulation.terms import Violation

from synapse.client.client import Client
from synapse.protocol.lane_commands import AcceptLane, CloseLane, DeclineLane, OfferLane, SendLane
from synapse.protocol.lane_replies import LaneMoved, LaneSent
from synapse.protocol.question_commands import AskQuestion
from synapse.protocol.question_replies import QuestionInfo
from synapse.protocol.session_commands import EndSession, Lines, SaveSessionPoint, StartSession, UpdateSession
from synapse.protocol.session_replies import SessionKept, SessionPoint

if TYPE_CHECKING:
    from tests.simulation.agents import Process
    from tests.simulation.passages import Passage
    from tests.simulation.records import Run

WORKED_ON: Final = ("T8", "T9", "T10", *OWN[:5])
"""Tasks that sessions are about; others claim them too, and so go on where somebody broke off."""
OPEN_MAX: Final = 4
"""Who has more open sessions ends one."""
FILES: Final = ("a/b", "c", "d/e")


def raw(data: object) -> msgspec.Raw:
    """JSON as it goes into a command."""
    return msgspec.Raw(msgspec.json.encode(data))


class Worker(Part):
    """The part of an agent that has to do with sessions and lanes."""

    def work_repertoire(self) -> dict[Callable[["Process"], Awaitable[None]], float]:
        """What there is to do, and how often."""
        return {
            self.run_session: 8,
            self.go_on_with_session: 9,
            self.look_at_sessions: 2,
            self.meddle: 1.5,
            self.offer_lane: 5,
            self.tend_lane: 8,
            self.look_at_lanes: 2,
        }

    # Sessions.

    def _mine(self) -> "list[Run]":
        return self.world.ledger.records.open_of(self.name)

    async def run_session(self, process: "Process") -> None:
        """Begin the record of a run on a task, keep checkpoints, and end it; or break off in one of many ways."""
        client, chance, room = process.client, self._chance, self._chance.choice((None, None, "crew"))
        if len(self._mine()) >= OPEN_MAX:
            await self._end(client, None)
            return
        task = chance.choice(WORKED_ON)
        start = StartSession(task=task, room=room, summary=self.mark(), metadata=raw({"branch": "x"}))
        await self.keyed(client, start, SessionKept)
        lease = await client.claim(task, ttl=6.0, room=room, terms=self._terms())
        for _ in range(chance.randint(1, 2)):
            named = chance.choice((None, f"s{self._mine()[-1].id}"))
            await self._keep(client, session=named, epoch=lease.epoch)
            await self._change(client, None)
            await self.pause(2.0)
        fate = 1.0 if self.world.is_calm else chance.random()
        if fate < 0.2:
            await self.crash(process)
        if fate < 0.45:
            return  # its time runs out
        if fate < 0.6:  # a limit was hit: others may go on from then on
            at_ms = self.world.clock.wall_ms() + chance.choice((1_000, 10_000, 60_000, 60_000))
            limited = UpdateSession(repo=self.mark(), resumable_at_ms=at_ms)
            await self.keyed(client, limited, SessionKept)
            if fate < 0.56:
                return
        elif fate < 0.75:
            await self._end(client, None)
        await client.release(task, epoch=lease.epoch, room=room)

    async def _keep(self, client: Client, **more: Any) -> None:
        data = {"mark": self.mark(), "pad": "." * self._chance.choice((0, 500))}
        await self.loosely(client, SaveSessionPoint(data=raw(data), **more), SessionPoint)

    async def _change(self, client: Client, run: "Run | None", version: int | None = None) -> None:
        """Append lines, or put others in their place."""
        chance, mark = self._chance, self.mark()
        more: dict[str, Any] = {"repo": mark, "if_version": version}
        if run is not None:
            more["session"] = f"s{run.id}"
        if chance.random() < 0.7:
            files = tuple(chance.choices(FILES, k=2))
            more["append"] = Lines(decisions=(f"decided {mark}",), files=files, todos=(f"do {mark}",) * 2)
        else:
            more |= {"todos": (f"only {mark}",), "files": chance.choice((None, (), FILES))}
        if run is not None and chance.random() < 0.2:
            more["task"] = chance.choice(("", *WORKED_ON))
        if chance.random() < 0.3:
            more |= {"state": chance.choice(("working", "waiting_for_input")), "summary": chance.choice((None, mark))}
        await self.keyed(client, UpdateSession(**more), SessionKept)

    async def _end(self, client: Client, run: "Run | None") -> None:
        named, state = None if run is None else f"s{run.id}", self._chance.choice(("done", "error"))
        await self.keyed(client, EndSession(session=named, state=state, reason=self.mark()), SessionKept)

    async def go_on_with_session(self, process: "Process") -> None:
        """With one of mine, as it was just now or as somebody remembers it; perhaps it asks a person."""
        client, chance = process.client, self._chance.random()
        if not self._mine():
            return
        run = self._chance.choice(self._mine())
        if chance < 0.3:
            await self._change(client, run, run.version)
        elif chance < 0.45:
            await self.pause(3.0)
            await self._change(client, run, run.version - self._chance.choice((0, 1)))
        elif chance < 0.6:
            await self._keep(client, session=f"s{run.id}")
        elif chance < 0.7:
            await client.beat_session(f"s{run.id}")
            await client.session(f"s{run.id}")
        elif chance < 0.82:
            asked = AskQuestion(title=self.mark(), session=f"s{run.id}", deadline_ms=8_000)
            await self.keyed(client, asked, QuestionInfo)
            await client.session(f"s{run.id}")
        else:
            await self._end(client, run)

    async def look_at_sessions(self, process: "Process") -> None:
        """A list, one session, or its checkpoints."""
        client, chance, runs = process.client, self._chance.random(), self.world.ledger.records.newest(30)
        if chance < 0.3 or not runs:
            await client.sessions(agent=self.world.somebody(self._chance))
        elif chance < 0.5:
            await client.sessions(resumable=True)
        elif chance < 0.75:
            await client.session(f"s{self._chance.choice(runs).id}")
        else:
            limit = self._chance.choice((1, 3, 20))
            if self._chance.random() < 0.3:  # one of long ago
                runs = self.world.ledger.records.newest(0)
            page = await client.session_checkpoints(f"s{self._chance.choice(runs).id}", limit=limit)
            if page.next is not None:
                await client.session_checkpoints(page.session, limit=limit, after=page.next)

    async def meddle(self, process: "Process") -> None:
        """Change what is another's: a session, or a lane between others. Raises `Violation` when that works."""
        client, is_lane = process.client, self._chance.random() < 0.5
        lanes = [it for it in self.world.ledger.lanes.now.values() if self.name not in (it.sender, it.receiver)]
        runs = [run for run in self.world.ledger.records.newest(30) if run.owner != self.name]
        if is_lane and lanes:
            lane = f"l{self._chance.choice(lanes[-10:]).id}"
            await self.keyed(client, self._chance.choice((AcceptLane, CloseLane))(lane=lane), LaneMoved)
            raise Violation("stale accepted", f"{self.name} moved {lane}", self.name)
        if runs and not is_lane:
            run = self._chance.choice(runs)
            await self._change(client, run)
            raise Violation("stale accepted", f"{self.name} changed {run}", self.name)

    # Lanes.

    def _lanes(self) -> "list[Passage]":
        lanes = self.world.ledger.lanes.now.values()
        return [lane for lane in lanes if self.name in (lane.sender, lane.receiver) and lane.state != "closed"]

    async def offer_lane(self, process: "Process") -> None:
        """Hand work over out of a session, with the lease on its task or without."""
        client, chance = process.client, self._chance
        if not self._mine():
            await self.keyed(client, StartSession(summary=self.mark(), task=chance.choice(WORKED_ON)), SessionKept)
        if not self._mine():
            return
        run = chance.choice(self._mine())
        if run.task is not None and chance.random() < 0.5:
            await client.claim(run.task, ttl=15.0, room=run.room, terms=self._terms())
        to = (self.world.somebody if chance.random() < 0.8 else self.world.absent)(chance, besides=self.name)
        command = OfferLane(
            to=to, context=raw({"mark": self.mark()}), session=f"s{run.id}", note=chance.choice((None, "please")),
            timeout_ms=chance.choice((10_000, 10_000, 20_000, 40_000)),
        )  # fmt: skip
        await self.loosely(client, command, LaneMoved)

    async def on_lane(self, client: Client, lane: str) -> None:
        """An offer came: take it, leave it, or look at it too late."""
        chance = self._chance.random()
        if self.world.is_calm:
            return
        if chance < 0.1:
            await self.pause(15.0)
        if chance < 0.65:
            await self.keyed(client, AcceptLane(lane=lane), LaneMoved)
        elif chance < 0.85:
            reason = self._chance.choice((None, "busy"))
            await self.keyed(client, DeclineLane(lane=lane, reason=reason), LaneMoved)
            if chance > 0.72:  # no step leads back
                await self.keyed(client, AcceptLane(lane=lane), LaneMoved)

    async def tend_lane(self, process: "Process") -> None:
        """Write in a lane of mine, keep a checkpoint in it, take another step of it, legal or not."""
        client, chance, lanes = process.client, self._chance.random(), self._lanes()
        if not lanes:
            return
        lane = self._chance.choice(lanes[-6:])
        known = f"l{lane.id}"
        if chance < 0.35:
            await self.loosely(client, SendLane(lane=known, body=raw({"mark": self.mark()})), LaneSent)
        elif chance < 0.5:
            if self._mine():
                await self._keep(client, lane=known)
        elif chance < 0.7:
            await self.keyed(client, CloseLane(lane=known, reason=self._chance.choice((None, "over"))), LaneMoved)
        elif chance < 0.85:
            step = self._chance.choice((AcceptLane, DeclineLane))(lane=known)
            await self.keyed(client, step, LaneMoved)
        else:
            await client.lane(known, limit=self._chance.choice((2, 20)))

    async def look_at_lanes(self, process: "Process") -> None:
        """Lists of mine."""
        if self._chance.random() < 0.5:
            await process.client.lanes(sender=self.name)
        else:
            await process.client.lanes(receiver=self.name)
            await process.client.lanes(state="offered")
