"""`room …` and `channel …`: the places messages go to, and who belongs to them."""

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.render import clock, field, safe, table

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]


def room_list(call: Call) -> int:
    """All rooms with their counts."""
    answer = call.pages("room.list", {}, ("rooms",))
    rows = [["ROOM", "TYPE", "MEMBERS", "CHANNELS", "CREATED", "BY"]]
    for room in _items(answer, "rooms"):
        counts = [field(room, "members"), field(room, "channels_count")]
        rows.append([field(room, "room"), _kind(room), *counts, *_origin(room)])
    call.show(answer, table(rows))
    return EXIT_OK


def channel_list(call: Call) -> int:
    """All channels, or those of --room."""
    room = call.parsed.text("room")
    answer = call.pages("channel.list", {} if room is None else {"room": room}, ("channels",))
    rows = [["CHANNEL", "TYPE", "MEMBERS", "MESSAGES", "CREATED", "BY"]]
    for channel in _items(answer, "channels"):
        counts = [field(channel, "members"), field(channel, "messages")]
        rows.append([_address(channel), _kind(channel), *counts, *_origin(channel)])
    call.show(answer, table(rows))
    return EXIT_OK


def room_info(call: Call) -> int:
    """One room with its channels and members."""
    answer = call.pages("room.info", {"room": call.parsed.arguments[0]}, ("participants",))
    call.show(answer, _described(answer, field(answer, "room")))
    return EXIT_OK


def channel_info(call: Call) -> int:
    """One channel with its members."""
    answer = call.pages("channel.info", {"channel": call.address(call.parsed.arguments[0])}, ("participants",))
    call.show(answer, _described(answer, _address(answer)))
    return EXIT_OK


def room_create(call: Call) -> int:
    """A new room."""
    return _change(
        call, "room.create", {"room": call.parsed.arguments[0], **_type(call)}, "created", "is there already"
    )


def room_delete(call: Call) -> int:
    """Delete a room, as operator."""
    return _change(call, "room.delete", {"room": call.parsed.arguments[0]}, "deleted", "was not there", operator=True)


def room_join(call: Call) -> int:
    """Become a member of a room."""
    return _change(call, "room.join", {"room": call.parsed.arguments[0]}, "joined", "joined before")


def room_leave(call: Call) -> int:
    """Leave a room."""
    return _change(call, "room.leave", {"room": call.parsed.arguments[0]}, "left", "was no member")


def channel_create(call: Call) -> int:
    """A new channel."""
    body: Json = {"channel": call.address(call.parsed.arguments[0]), **_type(call)}
    if call.parsed.has("ephemeral") or call.parsed.has("telemetry"):
        body["ephemeral"] = True
    if call.parsed.has("telemetry"):
        body["schema"] = "telemetry"
    return _change(call, "channel.create", body, "created", "is there already")


def channel_delete(call: Call) -> int:
    """Delete a channel, as operator."""
    body: Json = {"channel": call.address(call.parsed.arguments[0])}
    return _change(call, "channel.delete", body, "deleted", "was not there", operator=True)


def channel_join(call: Call) -> int:
    """Become a member of a channel."""
    body: Json = {"channel": call.address(call.parsed.arguments[0])}
    return _change(call, "channel.join", body, "joined", "joined before")


def channel_leave(call: Call) -> int:
    """Leave a channel."""
    body: Json = {"channel": call.address(call.parsed.arguments[0])}
    return _change(call, "channel.leave", body, "left", "was no member")


def room_members(call: Call) -> int:
    """The members of a room."""
    return _show_members(call, "room.info", {"room": call.parsed.arguments[0]})


def channel_members(call: Call) -> int:
    """The members of a channel."""
    return _show_members(call, "channel.info", {"channel": call.address(call.parsed.arguments[0])})


def _show_members(call: Call, kind: str, body: "Json") -> int:
    answer = call.pages(kind, body, ("participants",))
    found = answer.get("participants")
    names = [str(name) for name in found] if isinstance(found, list) else []
    told: Json = {key: answer[key] for key in ("room", "channel", "private", "cursor") if key in answer}
    call.show({**told, "members": names}, "\n".join(map(safe, names)) or "no members")
    return EXIT_OK


def room_invite(call: Call) -> int:
    """Ask an agent into a private room."""
    return _invite(call, call.parsed.arguments[0])


def channel_invite(call: Call) -> int:
    """Ask an agent into a private channel."""
    return _invite(call, call.address(call.parsed.arguments[0]))


def _invite(call: Call, place: str) -> int:
    body: Json = {"place": place, "agent": call.parsed.arguments[1], "history": call.parsed.has("with_history")}
    answer = call.ask("member.invite", body, operator=call.parsed.has("operator"))
    how = "is asked in" if answer.get("state") == "invited" else "is a member already"
    call.show(answer, f"{field(answer, 'place')}: {field(answer, 'agent')} {how}")
    return EXIT_OK


def room_kick(call: Call) -> int:
    """Put an agent out of a private room."""
    return _kick(call, call.parsed.arguments[0])


def channel_kick(call: Call) -> int:
    """Put an agent out of a private channel."""
    return _kick(call, call.address(call.parsed.arguments[0]))


def _kick(call: Call, place: str) -> int:
    body: Json = {"place": place, "agent": call.parsed.arguments[1]}
    answer = call.ask("member.kick", body, operator=call.parsed.has("operator"))
    call.show(answer, f"{field(answer, 'place')}: {field(answer, 'agent')} is out")
    return EXIT_OK


def _type(call: Call) -> "Json":
    named = call.parsed.text("type")
    body: Json = {} if named is None else {"type": named}
    return {**body, "private": True} if call.parsed.has("private") else body


def _change(call: Call, kind: str, body: "Json", done: str, same: str, *, operator: bool = False) -> int:
    answer = call.ask(kind, body, operator=operator or call.parsed.has("operator"))
    place = _address(answer) if answer.get("channel") is not None else field(answer, "room")
    call.show(answer, f"{place}: {done if answer.get('changed') else same}")
    return EXIT_OK


def _items(answer: "Json", key: str) -> "list[Json]":
    items = answer.get(key)
    return items if isinstance(items, list) else []


def _kind(place: "Json") -> str:
    marks = [mark for mark in ("private", "ephemeral") if place.get(mark)]
    return field(place, "type") + (f" ({', '.join(marks)})" if marks else "")


def _address(place: "Json") -> str:
    return f"{field(place, 'room')}:{field(place, 'channel')}"


def _origin(place: "Json") -> list[str]:
    by = "configuration" if place.get("bootstrap") else field(place, "created_by")
    return [clock(place.get("created_at_ms")), by]


def _described(place: "Json", name: str) -> str:
    created, by = _origin(place)
    lines = [f"{name}  type {_kind(place)}, created {created} by {by}"]
    signals = place.get("signals")
    if isinstance(signals, dict):
        held = f"schema {field(place, 'schema')}; " if place.get("schema") else ""
        counts = ", ".join(f"{field(signals, key)} {key}" for key in ("sent", "delivered", "dropped"))
        lines.append(f"{held}signals since {clock(signals.get('since_at_ms'))}: {counts}")
    elif "messages" in place:
        lines.append(f"messages: {field(place, 'messages')}")
    for key, word in (("channels", "channels"), ("participants", "members")):
        names = place.get(key)
        if isinstance(names, list):
            lines.append(f"{word} ({len(names)}): {', '.join(safe(str(item)) for item in names) or '–'}")
    return "\n".join(lines)
