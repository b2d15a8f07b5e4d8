"""Inboxes and queues of roles as the journal tells them: for each message in each of them, what is so at each position.

    waiting -> lent to one connection -> acked, or waiting again -> ... -> dead -> waiting, dropped or acked

Nothing else may happen to it. Who is given what is found by looking at everything that waits; that a lend is over is
known from outside: its time is up by the simulation's clock, its connection is gone, its reader has left the role, or
the hub began anew. What senders are told of it is held against the position that the answer names.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from tests.simulation.agenda import Past
from tests.simulation.terms import LATE_MS_MAX, RANKS, Violation
from tests.simulation.virtual_time import Clock

from synapse.core.delivery_events import (
    DeliveryEvent,
    MessageDied,
    MessageRevived,
    MessagesAcked,
    MessagesDisowned,
    MessagesDropped,
    MessagesLent,
)
from synapse.core.events import MessagePosted, MessageSent, Recorded
from synapse.core.role_events import RoleCreated, RoleDeleted, RoleEvent, RoleJoined

Json: TypeAlias = dict[str, Any]
ROLE: Final = "role:"


@dataclass(frozen=True, slots=True)
class Fate:
    """How far a message is in one inbox, as its sender is told. died: why it died. is_disowned: its
    sender gave up being told."""

    state: str = "stored"
    lends: int = 0
    by: str | None = None
    died: str | None = None
    is_disowned: bool = False

    @property
    def told(self) -> tuple[str, str | None]:
        """The state that its sender is told, and who acked it."""
        is_over = self.state in ("acked", "dropped")
        return ("gone", None) if is_over and self.is_disowned else (self.state, self.by)


@dataclass(slots=True)
class Entry:
    """An unacked message of an inbox. lent_ms, link: when it was lent last, and on which connection as far as told;
    holder: to whom. freed_ms: when it became known that this lend is over before its time. sender: who gets receipts.
    late_since_ms: since when, on a clock of the hub's working time, it was seen to be past its date and alive."""

    sender: str | None = None
    rank: int = RANKS["high"]
    is_direct: bool = True
    expires_at_ms: int | None = None
    lends: int = 0
    is_dead: bool = False
    lent_ms: int = 0
    link: int | None = None
    holder: str | None = None
    freed_ms: int | None = None
    late_since_ms: int | None = None

    def is_late(self, at_ms: int) -> bool:
        """True when its date has passed by then."""
        return self.expires_at_ms is not None and self.expires_at_ms <= at_ms

    def free(self, at_ms: int) -> None:
        """Whoever had it has it no more."""
        if self.link is not None or self.holder is not None:
            self.link = self.holder = None
            self.freed_ms = at_ms


@dataclass(slots=True)
class Asked:
    """What the hub heard agents ask for: acks, and what should become of dead letters."""

    acks: set[tuple[str, int]] = field(default_factory=set)
    acks_of_all: set[str] = field(default_factory=set)
    roles: set[tuple[str, str, str]] = field(default_factory=set)
    revivals: set[tuple[str, int]] = field(default_factory=set)
    resends: set[tuple[str, int]] = field(default_factory=set)
    drops: set[tuple[str, bool, int]] = field(default_factory=set)
    drops_of_all: set[tuple[str, bool]] = field(default_factory=set)
    directed_only: set[str] = field(default_factory=set)


class Mailroom:
    """All inboxes by name, those of roles as `role:NAME`. names: of agents and roles by id. tell: called with a stream
    and a seq for each receipt. members: of each role. floor: up to where nothing of a stream can be read."""

    def __init__(
        self,
        clock: Clock,
        names: dict[int, str],
        tell: Callable[[str, int], None],
        sometimes: Callable[[str], None],
        *,
        lends_max: int,
        lend_ms: int,
    ) -> None:
        self.inboxes: dict[str, dict[int, Entry]] = defaultdict(dict)
        self.asked = Asked()
        self.members: dict[str, set[str]] = {}
        self._pasts: dict[str, Past] = defaultdict(Past)
        self.floor: Callable[[str], int] = lambda stream: 0
        self._fates: dict[tuple[str, int], Past] = defaultdict(Past)
        self._dead: dict[str, Past] = defaultdict(Past)
        self._dead_of: dict[str, Past] = defaultdict(Past)
        self._ahead: dict[int, int] = {}
        self._sent: dict[int, tuple[str, tuple[str, ...]]] = {}
        self._turn_before_ms = 0
        self._clock = clock
        self._names = names
        self._tell = tell
        self._sometimes = sometimes
        self._lends_max = lends_max
        self._lend_ms = lend_ms

    # What was asked for.

    def ask(self, kind: str, agent: str, body: Json) -> None:
        """The hub is about to hear this."""
        asked, ids = self.asked, [int(text[1:]) for text in body.get("ids", ())]
        match kind:
            case "inbox.ack":
                asked.acks.update((agent, seq) for seq in ids)
                if body.get("all"):
                    asked.acks_of_all.add(agent)
            case "inbox.take" | "feed.subscribe" if body.get("directed_only"):
                asked.directed_only.add(agent)
            case "role.join" | "role.leave" | "role.delete":
                asked.roles.add((kind, agent, body["role"]))
            case "dead.resend":
                (asked.resends if body.get("sent") else asked.revivals).add((agent, int(body["id"][1:])))
            case "dead.drop":
                asked.drops.update((agent, bool(body.get("sent")), seq) for seq in ids)
                if body.get("all"):
                    asked.drops_of_all.add((agent, bool(body.get("sent"))))
            case _:
                pass

    def _require(self, is_asked: bool, actor: str, seq: int, what: str) -> None:
        if not is_asked:
            raise Violation("unasked", f"{actor} never asked for what {seq} is: {what}", actor)

    # The fold.

    def arrive(self, seq: int, name: str, entry: Recorded) -> None:
        """A message is in an inbox from this event on."""
        event = entry.event
        found = Entry()
        if isinstance(event, MessageSent):
            found = Entry(entry.actor, RANKS[event.priority], event.room is None, event.expires_at_ms)
            self._sent[seq] = entry.actor, (*self._sent.get(seq, ("", ()))[1], name)
        elif isinstance(event, MessagePosted):
            found = Entry(None, RANKS[event.priority], is_direct=False, expires_at_ms=event.expires_at_ms)
        self.inboxes[name][seq] = found
        self._fates[name, seq].become(seq, Fate())

    def has_arrived(self, name: str, message: int) -> bool:
        """True when it came into this inbox at any time."""
        return (name, message) in self._fates

    def leave(self, name: str, message: int, seq: int) -> None:
        """The hub took a message of its own back."""
        found = self.inboxes[name].pop(message, None)
        if found is not None:
            past = self._fates[name, message]
            past.become(seq, replace(past.then[-1], state="taken back"))
        if found is not None and found.is_dead:
            self._bury(seq, name, message, found, is_dead=False)

    def enter(self, entry: Recorded, event: DeliveryEvent, decided_ms: int) -> None:
        """Fold an event of delivery in. Raises `Violation`."""
        match event:
            case MessagesLent():
                if len(event.messages) > 1:
                    self._sometimes("several messages were lent by one event")
                for message in event.messages:
                    self._lend(entry, event, message, decided_ms)
            case MessagesAcked():
                for message in event.messages:
                    self._ack(entry, event, message, decided_ms)
            case MessageDied():
                self._die(entry, event)
            case MessageRevived():
                self._revive(entry, event)
            case MessagesDropped():
                for message in event.messages:
                    self._drop(entry, event, message)
            case MessagesDisowned():
                self._disown(entry, event)
        if isinstance(event, MessagesDisowned):
            return
        senders = (
            event.senders if isinstance(event, MessagesLent | MessagesAcked | MessagesDropped) else (event.sender,)
        )
        for sender in dict.fromkeys(sender for sender in senders if sender):
            self._tell(f"receipts {self._names[sender]}", entry.seq)

    def _there(self, entry: Recorded, agent: int, message: int, what: str) -> tuple[str, Entry]:
        name = self._names[agent]
        found = self.inboxes[name].get(message)
        if found is None:
            text = f"{message} of {name} is {what} at {entry.seq}, and not there"
            raise Violation("acked came again", text, name)
        return name, found

    def _become(self, entry: Recorded, name: str, message: int, **what: Any) -> None:
        past = self._fates[name, message]
        past.become(entry.seq, replace(past.then[-1], **what))

    def takers(self, name: str) -> set[str]:
        """Who takes from an inbox."""
        return self.members.get(name, set()) if name.startswith(ROLE) else {name}

    def _require_receipt(self, entry: Recorded, name: str, found: Entry, told: int | None) -> None:
        """Who sent it is named in the event, because its receipt is found again by that."""
        sender = self._names.get(told or 0)
        if sender != found.sender:
            raise Violation("no receipt", f"{entry.seq} of {name} is for {sender}; {found.sender} sent it", name)

    def _lend(self, entry: Recorded, event: MessagesLent, message: int, decided_ms: int) -> None:
        name, found = self._there(entry, event.agent, message, "lent")
        text = f"{message} of {name} is lent to {entry.actor} at {entry.seq}"
        if found.is_dead:
            raise Violation("acked came again", f"{text}, and it is dead", name)
        if entry.actor not in self.takers(name):
            raise Violation("foreign", f"{text}; {sorted(self.takers(name))} take from it", name, entry.actor)
        if found.link is not None and decided_ms < found.lent_ms + self._lend_ms:
            raise Violation("lent twice", f"{text}, while {found.holder} has it", name, entry.actor)
        if found.is_late(entry.at_ms) or found.lends >= self._lends_max:
            raise Violation("lent too late", f"{text}, {entry.at_ms} ms: {found}", name)
        self._require_first(entry, name, message)
        if not found.lends:
            index = event.messages.index(message)
            self._require_receipt(entry, name, found, event.senders[index] if event.senders else None)
        else:
            self._sometimes("a message was lent again")
        if name.startswith(ROLE):
            self._sometimes("a message of a role was lent again" if found.lends else "a message of a role was lent")
        found.lends += 1
        found.lent_ms, found.link, found.holder, found.freed_ms = decided_ms, None, entry.actor, None
        self._become(entry, name, message, state="delivered", lends=found.lends)

    def end_transaction(self, decided_ms: int) -> None:
        """A turn is folded in. What the hub knew before it was decided has been through its inbox now."""
        self._turn_before_ms = decided_ms

    def _require_first(self, entry: Recorded, name: str, message: int) -> None:
        """Nothing that waited for the same reader had to go before it: higher priority first, then what came first.
        That a lend is over may stand behind a request in the turn that hears of it."""
        found, reader = self.inboxes[name][message], entry.actor
        for other_name, seq, other in self._waiting_for(reader):
            is_free = not other.lends or (other.freed_ms is not None and self._turn_before_ms > other.freed_ms + 2)
            is_meant = other.is_direct or reader not in self.asked.directed_only
            is_ahead = (-other.rank, seq) < (-found.rank, message)
            if is_ahead and is_free and is_meant and not other.is_late(entry.at_ms) and other.lends < self._lends_max:
                text = f"{reader} is lent {message} of {name} at {entry.seq} before {seq} of {other_name}: {other}"
                raise Violation("out of order", text, reader, name)

    def _waiting_for(self, reader: str) -> Iterator[tuple[str, int, Entry]]:
        names = [reader, *(role for role, members in self.members.items() if reader in members)]
        for name in names:
            for seq, entry in self.inboxes[name].items():
                if not entry.is_dead:
                    yield name, seq, entry

    def _ack(self, entry: Recorded, event: MessagesAcked, message: int, decided_ms: int) -> None:
        actor = entry.actor
        name, found = self._there(entry, event.agent, message, "acked")
        is_asked = (actor, message) in self.asked.acks or actor in self.asked.acks_of_all
        self._require(is_asked and actor in self.takers(name), actor, entry.seq, f"{message} of {name} acked")
        is_lent = found.link is not None and decided_ms < found.lent_ms + self._lend_ms
        if is_lent and found.holder != actor and name.startswith(ROLE):
            raise Violation("foreign", f"{actor} acks {message} of {name}, which {found.holder} has", actor, name)
        index = event.messages.index(message)
        self._require_receipt(entry, name, found, event.senders[index] if event.senders else None)
        self._gone(entry, name, message, state="acked", by=actor)
        if name.startswith(ROLE):
            self._sometimes("a message of a role was acked")

    def _gone(self, entry: Recorded, name: str, message: int, **fate: Any) -> None:
        found = self.inboxes[name].pop(message)
        if found.is_dead:
            self._bury(entry.seq, name, message, found, is_dead=False)
        self._become(entry, name, message, **fate)

    def _bury(self, seq: int, name: str, message: int, found: Entry, *, is_dead: bool) -> None:
        """A message is dead from here on, or dead no more: in the list of the inbox and in that of its sender."""
        self._change_list(self._dead[name], seq, (message, name), is_dead=is_dead)
        if found.sender is not None:
            self._change_list(self._dead_of[found.sender], seq, (message, name), is_dead=is_dead)

    @staticmethod
    def _change_list(past: Past, seq: int, item: tuple[int, str], *, is_dead: bool) -> None:
        items = set(past.then[-1]) if past.then else set()
        past.become(seq, frozenset(items | {item} if is_dead else items - {item}))

    def _die(self, entry: Recorded, event: MessageDied) -> None:
        name, found = self._there(entry, event.agent, event.message, "dead")
        if found.is_dead:
            raise Violation("acked came again", f"{event.message} of {name} dies twice, at {entry.seq}", name)
        by_date = event.reason == "expired"
        if (by_date and not found.is_late(entry.at_ms)) or (not by_date and found.lends < self._lends_max):
            raise Violation("died early", f"{event.message} of {name} died at {entry.at_ms} ms: {found}", name)
        if event.lends != found.lends:
            raise Violation("altered", f"{event} at {entry.seq}; {found}", name)
        self._require_receipt(entry, name, found, event.sender)
        found.is_dead = True
        found.free(self._clock.now_ms)
        self._bury(entry.seq, name, event.message, found, is_dead=True)
        self._become(entry, name, event.message, state="dead", died=event.reason)
        self._sometimes("a message died of its date" if by_date else "a message died of being lent too often")

    def _revive(self, entry: Recorded, event: MessageRevived) -> None:
        name, found = self._there(entry, event.agent, event.message, "revived")
        is_asked = (entry.actor, event.message) in self.asked.revivals and entry.actor in self.takers(name)
        self._require(is_asked, entry.actor, entry.seq, f"{event.message} of {name} revived")
        if not found.is_dead:
            raise Violation("illegal step", f"{event.message} of {name} is revived alive at {entry.seq}", name)
        self._require_receipt(entry, name, found, event.sender)
        self._bury(entry.seq, name, event.message, found, is_dead=False)
        found.is_dead, found.lends, found.expires_at_ms, found.freed_ms = False, 0, None, None
        found.late_since_ms = None
        self._become(entry, name, event.message, state="stored", lends=0, died=None)
        self._sometimes("a dead letter got another chance")

    def _drop(self, entry: Recorded, event: MessagesDropped, message: int) -> None:
        actor = entry.actor
        name, found = self._there(entry, event.agent, message, "dropped")
        if not found.is_dead:
            raise Violation("illegal step", f"{message} of {name} is dropped alive, at {entry.seq}", name)
        asked = self.asked
        if event.reason == "resent":
            self._require((actor, message) in asked.resends, actor, entry.seq, f"{message} of {name} resent")
            self._sometimes("a dead letter was sent anew")
        elif event.reason == "asked":
            is_asked = (actor, False, message) in asked.drops or (actor, False) in asked.drops_of_all
            self._require(is_asked and actor in self.takers(name), actor, entry.seq, f"{message} of {name} dropped")
            self._sometimes("a dead letter was dropped")
        index = event.messages.index(message)
        self._require_receipt(entry, name, found, event.senders[index] if event.senders else None)
        self._gone(entry, name, message, state="dropped", died=event.reason)

    def _disown(self, entry: Recorded, event: MessagesDisowned) -> None:
        actor, asked = entry.actor, self.asked
        for message, agent in event.letters:
            name, found = self._there(entry, agent, message, "disowned")
            is_asked = (actor, True, message) in asked.drops or (actor, True) in asked.drops_of_all
            self._require(is_asked and found.sender == actor, actor, entry.seq, f"{message} of {name} disowned")
            self._change_list(self._dead_of[actor], entry.seq, (message, name), is_dead=False)
            found.sender = None
            self._become(entry, name, message, is_disowned=True)
            self._sometimes("a dead letter was disowned by its sender")

    # Roles.

    def enter_role(self, entry: Recorded, event: RoleEvent) -> None:
        """Fold a change of a role in. Raises `Violation`."""
        name, actor = f"{ROLE}{event.name}", entry.actor
        match event:
            case RoleCreated():
                if name in self.members:
                    raise Violation("altered", f"{name} is made at {entry.seq}, and is there", actor)
                self._names[entry.seq] = name
                self.members[name] = set()
            case RoleDeleted():
                if self.members.pop(name) or self.inboxes[name]:
                    raise Violation("lost", f"{name} is deleted at {entry.seq} with what is in it", actor)
            case _:
                is_join = isinstance(event, RoleJoined)
                kind = "role.join" if is_join else "role.leave"
                is_asked = (kind, actor, event.name) in self.asked.roles and self._names[event.agent] == actor
                self._require(is_asked, actor, entry.seq, str(event))
                if is_join:
                    self.members[name].add(actor)
                else:
                    self._leave_role(name, actor)
        self._pasts[name].become(entry.seq, frozenset(self.members.get(name, ())))

    def _leave_role(self, name: str, agent: str) -> None:
        self.members[name].discard(agent)
        for entry in self.inboxes[name].values():
            if entry.holder == agent:
                if entry.link is not None:
                    self._sometimes("who had a message of a role left the role")
                entry.free(self._clock.now_ms)

    # Connections.

    def hand_out(self, reader: str, channel: str, message: int, link: int) -> None:
        """A lent message was told on a connection. Raises `Violation`."""
        name = channel[1:] if channel.startswith(f"@{ROLE}") else reader
        entry = self.inboxes[name].get(message)
        if entry is None or not entry.lends or entry.holder != reader:
            raise Violation(
                "acked came again", f"{reader} was handed {message}, which is not lent to it: {entry}", reader
            )
        entry.link = link

    def take_ahead(self, link: int, most: int) -> None:
        """A subscription takes so many messages at most on a connection."""
        self._ahead[link] = most

    def hand_out_ahead(self, reader: str, channel: str, message: int, link: int) -> None:
        """The same, for a subscription: no more than it takes are lent on its connection. Raises `Violation`."""
        self.hand_out(reader, channel, message, link)
        since_ms = self._clock.now_ms - self._lend_ms
        lent = [seq for _, seq, it in self._waiting_for(reader) if it.link == link and it.lent_ms > since_ms]
        if len(lent) > self._ahead[link]:
            raise Violation("lent too many", f"{reader} has {lent} on {link}, and takes {self._ahead[link]}", reader)
        self._sometimes("several messages were lent ahead" if len(lent) > 1 else "a message was lent ahead")

    def lose(self, link: int) -> None:
        """The hub learned that a connection is gone: what was lent to it is free."""
        for entry in self._all():
            if entry.link == link:
                entry.free(self._clock.now_ms)

    def restart(self) -> None:
        """A new process of the hub has lent nothing."""
        for entry in self._all():
            entry.free(self._clock.now_ms)

    def _all(self) -> Iterable[Entry]:
        return (entry for entries in self.inboxes.values() for entry in entries.values())

    # What is told.

    def fate(self, name: str, message: int, seq: int) -> Fate | None:
        """How far a message is in an inbox after the event at `seq`."""
        past = self._fates.get((name, message))
        found: Fate | None = None if past is None else past.upto(seq)
        return found

    def require_true(self, agent: str, kind: str, body: Json, reply: Json) -> None:
        """An answer is what the journal had at the position that it names. Raises `Violation`."""
        match kind:
            case "receipt.get":
                self._require_receipts(agent, body, reply)
            case "dead.list":
                self._require_list(agent, body, reply)
            case "dead.resend":
                self._require_resent(agent, body, reply)
            case "dead.drop":
                self._require_dropped(agent, body, reply)
            case "role.join" | "role.leave":
                members = self.members_at(f"{ROLE}{body['role']}", _position(reply))
                if (agent in members) != (kind == "role.join"):
                    raise Violation("lost", f"{kind} of {agent} is answered {reply}; members are {members}", agent)
            case _:
                pass

    def _require_receipts(self, agent: str, body: Json, reply: Json) -> None:
        message, position = int(body["id"][1:]), _position(reply)
        sender, to = self._sent.get(message, ("", ()))
        told = {info["recipient"]: info for info in reply["recipients"]}
        if sender != agent or (reply["next"] is None and not body.get("after") and set(told) != set(to)):
            raise Violation("wrong receipt", f"{agent} is told {reply}; {sender} sent it to {to}", agent)
        for name, info in told.items():
            fate = self.fate(name, message, position)
            due = None if fate is None else fate.told
            lends = None if fate is None else fate.lends
            if self._is_dropped(sender, name, message, position):
                continue  # nobody knows any more
            if (info["state"], info["acked_by"]) != due or info["lends"] not in (None, lends):
                raise Violation("wrong receipt", f"{agent} is told {info} at {position}; it is {fate}", agent, name)

    def _is_dropped(self, sender: str, name: str, message: int, seq: int) -> bool:
        """True when the event that was the last of a message may be gone from the journal."""
        past, fate = self._fates[name, message], self.fate(name, message, seq)
        is_over = fate is not None and fate.state in ("acked", "dropped")
        return is_over and past.at[bisect_right(past.at, seq) - 1] <= self.floor(f"receipts {sender}")

    def require_told_rightly(self, agent: str, seq: int, body: Json) -> None:
        """A receipt that a sender is told as it comes. Raises `Violation`."""
        for text in body["ids"]:
            fate = self.fate(body["recipient"], int(text[1:]), seq)
            sender, _ = self._sent.get(int(text[1:]), ("", ()))
            if fate is None or fate.state != body["state"] or sender != agent:
                raise Violation("wrong receipt", f"{agent} is told {body} at {seq}; it is {fate}", agent)

    def members_at(self, name: str, seq: int) -> frozenset[str]:
        found: frozenset[str] = self._pasts[name].upto(seq) or frozenset()
        return found

    def _dead_at(self, agent: str, seq: int, *, sent: bool) -> set[tuple[int, str]]:
        names = [agent] if sent else [agent, *(role for role in self._pasts if agent in self.members_at(role, seq))]
        lists = self._dead_of if sent else self._dead
        return {item for name in names if name in lists for item in lists[name].upto(seq) or ()}

    def _require_list(self, agent: str, body: Json, reply: Json) -> None:
        position, is_sent = _position(reply), bool(body.get("sent"))
        due = self._dead_at(agent, position, sent=is_sent)
        told = [
            (int(it["id"][1:]), it["channel"][1:] if it["channel"][0] == "@" else agent) for it in reply["messages"]
        ]
        is_whole = reply["next"] is None and not body.get("after")
        seqs = [seq for seq, _ in told]
        if (
            not set(told) <= due
            or (is_whole and set(told) != due)
            or reply["total"] != len(due)
            or seqs != sorted(seqs)
        ):
            raise Violation("wrong list", f"{agent} is told {told} of {reply['total']}; dead are {due}", agent)
        self._sometimes("dead letters were listed" if told else "no dead letters were listed")

    def _require_resent(self, agent: str, body: Json, reply: Json) -> None:
        message = int(body["id"][1:])
        fates = [self.fate(name, message, _position(reply)) for name in reply["to"]]
        states = [None if fate is None else fate.state for fate in fates]
        if body.get("sent"):
            new = self._sent.get(int(reply["id"][1:]), ("", ()))
            if set(states) != {"dropped"} or new != (agent, tuple(reply["to"])):
                raise Violation("lost", f"{agent} sent {message} anew: {reply}, {fates}, {new}", agent)
        elif "dead" in states or None in states:
            raise Violation("lost", f"{agent} gave {message} another chance: {reply}, {fates}", agent)

    def _require_dropped(self, agent: str, body: Json, reply: Json) -> None:
        is_sent = bool(body.get("sent"))
        left = self._dead_at(agent, _position(reply), sent=is_sent)
        gone = {int(text[1:]) for text in reply["dropped"]}
        if is_sent and gone & {seq for seq, _ in left}:
            raise Violation("lost", f"{agent} dropped {reply}; {left} are left", agent)
        states = [self.fate(agent, seq, _position(reply)) for seq in gone]
        if not is_sent and any(fate is not None and fate.state != "dropped" for fate in states):
            raise Violation("lost", f"{agent} dropped {reply}: {states}", agent)

    # Now and then.

    def check(self, there: dict[str, dict[int, tuple[int, bool, int | None]]], members: dict[str, set[str]]) -> None:
        """What the hub has: by inbox and message its lends, whether it is dead, and its date; and the members of roles.
        Raises `Violation`."""
        for name in there.keys() | {name for name, entries in self.inboxes.items() if entries}:
            due = {seq: (it.lends, it.is_dead, it.expires_at_ms) for seq, it in self.inboxes[name].items()}
            if there.get(name, {}) != due:
                raise Violation("altered", f"the inbox of {name} is {there.get(name)}, there are {due}", name)
        if members != self.members:
            raise Violation("altered", f"the members of roles are {members}, there are {self.members}")
        self.check_times()

    def check_times(self) -> None:
        """What is past its date dies soon. Raises `Violation`."""
        active_ms, wall_ms = self._clock.now_ms - self._clock.excused_ms, self._clock.wall_ms()
        for name, entries in self.inboxes.items():
            for seq, entry in entries.items():
                if entry.is_dead or not entry.is_late(wall_ms):
                    entry.late_since_ms = None
                elif entry.late_since_ms is None:
                    entry.late_since_ms = active_ms
                elif active_ms - entry.late_since_ms > LATE_MS_MAX:
                    raise Violation("expired late", f"{seq} of {name} is alive at {wall_ms}: {entry}", name)

    def is_at_rest(self, agent: str) -> bool:
        """True when nothing waits for this agent, in its inbox and in the queues of its roles."""
        return next(self._waiting_for(agent), None) is None


def _position(reply: Json) -> int:
    return int(reply["cursor"].partition(":")[2])
