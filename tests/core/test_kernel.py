"""The kernel against an independent model: any sequence of commands, restarts and repeats."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.core.conftest import EveryKey, World, text

from synapse.core.by import By
from synapse.core.events import TYPES, MessagePosted, MessageSent, MessagesLent, Recorded, Row, keys_of
from synapse.core.happenings import LINES
from synapse.core.idempotency import KEEP_MS
from synapse.core.inboxes import Lend, decide_return
from synapse.core.kernel import Mutation
from synapse.core.state import decode_state, digest, encode_state
from synapse.core.telling import announce
from synapse.protocol.commands import (
    AckInbox,
    CreateChannel,
    CreateRoom,
    DeleteChannel,
    DeleteRoom,
    ForgetAgent,
    Hello,
    JoinChannel,
    JoinRoom,
    LeaveChannel,
    LeaveRoom,
    ListAgents,
    ListRooms,
    RebindAgent,
    ShowChannel,
    ShowRoom,
    TakeInbox,
)
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Acked, Agents, ChannelInfo, Place, Reply, RoomInfo, Rooms, Sent

NAMES = ["a", "b", "c", "a/x", "u@h"]
ROOMS = ["main", "r", "s"]
CHANNELS = ["general", "x", "y"]
SECRETS = ["1" * 32, "2" * 32]
LIMITS = Limits(
    inbox_unacked_max=2,
    lends_max=2,
    members_max=2,
    rooms_max=3,
    channels_per_room_max=2,
    agents_max=4,
    mentions_max=2,
    recipients_max=3,
)


@dataclass
class Mail:
    seq: int
    n: int
    reason: str
    lends: int = 0
    dead: bool = False


@dataclass
class Person:
    id: int
    secret: str | None
    mail: list[Mail] = field(default_factory=list)
    arrived: int = 0

    @property
    def is_full(self) -> bool:
        return self.unacked >= LIMITS.inbox_unacked_max

    @property
    def unacked(self) -> int:
        return sum(not mail.dead for mail in self.mail)


@dataclass
class Pipe:
    id: int
    posted: int = 0
    members: set[str] = field(default_factory=set)


@dataclass
class Hall:
    id: int
    bootstrap: bool
    members: set[str] = field(default_factory=set)
    pipes: dict[str, Pipe] = field(default_factory=dict)


class No(Exception):
    """The model refuses, with this code."""


def require(holds: object, code: str) -> None:
    if not holds:
        raise No(code)


@dataclass
class Model:
    """What the hub should know, kept by names and lists, with nothing clever."""

    people: dict[str, Person] = field(default_factory=dict)
    halls: dict[str, Hall] = field(default_factory=dict)
    ids: set[int] = field(default_factory=set)

    def fresh(self, seq: int) -> int:
        assert seq not in self.ids, "an id is never reused"
        self.ids.add(seq)
        return seq

    def deliver(self, name: str, seq: int, reason: str) -> None:
        person = self.people[name]
        person.arrived += 1
        person.mail.append(Mail(seq, person.arrived, reason))

    def snapshot(self) -> object:
        """Everything, in the same form as `seen`."""
        return (
            {
                name: (p.id, p.secret is not None, p.arrived, [(m.seq, m.n, m.reason, m.lends, m.dead) for m in p.mail])
                for name, p in self.people.items()
            },
            {
                name: (
                    h.id,
                    h.bootstrap,
                    sorted(h.members),
                    {pipe: (c.id, c.posted, sorted(c.members)) for pipe, c in h.pipes.items()},
                )
                for name, h in self.halls.items()
            },
        )


def seen(world: World) -> object:
    """The kernel's state in the model's form."""
    agents, rooms = world.state.agents, world.state.rooms

    def names(members: set[int]) -> list[str]:
        return sorted(agents.by_id[member].name for member in members)

    return (
        {
            agent.name: (
                agent.id,
                agent.secret_hash is not None,
                agents.inboxes[agent.id].last_n,
                [(e.seq, e.n, e.reason, e.lends, e.dead) for e in agents.inboxes[agent.id].entries.values()],
            )
            for agent in agents.by_id.values()
        },
        {
            room.name: (
                room.id,
                room.bootstrap,
                names(room.members),
                {
                    channel.name: (channel.id, channel.last_n, names(channel.members))
                    for channel in rooms.channels.values()
                    if channel.room == room.id
                },
            )
            for room in rooms.by_id.values()
        },
    )


class Kernel(RuleBasedStateMachine):
    """Each rule says what the model expects, then what the kernel did."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(LIMITS)
        self.model = Model()
        general = self.world.state.rooms.by_address["main:general"]
        main = Hall(general.room, bootstrap=True, pipes={"general": Pipe(general.id)})
        self.model.halls["main"] = main
        self.model.ids |= {main.id, general.id}
        self.lent: dict[tuple[str, int], int] = {}
        self.done: list[tuple[str, str, Mutation, Reply | None, int]] = []
        self.keys = 0
        for name in NAMES[:3]:
            self.hello_of(name, SECRETS[0], None)

    # carrying out

    def go(
        self, actor: str, command: Mutation, expected: Callable[[int], Reply | None], *, keyed: bool = False
    ) -> Reply | None:
        """Do it in both. `expected` changes the model (given the first seq of the events) or raises `No`."""
        world = self.world
        by = world.by(actor)
        key = None
        if keyed:
            self.keys += 1
            key = f"k{self.keys}"
        before = world.state.seq
        rows = len(world.rows)
        try:
            reply = expected(before + 1)
        except No as no:
            assert world.refusal(command, by, key).code == str(no)
            return None
        recorded, told = world.do(command, by, key)
        if reply is not None:
            assert told == msgspec.structs.replace(reply, cursor=f"{world.state.journal_id}:{world.state.seq}")
        self.check_rows(recorded, world.rows[rows:])
        if key is not None and recorded:
            self.done.append((actor, key, command, told, world.at_ms))
        return told

    def check_rows(self, recorded: list[Recorded], rows: list[Row]) -> None:
        """Gapless seqs, and every message announced exactly where it arrived."""
        assert [row.seq for row in rows] == [item.seq for item in recorded]
        for item in recorded:
            keys = [key for key, _ in announce(self.world.state.journal_id, item, EveryKey(), {})]
            event = item.event
            if isinstance(event, MessagePosted):
                assert keys == [f"ch/{event.channel}", *(f"in/{d.agent}" for d in event.mentions)]
            elif isinstance(event, MessageSent):
                assert keys == [f"in/{d.agent}" for d in event.to]
            else:
                assert keys == [key for key in keys_of(item.seq, event) if key.startswith("re/")], "receipts, each once"

    def someone(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.model.people)))

    # agents

    @rule(name=st.sampled_from(NAMES), secret=st.sampled_from(SECRETS), shown=st.sampled_from([*SECRETS, None]))
    def hello(self, name: str, secret: str, shown: str | None) -> None:
        self.hello_of(name, secret, shown)

    def hello_of(self, name: str, secret: str, shown: str | None) -> None:
        people = self.model.people

        def expected(seq: int) -> None:
            person = people.get(name)
            if person is not None and person.secret is not None:
                require(person.secret == secret, "name_taken")
                return
            above = people.get("a") if name == "a/x" else None
            require(above is None or above.secret is None or above.secret == shown, "name_taken")
            if person is None:
                require(len(people) < LIMITS.agents_max, "limit")
                people[name] = Person(self.model.fresh(seq), secret)
            else:
                person.secret = secret

        world = self.world
        command = Hello(name=name, secret=secret, ancestors={} if shown is None else {"a": shown})
        by = By("", None, 1, "main:general", world.at_ms, world.lease_ms)
        try:
            expected(world.state.seq + 1)
        except No as no:
            assert world.refusal(command, by).code == str(no)
        else:
            world.do(command, by)

    @precondition(lambda self: self.model.people)
    @rule(data=st.data(), forget=st.booleans())
    def operate(self, data: st.DataObject, forget: bool) -> None:
        name = self.someone(data)
        if not forget:

            def unbound(seq: int) -> None:
                self.model.people[name].secret = None

            self.go("operator", RebindAgent(name=name), unbound)
            return

        def gone(seq: int) -> None:
            del self.model.people[name]
            for hall in self.model.halls.values():
                hall.members.discard(name)
                for pipe in hall.pipes.values():
                    pipe.members.discard(name)

        self.go("operator", ForgetAgent(name=name), gone)
        self.lent = {key: value for key, value in self.lent.items() if key[0] != name}
        self.done = [done for done in self.done if done[0] != name]

    # messages

    @precondition(lambda self: self.model.people)
    @rule(
        data=st.data(),
        room=st.sampled_from(ROOMS),
        channel=st.sampled_from(CHANNELS),
        called=st.lists(st.sampled_from(NAMES), max_size=4),
        keyed=st.booleans(),
    )
    def post(self, data: st.DataObject, room: str, channel: str, called: list[str], keyed: bool) -> None:
        sender = self.someone(data)

        def expected(seq: int) -> Reply:
            hall = self.model.halls.get(room)
            require(hall is not None and channel in hall.pipes, "not_found")
            assert hall is not None
            pipe = hall.pipes[channel]
            pipe.posted += 1
            got: list[str] = []
            skipped: list[str] = []
            for name in dict.fromkeys(called) if sender in hall.members else ():
                if name not in self.model.people or name == sender:
                    continue
                if len(got) == LIMITS.mentions_max or self.model.people[name].is_full:
                    skipped.append(name)
                else:
                    got.append(name)
            for name in got:
                self.model.deliver(name, seq, "mention")
            return Sent(
                id=f"m{seq}",
                cursor="",
                room=room,
                channel=channel,
                n=pipe.posted,
                mentions=tuple(got),
                skipped=tuple(skipped),
            )

        words = " ".join(["hi", *(f"@{name}" for name in called)])
        self.go(sender, text(words, channel=f"{room}:{channel}"), expected, keyed=keyed)

    @precondition(lambda self: self.model.people)
    @rule(
        data=st.data(),
        to=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5),
        create=st.booleans(),
        keyed=st.booleans(),
    )
    def send(self, data: st.DataObject, to: list[str], create: bool, keyed: bool) -> None:
        sender = self.someone(data)
        names = list(dict.fromkeys(to))

        def expected(seq: int) -> Reply:
            people = self.model.people
            require(len(names) <= LIMITS.recipients_max, "limit")
            new = [name for name in names if name not in people]
            require(create or not new, "not_found")
            require(len(people) + len(new) <= LIMITS.agents_max, "limit")
            require(not any(people[name].is_full for name in names if name in people), "inbox_full")
            for number, name in enumerate(new):
                people[name] = Person(self.model.fresh(seq + number), None)
            for name in names:
                self.model.deliver(name, seq + len(new), "direct")
            return Sent(id=f"m{seq + len(new)}", cursor="", to=tuple(names), created=tuple(new))

        self.go(sender, text("psst", to=to, create=create), expected, keyed=keyed)

    @precondition(lambda self: self.model.people)
    @rule(data=st.data(), room=st.sampled_from(ROOMS), keyed=st.booleans())
    def send_all(self, data: st.DataObject, room: str, keyed: bool) -> None:
        sender = self.someone(data)

        def expected(seq: int) -> Reply:
            require(room in self.model.halls, "not_found")
            others = sorted(self.model.halls[room].members - {sender})
            to = [name for name in others if not self.model.people[name].is_full]
            skipped = [name for name in others if self.model.people[name].is_full]
            require(others, "no_recipient")
            require(to, "inbox_full")
            for name in to:
                self.model.deliver(name, seq, "all")
            return Sent(id=f"m{seq}", cursor="", to=tuple(to), skipped=tuple(skipped))

        self.go(sender, text("all of you", target="all", room=room), expected, keyed=keyed)

    # inboxes

    @precondition(lambda self: self.model.people)
    @rule(
        data=st.data(),
        directed=st.booleans(),
        connection=st.integers(1, 2),
        again=st.sampled_from(["no", "returned", "crashed"]),
    )
    def take(self, data: st.DataObject, directed: bool, connection: int, again: str) -> None:
        name = self.someone(data)
        self.take_one(name, connection, directed=directed)
        for _ in range(LIMITS.lends_max if again != "no" else 0):
            if again == "returned":
                self.give_back(self.world.state.soft.lending.held_by(connection))
            else:
                self.restart()
            self.take_one(name, connection, directed=directed)

    def take_one(self, name: str, connection: int, *, directed: bool) -> None:
        world, got = self.world, 0
        for mail in self.model.people[name].mail:
            if mail.dead or (name, mail.seq) in self.lent or (directed and mail.reason != "direct"):
                continue
            if mail.lends == LIMITS.lends_max:
                mail.dead = True
                continue
            mail.lends += 1
            got = mail.seq
            break
        recorded, _ = world.do(TakeInbox(directed_only=directed), world.by(name, connection=connection))
        lent = [item.event.messages for item in recorded if isinstance(item.event, MessagesLent)]
        assert lent == ([(got,)] if got else [])
        if got:
            world.state.soft.lending.lend(Lend(world.agent(name), got, connection, world.lease_ms + 30_000))
            self.lent[name, got] = connection

    def give_back(self, lends: list[Lend]) -> None:
        """Lends end without an ack, as the hub ends them."""
        world = self.world
        for lend in lends:
            name = world.state.agents.by_id[lend.agent].name
            assert self.lent.pop((name, lend.seq)) == lend.connection
            mail = next(mail for mail in self.model.people[name].mail if mail.seq == lend.seq)
            mail.dead = mail.dead or mail.lends == LIMITS.lends_max
            before = encode_state(world.state)
            events = decide_return(world.state, world.rules, lend)
            assert encode_state(world.state) == before
            world.state.soft.lending.end(lend.agent, lend.seq)
            world.record(events, "hub")

    @rule(connection=st.integers(1, 2))
    def disconnect(self, connection: int) -> None:
        held = self.world.state.soft.lending.held_by(connection)
        assert len(held) == sum(other == connection for other in self.lent.values())
        self.give_back(held)

    @precondition(lambda self: self.lent)
    @rule()
    def time_out(self) -> None:
        self.world.lease_ms += 30_000
        late = self.world.state.soft.lending.overdue(self.world.lease_ms)
        assert len(late) == len(self.lent)
        self.give_back(late)

    @precondition(lambda self: self.model.people)
    @rule(data=st.data(), stray=st.integers(0, 1100), every=st.booleans(), keyed=st.booleans())
    def ack(self, data: st.DataObject, stray: int, every: bool, keyed: bool) -> None:
        name = self.someone(data)
        person = self.model.people[name]
        there = [mail.seq for mail in person.mail]
        asked = (
            [] if every else [*data.draw(st.lists(st.sampled_from(there), max_size=3) if there else st.just([])), stray]
        )

        def expected(seq: int) -> Reply:
            require(all(person.id < one <= self.world.state.seq for one in asked), "not_found")
            unique = list(dict.fromkeys(asked))
            gone = there if every else [one for one in unique if one in there]
            person.mail = [mail for mail in person.mail if mail.seq not in gone]
            return Acked(
                acked=tuple(f"m{one}" for one in gone),
                already=tuple(f"m{one}" for one in unique if one not in gone),
                unacked=person.unacked,
                cursor="",
            )

        command = AckInbox(ids=tuple(f"m{one}" for one in asked), all=every)
        self.go(name, command, expected, keyed=keyed)
        kept = {mail.seq for mail in person.mail}
        self.lent = {key: value for key, value in self.lent.items() if key[0] != name or key[1] in kept}

    # rooms and channels

    def place(self, room: str, channel: str | None, *, changed: bool, created: bool = False) -> Place:
        return Place(room=room, channel=channel, changed=changed, created=created, cursor="")

    def new_hall(self, room: str, pipes: list[str], seq: int) -> Hall:
        require(len(self.model.halls) < LIMITS.rooms_max, "limit")
        hall = self.model.halls[room] = Hall(self.model.fresh(seq), bootstrap=False)
        for number, name in enumerate(pipes, 1):
            hall.pipes[name] = Pipe(self.model.fresh(seq + number))
        return hall

    @rule(room=st.sampled_from([*ROOMS, "t"]), keyed=st.booleans())
    def create_room(self, room: str, keyed: bool) -> None:
        def expected(seq: int) -> Reply:
            require(room not in self.model.halls, "already_exists")
            self.new_hall(room, ["general"], seq)
            return self.place(room, None, changed=True, created=True)

        self.go("operator", CreateRoom(room=room), expected, keyed=keyed)

    @rule(room=st.sampled_from(ROOMS), channel=st.sampled_from(CHANNELS), keyed=st.booleans())
    def create_channel(self, room: str, channel: str, keyed: bool) -> None:
        def expected(seq: int) -> Reply:
            require(room in self.model.halls, "not_found")
            hall = self.model.halls[room]
            require(channel not in hall.pipes, "already_exists")
            require(len(hall.pipes) < LIMITS.channels_per_room_max, "limit")
            hall.pipes[channel] = Pipe(self.model.fresh(seq))
            return self.place(room, channel, changed=True, created=True)

        self.go("operator", CreateChannel(channel=f"{room}:{channel}"), expected, keyed=keyed)

    @rule(room=st.sampled_from([*ROOMS, "t"]), channel=st.none() | st.sampled_from(CHANNELS))
    def delete(self, room: str, channel: str | None) -> None:
        def expected(seq: int) -> Reply:
            hall = self.model.halls.get(room)
            require(hall is not None and (channel is None or channel in hall.pipes), "not_found")
            assert hall is not None
            members = hall.members if channel is None else hall.pipes[channel].members
            require(not (hall.bootstrap and channel in (None, "general")), "protected")
            require(not members, "not_empty")
            if channel is None:
                del self.model.halls[room]
            else:
                del hall.pipes[channel]
            return self.place(room, channel, changed=True)

        command = DeleteRoom(room=room) if channel is None else DeleteChannel(channel=f"{room}:{channel}")
        self.go("operator", command, expected)

    @precondition(lambda self: self.model.people)
    @rule(data=st.data(), room=st.sampled_from([*ROOMS, "t"]), channel=st.none() | st.sampled_from(CHANNELS))
    def join(self, data: st.DataObject, room: str, channel: str | None) -> None:
        name = self.someone(data)
        most = LIMITS.members_max

        def expected(seq: int) -> Reply:
            hall = self.model.halls.get(room)
            created = False
            if hall is None:
                created = True
                hall = self.new_hall(room, list(dict.fromkeys(["general", channel or "general"])), seq)
            elif channel is not None and channel not in hall.pipes:
                require(len(hall.pipes) < LIMITS.channels_per_room_max, "limit")
                require(name in hall.members or len(hall.members) < most, "limit")
                created = True
                hall.pipes[channel] = Pipe(self.model.fresh(seq))
            members = hall.members if channel is None else hall.pipes[channel].members
            changed = name not in members
            require(not changed or len(members) < most, "limit")
            require(name in hall.members or len(hall.members) < most, "limit")
            members.add(name)
            hall.members.add(name)
            return self.place(room, channel, changed=changed, created=created)

        command = JoinRoom(room=room) if channel is None else JoinChannel(channel=f"{room}:{channel}")
        self.go(name, command, expected)

    @precondition(lambda self: self.model.people)
    @rule(data=st.data(), room=st.sampled_from(ROOMS), channel=st.none() | st.sampled_from(CHANNELS))
    def leave(self, data: st.DataObject, room: str, channel: str | None) -> None:
        name = self.someone(data)

        def expected(seq: int) -> Reply:
            hall = self.model.halls.get(room)
            require(hall is not None and (channel is None or channel in hall.pipes), "not_found")
            assert hall is not None
            members = hall.members if channel is None else hall.pipes[channel].members
            changed = name in members
            members.discard(name)
            for pipe in hall.pipes.values() if channel is None else ():
                pipe.members.discard(name)
            return self.place(room, channel, changed=changed)

        command = LeaveRoom(room=room) if channel is None else LeaveChannel(channel=f"{room}:{channel}")
        self.go(name, command, expected)

    # repeats, time and restarts

    @precondition(lambda self: self.done)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        actor, key, command, first, at_ms = data.draw(st.sampled_from(self.done))
        if self.world.at_ms - at_ms >= KEEP_MS:
            return
        before, rows = encode_state(self.world.state), len(self.world.rows)
        recorded, again = self.world.do(command, actor, key)
        assert (recorded, again) == ([], first)
        assert (encode_state(self.world.state), len(self.world.rows)) == (before, rows)
        other = JoinRoom(room="elsewhere") if actor != "operator" else CreateRoom(room="elsewhere")
        assert self.world.refusal(other, actor, key).code == "idem_conflict"

    @rule(ms=st.sampled_from([1, 1_000, 3_600_000, KEEP_MS - 1, KEEP_MS + 1]))
    def pass_time(self, ms: int) -> None:
        self.world.at_ms += ms

    @rule()
    def restart(self) -> None:
        before = digest(self.world.state)
        self.world.restart()
        self.lent.clear()
        assert digest(self.world.state) == before, "replay made another state"

    @rule()
    def snapshot(self) -> None:
        dump = encode_state(self.world.state)
        again = decode_state(dump)
        assert encode_state(again) == dump, "a dump does not survive its own reading"
        again.soft = self.world.state.soft
        self.world.state = again

    @invariant()
    def state_equals_model(self) -> None:
        assert seen(self.world) == self.model.snapshot()

    @invariant()
    def indexes_agree(self) -> None:
        rooms, agents, world = self.world.state.rooms, self.world.state.agents, self.world
        assert {rooms.address(channel): channel.id for channel in rooms.channels.values()} == {
            address: channel.id for address, channel in rooms.by_address.items()
        }
        assert {name: room.id for name, room in rooms.by_name.items()} == {r.name: i for i, r in rooms.by_id.items()}
        assert sum(map(len, rooms.in_room.values())) == len(rooms.channels)
        assert agents.by_id.keys() == agents.inboxes.keys() == {agent.id for agent in agents.by_name.values()}
        for channel in rooms.channels.values():
            assert channel.members <= rooms.by_id[channel.room].members <= agents.by_id.keys()
        for inbox in agents.inboxes.values():
            numbers = [entry.n for entry in inbox.entries.values()]
            assert numbers == sorted(set(numbers))
            assert list(inbox.entries) == sorted(inbox.entries)
        assert world.state.seq == world.rows[-1].seq == world.rows[0].seq + len(world.rows) - 1

    @invariant()
    def lends_are_those_of_the_model(self) -> None:
        held = self.world.state.soft.lending.lends.values()
        names = {(self.world.state.agents.by_id[one.agent].name, one.seq): one.connection for one in held}
        assert names == self.lent

    @invariant()
    def keys_are_counted_and_kept_a_day_and_no_longer_than_the_next_event(self) -> None:
        kept = list(self.world.state.idempotency.in_order())
        last = self.world.rows[-1].at_ms
        assert all(last - one.at_ms < KEEP_MS for one in kept)
        counted: dict[str, int] = {}
        for one in kept:
            counted[one.actor] = counted.get(one.actor, 0) + 1
        assert counted == self.world.state.idempotency.live
        known = {(one.actor, one.key) for one in kept}
        assert {one.actor for one in kept} <= self.model.people.keys() | {"operator"}
        assert all((actor, key) in known for actor, key, _, _, at in self.done if last - at < KEEP_MS)

    @rule()
    def look(self) -> None:
        people, halls = self.model.people, self.model.halls
        agents = self.world.look(Agents, ListAgents()).agents
        assert {a.name: (a.unacked, a.bound) for a in agents} == {
            name: (p.unacked, p.secret is not None) for name, p in people.items()
        }
        rooms = self.world.look(Rooms, ListRooms()).rooms
        assert {r.room: (r.members, r.channels_count) for r in rooms} == {
            name: (len(h.members), len(h.pipes)) for name, h in halls.items()
        }
        for name, hall in halls.items():
            info = self.world.look(RoomInfo, ShowRoom(room=name))
            assert info.participants == tuple(sorted(hall.members))
            assert info.channels == tuple(sorted(hall.pipes))
            for pipe, channel in hall.pipes.items():
                shown = self.world.look(ChannelInfo, ShowChannel(channel=f"{name}:{pipe}"))
                assert (shown.messages, shown.participants) == (channel.posted, tuple(sorted(channel.members)))

    def teardown(self) -> None:
        assert digest(self.world.replayed()) == digest(self.world.state), "replay made another state"


def test_any_sequence_of_commands_keeps_the_kernel_equal_to_the_model() -> None:
    run_state_machine_as_test(Kernel, settings=settings(max_examples=200, stateful_step_count=60))


def test_every_event_is_told_or_is_said_never_to_be() -> None:
    missing = [kind.__name__ for kind in TYPES.values() if kind not in LINES]
    assert missing == [], "give each a row of LINES in core/happenings.py: `_room_fields(kind, field, …)`, or NEVER"
    assert set(LINES) == set(TYPES.values())
