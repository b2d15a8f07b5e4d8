"""What agents do, for who watches: who, what kind of command, what it was about and how it ended; never what it said.

Rule 1: a command is told only where `_FOUND_BY` says how its place is found; one that is new there is told to nobody.
Rule 2: what is of a room, or of a channel, is told to who may see it. An id stands for the place of what it names: a
session, a lane, a file, a question, a held message. Where that is not there, or not any more, nothing is told, so that
nobody tells a hidden place from none. Rule 3: a token for rooms is told of those, and only of agents that it knows.
Of what goes to inboxes the recipient is not told. A thing is named only where its name is one.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from synapse.core.by import By
from synapse.core.inboxes import ALL
from synapse.core.messages import destination
from synapse.core.rooms import Channel, Room, knows_agent, may_see
from synapse.core.sessions import number_of, own_session
from synapse.errors import Rejected
from synapse.protocol.commands import COMMANDS, TYPE_OF, Command, SendMessage
from synapse.protocol.cursor import seq_of_message, seq_of_question
from synapse.protocol.signal_notices import Activity

if TYPE_CHECKING:
    from synapse.core.state import State

IN_ROOM: Final = {"task": "task", "key": "value", "room": "room"}
"""Fields that name what a command in a room is about, the first one that it has, and what that is called."""
OF_HUB: Final = {"resource": "resource", "pool": "pool", "name": "agent"}
"""The same of what is in no room."""
_name = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:#@-]{0,255}\Z").match


class Spot(NamedTuple):
    """Where a command belongs, as far as that is in a room or a channel, and what it is about."""

    room: Room | None = None
    channel: Channel | None = None
    about: str | None = None
    name: str | None = None


class Acted(NamedTuple):
    """Something an agent did. agent: its id, None for an operator."""

    notice: Activity
    agent: int | None
    room: Room | None
    channel: Channel | None = None

    def is_for(self, state: "State", by: By) -> bool:
        """True when a follower may hear of it."""
        if self.channel is not None and self.channel.private and by.agent not in self.channel.members:
            return False
        if self.room is None:
            return by.rooms is None
        return may_see(self.room, by) and (self.agent is None or knows_agent(state, self.agent, by))


def described(state: "State", command: Command, by: By, outcome: str, spot: Spot | None = None) -> Acted | None:
    """What is told of a command; None for what nobody is told of. spot: where it belonged before it was carried out."""
    spot = spot_of(state, command, by) if spot is None else spot
    if spot is None:
        return None
    notice = Activity(
        by=by.actor,
        command=TYPE_OF[type(command)],
        outcome=outcome,
        room=None if spot.room is None else spot.room.name,
        about=spot.about,
        name=spot.name,
        at_ms=by.at_ms,
    )
    return Acted(notice, by.agent, spot.room, spot.channel)


def spot_of(state: "State", command: Command, by: By) -> Spot | None:
    """Where a command belongs as of now; None for a place that is not there, and for what nobody is told of."""
    find = FINDERS.get(type(command))
    try:
        return None if find is None else find(state, command, by)
    except Rejected:  # it names no place at all
        return None


# How the place of a command is found.


def _in_room(state: "State", command: Command, by: By) -> Spot | None:
    given = getattr(command, "room", None)
    room = state.rooms.by_name.get(by.home.partition(":")[0] if given is None else given)
    return None if room is None else Spot(room, None, *_named(command, IN_ROOM))


def _named(command: Command, fields: dict[str, str]) -> tuple[str | None, str | None]:
    """What a command is about, and its name."""
    field = next((field for field in fields if hasattr(command, field)), None)
    if field is None:
        return None, None
    text = getattr(command, field)
    return fields[field], text if isinstance(text, str) and _name(text) else None


def _at_channel(state: "State", command: Command, by: By) -> Spot | None:
    return _of_channel(state, getattr(command, "channel", ""))


def _at_place(state: "State", command: Command, by: By) -> Spot | None:
    place = getattr(command, "place", "")
    if ":" in place:
        return _of_channel(state, place)
    room = state.rooms.by_name.get(place)
    return None if room is None else Spot(room, None, "room", place)


def _of_channel(state: "State", address: str) -> Spot | None:
    channel = state.rooms.by_address.get(address)
    return None if channel is None else Spot(state.rooms.by_id[channel.room], channel, "channel", address)


def _by_session(state: "State", command: Command, by: By) -> Spot | None:
    text = getattr(command, "session", None)
    if text is None:
        session = own_session(state, None, by)
    else:
        found = state.sessions.by_id.get(number_of(text, "s", "session"))
        if found is None:
            return None
        session = found
    task = getattr(command, "task", None)
    is_name = isinstance(task, str) and _name(task)
    return Spot(state.rooms.by_id[session.room], None, *(("task", task) if is_name else (None, None)))


def _by_lane(state: "State", command: Command, by: By) -> Spot | None:
    lane = state.lanes.by_id.get(number_of(getattr(command, "lane", ""), "l", "lane"))
    return None if lane is None else Spot(state.rooms.by_id[lane.room])


def _by_question(state: "State", command: Command, by: By) -> Spot | None:
    question = state.questions.find(seq_of_question(getattr(command, "id", "")))
    room = None if question is None else state.rooms.by_id.get(question.room)
    return None if room is None else Spot(room)


def _by_held(state: "State", command: Command, by: By) -> Spot | None:
    held = state.loops.held.get(seq_of_message(getattr(command, "id", "")))
    if held is None:
        return None
    if held.posted is not None:
        return _of_channel(state, held.posted.address)
    assert held.sent is not None, "a message is held"
    if held.sent.room is None:
        return Spot(about="inbox")
    room = state.rooms.by_id.get(held.sent.room)
    return None if room is None else Spot(room, None, "inbox")


def _new_file(state: "State", command: Command, by: By) -> Spot | None:
    if getattr(command, "to", ()):
        return Spot(about="inbox")
    address = getattr(command, "channel", None)
    return _of_channel(state, by.home if address is None else address)


def _by_file(state: "State", command: Command, by: By) -> Spot | None:
    file = state.files.by_id.get(number_of(getattr(command, "file", ""), "f", "file"))
    if file is None or file.channel is None:
        return None if file is None else Spot(about="inbox")
    channel = state.rooms.channels.get(file.channel)
    return None if channel is None else _of_channel(state, state.rooms.address(channel))


def _of_message(state: "State", command: Command, by: By) -> Spot | None:
    """None for a signal, too: it changes nothing."""
    assert isinstance(command, SendMessage)
    address, names = destination(command, by)
    if address is not None:
        spot = _of_channel(state, address)
        return None if spot is None or spot.channel is None or spot.channel.ephemeral else spot
    if names != [ALL]:
        return Spot(about="inbox")
    name = by.home.partition(":")[0] if command.room is None else command.room
    room = state.rooms.by_name.get(name)
    return None if room is None else Spot(room, None, "inbox")


def _of_hub(state: "State", command: Command, by: By) -> Spot | None:
    return Spot(None, None, *_named(command, OF_HUB))


def _of_role(state: "State", command: Command, by: By) -> Spot | None:
    return Spot(None, None, *_named(command, {"role": "role"}))


_Find: TypeAlias = Callable[["State", Command, By], Spot | None]
_FOUND_BY: Final[dict[_Find, str]] = {
    _in_room: "room.create room.delete room.join room.leave session.start question.ask "
    "lease.claim lease.renew lease.release lease.withdraw lease.checkpoint lease.hand_off lease.park "
    "task.declare task.declare_all task.note task.remove task.update value.put value.delete value.clear value.transfer",
    _at_channel: "channel.create channel.delete channel.join channel.leave",
    _at_place: "member.invite member.kick",
    _by_session: "session.update session.checkpoint session.end lane.offer",
    _by_lane: "lane.accept lane.decline lane.close lane.send",
    _by_question: "question.answer question.dismiss question.withdraw",
    _by_held: "held.release held.drop",
    _new_file: "file.begin",
    _by_file: "file.put file.complete file.receive file.withdraw",
    _of_message: "message.send",
    _of_role: "role.join role.leave role.delete",
    _of_hub: "agent.rebind agent.forget card.set pool.set pool.delete resource.offer resource.withdraw "
    "token.create token.revoke inbox.take inbox.ack dead.resend dead.drop",
}
FINDERS: Final = {COMMANDS[name]: find for find, names in _FOUND_BY.items() for name in names.split()}
"""How the place of a command is found, by its type."""
