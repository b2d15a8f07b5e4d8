"""Lies about cards, what is lent, and signals, by the rule that each breaks."""

from collections.abc import Callable
from typing import Any

import msgspec
from tests.simulation.paper import Paper

from synapse.core.card_events import AgentDescribed, Card
from synapse.core.events import MessagePosted
from synapse.core.resource_events import ResourceExpired, ResourceOffered, ResourceWithdrawn
from synapse.core.room_events import ChannelCreated, RoomCreated


def offered(hub: Paper, who: str = "ada", *, is_asked: bool = True, **more: Any) -> int:
    """A lathe of somebody's; the seq."""
    if is_asked:
        hub.hear(who, "resource.offer", {"resource": "lathe"})
    return hub.write(
        who, ResourceOffered(name="lathe", kind="tool", capacity=2, owner=who, owner_id=hub.ids[who], **more)
    )


def listed(hub: Paper, **more: Any) -> None:
    """Bob is told what there is."""
    found = {"resource": "lathe", "owner": "ada", "capacity": 2, "kind": "tool", "status": "offered"} | more
    page = {"resources": [found], "next": None, "cursor": f"x:{hub.ledger.head}"}
    hub.reply("bob", hub.hear("bob", "resource.list", {}), page)


def offered_without_asking(hub: Paper) -> None:
    offered(hub, is_asked=False)


def offered_over_anothers(hub: Paper) -> None:
    offered(hub)
    offered(hub, "bob")


def over_before_its_date(hub: Paper) -> None:
    offered(hub, expires_at_ms=9)
    hub.write_at(8, "hub", ResourceExpired(name="lathe", owner="ada"))


def offered_past_its_date(hub: Paper) -> None:
    offered(hub, expires_at_ms=9)
    hub.ledger.market.check_times()
    hub.loop.now_s += 4
    hub.ledger.market.check_times()


def withdrawn_without_asking(hub: Paper) -> None:
    offered(hub)
    hub.write("ada", ResourceWithdrawn(name="lathe", owner="ada"))


def taken_after_it_was_withdrawn(hub: Paper) -> None:
    offered(hub)
    hub.hear("ada", "resource.withdraw", {"resource": "lathe"})
    hub.write("ada", ResourceWithdrawn(name="lathe", owner="ada"))
    hub.grant("bob", pools={"lathe": 1})


def an_offer_is_not_listed(hub: Paper) -> None:
    offered(hub)
    page: dict[str, Any] = {"resources": [], "next": None, "cursor": f"x:{hub.ledger.head}"}
    hub.reply("bob", hub.hear("bob", "resource.list", {}), page)


def an_offer_is_listed_as_anothers(hub: Paper) -> None:
    offered(hub)
    listed(hub, owner="bob")


def a_card_of_anothers_hand(hub: Paper) -> None:
    hub.hear("ada", "card.set", {"description": "mills"})
    hub.write("ada", AgentDescribed(agent=hub.ids["bob"], card=Card(description="mills")))


def a_card_that_was_never_said(hub: Paper) -> None:
    hub.reply("bob", hub.hear("bob", "card.show", {"name": "ada"}), {"name": "ada", "description": "mills"})


def hall(hub: Paper) -> None:
    """An ephemeral channel, main:hum, that bob follows."""
    room = hub.write("ada", RoomCreated(name="main"))
    hub.write("ada", ChannelCreated(room=room, name="hum", ephemeral=True))


def hummed(hub: Paper, n: int, **more: Any) -> None:
    """Ada hums, and bob is told."""
    said = f"ada-{n}"
    hub.hear("ada", "message.send", {"body": said, "channel": "main:hum"})
    hub.say(
        "bob",
        {"type": "signal", "body": {"room": "main", "channel": "hum", "n": n, "from": "ada", "body": said} | more},
    )


def a_signal_nobody_sent(hub: Paper) -> None:
    hall(hub)
    hummed(hub, 1, body="ada-9")


def a_signal_twice(hub: Paper) -> None:
    hall(hub)
    hummed(hub, 1)
    hummed(hub, 1)


def a_signal_is_missed_silently(hub: Paper) -> None:
    hall(hub)
    hummed(hub, 1)
    hummed(hub, 3, dropped=0)


def two_signals_of_one_number(hub: Paper) -> None:
    hall(hub)
    hummed(hub, 1)
    hub.hear("ada", "message.send", {"body": "ada-2", "channel": "main:hum"})
    hub.say(
        "eve", {"type": "signal", "body": {"room": "main", "channel": "hum", "n": 1, "from": "ada", "body": "ada-2"}}
    )


def a_signal_is_kept(hub: Paper) -> None:
    hall(hub)
    hub.hear("ada", "message.send", {"body": "ada-1", "channel": "main:hum"})
    body = msgspec.Raw(b'"ada-1"')
    hub.write("ada", MessagePosted(channel=hub.ledger.head, address="main:hum", n=1, body=body))


def recent_signals_with_a_hole(hub: Paper) -> None:
    hall(hub)
    signals = [{"n": 1, "body": "a"}, {"n": 3, "body": "b"}]
    request = hub.hear("bob", "signal.recent", {"channel": "main:hum"})
    hub.reply("bob", request, {"room": "main", "channel": "hum", "signals": signals})


MARKET_LIES: dict[Callable[[Paper], None], str] = {
    offered_without_asking: "unasked",
    offered_over_anothers: "foreign",
    over_before_its_date: "expired early",
    offered_past_its_date: "expired late",
    withdrawn_without_asking: "unasked",
    taken_after_it_was_withdrawn: "not offered",
    an_offer_is_not_listed: "wrong list",
    an_offer_is_listed_as_anothers: "wrong list",
    a_card_of_anothers_hand: "unasked",
    a_card_that_was_never_said: "altered",
    a_signal_nobody_sent: "unasked",
    a_signal_twice: "repeated",
    a_signal_is_missed_silently: "not counted",
    two_signals_of_one_number: "altered",
    a_signal_is_kept: "kept",
    recent_signals_with_a_hole: "wrong page",
}


def an_honest_market(hub: Paper) -> None:
    """A lathe is offered, listed, taken and over; a card is changed; signals are told, and what was missed counted."""
    offered(hub, expires_at_ms=9)
    listed(hub)
    hub.grant("bob", pools={"lathe": 1})
    hub.write_at(9, "hub", ResourceExpired(name="lathe", owner="ada"))
    listed(hub, status="expired")
    hub.hear("ada", "card.set", {"description": "mills"})
    hub.write("ada", AgentDescribed(agent=hub.ids["ada"], card=Card(description="mills")))
    card = {"name": "ada", "description": "mills", "cursor": f"x:{hub.ledger.head}"}
    hub.reply("bob", hub.hear("bob", "card.show", {"name": "ada"}), card)
    hall(hub)
    hummed(hub, 1)
    hummed(hub, 4, dropped=2)
