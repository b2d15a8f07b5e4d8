"""`telemetry` and `channel recent`; and how signals and activity are shown."""

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import clock, field, print_json, print_text, safe_lines
from synapse.lean import dumps
from synapse.protocol.telemetry import require_event

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

TELEMETRY = "telemetry:events"
"""Where telemetry goes that names no channel."""


def telemetry(call: Call) -> int:
    """Send one telemetry event, to who follows now."""
    arguments, parsed = call.parsed.arguments, call.parsed
    event: Json = {"eventType": arguments[0], "payload": _payload(arguments)}
    severity = parsed.text("severity")
    if severity is not None:
        event["severity"] = severity
    require_event(arguments[0], None, severity)  # a channel that is not for telemetry takes, and may keep, anything
    channel = parsed.text("channel")
    body: Json = {"channel": TELEMETRY if channel is None else call.address(channel), "body": event}
    reply = call.ask("message.send", body)
    call.show(reply, said_signal(reply) if reply.get("ephemeral") else _said_kept(reply))
    return EXIT_OK


def _payload(arguments: "list[str]") -> object:
    if len(arguments) == 1:
        return {}
    from synapse.faces.cli.given import given_json, given_text

    payload = given_json(given_text(arguments[1], "send a reference to a file instead"), "the payload")
    if not isinstance(payload, dict):
        raise UsageError("the payload of a telemetry event is a JSON object")
    return payload


def _said_kept(reply: "Json") -> str:
    """That the channel is a durable one, where this is a message like others."""
    place = f"{field(reply, 'room')}:{field(reply, 'channel')}"
    return f"{field(reply, 'id')}  {place} #{field(reply, 'n')}  kept: {place} is not ephemeral"


def said_signal(reply: "Json") -> str:
    """What became of a signal."""
    place = f"{field(reply, 'room')}:{field(reply, 'channel')}"
    if reply.get("dropped"):
        return f"{place}: dropped, too many at once"
    return f"{place} ~{field(reply, 'n')}  {field(reply, 'receivers')} follow it"


def channel_recent(call: Call) -> int:
    """The last signals of an ephemeral channel."""
    body: Json = {"channel": call.address(call.parsed.arguments[0])}
    limit = call.parsed.whole("limit")
    if limit is not None:
        body["limit"] = limit
    answer = call.ask("channel.recent", body)
    found = answer.get("signals")
    if call.as_json:
        print_json(answer)
        return EXIT_OK
    for signal in found if isinstance(found, list) else []:
        print_text(signal_block(signal))
    return EXIT_OK


def show_soft(call: Call, kind: str, notice: "Json") -> None:
    """A signal, or what an agent did: an object with its kind on a line, or words; flushed."""
    if call.as_json:
        print_json({"kind": kind, **notice})
    elif kind == "signal":
        print_text(signal_block(notice))
    else:
        print_text(activity_line(notice))


def signal_block(signal: "Json") -> str:
    """One signal for people: where, who, when; then its text, indented."""
    words = [f"{field(signal, 'room')}:{field(signal, 'channel')} ~{field(signal, 'n')}"]
    words += [clock(signal.get("sent_at_ms")), field(signal, "from")]
    words += [f"{key}={field(signal, key)}" for key in ("subject", "dropped") if signal.get(key)]
    body = signal.get("body")
    return "  ".join(words) + "\n" + safe_lines(body if isinstance(body, str) else dumps(body), "  ")


def activity_line(activity: "Json") -> str:
    """What an agent did, on one line."""
    what = " ".join(field(activity, key) for key in ("about", "name") if activity.get(key))
    words = [clock(activity.get("at_ms")), field(activity, "by"), field(activity, "command"), what]
    words += [f"in {field(activity, 'room')}"] if activity.get("room") else []
    words += [f"dropped={field(activity, 'dropped')}"] if activity.get("dropped") else []
    return "  ".join(word for word in [*words, field(activity, "outcome")] if word)
