"""Lies about what a compaction drops, by the rule that each breaks."""

from collections.abc import Callable
from typing import Any

from tests.simulation.kinds import LEASES, MESSAGES
from tests.simulation.mail_lies import acked, letter
from tests.simulation.paper import Paper

from synapse.core.events import Idem
from synapse.core.retention_events import JournalCompacted


def said(hub: Paper) -> int:
    """Said by ada in main:general, channel 9; its seq."""
    hub.ledger.privacy.channels[9] = "main:general"
    hub.post("ada", "ada-1", 1)
    return hub.ledger.head


def planned(hub: Paper, kind: str = MESSAGES) -> int:
    """A compaction of all that there is is planned; up to where."""
    hub.ledger.plan_compaction(hub.ledger.head, 1_000, {kind: 1})
    return hub.ledger.head


def compacted(hub: Paper, upto: int, rows: int, **floors: int) -> None:
    """The hub says so."""
    told = {name.replace("_", "/"): seq for name, seq in floors.items()}
    hub.write("operator", JournalCompacted(upto=upto, base_hash="x", cuts={MESSAGES: upto}, floors=told, rows=rows))


def dropped(hub: Paper) -> int:
    """What was said is gone; its seq."""
    message = said(hub)
    compacted(hub, planned(hub), 1, ch_9=message)
    hub.ledger.archive.drop([message])
    return message


def a_compaction_nobody_planned(hub: Paper) -> None:
    compacted(hub, said(hub), 1)


def a_floor_too_low(hub: Paper) -> None:
    message = said(hub)
    compacted(hub, planned(hub), 1, ch_9=message - 1)


def more_goes_than_may(hub: Paper) -> None:
    message = said(hub)
    compacted(hub, planned(hub), 2, ch_9=message)


def a_letter_goes_that_is_in_an_inbox(hub: Paper) -> None:
    message = letter(hub)
    compacted(hub, planned(hub), 1, **{f"in_{hub.ids['bob']}": message})


def a_row_goes_that_stands_behind_a_key(hub: Paper) -> None:
    hub.ledger.privacy.channels[9] = "main:general"
    hub.post("ada", "ada-1", 1, idem=Idem(key="k", hash="", count=1))
    message = hub.ledger.head
    compacted(hub, planned(hub), 1, ch_9=message)


def a_lease_goes_with_the_messages(hub: Paper) -> None:
    epoch = hub.grant("ada")
    compacted(hub, planned(hub), 1, leases=epoch)


def a_channel_goes_that_keeps_everything(hub: Paper) -> None:
    message = said(hub)
    hub.ledger.plan_compaction(hub.ledger.head, 1_000, {MESSAGES: 1, "main:general": 0})
    compacted(hub, hub.ledger.head, 1, ch_9=message)


def a_body_goes_before_it_is_said(hub: Paper) -> None:
    message = said(hub)
    planned(hub)
    hub.ledger.archive.drop([message])


def a_cursor_is_called_too_old(hub: Paper) -> None:
    message = dropped(hub)
    refuse(hub, {"channels": ["main:general"], "since": f"x:{message + 1}"}, message)


def the_wrong_place_to_go_on(hub: Paper) -> None:
    message = dropped(hub)
    refuse(hub, {"channels": ["main:general"], "since": "x:1"}, message - 1)


def refuse(hub: Paper, body: dict[str, Any], first: int) -> None:
    """Bob is told that his cursor is too old."""
    error = {"code": "cursor_too_old", "detail": "", "facts": {"first_kept": f"x:{first}"}}
    hub.say("bob", {"type": "error", "id": hub.hear("bob", "feed.subscribe", body), "error": error})


def a_feed_begins_in_what_is_gone(hub: Paper) -> None:
    dropped(hub)
    body = {"channels": ["main:general"], "since": "x:1"}
    hub.reply("bob", hub.hear("bob", "feed.subscribe", body), {"from_cursor": "x:1"})


def what_is_gone_is_on_a_page(hub: Paper) -> None:
    message = dropped(hub)
    page = {"messages": [{"id": f"m{message}"}], "cursor": f"x:{hub.ledger.head}", "previous": None}
    hub.reply("bob", hub.hear("bob", "history.read", {"channel": "main:general"}), page)


KEEPING_LIES: dict[Callable[[Paper], None], str] = {
    a_compaction_nobody_planned: "unasked",
    a_floor_too_low: "wrong floor",
    more_goes_than_may: "wrong floor",
    a_letter_goes_that_is_in_an_inbox: "wrong floor",
    a_row_goes_that_stands_behind_a_key: "wrong floor",
    a_lease_goes_with_the_messages: "wrong floor",
    a_channel_goes_that_keeps_everything: "wrong floor",
    a_body_goes_before_it_is_said: "dropped",
    a_cursor_is_called_too_old: "wrong floor",
    the_wrong_place_to_go_on: "wrong floor",
    a_feed_begins_in_what_is_gone: "wrong floor",
    what_is_gone_is_on_a_page: "wrong page",
}


def an_honest_compaction(hub: Paper) -> None:
    """What is old goes, what is in an inbox stays, who comes too late is told where to go on; then the rest goes."""
    message = dropped(hub)
    refuse(hub, {"channels": ["main:general"], "since": "x:1"}, message)
    kept = letter(hub, "ada-2")
    compacted(hub, planned(hub), 0, ch_9=message)
    page: dict[str, Any] = {"messages": [], "cursor": f"x:{hub.ledger.head}", "previous": None}
    hub.reply("bob", hub.hear("bob", "history.read", {"channel": "main:general"}), page)
    acked(hub, kept)
    floors = {f"in_{hub.ids['bob']}": kept, f"re_{hub.ids['ada']}": hub.ledger.head}
    compacted(hub, planned(hub), 2, ch_9=message, **floors)
    hub.grant("ada")
    rows = 3  # two of the last time are still there
    compacted(hub, planned(hub, LEASES), rows, ch_9=message, leases=hub.ledger.head, **floors)
