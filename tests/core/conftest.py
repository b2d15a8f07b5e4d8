"""A hub without a shell: commands go through the kernel as the turn sends them, and `decide` is checked on the way."""

from collections.abc import Container, Sequence
from typing import TypeVar

import msgspec

from synapse.core.answers import Query, answer, look
from synapse.core.by import By, Rules
from synapse.core.events import (
    Event,
    HubStarted,
    JournalStarted,
    LeaseQueued,
    MessageSent,
    Recorded,
    Row,
    from_row,
    to_row,
)
from synapse.core.happenings import LINES, Place, kinds_named, line_of
from synapse.core.idempotency import find
from synapse.core.kernel import REPEATABLE, Mutation, apply, decide, payload_hash, record, stamp
from synapse.core.rooms import decide_bootstrap
from synapse.core.state import State, encode_state, new_state
from synapse.errors import Rejected
from synapse.protocol.commands import DeclareStatus, Hello, SendMessage, TakeInbox
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Reply

JOURNAL = "1" * 16
BASE = 1_000
SECRET = "s" * 32

_Reply = TypeVar("_Reply", bound=Reply)


class AnyEyes:
    """Eyes that see everything, whatever is gone."""

    journal_id = JOURNAL

    def __init__(self, by: By) -> None:
        self.by = by

    def sees(self, room: int) -> bool:
        return True

    def reads(self, channel: int, seq: int) -> bool:
        return True

    def knows(self, agent: int) -> bool:
        return True

    def knows_actor(self, name: str) -> bool:
        return True

    def agent(self, agent: int) -> str:
        return f"agent {agent}"

    def room(self, room: int) -> str:
        return f"room {room}"

    def channel(self, channel: int) -> Place:
        return Place(0, f"channel {channel}")


EVERY_KIND = kinds_named(())


class World:
    """State, journal rows and two clocks. `do` is one command of one turn."""

    def __init__(self, limits: Limits | None = None, *, auto_create: bool = True, create_needs_operator: bool = False):
        self.rules = Rules(limits or Limits(), auto_create, create_needs_operator)
        self.state = new_state()
        self.state.seq = BASE
        self.rows: list[Row] = []
        self.at_ms = 1_700_000_000_000
        self.lease_ms = 0
        self.record([JournalStarted(hub_id="0" * 16, journal_id=JOURNAL)], "hub")
        self.record([HubStarted(version="0")], "hub")
        self.boot({"main": ["general"]})

    def boot(self, wanted: dict[str, list[str]]) -> None:
        """Make the rooms of the configuration."""
        while events := decide_bootstrap(self.state, self.rules, wanted):
            self.record(events, "hub")

    def record(self, events: Sequence[Event], actor: str) -> list[Recorded]:
        """Fold events in and journal them."""
        recorded = [record(self.state, event, actor, self.at_ms) for event in events]
        self.rows += [to_row(item) for item in recorded]
        operator = AnyEyes(By("operator", None, 1, "main:general", self.at_ms, self.lease_ms, operator=True))
        for item in recorded:
            line = line_of(item, operator, EVERY_KIND, None)
            assert line is not None or LINES[type(item.event)] is None or isinstance(item.event, MessageSent)
        return recorded

    def read(self, seq: int, count: int) -> list[Recorded]:
        """Rows read back, as the hub does for a repeat."""
        rows = [row for row in self.rows if seq <= row.seq < seq + count]
        return [Recorded(row.seq, row.at_ms, row.actor, from_row(row.type, row.body)) for row in rows]

    def by(self, name: str, *, connection: int = 1, home: str = "main:general") -> By:
        """Who asks: an agent by name, or `operator`."""
        if name == "operator":
            return By(name, None, connection, home, self.at_ms, self.lease_ms, operator=True)
        return By(name, self.agent(name), connection, home, self.at_ms, self.lease_ms)

    def agent(self, name: str) -> int:
        """The id of a known agent."""
        return self.state.agents.by_name[name].id

    def decide(self, command: Mutation, by: By) -> list[Event]:
        """`decide`, with the proof that it changed nothing, also when it refuses."""
        before = encode_state(self.state)
        lends = dict(self.state.soft.lending.lends)
        try:
            return decide(self.state, self.rules, command, by)
        finally:
            assert encode_state(self.state) == before, "decide changed the state"
            assert self.state.soft.lending.lends == lends, "decide changed the lends"

    def do(self, command: Mutation, by: By | str, key: str | None = None) -> tuple[list[Recorded], Reply | None]:
        """Carry a command out. The events it became, none for a repeat, and its reply where core makes one."""
        by = self.by(by) if isinstance(by, str) else by
        if key is not None:
            assert type(command) in REPEATABLE
            digest = payload_hash(command, msgspec.json.encode(command), by)
            known = find(self.state.idempotency, by.actor, key, digest)
            if known is not None:
                return [], self.answer(command, by, self.read(known.seq, known.count))
        events = self.decide(command, by)
        if key is not None and events:
            events = stamp(events, key, digest)
        recorded = self.record(events, by.actor)
        return recorded, self.answer(command, by, recorded)

    def answer(self, command: Mutation, by: By, events: Sequence[Recorded]) -> Reply | None:
        """The reply, for commands that need nothing but their events."""
        if isinstance(command, Hello | TakeInbox) or (events and isinstance(events[0].event, LeaseQueued)):
            return None
        return answer(self.state, command, by, events, self.state.seq)

    def reply(self, kind: type[_Reply], command: Mutation, by: By | str, key: str | None = None) -> _Reply:
        """The reply of a command, of the kind expected."""
        reply = self.do(command, by, key)[1]
        assert isinstance(reply, kind)
        return reply

    def look(self, kind: type[_Reply], query: Query, by: By | str = "operator") -> _Reply:
        """The answer to a question."""
        before = encode_state(self.state)
        reply = look(self.state, self.rules, query, self.by(by) if isinstance(by, str) else by)
        assert encode_state(self.state) == before, "look changed the state"
        assert isinstance(reply, kind)
        return reply

    def events(self, command: Mutation, by: By | str) -> list[Event]:
        """What a command becomes, carried out."""
        return [item.event for item in self.do(command, by)[0]]

    def refusal(self, command: Mutation, by: By | str, key: str | None = None) -> Rejected:
        """The refusal of a command; that it changed nothing is checked."""
        before = encode_state(self.state)
        try:
            self.do(command, by, key)
        except Rejected as refused:
            assert encode_state(self.state) == before, "a refused command changed the state"
            return refused
        raise AssertionError(f"{command} was not refused")

    def join(self, *names: str, secret: str = SECRET) -> None:
        """Agents say hello."""
        for name in names:
            at = name.rpartition("/")[0]
            hello = Hello(name=name, secret=secret, ancestors={at: secret} if at else {})
            self.do(hello, By("", None, 1, "main:general", self.at_ms, self.lease_ms))

    def replayed(self) -> State:
        """The state folded from the rows alone."""
        state = new_state()
        state.seq = BASE
        for item in self.read(0, 1 << 60):
            apply(state, item)
        return state

    def restart(self) -> None:
        """The process is gone; the journal stays."""
        self.state = self.replayed()
        self.lease_ms = 0


def text(words: str, **fields: object) -> SendMessage:
    """A message whose body is a JSON string."""
    return msgspec.convert({"body": words, **fields}, _Loose).send()


class _Loose(msgspec.Struct, frozen=True, kw_only=True):
    body: str
    to: tuple[str, ...] = ()
    target: str | None = None
    room: str | None = None
    channel: str | None = None
    create: bool = False
    subject: str | None = None
    thread: str | None = None
    reply_to: str | None = None
    priority: str = "normal"
    expires_at_ms: int | None = None

    def send(self) -> SendMessage:
        fields = {name: getattr(self, name) for name in self.__struct_fields__ if name != "body"}
        return SendMessage(body=msgspec.Raw(msgspec.json.encode(self.body)), **fields)


def declared(status: str) -> DeclareStatus:
    """A declared status."""
    return DeclareStatus(status=status)


class EveryKey(Container[str]):
    """Somebody follows every key."""

    def __contains__(self, key: object) -> bool:
        return True
