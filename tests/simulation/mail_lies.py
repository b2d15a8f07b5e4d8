"""Lies about inboxes, roles, dead letters, receipts and private places, by the rule that each breaks."""

from collections.abc import Callable
from typing import Any

import msgspec
from tests.simulation.paper import Paper

from synapse.core.delivery_events import (
    MessageDied,
    MessageRevived,
    MessagesAcked,
    MessagesDisowned,
    MessagesDropped,
    MessagesLent,
)
from synapse.core.events import Delivery, LeaseGranted, MessagePosted, MessageSent
from synapse.core.role_events import RoleCreated, RoleDeleted, RoleJoined, RoleLeft
from synapse.core.room_events import ChannelCreated, MemberInvited, MemberRemoved, RoomCreated, RoomJoined, RoomLeft
from synapse.core.value_events import ValuePut

# Inboxes.


def letter(hub: Paper, mark: str = "ada-1", n: int = 1, **more: Any) -> int:
    """A message from ada to bob."""
    hub.hear("ada", "message.send", {"body": mark})
    body = msgspec.Raw(msgspec.json.encode(mark))
    return hub.write("ada", MessageSent(to=(Delivery("bob", hub.ids["bob"], n),), body=body, **more))


def acked(hub: Paper, message: int, **more: Any) -> None:
    """Asked and acked by bob."""
    hub.hear("bob", "inbox.ack", {"ids": [f"m{message}"]})
    hub.write(
        "bob", MessagesAcked(agent=hub.ids["bob"], messages=(message,), **({"senders": (hub.ids["ada"],)} | more))
    )


def dead(hub: Paper) -> int:
    """A message of ada's that was lent to bob twice, which is as often as may be."""
    message = letter(hub)
    for at in range(2):
        hub.lend(message, is_first=not at)
        hub.witness.restart()
        hub.ledger.mail.restart()
    died = MessageDied(agent=hub.ids["bob"], message=message, reason="lends", sender=hub.ids["ada"], lends=2)
    hub.write("hub", died)
    return message


def a_receipt_for_nobody(hub: Paper) -> None:
    acked(hub, letter(hub), senders=())


def lent_past_its_date(hub: Paper) -> None:
    message = letter(hub, expires_at_ms=5)
    hub.write_at(5, "bob", MessagesLent(agent=hub.ids["bob"], messages=(message,), senders=(hub.ids["ada"],)))


def lent_once_too_often(hub: Paper) -> None:
    message = letter(hub)
    for at in range(3):
        hub.lend(message, is_first=not at)
        hub.ledger.mail.restart()


def dead_before_its_date(hub: Paper) -> None:
    message = letter(hub, expires_at_ms=5)
    died = MessageDied(agent=hub.ids["bob"], message=message, reason="expired", sender=hub.ids["ada"])
    hub.write_at(4, "hub", died)


def dead_twice(hub: Paper) -> None:
    message = dead(hub)
    died = MessageDied(agent=hub.ids["bob"], message=message, reason="lends", sender=hub.ids["ada"], lends=2)
    hub.write("hub", died)


def dead_and_lent(hub: Paper) -> None:
    hub.lend(dead(hub), is_first=False)


def kept_past_its_date(hub: Paper) -> None:
    letter(hub, expires_at_ms=5)
    hub.ledger.mail.check_times()
    hub.loop.now_s += 4
    hub.ledger.mail.check_times()


def the_second_goes_first(hub: Paper) -> None:
    letter(hub)
    hub.lend(letter(hub, "ada-2", 2))


def the_second_of_one_event_goes_first(hub: Paper) -> None:
    one, two, ada = letter(hub), letter(hub, "ada-2", 2), hub.ids["ada"]
    hub.write("bob", MessagesLent(agent=hub.ids["bob"], messages=(two, one), senders=(ada, ada)))


def the_second_of_one_event_is_told_to_another(hub: Paper) -> None:
    one, two = letter(hub), letter(hub, "ada-2", 2)
    senders = (hub.ids["ada"], hub.ids["eve"])
    hub.write("bob", MessagesLent(agent=hub.ids["bob"], messages=(one, two), senders=senders))


def what_came_back_waits(hub: Paper) -> None:
    message = letter(hub)
    hub.lend(message)
    hub.witness.restart()
    hub.ledger.mail.restart()
    hub.loop.now_s += 1.0
    later = letter(hub, "ada-2", 2)  # a turn that heard of it
    hub.lend(later)


def the_urgent_one_waits(hub: Paper) -> None:
    message = letter(hub)
    letter(hub, "ada-2", 2, priority="urgent")
    hub.lend(message)


def handed_to_another(hub: Paper) -> None:
    message = letter(hub)
    hub.lend(message)
    hub.ledger.mail.hand_out("ada", "@bob", message, 1)


def too_many_ahead(hub: Paper) -> None:
    request = hub.hear("bob", "feed.subscribe", {"take": 1})
    hub.reply("bob", request, {"subscription": 1, "from_cursor": f"j:{hub.ledger.head}"})
    for at in (1, 2):
        message = letter(hub, f"ada-{at}", at)
        hub.write("bob", MessagesLent(agent=hub.ids["bob"], messages=(message,), senders=(hub.ids["ada"],)))
        hub.ledger.mail.hand_out_ahead("bob", "@bob", message, 1)


def revived_without_asking(hub: Paper) -> None:
    message = dead(hub)
    hub.write("bob", MessageRevived(agent=hub.ids["bob"], message=message, recipient="bob", sender=hub.ids["ada"]))


def revived_alive(hub: Paper) -> None:
    message = letter(hub)
    hub.hear("bob", "dead.resend", {"id": f"m{message}"})
    hub.write("bob", MessageRevived(agent=hub.ids["bob"], message=message, recipient="bob", sender=hub.ids["ada"]))


def dropped_alive(hub: Paper) -> None:
    message = letter(hub)
    hub.write("hub", MessagesDropped(agent=hub.ids["bob"], messages=(message,), reason="limit", recipient="bob"))


def dropped_without_asking(hub: Paper) -> None:
    message, senders = dead(hub), (hub.ids["ada"],)
    dropped = MessagesDropped(
        agent=hub.ids["bob"], messages=(message,), reason="asked", recipient="bob", senders=senders
    )
    hub.write("bob", dropped)


def disowned_by_another(hub: Paper) -> None:
    message = dead(hub)
    hub.hear("eve", "dead.drop", {"ids": [f"m{message}"], "sent": True})
    hub.write("eve", MessagesDisowned(sender=hub.ids["eve"], letters=((message, hub.ids["bob"]),)))


# Roles.


def role(hub: Paper, *members: str) -> int:
    """A role of these members; its id."""
    for member in members:
        hub.hear(member, "role.join", {"role": "r"})
    number = hub.write(members[0], RoleCreated(name="r"))
    for member in members:
        hub.write(member, RoleJoined(role=number, name="r", agent=hub.ids[member]))
    return number


def sent_to(hub: Paper, number: int, mark: str = "ada-1") -> int:
    """A message from ada to the role."""
    hub.hear("ada", "message.send", {"body": mark})
    body = msgspec.Raw(msgspec.json.encode(mark))
    return hub.write("ada", MessageSent(to=(Delivery("role:r", number, 1),), body=body))


def lent_of(hub: Paper, number: int, message: int, reader: str, senders: tuple[int, ...] = ()) -> None:
    event = MessagesLent(agent=number, messages=(message,), recipient="role:r", senders=senders)
    hub.write(reader, event)


def lent_to_who_is_no_member(hub: Paper) -> None:
    number = role(hub, "bob")
    lent_of(hub, number, sent_to(hub, number), "eve", senders=(hub.ids["ada"],))


def lent_to_two_members(hub: Paper) -> None:
    number = role(hub, "bob", "eve")
    message = sent_to(hub, number)
    lent_of(hub, number, message, "bob", senders=(hub.ids["ada"],))
    hub.ledger.mail.hand_out("bob", "@role:r", message, 1)
    lent_of(hub, number, message, "eve")


def acked_by_the_other_member(hub: Paper) -> None:
    number = role(hub, "bob", "eve")
    message = sent_to(hub, number)
    lent_of(hub, number, message, "bob", senders=(hub.ids["ada"],))
    hub.ledger.mail.hand_out("bob", "@role:r", message, 1)
    hub.hear("eve", "inbox.ack", {"ids": [f"m{message}"]})
    event = MessagesAcked(
        agent=number, messages=(message,), by_member=True, recipient="role:r", senders=(hub.ids["ada"],)
    )
    hub.write("eve", event)


def a_role_is_made_twice(hub: Paper) -> None:
    role(hub, "bob")
    hub.write("bob", RoleCreated(name="r"))


def a_role_goes_with_its_members(hub: Paper) -> None:
    number = role(hub, "bob")
    hub.write("operator", RoleDeleted(role=number, name="r"))


def out_of_a_role_without_asking(hub: Paper) -> None:
    number = role(hub, "bob")
    hub.write("bob", RoleLeft(role=number, name="r", agent=hub.ids["bob"]))


def a_join_is_acknowledged_and_not_there(hub: Paper) -> None:
    role(hub, "bob")
    request = hub.hear("eve", "role.join", {"role": "r"})
    hub.reply("eve", request, {"role": "r", "changed": True, "created": False, "cursor": f"x:{hub.ledger.head}"})


# What senders are told.


def receipts(hub: Paper, message: int, **more: Any) -> dict[str, Any]:
    info = {"recipient": "bob", "state": "stored", "lends": 0, "acked_by": None} | more
    return {"id": f"m{message}", "recipients": [info], "next": None, "cursor": f"x:{hub.ledger.head}"}


def a_receipt_too_far(hub: Paper) -> None:
    message = letter(hub)
    hub.reply("ada", hub.hear("ada", "receipt.get", {"id": f"m{message}"}), receipts(hub, message, state="delivered"))


def a_receipt_that_goes_back(hub: Paper) -> None:
    message = letter(hub)
    hub.lend(message)
    acked(hub, message)
    told = receipts(hub, message, state="delivered", lends=1)
    hub.reply("ada", hub.hear("ada", "receipt.get", {"id": f"m{message}"}), told)


def a_receipt_of_anothers(hub: Paper) -> None:
    message = letter(hub)
    hub.reply("eve", hub.hear("eve", "receipt.get", {"id": f"m{message}"}), receipts(hub, message))


def a_receipt_is_told_too_soon(hub: Paper) -> None:
    message = letter(hub)
    hub.reply("ada", hub.hear("ada", "feed.subscribe", {"receipts": True}), {"from_cursor": "x:1"})
    body = {"ids": [f"m{message}"], "recipient": "bob", "state": "acked"}
    hub.say("ada", {"type": "receipt.changed", "seq": message, "body": body})


def a_dead_letter_is_not_listed(hub: Paper) -> None:
    dead(hub)
    page = {"messages": [], "total": 0, "next": None, "cursor": f"x:{hub.ledger.head}"}
    hub.reply("bob", hub.hear("bob", "dead.list", {}), page)


def a_resend_is_acknowledged_and_not_there(hub: Paper) -> None:
    message = dead(hub)
    told = {"id": f"m{message}", "resends": f"m{message}", "to": ["bob"], "cursor": f"x:{hub.ledger.head}"}
    hub.reply("bob", hub.hear("bob", "dead.resend", {"id": f"m{message}"}), told)


def a_drop_is_acknowledged_and_not_there(hub: Paper) -> None:
    message = dead(hub)
    told = {"dropped": [f"m{message}"], "left": 0, "cursor": f"x:{hub.ledger.head}"}
    hub.reply("bob", hub.hear("bob", "dead.drop", {"ids": [f"m{message}"]}), told)


def a_hub_that_forgot_a_lend(hub: Paper) -> None:
    message = letter(hub)
    hub.lend(message)
    hub.ledger.mail.check({"bob": {message: (0, False, None)}}, {})


def a_hub_that_forgot_a_member(hub: Paper) -> None:
    role(hub, "bob", "eve")
    hub.ledger.mail.check({}, {"role:r": {"bob"}})


# Private places.


def den(hub: Paper, *, history: bool = False) -> int:
    """A private room of ada's with bob asked in; its id."""
    room = hub.write("ada", RoomCreated(name="zqr1x", private=True))
    hub.write("ada", ChannelCreated(room=room, name="general"), RoomJoined(room=room, agent=hub.ids["ada"], after=1))
    hub.hear("ada", "member.invite", {"place": "zqr1x", "agent": "bob", "history": history})
    hub.write("ada", MemberInvited(room=room, place="zqr1x", agent=hub.ids["bob"], history=history))
    return room


def joined(hub: Paper, room: int) -> None:
    """Bob comes in."""
    hub.write("bob", RoomJoined(room=room, agent=hub.ids["bob"], after=hub.ledger.head))


def whispered(hub: Paper, room: int, who: str = "ada", at: int = 1, **more: Any) -> int:
    """Said in the den."""
    text = f"{who}-{at} zqb2x"
    hub.hear(who, "message.send", {"body": text, "channel": "zqr1x:general"})
    body = msgspec.Raw(msgspec.json.encode(text))
    return hub.write(who, MessagePosted(channel=room + 1, address="zqr1x:general", n=1, body=body, **more))


def overheard(hub: Paper, message: int, who: str, at: int = 1) -> None:
    """Who follows the den is told."""
    hub.reply(who, hub.hear(who, "feed.subscribe", {"channels": ["zqr1x:general"]}), {"from_cursor": "x:1"})
    body: dict[str, Any] = {"id": f"m{message}", "room": "zqr1x", "channel": "general", "n": 1, "from": "ada"}
    body["body"] = f"ada-{at} zqb2x"
    hub.say(who, {"type": "message", "seq": message, "body": body})


def a_secret_is_told_to_who_is_no_member(hub: Paper) -> None:
    overheard(hub, whispered(hub, den(hub)), "eve")


def a_secret_is_told_to_who_is_only_asked_in(hub: Paper) -> None:
    overheard(hub, whispered(hub, den(hub)), "bob")


def a_secret_of_before(hub: Paper) -> None:
    room = den(hub)
    message = whispered(hub, room)
    joined(hub, room)
    overheard(hub, message, "bob")


def a_secret_is_told_to_who_was_put_out(hub: Paper) -> None:
    room = den(hub)
    joined(hub, room)
    message = whispered(hub, room)
    hub.hear("ada", "member.kick", {"place": "zqr1x", "agent": "bob"})
    hub.write("ada", MemberRemoved(room=room, place="zqr1x", agent=hub.ids["bob"]))
    hub.loop.now_s += 60
    overheard(hub, message, "bob")


def a_secret_is_told_in_a_refusal(hub: Paper) -> None:
    room = den(hub)
    hub.hear("ada", "lease.claim", {"task": "zqt3x", "room": "zqr1x", "paths": [], "mode": "exclusive"})
    ask = msgspec.structs.replace(hub.claim("ada", "zqt3x"), room=room, room_name="zqr1x")
    hub.write("ada", LeaseGranted(ask=ask, ttl_ms=10_000))
    request = hub.hear("eve", "lease.claim", {"task": "T1", "paths": ["a"], "mode": "exclusive"})
    error = {"code": "lease_held", "detail": "ada holds zqt3x"}
    hub.say("eve", {"type": "error", "id": request, "error": error})


def a_secret_is_told_to_the_operator(hub: Paper) -> None:
    overheard(hub, whispered(hub, den(hub)), "operator")


def a_secret_that_nobody_said(hub: Paper) -> None:
    request = hub.hear("eve", "room.list", {})
    hub.reply("eve", request, {"rooms": [{"room": "zqr9x"}]})


def a_refusal_that_tells_more(hub: Paper) -> None:
    den(hub)
    request = hub.hear("eve", "value.put", {"key": "k", "value": {"mark": "eve-1"}, "room": "zqr1x"})
    hub.say("eve", {"type": "error", "id": request, "error": {"code": "version_conflict", "detail": ""}})


def in_without_an_invitation(hub: Paper) -> None:
    room = den(hub)
    hub.write("eve", RoomJoined(room=room, agent=hub.ids["eve"], after=hub.ledger.head))


def in_and_reads_all(hub: Paper) -> None:
    room = den(hub)
    hub.write("bob", RoomJoined(room=room, agent=hub.ids["bob"]))


def said_from_outside(hub: Paper) -> None:
    whispered(hub, den(hub), "eve")


def a_mention_leads_out(hub: Paper) -> None:
    whispered(hub, den(hub), mentions=(Delivery("eve", hub.ids["eve"], 1),))


def kept_from_outside(hub: Paper) -> None:
    room = den(hub)
    hub.hear("eve", "value.put", {"key": "k", "value": {"mark": "eve-1"}, "room": "zqr1x"})
    value = msgspec.Raw(b'{"mark":"eve-1"}')
    hub.write("eve", ValuePut(room=room, room_name="zqr1x", key="k", value=value, owner="eve", owner_id=1))


def put_out_by_a_guest(hub: Paper) -> None:
    room = den(hub)
    joined(hub, room)
    hub.hear("bob", "member.kick", {"place": "zqr1x", "agent": "ada"})
    hub.write("bob", MemberRemoved(room=room, place="zqr1x", agent=hub.ids["ada"]))


def asked_in_from_outside(hub: Paper) -> None:
    room = den(hub)
    hub.hear("eve", "member.invite", {"place": "zqr1x", "agent": "eve"})
    hub.write("eve", MemberInvited(room=room, place="zqr1x", agent=hub.ids["eve"]))


def put_out_and_nobody_asked(hub: Paper) -> None:
    room = den(hub)
    hub.write("ada", MemberRemoved(room=room, place="zqr1x", agent=hub.ids["bob"]))


def a_hub_that_forgot_who_left(hub: Paper) -> None:
    room = den(hub)
    joined(hub, room)
    hub.write("bob", RoomLeft(room=room, agent=hub.ids["bob"]))
    hub.ledger.privacy.check([("zqr1x", {"ada", "bob"}, set())])


MAIL_LIES: dict[Callable[[Paper], None], str] = {
    a_receipt_for_nobody: "no receipt",
    lent_past_its_date: "lent too late",
    lent_once_too_often: "lent too late",
    dead_before_its_date: "died early",
    dead_twice: "acked came again",
    dead_and_lent: "acked came again",
    kept_past_its_date: "expired late",
    the_second_goes_first: "out of order",
    the_second_of_one_event_goes_first: "out of order",
    the_second_of_one_event_is_told_to_another: "no receipt",
    what_came_back_waits: "out of order",
    the_urgent_one_waits: "out of order",
    too_many_ahead: "lent too many",
    handed_to_another: "acked came again",
    revived_without_asking: "unasked",
    revived_alive: "illegal step",
    dropped_alive: "illegal step",
    dropped_without_asking: "unasked",
    disowned_by_another: "unasked",
    lent_to_who_is_no_member: "foreign",
    lent_to_two_members: "lent twice",
    acked_by_the_other_member: "foreign",
    a_role_is_made_twice: "altered",
    a_role_goes_with_its_members: "lost",
    out_of_a_role_without_asking: "unasked",
    a_join_is_acknowledged_and_not_there: "lost",
    a_receipt_too_far: "wrong receipt",
    a_receipt_that_goes_back: "wrong receipt",
    a_receipt_of_anothers: "wrong receipt",
    a_receipt_is_told_too_soon: "wrong receipt",
    a_dead_letter_is_not_listed: "wrong list",
    a_resend_is_acknowledged_and_not_there: "lost",
    a_drop_is_acknowledged_and_not_there: "lost",
    a_hub_that_forgot_a_lend: "altered",
    a_hub_that_forgot_a_member: "altered",
    a_secret_is_told_to_who_is_no_member: "leak",
    a_secret_is_told_to_who_is_only_asked_in: "leak",
    a_secret_of_before: "leak",
    a_secret_is_told_to_who_was_put_out: "leak",
    a_secret_is_told_in_a_refusal: "leak",
    a_secret_is_told_to_the_operator: "leak",
    a_refusal_that_tells_more: "leak",
    a_secret_that_nobody_said: "altered",
    in_without_an_invitation: "not asked in",
    in_and_reads_all: "not asked in",
    said_from_outside: "not a member",
    a_mention_leads_out: "not a member",
    kept_from_outside: "not a member",
    put_out_by_a_guest: "not a member",
    asked_in_from_outside: "not a member",
    put_out_and_nobody_asked: "unasked",
    a_hub_that_forgot_who_left: "altered",
}


def honest_mail(hub: Paper) -> None:
    """A letter is lent and acked; one of a role goes from member to member; a secret is told to who may know it."""
    message = letter(hub)
    hub.lend(message)
    hub.ledger.mail.hand_out("bob", "@bob", message, 1)
    acked(hub, message)
    told = receipts(hub, message, state="acked", lends=1, acked_by="bob")
    hub.reply("ada", hub.hear("ada", "receipt.get", {"id": f"m{message}"}), told)
    number = role(hub, "bob", "eve")
    shared = sent_to(hub, number, "ada-2")
    lent_of(hub, number, shared, "bob", senders=(hub.ids["ada"],))
    hub.ledger.mail.hand_out("bob", "@role:r", shared, 1)
    hub.witness.lose(hub.link("bob"))
    lent_of(hub, number, shared, "eve")
    room = den(hub, history=True)
    secret = whispered(hub, room, at=3)
    hub.write("bob", RoomJoined(room=room, agent=hub.ids["bob"]))
    overheard(hub, secret, "bob", at=3)
