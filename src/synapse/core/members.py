"""Private rooms and channels: who may join them, who is put out, and from where on a member reads.

Of a private room nothing is there for others: not its name, its channels, its plan, its values or its leases; and of a
private channel, nothing for other members of its room. One comes in by an invitation, which any member may give.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, assert_never

from synapse.core.agents import Agent, require_known
from synapse.core.by import By, Rules
from synapse.core.claims import grants_after, revocation, unqueued
from synapse.core.events import Event, Recorded
from synapse.core.lanes import decide_leave_lanes
from synapse.core.leases import NO_LEASES, View
from synapse.core.mail import Letter, deliveries_to, numbered
from synapse.core.room_events import MemberEvent, MemberInvited, MemberRemoved
from synapse.core.rooms import Channel, Room, channel_known, invite, put_out, room_known
from synapse.errors import Rejected, bad_request
from synapse.protocol.member_commands import InviteMember, KickMember
from synapse.protocol.member_replies import Membership
from synapse.protocol.terms import ADMIN

if TYPE_CHECKING:
    from synapse.core.state import State

REMOVED = "removed"
"""Why the leases and lanes of a member that was put out have ended."""

MemberMutation: TypeAlias = InviteMember | KickMember


def decide_members(state: "State", rules: Rules, command: MemberMutation, by: By) -> list[Event]:
    """The part of private places in `kernel.decide`."""
    match command:
        case InviteMember():
            return _invite(state, command, by)
        case KickMember():
            return _kick(state, rules, command, by)
        case _:
            assert_never(command)


def _place(state: "State", place: str, by: By) -> tuple[Room, Channel | None]:
    """The private room or `room:channel` that is named. Raises `Rejected`: `not_found`, `not_permitted`."""
    if ":" in place:
        channel = channel_known(state, place, by)
        room, target = state.rooms.by_id[channel.room], channel
    else:
        room, target = room_known(state, place, by), None
    where = room if target is None else target
    if not where.private:
        raise bad_request(
            f"{place} is not private: agents join it by themselves (synapse {_noun(place)} join {place})",
            "$.body.place",
            {"place": place},
        )
    if not by.has_role(ADMIN) and by.agent not in where.members:
        raise Rejected("not_permitted", f"only its members ask others into {place}", {"place": place})
    return room, target


def _noun(place: str) -> str:
    return "channel" if ":" in place else "room"


def _invite(state: "State", command: InviteMember, by: By) -> list[Event]:
    room, channel = _place(state, command.place, by)
    agent = require_known(state, command.agent, by)
    where = room if channel is None else channel
    if channel is not None and agent.id not in room.members and room.private:
        raise Rejected(
            "not_permitted",
            f"{agent.name} is no member of the private room {room.name}: ask it in there first "
            f"(synapse room invite {room.name} {agent.name})",
            {"place": command.place, "agent": agent.name},
        )
    is_same = agent.id in where.invited and (agent.id in where.shown_all) == command.history
    if agent.id in where.members or is_same:
        return []
    return [
        MemberInvited(
            room=room.id,
            channel=None if channel is None else channel.id,
            place=command.place,
            agent=agent.id,
            history=command.history,
            deliveries=deliveries_to(state, (agent.id,)),
        )
    ]


def _kick(state: "State", rules: Rules, command: KickMember, by: By) -> list[Event]:
    room, channel = _place(state, command.place, by)
    agent = require_known(state, command.agent, by)
    where = room if channel is None else channel
    if agent.id not in where.members and agent.id not in where.invited:
        raise Rejected(
            "not_found",
            f"{agent.name} is no member of {command.place}, and is not asked in",
            {"place": command.place, "agent": agent.name},
        )
    _require_may_kick(state, where, agent, command.place, by)
    removed = MemberRemoved(
        room=room.id,
        channel=None if channel is None else channel.id,
        place=command.place,
        agent=agent.id,
        deliveries=deliveries_to(state, (agent.id,)) if agent.id in where.members else (),
    )
    if channel is not None:
        return [removed]
    lanes = decide_leave_lanes(state, rules, room, agent.id, REMOVED)
    return numbered(state, [removed, *_ended(state, room, agent.id), *lanes])


def _require_may_kick(state: "State", where: Room | Channel, agent: Agent, place: str, by: By) -> None:
    """Whoever made it, while it is a member; else any member; and an operator."""
    creator = state.agents.by_name.get(where.created_by)
    is_there = creator is not None and creator.id in where.members
    if by.has_role(ADMIN) or by.agent == agent.id or not is_there or by.actor == where.created_by:
        return
    raise Rejected(
        "not_permitted",
        f"{where.created_by} made {place} and puts others out, and so does an operator",
        {"place": place, "created_by": where.created_by},
    )


def _ended(state: "State", room: Room, agent: int) -> list[Event]:
    """What an agent holds and waits for in a room that it may not see any more ends; who waited gets it."""
    leases = [lease for lease in state.leases.of_agent.get(agent, NO_LEASES).values() if lease.ask.room == room.id]
    places = [place for place in state.leases.places_of_agent.get(agent, {}).values() if place.ask.room == room.id]
    ended: list[Event] = [revocation(lease, REMOVED) for lease in leases]
    ended += [unqueued(place, REMOVED) for place in places]
    view = View({lease.epoch for lease in leases}, {place.seq for place in places})
    freed = [*(lease.ask for lease in leases), *(place.ask for place in places)]
    return [*ended, *grants_after(state, view, freed, 1 + len(ended))]


def apply_members(state: "State", event: MemberEvent) -> None:
    """The part of private places in `kernel.apply`."""
    room = state.rooms.by_id[event.room]
    where = room if event.channel is None else state.rooms.channels[event.channel]
    match event:
        case MemberInvited():
            invite(where, event.agent, shown_all=event.history)
        case MemberRemoved():
            put_out(where, event.agent)
            if event.channel is None:
                for channel in state.rooms.in_room[room.id].values():
                    put_out(channel, event.agent)
        case _:
            assert_never(event)


def member_letter(event: MemberEvent) -> Letter:
    """What who is asked in, or put out, finds in its inbox."""
    noun = _noun(event.place)
    match event:
        case MemberInvited():
            subject = f"you are asked into the private {noun} {event.place}"
            what, follows = "invited", f"synapse {noun} join {event.place}"
        case MemberRemoved():
            subject = f"you are no member of the {noun} {event.place} any more"
            what, follows = "removed", f"synapse {noun} list"
        case _:
            assert_never(event)
    return Letter(subject, {"type": f"member.{what}", "place": event.place, "next": follows}, "normal")


def answer_members(state: "State", command: MemberMutation, events: Sequence[Recorded], cursor: str) -> Membership:
    """The part of private places in `answers.answer`."""
    if isinstance(command, InviteMember):
        is_member = not events and _is_member(state, command.place, command.agent)
        return Membership(
            place=command.place, agent=command.agent, state="member" if is_member else "invited", cursor=cursor
        )
    return Membership(place=command.place, agent=command.agent, state="removed", cursor=cursor)


def _is_member(state: "State", place: str, name: str) -> bool:
    where = state.rooms.by_address.get(place) if ":" in place else state.rooms.by_name.get(place)
    agent = state.agents.by_name.get(name)
    return where is not None and agent is not None and agent.id in where.members
