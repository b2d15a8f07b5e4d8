"""Sending: where a message goes, what it becomes in the journal, and how it is shown."""

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from synapse.core.agents import near_names, require_room_for_agents
from synapse.core.bounds import require_chars
from synapse.core.by import By, Rules
from synapse.core.events import AgentCreated, Card, Delivery, Event, MessagePosted, MessageSent
from synapse.core.inboxes import ALL
from synapse.core.loops import guarded
from synapse.core.role_queues import arrival_for, is_role
from synapse.core.rooms import Channel, Room, decide_telemetry, knows_agent, reads, require_channel, room_of
from synapse.core.signals import TELEMETRY, TELEMETRY_ADDRESS, require_signal
from synapse.errors import Rejected, bad_request
from synapse.protocol.commands import SendMessage
from synapse.protocol.cursor import cursor_of, message_id, seq_of_message
from synapse.protocol.names import GENERAL, clipped, mentioned, require_agent_name, require_segment, shown
from synapse.protocol.notices import Message
from synapse.protocol.terms import PRIORITIES

if TYPE_CHECKING:
    from synapse.core.events import Recorded
    from synapse.core.state import State

_MEMBERS_ONLY: Final = "this token sends to members of its rooms"
_decode_text: Final = msgspec.json.Decoder(str).decode


def decide_send(state: "State", rules: Rules, command: SendMessage, by: By) -> list[Event]:
    """One message to a channel, to inboxes or to a role; first of all, what `create` makes: agents, or the role. For a
    signal, which is no event, only what makes its channel."""
    by.require_agent()
    _require_plain_fields(state, command, rules, by)
    address, names = destination(command, by)
    if address is not None:
        if address == TELEMETRY_ADDRESS and (made := decide_telemetry(state, rules, address, by)):
            require_signal(rules, address, TELEMETRY, command)
            return made
        post = _post(state, rules, address, command, by)
        if post is None:
            return []
        if not post.mentions and post.reply_to is None:  # nearly all
            return [post]
        return guarded(state, rules, [post], command, by)
    if is_role(names[0]):
        by.require_all_rooms("a role")
        return guarded(state, rules, _send_role(state, rules, names[0], command), command, by)
    if names == [ALL]:
        return guarded(state, rules, [_send_all(state, rules, command, by)], command, by)
    return guarded(state, rules, _send(state, rules, names, command, by), command, by)


def _require_plain_fields(state: "State", command: SendMessage, rules: Rules, by: By) -> None:
    limits = rules.limits
    if command.expires_at_ms is not None and command.expires_at_ms <= by.at_ms:
        raise Rejected(
            "bad_request",
            f"it would expire at {command.expires_at_ms} ms, and the hub's clock is at {by.at_ms} ms already - at "
            "`$.body.expires_at_ms`",
            {"path": "$.body.expires_at_ms", "at_ms": by.at_ms},
        )
    if command.priority not in PRIORITIES:
        raise Rejected(
            "bad_request",
            f"priority {shown(command.priority)} is none of {', '.join(PRIORITIES)} - at `$.body.priority`",
            {"path": "$.body.priority", "allowed": list(PRIORITIES)},
        )
    if command.subject is not None:
        require_chars("subject", command.subject, limits.subject_chars_max)
    if command.thread is not None:
        require_chars("thread", command.thread, limits.thread_chars_max)
    if command.reply_to is not None and not 0 < seq_of_message(command.reply_to, "$.body.reply_to") <= state.seq:
        raise Rejected(
            "not_found",
            f"there is no message {command.reply_to}: the last event is {state.seq} - at `$.body.reply_to`",
            {"path": "$.body.reply_to", "id": command.reply_to},
        )


def destination(command: SendMessage, by: By) -> tuple[str | None, list[str]]:
    """A channel's address, or the names of recipients (`["all"]` for the room's members, `["role:NAME"]`). Raises
    `Rejected`."""
    if not command.to and command.target is None and command.room is None:
        channel = command.channel
        return by.home if channel is None else channel if ":" in channel else _address(None, channel), []
    if command.to and command.target is None and command.channel is None and command.room is None:
        return None, _names(command.to)
    ways = (bool(command.to), command.target is not None, command.channel is not None or command.room is not None)
    if sum(ways) > 1 and not (command.target == ALL and command.channel is None and not command.to):
        raise Rejected("bad_request", "give one of to, target, or room and channel - at `$.body`", {"path": "$.body"})
    if command.to:
        return None, _names(command.to)
    target = command.target
    if target is None:
        if command.channel is None and command.room is None:
            return by.home, []
        return _address(command.room, command.channel), []
    if ":" in target and "," not in target and not is_role(target):
        return target, []
    return None, _names(tuple(part.strip() for part in target.split(",")))


def address_of(command: SendMessage, by: By) -> str | None:
    """The channel that a message goes to, as `room:channel`; None when it goes to inboxes. Raises `Rejected`."""
    return destination(command, by)[0]


def taken_from_home(command: SendMessage, home: str) -> str:
    """What decides where a message goes, of the home of who sends it: the address, the room of `all`, or nothing."""
    if command.room is not None or command.channel is not None:
        return ""
    names = command.to if command.target is None else [name.strip() for name in command.target.split(",")]
    if not names:
        return home
    return home.partition(":")[0] if ALL in names else ""


def _address(room: str | None, channel: str | None) -> str:
    """Explicit room and channel, else `room:channel`, else the room's general channel."""
    if channel is not None and ":" in channel:
        if room is not None and channel.partition(":")[0] != room:
            raise bad_request(f"channel {shown(channel)} is not in room {shown(room)}", "$.body.channel")
        return channel
    if channel is None:
        assert room is not None
        return f"{require_segment(room, 'room')}:{GENERAL}"
    if room is None:
        raise bad_request(f"which room is {shown(channel)} in? write room:channel", "$.body.channel")
    return f"{require_segment(room, 'room')}:{require_segment(channel, 'channel')}"


def _names(names: tuple[str, ...]) -> list[str]:
    """Recipients without repeats; `all`, and a role, only alone."""
    if len(names) == 1:
        return list(names) if names[0] == ALL or is_role(names[0]) else [require_agent_name(names[0])]
    unique = list(dict.fromkeys(names))
    if unique == [ALL] or (len(unique) == 1 and is_role(unique[0])):
        return unique
    role = next(filter(is_role, unique), None)
    if role is not None:
        why = f"a role is addressed alone: send to {shown(role)}, and to the others with a message of its own"
        raise bad_request(why, "$.body.to", {"role": clipped(role)})
    return [require_agent_name(name) for name in unique]


def _post(state: "State", rules: Rules, address: str, command: SendMessage, by: By) -> MessagePosted | None:
    """None for a signal."""
    channel = require_channel(state, address, by)
    if channel.ephemeral:
        require_signal(rules, address, channel.schema, command)
        return None
    mentions, skipped = _mentions(state, rules, channel, command, by)
    return MessagePosted(
        channel=channel.id,
        address=address,
        n=channel.last_n + 1,
        body=command.body,
        subject=command.subject,
        thread=command.thread,
        reply_to=command.reply_to,
        priority=command.priority,
        expires_at_ms=command.expires_at_ms,
        mentions=mentions,
        skipped=skipped,
    )


def _mentions(
    state: "State", rules: Rules, channel: Channel, command: SendMessage, by: By
) -> tuple[tuple[Delivery, ...], tuple[str, ...]]:
    """References for agents that a member of the room names as `@name` in a text, and the known agents that get none
    (full inbox, or too many names). Unknown names are plain text."""
    body = bytes(command.body)
    if b"@" not in body or not body.startswith(b'"'):
        return (), ()
    if by.require_agent() not in state.rooms.by_id[channel.room].members:
        return (), ()
    found: list[Delivery] = []
    skipped: list[str] = []
    for name in mentioned(_decode_text(body)):
        agent = state.agents.by_name.get(name)
        if agent is None or agent.id == by.agent or not reads(state, channel, agent.id):
            continue
        if not knows_agent(state, agent.id, by):
            continue
        if len(found) == rules.limits.mentions_max or _is_full(state, rules, agent.id):
            skipped.append(name)
        else:
            found.append(Delivery(name, agent.id, state.agents.inboxes[agent.id].last_n + 1))
    return tuple(found), tuple(skipped)


def _is_full(state: "State", rules: Rules, agent: int) -> bool:
    return state.agents.inboxes[agent].unacked >= rules.limits.inbox_unacked_max


def _send_all(state: "State", rules: Rules, command: SendMessage, by: By) -> MessageSent:
    room = room_of(state, command.room, by)
    others = sorted(
        (state.agents.by_id[member] for member in room.members if member != by.agent), key=lambda agent: agent.name
    )
    to = [
        Delivery(agent.name, agent.id, state.agents.inboxes[agent.id].last_n + 1)
        for agent in others
        if not _is_full(state, rules, agent.id)
    ]
    if not to:
        raise _all_full(rules, room, [agent.name for agent in others]) if others else _nobody(room)
    return MessageSent(
        to=tuple(to),
        room=room.id,
        skipped=tuple(agent.name for agent in others if _is_full(state, rules, agent.id)),
        body=command.body,
        subject=command.subject,
        thread=command.thread,
        reply_to=command.reply_to,
        priority=command.priority,
        expires_at_ms=command.expires_at_ms,
    )


def _all_full(rules: Rules, room: Room, names: list[str]) -> Rejected:
    """Nobody in the room could take one more. names: of its other members."""
    most, count = rules.limits.inbox_unacked_max, len(names)
    who = ", ".join(names[:5]) + (f" and {count - 5} more" if count > 5 else "")
    return Rejected(
        "inbox_full",
        f"every other member of room {room.name} ({who}) has {most} unacked messages: one of them must ack some first "
        "(synapse inbox --ack-all)",
        {"room": room.name, "agents": names[:50], "count": count, "inbox_unacked_max": most},
    )


def _nobody(room: Room) -> Rejected:
    return Rejected(
        "no_recipient",
        f"room {room.name} has no other member: agents become members with synapse room join {room.name}, or send to "
        "names with --to",
        {"room": room.name, "members": len(room.members)},
    )


def _send(state: "State", rules: Rules, names: list[str], command: SendMessage, by: By) -> list[Event]:
    if len(names) > rules.limits.recipients_max:
        raise too_many(names, rules)
    known = state.agents.by_name
    created = [name for name in names if name not in known or not knows_agent(state, known[name].id, by)]
    if created and (not command.create or by.rooms is not None):
        raise never_seen(state, created, by)
    if created:
        require_room_for_agents(state, rules, len(created))
    events: list[Event] = [AgentCreated(name=name, card=Card()) for name in created]
    to: list[Delivery] = []
    for name in names:
        agent = state.agents.by_name.get(name)
        if agent is None:
            to.append(Delivery(name, state.seq + 1 + created.index(name), 1))
            continue
        if _is_full(state, rules, agent.id):
            raise Rejected(
                "inbox_full",
                f"{name} has {rules.limits.inbox_unacked_max} unacked messages: it must ack some first "
                "(synapse inbox --ack-all)",
                {"agent": name, "inbox_unacked_max": rules.limits.inbox_unacked_max},
            )
        to.append(Delivery(name, agent.id, state.agents.inboxes[agent.id].last_n + 1))
    events.append(
        MessageSent(
            to=tuple(to),
            body=command.body,
            subject=command.subject,
            thread=command.thread,
            reply_to=command.reply_to,
            priority=command.priority,
            expires_at_ms=command.expires_at_ms,
        )
    )
    return events


def _send_role(state: "State", rules: Rules, address: str, command: SendMessage) -> list[Event]:
    events, delivery = arrival_for(state, rules, address, create=command.create)
    sent = MessageSent(
        to=(delivery,),
        body=command.body,
        subject=command.subject,
        thread=command.thread,
        reply_to=command.reply_to,
        priority=command.priority,
        expires_at_ms=command.expires_at_ms,
    )
    return [*events, sent]


def too_many(names: list[str], rules: Rules) -> Rejected:
    """More recipients than one message may have."""
    most = rules.limits.recipients_max
    return Rejected(
        "limit",
        f"{len(names)} recipients; at most {most}: use a channel",
        {"limit": "recipients_max", "value": most},
    )


def never_seen(state: "State", names: list[str], by: By) -> Rejected:
    """These recipients are known to nobody, or not to who asks."""
    near = {name: near_names(state, name, by) for name in names}
    hints = "; ".join(f"near {name}: {', '.join(close)}" for name, close in near.items() if close)
    return Rejected(
        "not_found",
        f"never seen: {', '.join(names)}{'; ' + hints if hints else ''}; "
        + ("--create sends to a name that has not come yet" if by.rooms is None else _MEMBERS_ONLY),
        {"agents": names, "near": near},
    )


def shown_posted(journal_id: str, recorded: "Recorded", event: MessagePosted) -> Message:
    """A channel message as everybody sees it."""
    room, _, channel = event.address.partition(":")
    message = Message(
        id=message_id(recorded.seq),
        room=room,
        channel=channel,
        n=event.n,
        cursor=cursor_of(journal_id, recorded.seq),
        sender=recorded.actor,
        to=None,
        kind=event.kind,
        subject=event.subject,
        body=event.body,
        thread=event.thread,
        reply_to=event.reply_to,
        priority=event.priority,
        expires_at_ms=event.expires_at_ms,
        sent_at_ms=recorded.at_ms,
    )
    return message if event.traceparent is UNSET and event.link is None else _with_more(message, event)


def shown_sent(journal_id: str, recorded: "Recorded", event: MessageSent, delivery: Delivery) -> Message:
    """A direct message as one recipient sees it: the channel is its inbox `@name`."""
    message = Message(
        id=message_id(recorded.seq),
        room=None,
        channel=f"@{delivery.name}",
        n=delivery.n,
        cursor=cursor_of(journal_id, recorded.seq),
        sender=recorded.actor,
        to=(ALL,) if event.room is not None else tuple(other.name for other in event.to),
        kind="direct",
        subject=event.subject,
        body=event.body,
        thread=event.thread,
        reply_to=event.reply_to,
        priority=event.priority,
        expires_at_ms=event.expires_at_ms,
        sent_at_ms=recorded.at_ms,
    )
    return message if event.traceparent is UNSET and event.link is None else _with_more(message, event)


def _with_more(message: Message, event: MessagePosted | MessageSent) -> Message:
    """Apart, because a call with more than 15 names builds a dictionary first, and few messages have any of these."""
    link = event.link
    if link is None:
        return msgspec.structs.replace(message, traceparent=event.traceparent)
    return msgspec.structs.replace(
        message,
        traceparent=event.traceparent,
        causation=message_id(link.cause),
        hops=link.hops,
        sender=message.sender if link.sender is None else link.sender,
    )


def shown_to(journal_id: str, recorded: "Recorded", agent: int | None) -> Message | None:
    """A message event as `agent` may see it; None for any other event, and for a direct message to somebody else."""
    event = recorded.event
    if isinstance(event, MessagePosted):
        return shown_posted(journal_id, recorded, event)
    if isinstance(event, MessageSent):
        for delivery in event.to:
            if delivery.agent == agent:
                return shown_sent(journal_id, recorded, event, delivery)
    return None
