"""Role queues on a hub in memory, against a model that knows nothing of it: members with several connections take,
wait, follow, ack, die, leave and come back, time passes and the hub is killed, in any order.

After each step: nothing is in two hands, who got something got the oldest that it could reach, nobody who came earlier
still waits for it, and nobody waits while something is free for it. At the end: nothing is lost.
"""

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.hub.conftest import Voice, direct, error_of, message, reply_of, voice

from synapse.protocol.codec import decode_notice
from synapse.protocol.commands import AckInbox, ListInbox, Subscribe, TakeInbox, Unsubscribe
from synapse.protocol.limits import Limits
from synapse.protocol.notices import Lent
from synapse.protocol.replies import Acked, Inbox, Sent, Subscribed, Taken, Unsubscribed
from synapse.protocol.role_commands import JoinRole, LeaveRole, ShowRole
from synapse.protocol.role_replies import RoleChanged, RoleInfo
from synapse.testing import MemoryHub

AGENTS = ("ann", "bob", "cleo")
ROLES = ("role:build", "role:review")
LENDS_MAX = 3
LEND_MS = 30_000

agents, roles, slots = st.sampled_from(AGENTS), st.sampled_from(ROLES), st.integers(0, 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from((*ROLES, *ROLES, *AGENTS))),
        st.tuples(st.just("take"), agents, slots),
        st.tuples(st.just("wait"), agents, slots),
        st.tuples(st.just("wait"), agents, slots),
        st.tuples(st.just("wait"), agents, slots),
        st.tuples(st.just("follow"), agents, slots, st.integers(1, 3)),
        st.tuples(st.just("unfollow"), agents, slots),
        st.tuples(st.just("ack"), agents, slots, st.integers(0, 8)),
        st.tuples(st.just("close"), agents, slots),
        st.tuples(st.just("advance"), st.sampled_from((4_000, LEND_MS + 2_000))),
        st.tuples(st.just("join"), agents, roles),
        st.tuples(st.just("leave"), agents, roles),
        st.tuples(st.just("restart")),
    ),
    max_size=60,
)


@dataclass
class Parcel:
    """A message as the model knows it. holder: agent and connection. since_ms: when it was lent."""

    id: str
    queue: str
    lends: int = 0
    holder: tuple[str, int] | None = None
    since_ms: int = 0
    is_dead: bool = False
    is_acked: bool = False

    @property
    def is_free(self) -> bool:
        return not (self.is_dead or self.is_acked or self.holder) and self.lends < LENDS_MAX

    def come_back(self, *, dies: bool = True) -> None:
        self.holder = None
        self.is_dead = dies and self.lends >= LENDS_MAX


@dataclass
class Machine:
    """The hub, its connections, and the model. waiting: who waits, in the order in which they came. following: who
    takes by subscription: its number, and how many it takes at a time."""

    hub: MemoryHub
    parcels: list[Parcel] = field(default_factory=list)
    members: dict[str, set[str]] = field(default_factory=lambda: {role: set() for role in ROLES})
    made: set[str] = field(default_factory=set)
    voices: dict[tuple[str, int], Voice] = field(default_factory=dict)
    waiting: list[tuple[str, int, int]] = field(default_factory=list)
    following: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    now_ms: int = 0

    async def voice(self, agent: str, slot: int) -> Voice:
        if (agent, slot) not in self.voices:
            self.voices[agent, slot] = await voice(self.hub, agent)
        return self.voices[agent, slot]

    def reach(self, agent: str) -> list[Parcel]:
        """What an agent may take or ack, oldest first."""
        return [
            parcel for parcel in self.parcels if parcel.queue == agent or agent in self.members.get(parcel.queue, ())
        ]

    async def send(self, target: str) -> None:
        sender = await self.voice("ann", 0)
        command = message("?", target) if target in ROLES else direct("?", target)
        self.parcels.append(Parcel((await sender.ask(command, Sent)).id, target))

    async def take(self, agent: str, slot: int) -> None:
        found = await self.voice(agent, slot)
        frame = await found.exchange(TakeInbox())
        if frame.type == "reply":
            self.lent(agent, slot, reply_of(frame, Taken))
        else:
            assert not any(parcel.is_free for parcel in self.reach(agent)), "a take finds what is free"

    async def wait(self, agent: str, slot: int) -> None:
        if sum(1 for _, _, _ in self.waiting) < 6:
            found = await self.voice(agent, slot)
            self.waiting.append((agent, slot, await found.say(TakeInbox(wait_ms=24 * 3600 * 1000))))

    async def follow(self, agent: str, slot: int, most: int) -> None:
        found = await self.voice(agent, slot)
        if (agent, slot) in self.following:
            assert (await found.refused(Subscribe(take=most))).code == "already_subscribed"
        else:
            self.following[agent, slot] = ((await found.ask(Subscribe(take=most), Subscribed)).subscription, most)

    async def unfollow(self, agent: str, slot: int) -> None:
        if (agent, slot) in self.following:
            subscription, _ = self.following.pop((agent, slot))
            await self.voices[agent, slot].ask(Unsubscribe(subscription=subscription), Unsubscribed)

    def lent(self, agent: str, slot: int, taken: Taken | Lent) -> None:
        parcel = next(parcel for parcel in self.parcels if parcel.id == taken.message.id)
        assert parcel in self.reach(agent), "a message goes to its agent, or to a member"
        assert parcel.is_free, "what is lent, dead or acked is lent to nobody else"
        assert not any(older.is_free for older in self.reach(agent)[: self.reach(agent).index(parcel)]), "oldest first"
        parcel.lends += 1
        assert taken.lends == parcel.lends
        assert taken.message.channel == f"@{parcel.queue}"
        parcel.holder, parcel.since_ms = (agent, slot), self.now_ms

    async def ack(self, agent: str, slot: int, at: int) -> None:
        mine = self.reach(agent)
        if not mine:
            return
        parcel = mine[at % len(mine)]
        found = await self.voice(agent, slot)
        frame = await found.exchange(AckInbox(ids=(parcel.id,)))
        if parcel.holder is not None and parcel.holder[0] != agent:
            refused = error_of(frame)
            assert (refused.code, refused.facts["holder"]) == ("not_holder", parcel.holder[0])
            left_ms = refused.facts["expires_in_ms"]
            assert isinstance(left_ms, int)
            assert 0 < left_ms <= LEND_MS
            return
        acked = reply_of(frame, Acked)
        assert (acked.acked if not parcel.is_acked else acked.already) == (parcel.id,)
        parcel.holder, parcel.is_acked = None, True

    async def close(self, agent: str, slot: int) -> None:
        found = self.voices.pop((agent, slot), None)
        if found is None:
            return
        self.waiting = [waiter for waiter in self.waiting if waiter[:2] != (agent, slot)]
        self.following.pop((agent, slot), None)
        await found.peer.aclose()
        await self.hub.settle()
        for parcel in self.parcels:
            if parcel.holder == (agent, slot):
                parcel.come_back()

    async def advance(self, ms: int) -> None:
        self.now_ms += ms
        await self.hub.advance(ms)
        for parcel in self.parcels:
            if parcel.holder is not None and self.now_ms - parcel.since_ms >= LEND_MS:
                parcel.come_back()

    async def join(self, agent: str, role: str) -> None:
        found = await self.voice(agent, 0)
        changed = (await found.ask(JoinRole(role=role.partition(":")[2]), RoleChanged)).changed
        assert changed == (agent not in self.members[role])
        self.members[role].add(agent)
        self.made.add(role)

    async def leave(self, agent: str, role: str) -> None:
        found = await self.voice(agent, 0)
        changed = (await found.ask(LeaveRole(role=role.partition(":")[2]), RoleChanged)).changed
        assert changed == (agent in self.members[role])
        self.members[role].discard(agent)
        for parcel in self.parcels:
            if changed and parcel.queue == role and parcel.holder is not None and parcel.holder[0] == agent:
                parcel.come_back()

    async def restart(self) -> None:
        await self.hub.restart()
        self.voices.clear()
        self.waiting.clear()
        self.following.clear()
        for parcel in self.parcels:
            if parcel.holder is not None:
                parcel.come_back(dies=False)  # it dies when it is looked at next

    async def served(self) -> None:
        """Whoever waited and got something in this step; then whether it was right that the others did not."""
        got: list[tuple[int, str, int, int | None, Taken | Lent]] = []
        for agent, slot, request in self.waiting:
            for frame in list(await self.voices[agent, slot].listen()):
                if frame.id == request and frame.type == "reply":
                    self.voices[agent, slot].heard.remove(frame)
                    got.append((frame.seq, agent, slot, request, reply_of(frame, Taken)))
        for agent, slot in self.voices:
            for frame in list(await self.voices[agent, slot].listen()):
                if isinstance(lent := decode_notice(frame), Lent):
                    self.voices[agent, slot].heard.remove(frame)
                    got.append((frame.seq, agent, slot, None, lent))
        got.sort(key=lambda item: item[0])
        before = list(self.waiting)
        for _, agent, slot, asked, _ in got:
            if asked is not None:
                self.waiting.remove((agent, slot, asked))
        for _, agent, slot, asked, taken in got:
            self.lent(agent, slot, taken)
            assert asked is not None or self.held_by(agent, slot) <= self.following[agent, slot][1], "no more than that"
            earlier = [] if asked is None else before[: before.index((agent, slot, asked))]
            queue = taken.message.channel.removeprefix("@")
            overtaken = [waiter for waiter in earlier if waiter in self.waiting]
            assert not any(who == queue or who in self.members.get(queue, ()) for who, _, _ in overtaken), "in order"
        with_room = [who for who, (_, most) in self.following.items() if self.held_by(*who) < most]
        for agent in (*(who for who, _, _ in self.waiting), *(who for who, _ in with_room)):
            assert not any(parcel.is_free for parcel in self.reach(agent)), "nobody waits for what is free"

    def held_by(self, agent: str, slot: int) -> int:
        return sum(1 for parcel in self.parcels if parcel.holder == (agent, slot))

    async def nothing_is_lost(self) -> None:
        for agent in AGENTS:
            found = await self.voice(agent, 0)
            listed = (await found.ask(ListInbox(limit=100), Inbox)).messages
            assert [item.id for item in listed] == [parcel.id for parcel in self.reach(agent) if not parcel.is_acked]
        for role in sorted(self.made):
            told = await self.voices["ann", 0].ask(ShowRole(role=role.partition(":")[2]), RoleInfo)
            queue = [parcel for parcel in self.parcels if parcel.queue == role]
            assert (told.messages, told.members) == (len(queue), len(self.members[role]))
            assert told.lent == sum(1 for parcel in queue if parcel.holder)
            assert told.unacked == sum(1 for parcel in queue if not parcel.is_acked)


async def carry_out(plan: list[tuple[object, ...]]) -> int:
    """How many messages there were."""
    async with MemoryHub(limits=Limits(lends_max=LENDS_MAX)) as hub:
        machine = Machine(hub)
        for agent in AGENTS:
            await machine.voice(agent, 0)
        for role in ROLES:
            await machine.join("ann", role)
            await machine.join("bob", role)
        for name, *arguments in plan:
            await getattr(machine, str(name))(*arguments)
            await machine.served()
        await machine.nothing_is_lost()
        return len(machine.parcels)


async def test_members_are_served_in_the_order_in_which_they_came_and_not_by_name() -> None:
    async with MemoryHub() as hub:
        machine = Machine(hub)
        for agent in ("cleo", "ann", "bob"):
            await machine.join(agent, ROLES[0])
        for agent in ("bob", "cleo", "ann"):
            await machine.wait(agent, 1)
        for agent in ("bob", "cleo", "ann"):
            await machine.send(ROLES[0])
            await machine.served()
            assert machine.parcels[-1].holder == (agent, 1)
        await machine.nothing_is_lost()


async def test_who_joins_while_it_waits_gets_what_is_there_and_who_leaves_gives_it_back() -> None:
    async with MemoryHub() as hub:
        machine = Machine(hub)
        await machine.join("ann", ROLES[0])
        await machine.send(ROLES[0])
        await machine.wait("bob", 1)
        await machine.join("bob", ROLES[0])
        await machine.served()
        assert machine.parcels[0].holder == ("bob", 1)
        await machine.wait("ann", 1)
        await machine.leave("bob", ROLES[0])
        await machine.served()
        assert (machine.parcels[0].holder, machine.parcels[0].lends) == (("ann", 1), 2)


@settings(max_examples=120, deadline=None)
@given(steps)
def test_one_member_has_it_nothing_is_lost_and_who_waited_longest_is_served_first(
    plan: list[tuple[object, ...]],
) -> None:
    assert asyncio.run(carry_out(plan)) == sum(name == "send" for name, *_ in plan)
