"""Lies to members of private rooms about what goes on there, and pages that end too early; by the rule that each
breaks."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import msgspec
from tests.simulation.insiders import Heard
from tests.simulation.keeping_lies import compacted, planned
from tests.simulation.kinds import PLAN
from tests.simulation.mail_lies import den, joined
from tests.simulation.paper import ROOM, Paper
from tests.simulation.plan_lies import open_task, step

from synapse.core.events import LeaseGranted
from synapse.core.room_events import RoomLeft

if TYPE_CHECKING:
    from tests.simulation.world import World

PLACE = "zqr1x"


def held_in(hub: Paper, room: int, task: str) -> int:
    """A lease of ada's in the den; the seq."""
    ask = msgspec.structs.replace(hub.claim("ada", task), room=room, room_name=PLACE)
    return hub.write("ada", LeaseGranted(ask=ask, ttl_ms=10_000))


def bob(hub: Paper) -> Heard:
    """Bob follows all leases that he may see, from here on."""
    world = cast("World", SimpleNamespace(ledger=hub.ledger))
    heard = Heard(world, "bob", lambda: iter([("leases", "main"), (f"leases {PLACE}", PLACE)]))
    heard.begin(f"x:{hub.ledger.head}")
    return heard


def left(hub: Paper, room: int) -> None:
    """Bob goes."""
    hub.write("bob", RoomLeft(room=room, agent=hub.ids["bob"]))


def a_lease_in_there_is_left_out(hub: Paper) -> None:
    room = den(hub)
    joined(hub, room)
    heard = bob(hub)
    held_in(hub, room, "T1")
    heard.hear(f"x:{hub.grant('ada', 'T2')}", "main")


def a_public_one_is_left_out(hub: Paper) -> None:
    room = den(hub)
    joined(hub, room)
    heard = bob(hub)
    hub.grant("ada", "T2")
    heard.hear(f"x:{held_in(hub, room, 'T1')}", PLACE)


def a_lease_in_there_again(hub: Paper) -> None:
    room = den(hub)
    joined(hub, room)
    heard = bob(hub)
    seq = held_in(hub, room, "T1")
    heard.hear(f"x:{seq}", PLACE)
    heard.hear(f"x:{seq}", PLACE)


def told_before_he_came(hub: Paper) -> None:
    room = den(hub)
    heard = bob(hub)
    heard.hear(f"x:{held_in(hub, room, 'T1')}", PLACE)


def told_of_what_was_before_he_came(hub: Paper) -> None:
    room = den(hub)
    heard = bob(hub)
    seq = held_in(hub, room, "T1")
    joined(hub, room)
    heard.hear(f"x:{seq}", PLACE)


def told_after_he_went(hub: Paper) -> None:
    room = den(hub)
    joined(hub, room)
    heard = bob(hub)
    left(hub, room)
    heard.hear(f"x:{held_in(hub, room, 'T1')}", PLACE)


# Pages.


def page(hub: Paper, told: list[int], *, previous: int | None = None, kept: int | None = None) -> None:
    """A page of the ledger of T1, newest last."""
    reply: dict[str, Any] = {
        "cursor": f"x:{hub.ledger.head}",
        "previous": None if previous is None else f"x:{previous}",
    }
    reply |= {} if kept is None else {"first_kept": f"x:{kept}"}
    lines = hub.ledger.agenda._lines["main", "T1"]
    hub.ledger.agenda.pages.require_true("ada", "plan main", lines, told[::-1], of=({"task": "T1"}, reply))


def lines(hub: Paper) -> tuple[int, int]:
    """Two lines of a ledger; the first is gone."""
    hub.ledger.privacy.rooms[ROOM] = "main"
    open_task(hub)
    first = hub.write("ada", step(hub, "ada-2", "open", "blocked", who="ada"))
    upto = planned(hub, PLAN)
    compacted(hub, upto, 3, pl_7=first)
    second = hub.write("ada", step(hub, "ada-3", "blocked", "waiting_for_input", who="ada"))
    return first, second


def a_line_that_is_gone_is_on_a_page(hub: Paper) -> None:
    page(hub, [*lines(hub)])


def a_page_with_a_hole(hub: Paper) -> None:
    lines(hub)
    page(hub, [])


def nothing_is_said_of_what_is_gone(hub: Paper) -> None:
    page(hub, [lines(hub)[1]])


def another_floor_is_told(hub: Paper) -> None:
    first, second = lines(hub)
    page(hub, [second], kept=first - 1)


def a_floor_and_there_is_more(hub: Paper) -> None:
    first, second = lines(hub)
    page(hub, [second], kept=first, previous=second)


INSIDER_LIES: dict[Callable[[Paper], None], str] = {
    a_lease_in_there_is_left_out: "skipped",
    a_public_one_is_left_out: "skipped",
    a_lease_in_there_again: "repeated",
    told_before_he_came: "leak",
    told_of_what_was_before_he_came: "leak",
    told_after_he_went: "leak",
    a_line_that_is_gone_is_on_a_page: "wrong page",
    a_page_with_a_hole: "wrong page",
    nothing_is_said_of_what_is_gone: "wrong page",
    another_floor_is_told: "wrong page",
    a_floor_and_there_is_more: "wrong page",
}


def an_honest_room(hub: Paper) -> None:
    """What goes on while he is in there, and outside, once and in order; nothing of when he was not; pages to the
    floor."""
    room = den(hub)
    heard = bob(hub)
    held_in(hub, room, "T1")
    joined(hub, room)
    heard.hear(f"x:{held_in(hub, room, 'T2')}", PLACE)
    heard.hear(f"x:{hub.grant('ada', 'T3')}", "main")
    last, outside = held_in(hub, room, "T4"), hub.grant("ada", "T5")
    assert heard.due() == last
    left(hub, room)
    held_in(hub, room, "T6")
    assert heard.due() == outside, "who is put out may have missed it"
    heard.hear(f"x:{outside}", "main")
    heard.hear(f"x:{hub.grant('ada', 'T7')}", "main")
    hub.hear("ada", "member.invite", {"place": PLACE, "agent": "bob"})
    first, second = lines(hub)
    page(hub, [second], kept=first)
