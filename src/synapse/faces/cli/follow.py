"""`listen` and `wait`: what stays connected, and comes back for ever after its first success."""

from time import monotonic, sleep

from synapse.client.link import Link, NoAnswer, Notice
from synapse.errors import EXIT_OK, Disconnected, HubUnreachable, Rejected
from synapse.faces.cli.call import Call, come_back, is_passing, longest_wait_s
from synapse.faces.cli.mail import print_message
from synapse.faces.cli.options import NO_END
from synapse.faces.cli.render import field, print_json, print_text, print_words
from synapse.faces.cli.telemetry import TELEMETRY, show_soft

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

SOFT = ("signal", "activity")
"""Notices of what is not kept; they get the cursor of the feed, from which to go on."""
SILENCE_S = 60.0
"""How long a subscription may be silent before the hub is asked whether it still lives."""
LOOK_S = 2.0
"""How often it is asked whether what is followed is still the same."""
GONE_S = 0.1
"""Before what is left is followed, where a part of it is gone."""


def listen(call: Call) -> int:
    """Print messages until somebody ends it. Comes back only by an error or a signal."""
    parsed = call.parsed
    channels = [call.address(text) for text in parsed.arguments]
    if parsed.has("telemetry") and TELEMETRY not in channels:
        channels.append(TELEMETRY)
    is_bare = not channels and not parsed.has("activity")
    subscription: Json = {
        "channels": [call.home_channel] if is_bare else channels,
        "inbox": parsed.has("inbox") or is_bare,
        "presence": parsed.has("presence"),
    }
    if parsed.has("activity"):
        subscription["activity"] = True
    what = channels or ([] if parsed.has("activity") else [call.home_channel, "inbox"])
    words = f"listening as {call.me.name}: {', '.join(what + ['activity'] * parsed.has('activity'))}"
    is_first = True

    def follow(link: Link) -> "Json":
        nonlocal is_first
        if is_first and subscription["inbox"]:
            _say_shared(link)
        is_first = False
        return subscription

    return stay(call, follow, words, lambda link, notice: _show(call, link, notice))


def _say_shared(link: Link) -> None:
    """What waits in the queues of roles is told to nobody: it is taken."""
    shared = link.ask("inbox.list", {"limit": 1}).get("shared")
    if isinstance(shared, int) and shared > 0:
        print_words(f"{shared} in the queues of your roles: synapse wait takes one, synapse inbox shows them")


def stay(
    call: Call,
    subscription: "Json | Callable[[Link], Json]",
    words: str,
    show: "Callable[[Link, Notice], str | None]",
    begin: "Callable[[Link], None] | None" = None,
    *,
    is_moving: bool = False,
) -> int:
    """Follow a feed until somebody ends it, from `--since` on if that is given. subscription: what is followed, or what
    finds out on each new connection. words: said once it stands.

    show: prints a notice and answers the cursor it brings. begin: called once it stands, before the first notice is
    shown. is_moving: what is followed may be another thing any time: it is asked for again every few seconds, and what
    is gone of it ends nothing. Comes back only by an error or a signal.
    """
    since = call.parsed.text("since")
    link = call.open(lasting=True)
    has_stood = has_begun = False
    while True:
        try:
            body = subscription(link) if callable(subscription) else subscription
            answer = link.ask("feed.subscribe", body if since is None else {**body, "since": since})
            has_stood = True
            if not has_begun:
                print_words(words)
                _warn_of_ephemeral(answer, since)
                if begin is not None:
                    begin(link)
                has_begun = True
            if since is None:
                since = str(answer.get("from_cursor"))
            for notice in _notices(link, answer, body, subscription if is_moving else None):
                if notice.kind in SOFT:
                    notice.body["cursor"] = since
                since = show(link, notice) or since
            continue
        except (Disconnected, NoAnswer, Rejected) as error:
            if is_moving and has_begun and isinstance(error, Rejected) and error.code == "not_found":
                sleep(GONE_S)  # a part of it is gone: the rest is followed on
                continue
            if not has_stood or not is_passing(error):
                raise
            print_words("the connection is lost; coming back")
        link = come_back(call, NO_END, lasting=True)


def _notices(
    link: Link, answer: "Json", body: "Json", subscription: "Json | Callable[[Link], Json] | None"
) -> "Iterator[Notice]":
    """What comes. subscription: asked now and then; once it is not `body` any more, that is ended, and so is this.

    Raises `Disconnected`, `NoAnswer` when the hub is stuck.
    """
    looked_s = monotonic()
    while True:
        left_s = max(looked_s + LOOK_S - monotonic(), 0.0) if callable(subscription) else SILENCE_S
        try:
            yield link.notice(left_s)
            continue
        except TimeoutError:
            looked_s = monotonic()
        if not callable(subscription):
            link.ask("ping", {})
        elif subscription(link) != body:
            link.ask("feed.unsubscribe", {"subscription": answer.get("subscription")})
            yield from link.notices
            link.notices.clear()
            return


def _warn_of_ephemeral(answer: "Json", since: str | None) -> None:
    """Of some channels nothing is kept: a cursor finds nothing there."""
    positions = answer.get("positions")
    found = [at for at in positions if at.get("ephemeral")] if isinstance(positions, list) else []
    for at in found if since is not None else ():
        print_words(f"{field(at, 'room')}:{field(at, 'channel')} is ephemeral: only what comes from here on is shown")


def _show(call: Call, link: Link, notice: Notice) -> str | None:
    """Print a notice; the cursor it brings, if any. Raises `Rejected` for a feed that ended."""
    match notice.kind:
        case "message":
            print_message(call, notice.body)
            return cursor_in(notice)
        case "presence.snapshot" | "presence.changed":
            _show_presence(call, link, notice)
            return None
        case "signal" | "activity":
            show_soft(call, notice.kind, notice.body)
            return None
        case _:
            return cursor_in(notice)


def cursor_in(notice: Notice) -> str | None:
    """The cursor that a notice of a feed brings, if any. Raises `Rejected` for one that says that the feed ended."""
    if notice.kind == "feed.broken":
        facts = {key: notice.body[key] for key in ("first_kept",) if key in notice.body}
        raise Rejected(str(notice.body.get("code")), str(notice.body.get("detail")), facts)
    cursor = notice.body.get("cursor")
    return cursor if isinstance(cursor, str) else None


def _show_presence(call: Call, link: Link, notice: Notice) -> None:
    if call.as_json:
        journal_id = (link.welcome or {}).get("journal_id")
        print_json({"type": notice.kind, "agents": notice.body.get("agents"), "cursor": f"{journal_id}:{notice.seq}"})
        return
    agents = notice.body.get("agents")
    for agent in agents if isinstance(agents, list) else []:
        status = field(agent, "status")
        print_text(f"presence  {field(agent, 'name')}  {field(agent, 'presence')}{f'  {status}' if status else ''}")


def wait(call: Call) -> int:
    """Take one message, print it, ack it. 5 at the deadline."""
    wait_s = call.parsed.seconds("wait")
    deadline_s = monotonic() + (NO_END if wait_s is None else wait_s)
    link = call.open(lasting=True)
    link.await_welcome()
    while True:
        try:
            message = _take(call, link, deadline_s)
            break
        except (Disconnected, NoAnswer, Rejected) as error:
            if not is_passing(error):
                raise
            if monotonic() >= deadline_s:
                raise Rejected("deadline", f"no message came in time, and the hub is gone: {error}") from error
        try:
            link = come_back(call, deadline_s, lasting=True)
        except HubUnreachable as error:
            raise Rejected("deadline", f"no message came in time, and the hub is gone: {error}") from error
    print_message(call, message)
    if not call.parsed.has("no_ack"):
        link = _ack(call, link, message)
    return EXIT_OK


def _take(call: Call, link: Link, deadline_s: float) -> "Json":
    """Borrow the oldest message, waiting for one. Raises `Rejected(deadline)` when the time is over."""
    while True:
        now_s = min(max(deadline_s - monotonic(), 0.0), longest_wait_s(link))
        body: Json = {"wait_ms": int(now_s * 1000), "directed_only": call.parsed.has("directed_only")}
        try:
            taken = link.ask("inbox.take", body, wait_s=now_s)
        except Rejected as error:
            if error.code == "deadline" and deadline_s - monotonic() > 0.001:
                continue
            raise
        message = taken.get("message")
        assert isinstance(message, dict), "the hub answers inbox.take with a message"
        return message


def _ack(call: Call, link: Link, message: "Json") -> Link:
    """Be done with a message that was printed, over a hub that dies meanwhile, for as long as --timeout says."""
    deadline_s = monotonic() + call.timeout_s
    while True:
        try:
            link.ask("inbox.ack", {"ids": [message["id"]]})
            return link
        except (Disconnected, NoAnswer, Rejected) as error:
            if not is_passing(error):
                raise
            if monotonic() >= deadline_s:
                raise HubUnreachable(f"{message['id']} was printed and not acked: it comes again ({error})") from error
        try:
            link = come_back(call, deadline_s, lasting=True)
        except HubUnreachable as error:
            raise HubUnreachable(f"{message['id']} was printed and not acked: it comes again ({error})") from error
