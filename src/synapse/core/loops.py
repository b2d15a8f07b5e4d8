"""The loop guard: which message caused which, when a chain of causes runs in a circle, and what is held for a person.

The cause of a message is what it answers, else what its sender has in hand, else what it acked last, not long ago. A
person's message has none. A chain is in a circle when it is long, and on the line of causes that leads to the new
message its sender has sent to the same one many times before: so agents that play ping-pong are found, and circles over
any number of agents, and a tree never is, however deep. Nothing is dropped: what is held waits for a person.

Held messages of a private place are for its members: who is none neither sees them nor decides about them; an operator
decides, and does not read them.

What has no cause costs nothing. What has one is kept, the newest `TRACES_MAX` of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

import msgspec

from synapse.core.by import By, Rules
from synapse.core.events import Event, MessageHeld, MessagePosted, MessagesAcked, MessageSent, Recorded
from synapse.core.held_events import HeldDropped, HeldReleased
from synapse.core.link import Link
from synapse.core.mail import Delivery, Letter, deliveries_to
from synapse.core.rooms import Channel, Room
from synapse.errors import Rejected
from synapse.protocol.cursor import message_id, question_id, seq_of_message
from synapse.protocol.held_commands import DropHeld, ReleaseHeld
from synapse.protocol.terms import ADMIN, HUMAN

if TYPE_CHECKING:
    from synapse.core.state import State
    from synapse.protocol.commands import SendMessage

TRACES_MAX: Final = 32_768
"""Messages whose cause is remembered."""
BATCH_BYTES: Final = 256 * 1024
"""A release or a drop stops here, so that a turn keeps its bound; what is left goes with the next one."""
PEOPLE_MAX: Final = 16
"""So many people are told of a held message."""
HOUR_MS: Final = 3_600_000

LOOP: Final = "loop"
CHAIN_BUDGET: Final = "chain_budget"
AGENT_BUDGET: Final = "agent_budget"
CHAIN_HELD: Final = "chain_held"

_WHY: Final = {
    LOOP: "its chain of causes runs in a circle",
    CHAIN_BUDGET: "its sender has used up what it may send in one chain of causes",
    AGENT_BUDGET: "its sender has used up what it may send in an hour because of others' messages",
    CHAIN_HELD: "other messages of its chain are held",
}

HeldMutation: TypeAlias = ReleaseHeld | DropHeld


@dataclass(slots=True)
class Trace:
    """A message that another caused. agent: its sender."""

    cause: int
    origin: int
    hops: int
    agent: int


@dataclass(slots=True)
class Held:
    """A message that waits for a person."""

    seq: int
    sender: str
    at_ms: int
    why: str
    link: Link
    sent: MessageSent | None = None
    posted: MessagePosted | None = None
    question: int | None = None
    private: bool = False

    @property
    def message(self) -> MessageSent | MessagePosted:
        """What it would have been."""
        message = self.posted if self.sent is None else self.sent
        assert message is not None, "a message is held"
        return message

    def detach(self) -> None:
        """Keep a body of its own, not a view of a whole dump."""
        if self.sent is not None:
            self.sent = msgspec.structs.replace(self.sent, body=self.sent.body.copy())
        if self.posted is not None:
            self.posted = msgspec.structs.replace(self.posted, body=self.posted.body.copy())


@dataclass(slots=True)
class Loops:
    """The durable memory of the guard. acked: agent → what it acked last, and when. hours: agent → hour, and how many
    caused messages it sent in it. sends: origin → agent → how many traces it
    has. chains: origin → how many are held."""

    traces: dict[int, Trace] = field(default_factory=dict)
    acked: dict[int, tuple[int, int]] = field(default_factory=dict)
    hours: dict[int, tuple[int, int]] = field(default_factory=dict)
    held: dict[int, Held] = field(default_factory=dict)
    sends: dict[int, dict[int, int]] = field(default_factory=dict)
    chains: dict[int, int] = field(default_factory=dict)
    bytes: int = 0

    def add(self, seq: int, trace: Trace) -> None:
        """One more message with a cause; the oldest is forgotten when there are too many."""
        self.traces[seq] = trace
        of_chain = self.sends.setdefault(trace.origin, {})
        of_chain[trace.agent] = of_chain.get(trace.agent, 0) + 1
        if len(self.traces) > TRACES_MAX:
            self._forget(next(iter(self.traces)))

    def _forget(self, seq: int) -> None:
        trace = self.traces.pop(seq)
        of_chain = self.sends[trace.origin]
        of_chain[trace.agent] -= 1
        if not of_chain[trace.agent]:
            del of_chain[trace.agent]
            if not of_chain:
                del self.sends[trace.origin]

    def forget_chain(self, origin: int) -> None:
        """A person reset it."""
        for seq in [seq for seq, trace in self.traces.items() if trace.origin == origin]:
            self._forget(seq)

    def hold(self, held: Held) -> None:
        """A message waits."""
        self.held[held.seq] = held
        self.chains[held.link.origin] = self.chains.get(held.link.origin, 0) + 1
        self.bytes += size_of(held.message)

    def let_go(self, seq: int) -> None:
        """It waits no more."""
        held = self.held.pop(seq, None)
        if held is None:
            return
        self.bytes -= size_of(held.message)
        left = self.chains.pop(held.link.origin) - 1
        if left:
            self.chains[held.link.origin] = left

    def about(self, question: int) -> Iterator[Held]:
        """What is held of that about which a question is."""
        return (held for held in self.held.values() if held.question == question)

    def forget_agent(self, agent: int) -> None:
        """An agent is no more; what it sent and is held stays, for its recipients."""
        self.acked.pop(agent, None)
        self.hours.pop(agent, None)


def size_of(message: MessageSent | MessagePosted) -> int:
    """What a held message counts for, in bytes."""
    return len(bytes(message.body)) + 512


# Who knows of a held message.


def _circle(state: "State", message: MessagePosted | MessageSent) -> Room | Channel | None:
    """The private place that a message is of, if it is of one that is there."""
    if isinstance(message, MessagePosted):
        channel = state.rooms.channels.get(message.channel)
        if channel is None or channel.private:
            return channel
        room = state.rooms.by_id[channel.room]
    elif message.room is None or message.room not in state.rooms.by_id:
        return None
    else:
        room = state.rooms.by_id[message.room]
    return room if room.private else None


def _is_inside(state: "State", held: Held, agent: int | None) -> bool:
    """True when it is of no private place, or the agent is a member there."""
    circle = _circle(state, held.message)
    return not held.private if circle is None else agent in circle.members


def _is_within(state: "State", held: Held, by: By) -> bool:
    """False for a token that is for other rooms only; direct messages are in none."""
    if by.rooms is None:
        return True
    message = held.message
    if isinstance(message, MessagePosted):
        return message.address.partition(":")[0] in by.rooms
    room = None if message.room is None else state.rooms.by_id.get(message.room)
    return room is not None and room.name in by.rooms


def may_read(state: "State", held: Held, by: By) -> bool:
    """True when all that a held message says may be told to who asks, if it is a person or the sender."""
    is_own = held.link.agent == by.agent and isinstance(held.message, MessageSent) and held.message.room is None
    return is_own or (_is_within(state, held, by) and _is_inside(state, held, by.agent))


def may_decide(state: "State", held: Held, by: By) -> bool:
    """True when it is there for who asks, if it is a person."""
    return _is_within(state, held, by) and (by.has_role(ADMIN) or _is_inside(state, held, by.agent))


def require_may_answer(state: "State", question: int, by: By) -> None:
    """An answer decides about held messages. Raises `Rejected(not_permitted)` when some of them are not there for who
    answers."""
    hidden = sum(not may_decide(state, held, by) for held in state.loops.about(question))
    if hidden:
        raise Rejected(
            "not_permitted",
            f"{question_id(question)} is about {hidden} held messages that are not in your rooms: who may see them all "
            "answers it (synapse held list shows what you may decide)",
            {"id": question_id(question), "hidden": hidden},
        )


# What a send becomes.


def guarded(state: "State", rules: Rules, events: list[Event], command: "SendMessage", by: By) -> list[Event]:
    """What a send becomes once the guard has looked at it: as it was, with its link, or held."""
    agent, event = by.require_agent(), events[-1]
    if command.reply_to is None and agent not in state.loops.acked and not state.soft.lending.lends:
        return events  # nothing can have caused it
    if not isinstance(event, MessagePosted | MessageSent):
        return events
    cause = _cause(state, rules, command, by)
    if cause is None or _is_person(rules, by):
        return events
    trace = state.loops.traces.get(cause)
    link = Link(cause, cause, 1, agent) if trace is None else Link(cause, trace.origin, trace.hops + 1, agent)
    why = _why(state, rules, link, event, by)
    if why is None:
        return [*events[:-1], msgspec.structs.replace(event, link=link)]
    _require_room_to_hold(state, rules, event, link)
    sent = event if isinstance(event, MessageSent) else None
    posted = event if isinstance(event, MessagePosted) else None
    circle = _circle(state, event)
    is_private = circle is not None
    first = _first_held(state, link, circle) if why == CHAIN_HELD else None
    if first is not None:
        question = first.question
        return [
            *events[:-1],
            MessageHeld(link=link, why=why, question=question, sent=sent, posted=posted, private=is_private),
        ]
    from synapse.core.held_questions import ask_people  # it needs this module, too

    asked = state.seq + len(events)  # a question goes before the message, whose answer is the last event's
    questions: list[Event] = []
    if not isinstance(circle, Channel):  # a question is there for all of a room
        questions = ask_people(state, rules, event, why, asked + 1, None if circle is None else circle.name, by)
    held = MessageHeld(
        deliveries=_people(state, circle),
        link=link,
        why=why,
        question=asked if questions else None,
        sent=sent,
        posted=posted,
        private=is_private,
    )
    return [*events[:-1], *questions, held]


def _first_held(state: "State", link: Link, circle: Room | Channel | None) -> Held | None:
    """The first held message of a chain about which the same people decide."""
    of_chain = (held for held in state.loops.held.values() if held.link.origin == link.origin)
    return next((held for held in of_chain if _circle(state, held.message) is circle), None)


def _people(state: "State", circle: Room | Channel | None) -> tuple[Delivery, ...]:
    """Who is asked: the first agents of the kind human, of a private place its members."""
    people = (
        agent.id
        for agent in state.agents.by_id.values()
        if agent.card.kind == "human" and (circle is None or agent.id in circle.members)
    )
    return deliveries_to(state, tuple(islice(people, PEOPLE_MAX)))


def _is_person(rules: Rules, by: By) -> bool:
    """True for who has the role human, and where no token is asked for also for the hub's own user without another
    name. What a card says of its kind is no proof."""
    return by.has_role(HUMAN) or (by.token is None and by.actor == rules.person)


def _cause(state: "State", rules: Rules, command: "SendMessage", by: By) -> int | None:
    """The seq of the message that caused this one, as far as the hub can know. What is answered without being of the
    inbox, or of a chain, is a message of a channel, or long acked: it begins a chain, unless who answers is in one."""
    agent, loops = by.require_agent(), state.loops
    last = loops.acked.get(agent)
    entries = state.agents.inboxes[agent].entries
    answered: int | None = None
    if command.reply_to is not None:
        seq = seq_of_message(command.reply_to, "$.body.reply_to")
        trace = loops.traces.get(seq)
        if seq in entries or (last is not None and last[0] == seq) or (trace is not None and trace.agent != agent):
            return seq
        if trace is None and seq <= state.seq:
            answered = seq
    found = _taken(state, rules, by, last)
    return answered if found not in loops.traces and answered is not None else found


def _taken(state: "State", rules: Rules, by: By, last: tuple[int, int] | None) -> int | None:
    """What a sender has in hand, else what it acked last, not long ago."""
    agent, loops = by.require_agent(), state.loops
    lending = state.soft.lending
    if lending.lends:
        in_hand = [seq for _, seq in lending.of_connection.get(by.connection, ())]  # of an inbox, or of a role's queue
        if not in_hand:
            in_hand = list(lending.of_inbox.get(agent, ()))
        if in_hand:
            return max(in_hand, key=lambda seq: (loops.traces[seq].hops if seq in loops.traces else 0, seq))
    if last is not None and 0 <= by.at_ms - last[1] <= rules.limits.cause_ms:
        return last[0]
    return None


def _why(state: "State", rules: Rules, link: Link, event: MessagePosted | MessageSent, by: By) -> str | None:
    """Why a message is held; None when it is not."""
    loops, limits = state.loops, rules.limits
    if link.origin in loops.chains:
        return CHAIN_HELD
    if loops.sends.get(link.origin, {}).get(link.agent, 0) >= limits.sends_per_chain_max:
        return CHAIN_BUDGET
    hour, sent = loops.hours.get(link.agent, (0, 0))
    if hour == by.at_ms // HOUR_MS and sent >= limits.agent_budget_per_hour:
        return AGENT_BUDGET
    if link.hops > limits.hops_max and _repeats(state, link, event) > limits.loop_repeats_max:
        return LOOP
    return None


def _repeats(state: "State", link: Link, event: MessagePosted | MessageSent) -> int:
    """How often, with this message, the line of causes that leads to it has its sender send to the same one. Where it
    is not known who will go on (a channel, a role), how often its sender is on that line."""
    deliveries = event.mentions if type(event) is MessagePosted else event.to
    to = {delivery.agent for delivery in deliveries}
    is_open = not to or any(agent not in state.agents.by_id for agent in to)
    times = dict.fromkeys(to, 1)
    any_time, follower = 1, link.agent
    trace = state.loops.traces.get(link.cause)
    while trace is not None:
        if trace.agent == link.agent:
            any_time += 1
            if follower in times:
                times[follower] += 1
        follower = trace.agent
        trace = state.loops.traces.get(trace.cause)
    return any_time if is_open else max(times.values())


def _require_room_to_hold(state: "State", rules: Rules, event: MessageSent | MessagePosted, link: Link) -> None:
    loops, limits = state.loops, rules.limits
    for have, more, most, name in (
        (len(loops.held), 1, limits.held_max, "held_max"),
        (loops.bytes, size_of(event), limits.held_bytes_max, "held_bytes_max"),
    ):
        if have + more > most:
            raise Rejected(
                "limit",
                f"this message would be held, because its chain runs in a circle or a budget is used up, and {have} of "
                f"{most} are already ({name}): a person decides about those first, with synapse held list",
                {"limit": name, "value": most, "chain": message_id(link.origin)},
            )


def explained(why: str) -> str:
    """Why a message is held, in words."""
    return _WHY[why]


def decide_held(state: "State", command: HeldMutation, by: By) -> list[Event]:
    """The guard's part of `kernel.decide`."""
    if isinstance(command, ReleaseHeld):
        by.require_human("releasing a held message")
        return _batch(state, command.id, chain=command.chain, reset=command.reset, by=by, is_drop=False)
    if isinstance(command, DropHeld):
        by.require_human("dropping a held message")
        return _batch(state, command.id, chain=command.chain, reset=False, by=by, is_drop=True)
    assert_never(command)


def _batch(state: "State", text: str, *, chain: bool, reset: bool, by: By, is_drop: bool) -> list[Event]:
    held = state.loops.held.get(seq_of_message(text))
    if held is None or not may_decide(state, held, by):
        raise Rejected("not_found", f"{text} is not held (any more): synapse held list shows what is", {"id": text})
    if chain:
        of_chain = (other for other in state.loops.held.values() if other.link.origin == held.link.origin)
        mine = (other for other in of_chain if may_decide(state, other, by))
        return decide_chain(state, mine, by.actor, is_drop=is_drop, reset=reset)
    if is_drop:
        return [_dropped(state, held, by.actor, {})]
    if _is_gone(state, held):
        raise Rejected(
            "not_found",
            f"{text} cannot be delivered any more: {', '.join(names_of(held.message))} is gone; drop it with "
            "synapse held drop",
            {"id": text},
        )
    return _released(state, held, by.actor, {}, state.seq + 1, reset=reset)


def decide_chain(state: "State", chain: Iterable[Held], by: str, *, is_drop: bool, reset: bool) -> list[Event]:
    """What is held of a chain, oldest first, is released or dropped, so much of it as one step takes. by: who decided.
    What nobody is left to receive is dropped."""
    events: list[Event] = []
    ahead: dict[int, int] = {}
    size = 0
    for held in chain:
        size += size_of(held.message)
        if events and size > BATCH_BYTES:
            break
        if is_drop or _is_gone(state, held):
            events.append(_dropped(state, held, by, ahead))
        else:
            events += _released(state, held, by, ahead, state.seq + len(events) + 1, reset=reset)
    return events


def _is_gone(state: "State", held: Held) -> bool:
    """True when nobody is left to whom it could be delivered."""
    message = held.message
    if isinstance(message, MessagePosted):
        return message.channel not in state.rooms.channels
    return not any(to.agent in state.agents.inboxes for to in _recipients(state, held))


def _recipients(state: "State", held: Held) -> tuple[Delivery, ...]:
    """To whom it goes, or whom it mentions: of a private place those who are in it still."""
    message = held.message
    found = message.mentions if isinstance(message, MessagePosted) else message.to
    if not held.private and _circle(state, message) is None:
        return found
    return tuple(to for to in found if _is_inside(state, held, to.agent))


def _next(state: "State", deliveries: tuple[Delivery, ...], ahead: dict[int, int]) -> tuple[Delivery, ...]:
    """The next arrivals of these; those who are no more are left out. ahead: what this batch has put there already."""
    found: list[Delivery] = []
    for delivery in deliveries:
        inbox = state.agents.inboxes.get(delivery.agent)
        if inbox is not None:
            ahead[delivery.agent] = ahead.get(delivery.agent, 0) + 1
            found.append(Delivery(delivery.name, delivery.agent, inbox.last_n + ahead[delivery.agent]))
    return tuple(found)


def _released(state: "State", held: Held, by: str, ahead: dict[int, int], seq: int, *, reset: bool) -> list[Event]:
    """A held message as it is delivered at `seq`, and what its sender is told of that."""
    message = _delivered(state, held, ahead, reset=reset)
    sender, names = held.link.agent, names_of(held.message)
    letter = _back(state, held, ahead)
    return [message, HeldReleased(deliveries=letter, held=held.seq, message=seq, names=names, by=by, sender=sender)]


def _delivered(state: "State", held: Held, ahead: dict[int, int], *, reset: bool) -> MessageSent | MessagePosted:
    link, message = held.link, held.message
    link = Link(link.cause, link.origin, 0 if reset else link.hops, link.agent, held.sender, held.seq, held.question)
    if type(message) is MessageSent:
        return msgspec.structs.replace(message, to=_next(state, _recipients(state, held), ahead), link=link)
    assert type(message) is MessagePosted, "only messages are held"
    channel = state.rooms.channels[message.channel]
    ahead[-channel.id] = ahead.get(-channel.id, 0) + 1
    mentions = _next(state, _recipients(state, held), ahead)
    return msgspec.structs.replace(message, n=channel.last_n + ahead[-channel.id], mentions=mentions, link=link)


def names_of(message: MessageSent | MessagePosted) -> tuple[str, ...]:
    """To whom or where a message goes."""
    return (message.address,) if type(message) is MessagePosted else tuple(to.name for to in message.to)


def _dropped(state: "State", held: Held, by: str, ahead: dict[int, int]) -> HeldDropped:
    return HeldDropped(
        deliveries=_back(state, held, ahead),
        held=held.seq,
        origin=held.link.origin,
        names=names_of(held.message),
        by=by,
        question=held.question,
        sender=held.link.agent,
    )


def _back(state: "State", held: Held, ahead: dict[int, int]) -> tuple[Delivery, ...]:
    """To the sender, unless that was put out of the private place meanwhile."""
    agent = held.link.agent
    return _next(state, (Delivery(held.sender, agent, 0),), ahead) if _is_inside(state, held, agent) else ()


def held_letter(event: MessageHeld | HeldDropped | HeldReleased, seq: int, actor: str) -> Letter:
    """What people are told of a held message, and its sender of what became of it. seq, actor: of the event."""
    if isinstance(event, MessageHeld):
        message = event.posted if event.sent is None else event.sent
        assert message is not None, "a message is held"
        name, to = message_id(seq), list(names_of(message))
        body: dict[str, object] = {
            "type": "message.held",
            "id": name,
            "from": actor,
            "to": to,
            "why": event.why,
            "chain": message_id(event.link.origin),
            "hops": event.link.hops,
            "next": f"synapse held release {name}, or synapse held drop {name}; with --chain all of its chain",
        }
        subject = f"{name} of {actor} to {', '.join(to)} is held: {explained(event.why)}"
        return Letter(subject=subject, body=body, priority="urgent")
    if isinstance(event, HeldReleased):
        name, new = message_id(event.held), message_id(event.message)
        return Letter(
            subject=f"{name} to {', '.join(event.names)} was released as {new}",
            body={
                "type": "message.released",
                "id": name,
                "released_as": new,
                "to": list(event.names),
                "by": event.by,
                "next": f"synapse receipts {new}",
            },
            priority="normal",
        )
    return Letter(
        subject=f"{message_id(event.held)} to {', '.join(event.names)} was dropped",
        body={
            "type": "message.dropped",
            "id": message_id(event.held),
            "to": list(event.names),
            "by": event.by,
            "next": "ask a person before you send it again",
        },
    )


def sender_of(link: Link | None, actor: str) -> str:
    """Who a message is from: of a released one not the person who released it."""
    return actor if link is None or link.sender is None else link.sender


def is_release(event: Event) -> bool:
    """True for a message that was held."""
    return isinstance(event, MessageSent | MessagePosted) and event.link is not None and event.link.held is not None


def note_acked(state: "State", recorded: Recorded, event: MessagesAcked) -> None:
    """An agent is done with messages: the newest may be the cause of what it sends next."""
    agent = state.agents.by_name.get(recorded.actor)
    if agent is not None and event.messages:
        state.loops.acked[agent.id] = (max(event.messages), recorded.at_ms)


def apply_link(state: "State", recorded: Recorded, link: Link) -> None:
    """A message with a cause was delivered; a part of `kernel.apply`."""
    loops = state.loops
    if link.held is not None:
        loops.let_go(link.held)
    if not link.hops:
        loops.forget_chain(link.origin)
        loops.hours.pop(link.agent, None)
        return
    loops.add(recorded.seq, Trace(link.cause, link.origin, link.hops, link.agent))
    hour, sent = loops.hours.get(link.agent, (0, 0))
    now = recorded.at_ms // HOUR_MS
    loops.hours[link.agent] = (now, sent + 1 if hour == now else 1)


def apply_held(state: "State", recorded: Recorded, event: MessageHeld | HeldDropped | HeldReleased) -> None:
    """The guard's part of `kernel.apply`."""
    match event:
        case MessageHeld():
            seq, at_ms, actor, _ = recorded
            held = Held(seq, actor, at_ms, event.why, event.link, event.sent, event.posted, event.question)
            held.private = event.private
            state.loops.hold(held)
        case HeldDropped():
            state.loops.let_go(event.held)
        case HeldReleased():
            assert event.held not in state.loops.held, "what it was released as lets it go"
        case _:
            assert_never(event)
