"""Lies of digests, by the rule that each breaks."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from tests.simulation.paper import ROOM, Paper
from tests.simulation.skimmers import require_text
from tests.simulation.watch_lies import declared, written

from synapse.core.events import Delivery, LeaseOffered, MessagePosted, MessagesAcked, MessageSent
from synapse.core.plan_events import TaskDeclared
from synapse.core.room_events import ChannelCreated, RoomCreated
from synapse.protocol.digest_replies import Digest

AGENTS: Final = {"of": "agents", "counts": {"online": 3}, "total": 3}
START: Final = 0


def digest(hub: Paper, since: int | None = None, **more: Any) -> None:
    """Bob asks for a digest and is told this; nothing, unless it is said."""
    cursor = None if since is None else f"x:{since}"
    request = hub.hear("bob", "digest.read", {"room": "main", "since": cursor, "limit": more.pop("limit", 50)})
    rest = [AGENTS, *more.pop("rest", ())]
    empty: dict[str, Any] = {"asked": [], "blocked": [], "mine": []}
    lists = {name: more.get(name, found) for name, found in empty.items()}
    totals = {f"{name}_total": len(found) for name, found in lists.items()}
    head = hub.ledger.head
    found = {"seq": head, "at_ms": 0, "agent": "bob", "room": "main", "since": cursor, "cursor": f"x:{head}"}
    is_new = since is None or any(line.get("since") and line["total"] for line in rest)
    hub.reply("bob", request, found | {"new": is_new, "rest": rest} | lists | totals | more)


def line(of: str, *, since: bool = True, **counts: int) -> dict[str, Any]:
    """A line of counts."""
    return {"of": of, "counts": counts, "total": sum(counts.values())} | ({"since": True} if since else {})


def letter(hub: Paper, mark: str = "ada-1", n: int = 1, **more: Any) -> dict[str, Any]:
    """Ada writes to bob; how a digest tells of it."""
    seq = hub.mail(mark, n)
    return {"kind": "message", "by": "ada", "at_ms": 0, "priority": "normal", "id": f"m{seq}", "text": mark} | more


def task(name: str = "T1", **more: Any) -> dict[str, Any]:
    """How a digest tells of a task that is suggested to me."""
    return {"kind": "task", "task": name, "room": "main", "title": name, "status": "open", "ready": True} | more


def suggested(hub: Paper, name: str = "T1", *needs: str) -> None:
    """Ada declares a task for bob."""
    body = {"task": name, "description": f"d {name}", "depends_on": list(needs), "suggested_owner": "bob"}
    hub.hear("ada", "task.declare", body)
    event = TaskDeclared(
        room=ROOM, room_name="main", task=name, title=name, description=f"d {name}", depends_on=needs,
        suggested_owner="bob",
    )  # fmt: skip
    written(hub, "ada", event, *(() if needs else (name,)))


def posted(hub: Paper, mark: str = "ada-9", n: int = 1) -> None:
    """Ada says something in main:general."""
    hub.hear("ada", "message.send", {"body": mark})
    hub.write("ada", MessagePosted(channel=9, address="main:general", n=n, body=msgspec.Raw(f'"{mark}"'.encode())))


# The lies.


def a_digest_of_a_moment_that_was_not_yet(hub: Paper) -> None:
    digest(hub, seq=hub.ledger.head + 1)


def a_cursor_ahead_of_the_digest(hub: Paper) -> None:
    digest(hub, cursor=f"x:{hub.ledger.head + 1}")


def a_digest_for_somebody_else(hub: Paper) -> None:
    digest(hub, agent="ada")


def a_message_to_me_is_left_out(hub: Paper) -> None:
    letter(hub)
    digest(hub)


def a_message_is_in_the_total_only(hub: Paper) -> None:
    letter(hub)
    digest(hub, asked_total=1)


def a_message_that_was_acked_is_asked_of_me(hub: Paper) -> None:
    ask = letter(hub)
    message = int(ask["id"][1:])
    hub.hear("bob", "inbox.ack", {"ids": [ask["id"]]})
    hub.write("bob", acked(hub, message))
    digest(hub, asked=[ask])


def acked(hub: Paper, message: int) -> Any:
    """Bob acks it."""
    return MessagesAcked(agent=hub.ids["bob"], messages=(message,), senders=(hub.ids["ada"],))


def what_came_since_is_not_marked(hub: Paper) -> None:
    since = hub.ledger.head
    digest(hub, since, asked=[letter(hub)], rest=[line("inbox", messages=1)])


def the_older_message_comes_last(hub: Paper) -> None:
    first = letter(hub)
    hub.loop.now_s += 1
    hub.hear("ada", "message.send", {"body": "ada-2"})
    second = {**first, "id": f"m{hub.ledger.head + 1}", "at_ms": 9}
    hub.write_at(9, "ada", sent(hub, 2))
    digest(hub, asked=[second, first])


def sent(hub: Paper, n: int) -> Any:
    """Ada writes to bob once more."""
    return MessageSent(to=(Delivery("bob", hub.ids["bob"], n),), body=msgspec.Raw(b'"ada-2"'))


def an_offer_is_told_as_a_message(hub: Paper) -> None:
    epoch = hub.grant("ada")
    hub.hear("ada", "lease.hand_off", {"task": "T1", "epoch": epoch})
    ask = hub.terms.all[epoch].ask
    to = Delivery("bob", hub.ids["bob"], 1)
    seq = hub.write("ada", LeaseOffered(ask=ask, epoch=epoch, to=to))
    told = {"kind": "message", "by": "ada", "at_ms": 0, "priority": "high", "id": f"m{seq}"}
    digest(hub, asked=[told], rest=[line("held", since=False, ada=1)])


def a_lease_of_mine_is_left_out(hub: Paper) -> None:
    hub.grant("bob")
    digest(hub, rest=[line("held", since=False, bob=1)])


def a_lease_of_anothers_is_mine(hub: Paper) -> None:
    epoch = hub.grant("ada")
    own = {"kind": "lease", "task": "T1", "room": "main", "epoch": epoch}
    digest(hub, mine=[own], rest=[line("held", since=False, ada=1)])


def a_task_for_me_is_left_out(hub: Paper) -> None:
    suggested(hub)
    digest(hub, rest=[line("tasks", since=False, ready=1)])


def a_task_for_me_is_not_called_ready(hub: Paper) -> None:
    suggested(hub)
    digest(hub, mine=[task(ready=False)], rest=[line("tasks", since=False, ready=1)])


def a_task_that_waits_is_told_as_free(hub: Paper) -> None:
    suggested(hub, "T2", "T1")
    digest(hub, mine=[task("T2", ready=False)], rest=[line("tasks", since=False, open=1)])


def what_a_task_waits_for_is_not_told(hub: Paper) -> None:
    suggested(hub, "T2", "T1")
    block = {"kind": "task", "task": "T2", "room": "main", "since_at_ms": 0, "needs": [], "status": "open"}
    digest(hub, blocked=[block], rest=[line("tasks", since=False, open=1)])


def somebody_is_in_the_way_who_is_not(hub: Paper) -> None:
    epoch = hub.grant("ada", "T1")
    place = hub.queue("bob", "T1")
    need = {"task": "T1", "room": "main", "status": "held", "owner": "eve", "epoch": epoch}
    block = {"kind": "claim", "task": "T1", "room": "main", "since_at_ms": place, "needs": [need]}
    digest(hub, blocked=[block], rest=[line("held", since=False, ada=1)])


def a_count_of_messages_is_one_short(hub: Paper) -> None:
    since = hub.ledger.head
    posted(hub)
    posted(hub, "ada-10", 2)
    digest(hub, since, rest=[line("messages", general=1)])


def a_message_in_a_channel_is_not_counted(hub: Paper) -> None:
    since = hub.ledger.head
    posted(hub)
    digest(hub, since)


def what_i_said_myself_is_counted(hub: Paper) -> None:
    since = hub.ledger.head
    hub.post("bob", "bob-1", 1)
    digest(hub, since, rest=[line("messages", general=1)])


def what_was_before_the_cursor_is_counted(hub: Paper) -> None:
    posted(hub)
    digest(hub, hub.ledger.head, rest=[line("messages", general=1)])


def a_count_is_called_a_bound_and_is_none(hub: Paper) -> None:
    since = hub.ledger.head
    posted(hub)
    digest(hub, since, rest=[line("messages", general=1) | {"at_least": True}])


def a_private_channel_is_counted(hub: Paper) -> None:
    room = hub.write("ada", RoomCreated(name="main"))
    channel = hub.write("ada", ChannelCreated(room=room, name="den", private=True))
    since = hub.ledger.head
    place = hub.ledger.privacy.places["main:den"]
    place.members.become(since, {"ada": 0})
    hub.hear("ada", "message.send", {"body": "ada-9"})
    hub.write("ada", MessagePosted(channel=channel, address="main:den", n=1, body=msgspec.Raw(b'"ada-9"')))
    digest(hub, since, rest=[line("messages", den=1)])


def a_change_of_the_plan_is_not_counted(hub: Paper) -> None:
    since = hub.ledger.head
    declared(hub, "T1")
    rest = [line("plan", declared=1), line("tasks", since=False, ready=1)]
    digest(hub, since, rest=rest)


def who_came_is_not_told(hub: Paper) -> None:
    digest(hub, START)


def leases_of_nobody_are_counted(hub: Paper) -> None:
    digest(hub, rest=[line("held", since=False, ada=1)])


def ready_tasks_are_counted_as_open(hub: Paper) -> None:
    declared(hub, "T1")
    digest(hub, rest=[line("tasks", since=False, open=1)])


def agents_are_left_out_of_the_count(hub: Paper) -> None:
    hub.hear("bob", "digest.read", {"room": "main"})
    digest(hub, rest=[{"of": "agents", "counts": {"online": 2}, "total": 2}])


def nothing_is_new_and_there_is(hub: Paper) -> None:
    since = hub.ledger.head
    posted(hub)
    digest(hub, since, rest=[line("messages", general=1)], new=False)


def of_text(**more: Any) -> Digest:
    """A digest to lay out."""
    empty: dict[str, Any] = {"asked": (), "blocked": (), "mine": (), "rest": ()}
    zero = {"asked_total": 0, "blocked_total": 0, "mine_total": 0}
    head: dict[str, Any] = {
        "seq": 9,
        "at_ms": 0,
        "agent": "bob",
        "room": "main",
        "since": None,
        "new": True,
        "cursor": "x:9",
    }
    return Digest(**(head | empty | zero | more))


def a_text_is_over_its_budget(_: Paper) -> None:
    require_text("bob", "." * 80 + "\nNext: synapse digest --since x:9", 20, of_text())


def a_text_goes_on_from_elsewhere(_: Paper) -> None:
    require_text("bob", "Nothing.\nNext: synapse digest --since x:8", 20, of_text())


def a_text_does_not_say_what_it_leaves_out(_: Paper) -> None:
    text = "Asked of you: 3\n- ada, m1: hello\n- and 1 more: synapse inbox\nNext: synapse digest --since x:9"
    require_text("bob", text, 200, of_text(asked_total=3))


def a_section_is_not_there(_: Paper) -> None:
    require_text("bob", "Nothing.\nNext: synapse digest --since x:9", 200, of_text(mine_total=1))


DIGEST_LIES: dict[Callable[[Paper], None], str] = {
    a_digest_of_a_moment_that_was_not_yet: "wrong digest",
    a_cursor_ahead_of_the_digest: "wrong digest",
    a_digest_for_somebody_else: "wrong digest",
    a_message_to_me_is_left_out: "wrong digest",
    a_message_is_in_the_total_only: "wrong digest",
    a_message_that_was_acked_is_asked_of_me: "wrong digest",
    what_came_since_is_not_marked: "wrong digest",
    the_older_message_comes_last: "wrong digest",
    an_offer_is_told_as_a_message: "wrong digest",
    a_lease_of_mine_is_left_out: "wrong digest",
    a_lease_of_anothers_is_mine: "wrong digest",
    a_task_for_me_is_left_out: "wrong digest",
    a_task_for_me_is_not_called_ready: "wrong digest",
    a_task_that_waits_is_told_as_free: "wrong digest",
    what_a_task_waits_for_is_not_told: "wrong digest",
    somebody_is_in_the_way_who_is_not: "wrong digest",
    a_count_of_messages_is_one_short: "wrong count",
    a_message_in_a_channel_is_not_counted: "wrong count",
    what_i_said_myself_is_counted: "wrong count",
    what_was_before_the_cursor_is_counted: "wrong count",
    a_count_is_called_a_bound_and_is_none: "wrong count",
    a_private_channel_is_counted: "wrong count",
    a_change_of_the_plan_is_not_counted: "wrong count",
    who_came_is_not_told: "wrong count",
    leases_of_nobody_are_counted: "wrong count",
    ready_tasks_are_counted_as_open: "wrong count",
    agents_are_left_out_of_the_count: "wrong count",
    nothing_is_new_and_there_is: "wrong digest",
    a_text_is_over_its_budget: "over budget",
    a_text_goes_on_from_elsewhere: "over budget",
    a_text_does_not_say_what_it_leaves_out: "not counted",
    a_section_is_not_there: "not counted",
}


def an_honest_digest(hub: Paper) -> None:
    """Bob has a letter, a lease, a task and one that waits; he is told, and then what came since."""
    digest(hub)
    start = hub.ledger.head
    digest(hub, start)
    ask = letter(hub)
    suggested(hub)
    suggested(hub, "T2", "T9")
    epoch = hub.grant("bob", "T7")
    need = {"task": "T9", "room": "main", "status": "undeclared"}
    block = {"kind": "task", "task": "T2", "room": "main", "since_at_ms": 0, "needs": [need], "status": "open"}
    own = {"kind": "lease", "task": "T7", "room": "main", "epoch": epoch}
    now = [line("tasks", since=False, ready=1, open=1), line("held", since=False, bob=1)]
    now[0]["counts"] = {"open": 1, "ready": 1}
    stands: dict[str, Any] = {"blocked": [block], "mine": [own, task()]}
    digest(hub, asked=[ask], rest=now, **stands)
    posted(hub)
    plan = {"of": "plan", "counts": {"declared": 2, "ready": 1}, "total": 3, "since": True}
    news = [line("inbox", messages=1), line("messages", general=1), plan]
    digest(hub, start, asked=[ask | {"new": True}], rest=[*news, *now], **stands)
    text = (
        "Asked of you: 3\n- ada, m1: hello\n- and 2 more: synapse inbox\nThe rest, in counts: 1\n- now, agents: 3\n"
        "Next: synapse digest --since x:9"
    )
    counts = msgspec.convert([AGENTS], tuple)
    require_text("bob", text, 200, of_text(asked_total=3, rest=counts))
