"""Delivery against a plain model: several connections of each agent take, ack, crash and come back, while messages are
sent with dates and priorities, die, and are given another chance.

What holds, whatever the order: nothing vanishes, no message is in two hands, who keeps the ids of what it has handled
handles each message once, what a sender is told of a message never goes back by itself, and all that is derived from
the entries is what they say.
"""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.core.conftest import EveryKey, World, text

from synapse.core.dead_letters import decide_resend_sent
from synapse.core.delivery_events import RECEIPTS
from synapse.core.events import MessageSent, MessagesLent, Recorded
from synapse.core.inboxes import Lend, decide_expired, decide_return, decide_take
from synapse.core.receipts import shown_receipts
from synapse.core.state import decode_state, encode_state
from synapse.protocol.commands import AckInbox, TakeInbox
from synapse.protocol.delivery_commands import DropDead, ResendDead
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Acked
from synapse.protocol.terms import PRIORITIES

LIMITS = Limits(lends_max=3, dead_letters_max=3, inbox_unacked_max=6)
READERS = ("ada", "bob")
SENDERS = ("cy", "di")
CONNECTIONS = {"ada": (1, 2, 3), "bob": (4, 5)}
AFTER = {
    None: {"delivered", "acked", "dead"},
    "delivered": {"acked", "dead"},
    "dead": {"acked", "dropped", "stored"},
    "stored": {"delivered", "acked", "dead"},
    "acked": set(),
    "dropped": set(),
}
"""What a sender may be told next of one message and one recipient."""


@dataclass
class Mail:
    """One message in one inbox. where: unacked, dead, acked, dropped."""

    seq: int
    sender: str
    priority: str
    ends_ms: int | None
    where: str = "unacked"
    lends: int = 0
    hand: int | None = None
    until_ms: int = 0


@dataclass
class Reader:
    mail: dict[int, Mail] = field(default_factory=dict)
    handled: dict[int, int] = field(default_factory=dict)
    listed: dict[str, list[int]] = field(default_factory=dict)

    def of(self, where: str) -> list[Mail]:
        return [mail for mail in self.mail.values() if mail.where == where]


class Delivering(RuleBasedStateMachine):
    """Each rule says what the model expects, then what the kernel did."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(LIMITS)
        self.world.join(*READERS, *SENDERS)
        self.readers = {name: Reader() for name in READERS}
        self.disowned: set[tuple[str, int]] = set()
        self.told: dict[tuple[str, str], str | None] = {}

    # What the model does.

    def die(self, reader: Reader, dying: list[Mail]) -> None:
        for mail in dying:
            mail.where, mail.hand = "dead", None
        for mail in sorted(reader.of("dead"), key=lambda mail: mail.seq)[: -LIMITS.dead_letters_max]:
            mail.where = "dropped"

    def note(self, recorded: list[Recorded]) -> None:
        """Senders are told; what they are told never goes back."""
        for item in recorded:
            if type(item.event) not in RECEIPTS:
                continue
            for _, told in shown_receipts(self.world.state.journal_id, item, item.event, EveryKey()):  # type: ignore[arg-type]  # RECEIPTS holds members of it
                for message in told.ids:
                    before = self.told.get((message, told.recipient))
                    assert told.state in AFTER[before], f"{message} at {told.recipient}: {before}, then {told.state}"
                    self.told[message, told.recipient] = told.state

    def give_back(self, reader: Reader, mails: list[Mail]) -> None:
        for mail in mails:
            mail.hand = None
            if mail.lends >= LIMITS.lends_max:
                self.die(reader, [mail])

    # What happens.

    @rule(
        sender=st.sampled_from(SENDERS),
        to=st.lists(st.sampled_from(READERS), min_size=1, max_size=2, unique=True),
        priority=st.sampled_from(PRIORITIES),
        in_ms=st.sampled_from([None, None, 1, 5_000, 40_000]),
    )
    def send(self, sender: str, to: list[str], priority: str, in_ms: int | None) -> None:
        world = self.world
        ends_ms = None if in_ms is None else world.at_ms + in_ms
        command = text("x", to=tuple(to), priority=priority, expires_at_ms=ends_ms)
        if any(len(self.readers[name].of("unacked")) >= LIMITS.inbox_unacked_max for name in to):
            assert world.refusal(command, sender).code == "inbox_full"
            return
        seq = world.do(command, sender)[0][-1].seq
        for name in to:
            self.readers[name].mail[seq] = Mail(seq, sender, priority, ends_ms)

    @rule(name=st.sampled_from(READERS), at=st.integers(0, 2))
    def take(self, name: str, at: int) -> None:
        connection = CONNECTIONS[name][at % len(CONNECTIONS[name])]
        self.take_one(name, connection)

    @rule(name=st.sampled_from(READERS), at=st.integers(0, 2), most=st.integers(2, 4), last=st.integers(0, 4))
    def take_several(self, name: str, at: int, most: int, last: int) -> None:
        """A subscription has room for `most`, and no more may go behind the one at `last`."""
        connection = CONNECTIONS[name][at % len(CONNECTIONS[name])]
        got = self.expect(name, min(most, last + 1))
        world, asked = self.world, list[int]()

        def is_last(seq: int) -> bool:
            asked.append(seq)
            return len(asked) > last

        by, before = world.by(name, connection=connection), encode_state(world.state)
        events = decide_take(world.state, world.rules, TakeInbox(), by, most, is_last)
        assert encode_state(world.state) == before
        assert asked == [mail.seq for mail in got][: most - 1], "it is asked behind which one more would go"
        self.lend(name, connection, got, world.record(events, name))

    def take_one(self, name: str, connection: int) -> int | None:
        world = self.world
        got = self.expect(name, 1)
        recorded, _ = world.do(TakeInbox(), world.by(name, connection=connection))
        self.lend(name, connection, got, recorded)
        return got[0].seq if got else None

    def expect(self, name: str, most: int) -> list[Mail]:
        """What a take gets, in order; those found dead on the way die."""
        world, reader = self.world, self.readers[name]
        free = [mail for mail in reader.of("unacked") if mail.hand is None]
        free.sort(key=lambda mail: (-PRIORITIES.index(mail.priority), mail.seq))
        dying, got = [], list[Mail]()
        for mail in free:
            if len(got) == most:
                break
            if (mail.ends_ms is not None and mail.ends_ms <= world.at_ms) or mail.lends >= LIMITS.lends_max:
                dying.append(mail)
                continue
            got.append(mail)
        self.die(reader, dying)
        return got

    def lend(self, name: str, connection: int, got: list[Mail], recorded: list[Recorded]) -> None:
        """What a take got is in the hands of a connection, by one event."""
        world, reader = self.world, self.readers[name]
        self.note(recorded)
        lent = [item.event for item in recorded if isinstance(item.event, MessagesLent)]
        assert [event.messages for event in lent] == ([tuple(mail.seq for mail in got)] if got else [])
        told = tuple(0 if mail.lends or (name, mail.seq) in self.disowned else world.agent(mail.sender) for mail in got)
        assert not got or lent[0].senders == (told if any(told) else ()), "a first lend is told to its sender"
        for mail in got:
            assert mail.hand is None, "a message is in one hand"
            mail.lends, mail.hand, mail.until_ms = mail.lends + 1, connection, world.lease_ms + LIMITS.lend_ms
            world.state.soft.lending.lend(Lend(world.agent(name), mail.seq, connection, mail.until_ms))
            reader.handled.setdefault(mail.seq, 0)
            if reader.handled[mail.seq] == 0:  # it keeps the ids of what it has handled
                reader.handled[mail.seq] += 1

    @rule(data=st.data(), name=st.sampled_from(READERS), everything=st.booleans())
    def ack(self, data: st.DataObject, name: str, everything: bool) -> None:
        world, reader = self.world, self.readers[name]
        there = [mail.seq for mail in reader.mail.values() if mail.where in ("unacked", "dead")]
        asked = there
        if not everything:
            asked = data.draw(st.lists(st.sampled_from(sorted(reader.mail)), max_size=3)) if reader.mail else []
        gone = [seq for seq in dict.fromkeys(asked) if seq in there]
        for seq in gone:
            reader.mail[seq].where, reader.mail[seq].hand = "acked", None
        command = AckInbox(all=True) if everything else AckInbox(ids=tuple(f"m{seq}" for seq in asked))
        recorded, reply = world.do(command, name)
        self.note(recorded)
        assert isinstance(reply, Acked)
        assert set(reply.acked) == {f"m{seq}" for seq in gone}
        assert reply.unacked == len(reader.of("unacked"))

    @rule(name=st.sampled_from(READERS), at=st.integers(0, 2))
    def close(self, name: str, at: int) -> None:
        world, reader = self.world, self.readers[name]
        connection = CONNECTIONS[name][at % len(CONNECTIONS[name])]
        for lend in world.state.soft.lending.held_by(connection):
            world.state.soft.lending.end(lend.agent, lend.seq)
            self.note(world.record(decide_return(world.state, world.rules, lend), "hub"))
            self.give_back(reader, [reader.mail[lend.seq]])

    @rule(ms=st.sampled_from([1, 4_999, 30_000]))
    def time_passes(self, ms: int) -> None:
        world = self.world
        world.at_ms += ms
        world.lease_ms += ms
        for lend in world.state.soft.lending.overdue(world.lease_ms):
            reader = next(self.readers[name] for name in READERS if world.agent(name) == lend.agent)
            assert reader.mail[lend.seq].until_ms <= world.lease_ms
            world.state.soft.lending.end(lend.agent, lend.seq)
            self.note(world.record(decide_return(world.state, world.rules, lend), "hub"))
            self.give_back(reader, [reader.mail[lend.seq]])
        for reader in self.readers.values():
            late = [mail for mail in reader.of("unacked") if mail.ends_ms is not None and mail.ends_ms <= world.at_ms]
            self.die(reader, late)
        self.note(world.record(decide_expired(world.state, world.rules, world.at_ms), "hub"))

    @rule(replay=st.booleans())
    def restart(self, replay: bool) -> None:
        world = self.world
        before = encode_state(world.state)
        world.state = world.replayed() if replay else decode_state(before)
        assert encode_state(world.state) == before
        world.lease_ms = 0
        for reader in self.readers.values():
            for mail in reader.mail.values():
                mail.hand = None

    @precondition(lambda self: any(reader.of("dead") for reader in self.readers.values()))
    @rule(data=st.data(), way=st.sampled_from(["resend", "resend sent", "drop", "drop sent"]))
    def settle(self, data: st.DataObject, way: str) -> None:
        world = self.world
        dead = [(name, mail) for name in READERS for mail in self.readers[name].of("dead")]
        name, mail = data.draw(st.sampled_from(dead))
        reader, is_sent = self.readers[name], way.endswith("sent")
        if is_sent and (name, mail.seq) in self.disowned:
            return
        with_it = [
            other
            for other in READERS
            if mail.seq in self.readers[other].mail
            and self.readers[other].mail[mail.seq].where == "dead"
            and (other, mail.seq) not in self.disowned
        ]
        if way == "drop":
            self.note(world.do(DropDead(ids=(f"m{mail.seq}",)), name)[0])
            mail.where = "dropped"
        elif way == "drop sent":
            world.do(DropDead(ids=(f"m{mail.seq}",), sent=True), mail.sender)
            self.disowned |= {(other, mail.seq) for other in with_it}
        elif way == "resend":
            command = ResendDead(id=f"m{mail.seq}")
            if len(reader.of("unacked")) >= LIMITS.inbox_unacked_max:
                assert world.refusal(command, name).code == "inbox_full"
                return
            self.note(world.do(command, name)[0])
            mail.where, mail.lends, mail.ends_ms = "unacked", 0, None
        elif all(len(self.readers[other].of("unacked")) < LIMITS.inbox_unacked_max for other in with_it):
            original = world.read(mail.seq, 1)[0].event
            assert isinstance(original, MessageSent)
            command = ResendDead(id=f"m{mail.seq}", sent=True)
            by = world.by(mail.sender)
            recorded = world.record(decide_resend_sent(world.state, world.rules, command, by, original), mail.sender)
            self.note(recorded)
            for other in with_it:
                self.readers[other].mail[mail.seq].where = "dropped"
                self.readers[other].mail[recorded[0].seq] = Mail(recorded[0].seq, mail.sender, mail.priority, None)

    def teardown(self) -> None:
        """Every reader works until nothing is left: then each message was handled, acked, is dead or was dropped."""
        for name in READERS:
            reader = self.readers[name]
            for lend in list(self.world.state.soft.lending.lends.values()):
                if lend.agent == self.world.agent(name):
                    self.close(name, CONNECTIONS[name].index(lend.connection))
            while (seq := self.take_one(name, CONNECTIONS[name][0])) is not None:
                self.note(self.world.do(AckInbox(ids=(f"m{seq}",)), name)[0])
                reader.mail[seq].where, reader.mail[seq].hand = "acked", None
            assert reader.of("unacked") == []
            assert set(reader.handled.values()) <= {1}

    # What holds at any moment.

    @invariant()
    def nothing_vanishes(self) -> None:
        state = self.world.state
        for name, reader in self.readers.items():
            entries = state.agents.inboxes[self.world.agent(name)].entries
            assert {seq: (entry.dead, entry.lends) for seq, entry in entries.items()} == {
                mail.seq: (mail.where == "dead", mail.lends)
                for mail in reader.mail.values()
                if mail.where in ("unacked", "dead")
            }

    @invariant()
    def one_hand_holds_what_is_lent(self) -> None:
        lends = {(lend.agent, lend.seq): lend.connection for lend in self.world.state.soft.lending.lends.values()}
        assert lends == {
            (self.world.agent(name), mail.seq): mail.hand
            for name, reader in self.readers.items()
            for mail in reader.mail.values()
            if mail.hand is not None
        }

    @invariant()
    def what_is_derived_is_what_the_entries_say(self) -> None:
        state, world = self.world.state, self.world
        free: dict[int, set[int]] = {}
        of_sender: dict[int, list[tuple[int, int]]] = {}
        for name, reader in self.readers.items():
            agent = world.agent(name)
            for mail in reader.mail.values():
                if mail.where == "unacked" and mail.hand is None:
                    free.setdefault(agent, set()).add(mail.seq)
                if mail.where == "dead" and (name, mail.seq) not in self.disowned:
                    of_sender.setdefault(world.agent(mail.sender), []).append((mail.seq, agent))
            assert state.agents.inboxes[agent].dead == sorted(mail.seq for mail in reader.of("dead"))
        lanes = state.soft.lending.free
        assert {agent: {seq for lane in found.values() for seq in lane} for agent, found in lanes.items()} == free
        assert state.agents.dead_of == {sender: sorted(letters) for sender, letters in of_sender.items()}


def test_nothing_vanishes_and_nothing_is_in_two_hands() -> None:
    run_state_machine_as_test(Delivering, settings=settings(max_examples=150, stateful_step_count=50))
