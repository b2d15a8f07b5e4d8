"""Random traffic through the kernel into a real journal, as a hub would write it, with every answer remembered."""

import random
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from tests.core.conftest import World
from tests.journal.conftest import open_journal

from synapse.core.answers import answer
from synapse.core.events import JournalStarted
from synapse.core.state import State, new_state
from synapse.errors import Rejected
from synapse.hub.paging import recorded_of
from synapse.journal.reader import JournalReader
from synapse.journal.store import Journal
from synapse.protocol.commands import (
    AckInbox,
    ClaimLease,
    CreateChannel,
    DeleteChannel,
    HandOffLease,
    ReleaseLease,
    SaveCheckpoint,
    SendMessage,
    TakeInbox,
)
from synapse.protocol.cursor import message_id
from synapse.protocol.plan_commands import DeclareTask, NoteProgress, UpdateTask
from synapse.protocol.value_commands import DeleteValue, PutValue

AGENTS = ("ada", "bob", "cy")
CHANNELS = ("main:general", "main:news", "lab:general")
DAY_MS = 24 * 3600 * 1000
KEEP_ALL_SHORT = {"messages": 2 * DAY_MS, "leases": DAY_MS, "values": DAY_MS, "plan": DAY_MS}
"""A retention under which much goes."""


@dataclass(slots=True)
class Said:
    """A command under a key, and its first answer."""

    actor: str
    key: str
    command: SendMessage | PutValue
    answer: bytes
    at_ms: int


@dataclass(slots=True)
class Traffic:
    """A hub's life without its shell: `world` decides, `home` has the journal."""

    home: Path
    dice: random.Random
    world: World
    journal: Journal
    said: list[Said] = field(default_factory=list)
    written: int = 0

    @classmethod
    def begin(cls, home: Path, seed: int) -> "Traffic":
        """A new journal, with three agents and three channels."""
        world = World()
        journal = open_journal(home, world.at_ms)
        world.state, world.rows = new_state(), []
        world.state.seq = journal.base
        world.record([JournalStarted(hub_id=journal.hub_id, journal_id=journal.journal_id)], "hub")
        world.boot({"main": ["general", "news"], "lab": ["general"]})
        world.join(*AGENTS)
        return cls(home, random.Random(seed), world, journal)

    def go_on(self, count: int) -> None:
        """So many commands, and then all of it is durable."""
        for _ in range(count):
            self._act()
        self._write()

    def replay_of(self, state: State, said: Said) -> bytes | None:
        """The answer to a repeat under the same key, from the journal; None when the key is not known any more."""
        known = state.idempotency.by_key.get((said.actor, said.key))
        if known is None:
            return None
        with closing(JournalReader(self.home)) as reader:
            found = [recorded_of(row) for row in reader.rows(known.seq, known.seq + known.count - 1)]
        return msgspec.json.encode(answer(state, said.command, self.world.by(said.actor), found, found[-1].seq))

    def _act(self) -> None:
        """One command of somebody, perhaps refused; time goes on, sometimes by hours."""
        dice, world = self.dice, self.world
        world.at_ms += dice.choice((1, 1_000, 60_000, 3_600_000, 6 * 3_600_000))
        name = dice.choice(AGENTS)
        with suppress(Rejected):
            self._one(name)

    def _one(self, name: str) -> None:
        dice, world = self.dice, self.world
        match dice.randrange(14):
            case 0 | 1 | 2:
                text = "hi @bob" if dice.random() < 0.3 else f"note {dice.randrange(10**6)}"
                self._keyed(name, SendMessage(room=None, channel=dice.choice(CHANNELS), body=raw(text)))
            case 3 | 4:
                self._keyed(name, SendMessage(to=(dice.choice(AGENTS),), body=raw("direct")))
            case 5:
                events = world.events(TakeInbox(), name)
                if events and dice.random() < 0.7:
                    inbox = world.state.agents.inboxes[world.agent(name)]
                    world.do(AckInbox(ids=(message_id(next(iter(inbox.entries))),)), name)
            case 6:
                world.do(ClaimLease(task=f"T{dice.randrange(5)}", ttl_ms=60_000), name)
            case 7 | 8:
                world.do(ReleaseLease(task=f"T{dice.randrange(5)}"), name)
            case 9:
                world.do(SaveCheckpoint(task=f"T{dice.randrange(5)}", data=raw({"at": 1})), name)
            case 10:
                self._keyed(name, PutValue(key=f"k{dice.randrange(6)}", value=raw(dice.randrange(99))))
            case 11:
                task, other = f"T{dice.randrange(5)}", f"T{dice.randrange(5, 9)}"
                world.do(DeclareTask(task=task, title=f"the {dice.randrange(99)}th", depends_on=(other,)), "operator")
            case 12:
                task = f"T{dice.randrange(5)}"
                world.do(UpdateTask(task=task, status=dice.choice(("open", "blocked", "cancelled"))), "operator")
                world.do(NoteProgress(task=task, text="as far as that"), name)
            case _:
                if dice.random() < 0.3:
                    world.do(HandOffLease(task=f"T{dice.randrange(5)}", to=dice.choice(AGENTS)), name)
                elif dice.random() < 0.5:
                    world.do(CreateChannel(channel="lab:brief"), name)
                elif dice.random() < 0.5:
                    world.do(DeleteChannel(channel="lab:brief"), name)
                else:
                    world.do(DeleteValue(key=f"k{dice.randrange(6)}"), name)

    def _keyed(self, name: str, command: SendMessage | PutValue) -> None:
        key = f"key-{self.dice.randrange(10**9)}" if self.dice.random() < 0.5 else None
        recorded, reply = self.world.do(command, name, key)
        if key is not None and recorded and reply is not None:
            first = msgspec.json.encode(reply)
            self.said.append(Said(name, key, command, first, self.world.at_ms))

    def _write(self) -> None:
        """Commit what has gathered, in turns of some rows."""
        rows = self.world.rows
        while self.written < len(rows):
            size = self.dice.randint(1, 40)
            self.journal.append(rows[self.written : self.written + size])
            self.written = min(self.written + size, len(rows))
            if self.dice.random() < 0.3:
                self.journal.maintain()


def raw(value: object) -> msgspec.Raw:
    """A value as the codec leaves it."""
    return msgspec.Raw(msgspec.json.encode(value))
