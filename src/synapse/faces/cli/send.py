"""`send`: one durable message, exactly once even where the answer was cut off."""

import os
from time import monotonic, time

from synapse.client.link import Link, NoAnswer
from synapse.errors import Disconnected, HubUnreachable, Rejected
from synapse.faces.cli.call import Call, ask_one_of_many, come_back, is_passing, longest_wait_s
from synapse.faces.cli.options import NO_END, UsageError
from synapse.faces.cli.render import field, print_text, print_words, safe
from synapse.faces.cli.telemetry import said_signal

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

PIPELINED_CHARS_MAX = 4 * 1024
"""Longer texts wait for the welcome, because the hub's limit is told there and a longer frame ends the connection."""


def send(call: Call) -> int:
    """Send; with --wait, wait for the first acked receipt."""
    parsed = call.parsed
    body = _message(call)
    link = call.open()
    key = parsed.text("idem_key")
    if parsed.has("chunked"):
        from synapse.faces.cli.files import bring

        link, body["body"], own_key = bring(call, link, body)
        key = own_key if key is None else key  # the file's: its message is sent once, however often the line is run
    try:
        link, reply = _send(call, link, body, key)
    except Rejected as refusal:
        if refusal.code == "idem_conflict" and parsed.has("chunked") and parsed.text("idem_key") is None:
            why = "the file was sent there before, with another subject, thread or way of naming the receiver"
            raise Rejected(refusal.code, f"{why}: --idem-key KEY announces it anew", refusal.facts) from refusal
        raise
    wait_s = parsed.seconds("wait")
    if wait_s is None:
        call.show(reply, _said(reply))
    else:
        if not call.as_json:
            print_text(_said(reply))
        _wait_for_receipt(call, link, reply, wait_s)
    skipped = reply.get("skipped")
    if skipped and isinstance(skipped, list) and not call.as_json:
        print_words(f"not reached, the inbox is full: {', '.join(map(str, skipped))}")
    return 0


def _message(call: Call) -> "Json":
    """The body of the request, from the options. Raises `UsageError`."""
    parsed = call.parsed
    to = [name.strip() for names in parsed.texts("to") for name in names.split(",")]
    channel, target = parsed.text("channel"), parsed.text("target")
    if sum((bool(to), channel is not None, target is not None)) > 1:
        raise UsageError("give one of --to, --channel and --target")
    if parsed.has("wait") and not to and (target is None or (":" in target and not target.startswith("role:"))):
        raise UsageError("only direct messages have receipts: --wait needs --to, or a --target that is no channel")
    message: Json = {"body": _content(call)}
    if parsed.has("chunked") and parsed.text("file") is None:
        raise UsageError("--chunked sends a file: give --file PATH too")
    if parsed.has("chunked") and target == "all":
        raise UsageError(
            "--chunked does not take --target all: a file is kept until each agent that it was sent to has it, and "
            f"who all is changes; all members of the room read --channel {call.home_channel}, where it stays for a day"
        )
    if to:
        message["to"] = to
    if channel is not None:
        message["channel"] = call.address(channel)
    if target is not None:
        message["target"] = target
    for key in ("subject", "thread", "reply_to", "priority"):
        if parsed.text(key) is not None:
            message[key] = parsed.text(key)
    if parsed.has("create"):
        message["create"] = True
    expires_s = parsed.seconds("expires")
    if expires_s is not None:
        message["expires_at_ms"] = int((time() + expires_s) * 1000)
    return message


def _content(call: Call) -> object:
    from synapse.faces.cli.given import given_json, given_text

    arguments, path = call.parsed.arguments, call.parsed.text("file")
    if path is not None:
        from synapse.client.files import refer_to

        if arguments or call.parsed.has("body_json"):
            raise UsageError("give TEXT or --file: a message refers to a file, or says something")
        if call.parsed.has("chunked"):
            return path  # its place is taken by what the hub was brought
        return refer_to(path).body()
    if not arguments:
        raise UsageError("send needs TEXT, or - for stdin, or --file PATH")
    text = given_text(call.parsed.arguments[0], "send a reference to a file instead")
    return given_json(text, "TEXT") if call.parsed.has("body_json") else text


def _send(call: Call, link: Link, body: "Json", given: str | None) -> "tuple[Link, Json]":
    """Ask until there is an answer, under one key, so that the message is there once; then the link it came on. given:
    the key, if it is not for this call alone."""
    deadline_s = monotonic() + call.timeout_s
    key = os.urandom(12).hex() if given is None else given
    while True:
        try:
            content = body["body"]
            if not isinstance(content, str) or len(content) > PIPELINED_CHARS_MAX:
                _require_that_fits(link.await_welcome(), content)
            if call.parsed.has("chunked"):  # its chunks were asked about just now
                return link, ask_one_of_many(link, "message.send", body, deadline_s, idem_key=key)
            return link, link.ask("message.send", body, idem_key=key)
        except (Disconnected, NoAnswer, Rejected) as error:
            is_useless = is_signal(error) and not call.parsed.has("idem_key")
            if is_useless or (given is None and isinstance(error, Rejected) and error.code == "idem_limit"):
                return link, link.ask("message.send", body)  # nothing was done under the key
            if isinstance(error, NoAnswer) or (is_passing(error) and monotonic() >= deadline_s):
                raise HubUnreachable(f"{error}; to be sure that it is sent once: --idem-key {key}") from error
            if not is_passing(error):
                raise
        try:
            link = come_back(call, deadline_s)
        except HubUnreachable as error:
            raise HubUnreachable(f"{error}; to be sure that it is sent once: --idem-key {key}") from error


def _require_that_fits(welcome: "Json", content: object) -> None:
    """Refuse here what the hub would, because a frame over its bound ends the connection without a word."""
    from synapse.lean import dumps

    limits = welcome.get("limits")
    most = limits.get("message_bytes_max") if isinstance(limits, dict) else None
    size = len(dumps(content).encode("utf-8", "replace"))
    if isinstance(most, int) and size > most:
        raise Rejected(
            "too_large",
            f"the body has {size} bytes; at most {most}: send a reference to a file instead",
            {"bytes": size, "message_bytes_max": most},
        )


def _wait_for_receipt(call: Call, link: Link, reply: "Json", wait_s: float) -> None:
    """Wait for the first acked receipt, over restarts of the hub. Raises `Rejected(deadline)`."""
    deadline_s = monotonic() + wait_s
    while True:
        left_s = max(deadline_s - monotonic(), 0.0)
        try:
            now_s = min(left_s, longest_wait_s(link))
            receipt = link.ask("receipt.wait", {"id": reply["id"], "wait_ms": int(now_s * 1000)}, wait_s=now_s)
            break
        except (Disconnected, NoAnswer, Rejected) as error:
            if isinstance(error, Rejected) and error.code == "deadline" and monotonic() < deadline_s:
                continue
            if not is_passing(error) or monotonic() >= deadline_s:
                raise _not_acked(reply, wait_s, error) from error
        try:
            link = come_back(call, deadline_s)
        except HubUnreachable as error:
            raise _not_acked(reply, wait_s, error) from error
    acked_by = receipt.get("acked_by")
    names = ", ".join(safe(str(name)) for name in acked_by) if isinstance(acked_by, list) else ""
    shown: Json = {"state": receipt.get("state"), "acked_by": acked_by}
    if receipt.get("id") != reply.get("id"):
        shown["released_as"] = receipt.get("id")
    call.show({**reply, "receipt": shown, "cursor": receipt.get("cursor")}, f"acked by {names}")


def _not_acked(reply: "Json", wait_s: float, error: Exception) -> Exception:
    """A deadline, as a refusal that still names the message; anything else as it is."""
    if isinstance(error, Rejected) and error.code != "deadline":
        return error
    within = "" if wait_s == NO_END else f" within {wait_s:g} s"
    facts: Json = {key: reply[key] for key in ("id", "to", "held", "cursor") if key in reply}
    if "held" in reply:
        name = reply.get("id")
        return Rejected(
            "deadline",
            f"{name} was held for a person, and nobody has acked it{within}: do not send it again, synapse receipts "
            f"{name} tells what became of it",
            facts,
        )
    return Rejected("deadline", f"{reply.get('id')} is sent, and nobody has acked it{within}", facts)


def is_signal(error: Exception) -> bool:
    """True when a message was refused for its key alone: its channel is ephemeral, and nothing remembers keys there."""
    return isinstance(error, Rejected) and bool(error.facts.get("ephemeral")) and "$.idem_key" in error.facts.values()


def _said(reply: "Json") -> str:
    if reply.get("ephemeral"):
        return said_signal(reply)
    held = reply.get("held")
    if isinstance(held, dict):
        return f"{safe(str(held.get('detail')))}: {safe(str(held.get('next')))}"
    if reply.get("to") is not None:
        to = reply["to"]
        names = ", ".join(safe(str(name)) for name in to) if isinstance(to, list) else ""
        return f"{field(reply, 'id')}  → {names}"
    return f"{field(reply, 'id')}  {field(reply, 'room')}:{field(reply, 'channel')} #{field(reply, 'n')}"
