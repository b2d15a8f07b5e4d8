"""The observers are no fools: an honest history passes, and each of these lies is called by its name."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from tests.simulation.ledger import Ledger
from tests.simulation.network import Link
from tests.simulation.terms import Bounds, Terms, Violation
from tests.simulation.virtual_time import Clock
from tests.simulation.witness import Witness

from synapse.core.events import (
    AgentCreated,
    Ask,
    Card,
    Delivery,
    Event,
    Idem,
    LeaseExpired,
    LeaseGranted,
    LeaseHandedOff,
    LeaseQueued,
    LeaseReleased,
    LeaseRevoked,
    MessageDied,
    MessageLent,
    MessagePosted,
    MessagesAcked,
    MessageSent,
    PoolSet,
    Recorded,
    to_row,
)

TTL_MS = 10_000
ROOM = 7


class Paper:
    """A hub on paper: what it writes, hears and says, the observers are shown. Agents ada and bob are there."""

    def __init__(self) -> None:
        self.loop = SimpleNamespace(now_s=0.0)
        self.clock = Clock(self.loop)
        self.terms = Terms(self.clock, Bounds(grace_ms=4_000, parked_ms=60_000), {"ada": 1, "bob": 1, "eve": 1})
        self.ledger = Ledger(self.terms, lambda _: None, base=0, lends_max=2, lend_ms=30_000)
        self.witness = Witness(self.ledger, self.clock, lambda _: None, lambda *_: None)
        self.ids = {name: self.write("hub", AgentCreated(name=name, card=Card())) for name in ("ada", "bob", "eve")}
        self.write("hub", PoolSet(name="gpu", capacity=2))
        self._requests = 0

    def write(self, actor: str, *events: Event) -> int:
        """A transaction; the seq of its last event."""
        head = self.ledger.head
        rows = [to_row(Recorded(head + at, 0, actor, event)) for at, event in enumerate(events, 1)]
        self.ledger.fold(rows, self.clock.now_ms)
        return self.ledger.head

    def link(self, owner: str, number: int = 1) -> Link:
        """A connection, as far as observers look at it."""
        return cast("Link", SimpleNamespace(owner=owner, number=number))

    def hear(self, owner: str, kind: str, body: dict[str, Any], *, key: str | None = None, number: int = 1) -> int:
        """A request; its id."""
        self._requests += 1
        frame = {"type": kind, "id": self._requests, "body": body, "idem_key": key}
        self.witness.hear(self.link(owner, number), json.dumps(frame).encode())
        return self._requests

    def say(self, owner: str, frame: dict[str, Any], number: int = 1) -> None:
        """Whatever the hub says."""
        self.witness.tell(self.link(owner, number), [json.dumps({"seq": self.ledger.head} | frame).encode()])

    def reply(self, owner: str, request: int, body: dict[str, Any], **more: object) -> None:
        """An answer."""
        self.say(owner, {"type": "reply", "id": request, "body": body} | more)

    def claim(self, owner: str, task: str, paths: tuple[str, ...] = (), **more: Any) -> Ask:
        """Somebody asks for a lease; the ask that follows from it."""
        pools = more.get("pools", {})
        body = {"task": task, "paths": list(paths), "pools": pools, "mode": "exclusive"}
        self.hear(owner, "lease.claim", body)
        tree = "box:/repo" if paths else None
        units = tuple(sorted(pools.items()))
        reentrant = more.get("reentrant", True)
        return Ask(
            room=ROOM, room_name="main", task=task, agent=self.ids[owner], owner=owner, worktree=tree, paths=paths,
            pools=units, reentrant=reentrant,
        )  # fmt: skip

    def grant(self, owner: str, task: str = "T1", paths: tuple[str, ...] = (), **more: Any) -> int:
        """Asked and granted; the epoch."""
        return self.write(
            owner,
            LeaseGranted(ask=self.claim(owner, task, paths, **more), ttl_ms=TTL_MS, tied=more.get("tied", False)),
        )

    def queue(self, owner: str, task: str) -> int:
        """Asked and queued; the place."""
        return self.write(owner, LeaseQueued(ask=self.claim(owner, task), ttl_ms=TTL_MS))

    def post(self, owner: str, mark: str, n: int, *, key: str | None = None, idem: Idem | None = None) -> int:
        """Said in main:general; the request's id, when it is durable."""
        request = self.hear(owner, "message.send", {"body": mark}, key=key)
        body = msgspec.Raw(msgspec.json.encode(mark))
        self.write(owner, MessagePosted(channel=9, address="main:general", n=n, body=body, idem=idem))
        return request

    def mail(self, mark: str = "ada-1", n: int = 1) -> int:
        """A message from ada to bob; its seq."""
        self.hear("ada", "message.send", {"body": mark})
        to = (Delivery("bob", self.ids["bob"], n),)
        return self.write("ada", MessageSent(to=to, body=msgspec.Raw(msgspec.json.encode(mark))))

    def lend(self, message: int) -> None:
        """A message is lent to bob."""
        self.write("bob", MessageLent(agent=self.ids["bob"], message=message))


def _released(epoch: int, owner: str) -> LeaseReleased:
    return LeaseReleased(room=ROOM, room_name="main", task="T1", owner=owner, epoch=epoch)


def _expired(epoch: int, reason: str = "ttl") -> LeaseExpired:
    return LeaseExpired(room=ROOM, room_name="main", task="T1", owner="ada", epoch=epoch, reason=reason)


def _lease(epoch: int, owner: str = "ada") -> dict[str, Any]:
    return {
        "epoch": epoch, "owner": owner, "task": "T1", "worktree": None, "paths": [], "pools": {}, "mode": "exclusive",
        "outcome": "granted", "live": True,
    }  # fmt: skip


# Each lie, by the rule that it breaks.


def a_gap_in_numbers(hub: Paper) -> None:
    hub.post("ada", "ada-1", 2)


def a_message_nobody_sent(hub: Paper) -> None:
    hub.write("ada", MessagePosted(channel=9, address="main:general", n=1, body=msgspec.Raw(b'"x"')))


def a_message_twice(hub: Paper) -> None:
    hub.post("ada", "ada-1", 1)
    hub.post("ada", "ada-1", 2)


def a_key_twice(hub: Paper) -> None:
    idem = Idem(key="k", hash="", count=1)
    hub.post("ada", "ada-1", 1, idem=idem)
    hub.post("ada", "ada-2", 2, idem=idem)


def a_hole(hub: Paper) -> None:
    row = to_row(Recorded(hub.ledger.head + 2, 0, "hub", PoolSet(name="x", capacity=1)))
    hub.ledger.fold([row], 0)


def lent_after_its_ack(hub: Paper) -> None:
    message = hub.mail()
    hub.hear("bob", "inbox.ack", {"ids": [f"m{message}"]})
    hub.write("bob", MessagesAcked(agent=hub.ids["bob"], messages=(message,)))
    hub.lend(message)


def acked_without_asking(hub: Paper) -> None:
    hub.write("bob", MessagesAcked(agent=hub.ids["bob"], messages=(hub.mail(),)))


def lent_to_two(hub: Paper) -> None:
    message = hub.mail()
    hub.lend(message)
    hub.ledger.hand_out("bob", message, 1)
    hub.lend(message)


def dead_too_soon(hub: Paper) -> None:
    message = hub.mail()
    hub.lend(message)
    hub.write("bob", MessageDied(agent=hub.ids["bob"], message=message, reason="lends"))


def two_holders(hub: Paper) -> None:
    hub.grant("ada", paths=("a/**",))
    hub.grant("bob", "T2", paths=("a/b",))


def too_many_units(hub: Paper) -> None:
    hub.grant("ada", pools={"gpu": 1})
    hub.grant("bob", "T2", pools={"gpu": 2})


def granted_without_asking(hub: Paper) -> None:
    ask = Ask(room=ROOM, room_name="main", task="T1", agent=1, owner="ada")
    hub.write("ada", LeaseGranted(ask=ask, ttl_ms=TTL_MS))


def past_the_queue(hub: Paper) -> None:
    epoch = hub.grant("ada")
    hub.queue("bob", "T1")
    hub.hear("ada", "lease.release", {"task": "T1", "epoch": epoch})
    hub.write("ada", _released(epoch, "ada"))
    hub.grant("eve")


def released_twice(hub: Paper) -> None:
    epoch = hub.grant("ada")
    hub.hear("ada", "lease.release", {"task": "T1", "epoch": epoch})
    hub.write("ada", _released(epoch, "ada"))
    hub.write("ada", _released(epoch, "ada"))


def a_sure_holder_is_followed(hub: Paper) -> None:
    epoch = hub.grant("ada")
    hub.terms.beliefs[epoch] = lambda: True
    hub.loop.now_s += TTL_MS / 1000
    hub.write("hub", _expired(epoch))
    hub.grant("bob")


def handed_with_more(hub: Paper) -> None:
    epoch = hub.grant("ada", paths=("a",))
    hub.hear("ada", "lease.hand_off", {"task": "T1", "epoch": epoch})
    ask = msgspec.structs.replace(hub.terms.all[epoch].ask, agent=hub.ids["bob"], owner="bob", paths=("a", "b"))
    delivery = Delivery("bob", hub.ids["bob"], 1)
    hub.write("ada", LeaseHandedOff(ask=ask, previous=epoch, sender="ada", delivery=delivery))


def ended_a_millisecond_early(hub: Paper) -> None:
    epoch = hub.grant("ada")
    hub.loop.now_s += (TTL_MS - 1) / 1000
    hub.write("hub", _expired(epoch))


def ended_in_spite_of_a_renewal(hub: Paper) -> None:
    epoch = hub.grant("ada")
    hub.loop.now_s += 5
    hub.reply("ada", hub.hear("ada", "lease.renew", {"task": "T1", "epoch": epoch}), _lease(epoch))
    hub.loop.now_s += 9
    hub.write("hub", _expired(epoch))


def ended_by_a_stall(hub: Paper) -> None:
    epoch = hub.grant("ada")
    hub.clock.frozen_ms += 1_000
    hub.loop.now_s += TTL_MS / 1000
    hub.write("hub", _expired(epoch))


def ended_with_a_connection_that_stands(hub: Paper) -> None:
    epoch = hub.grant("ada", tied=True)
    hub.terms.confirm(hub.terms.all[epoch], 0, 1)
    hub.loop.now_s += 5
    hub.write("hub", _expired(epoch, "connection"))


def ended_before_its_grace(hub: Paper) -> None:
    epoch = hub.grant("ada", tied=True)
    hub.terms.confirm(hub.terms.all[epoch], 0, 1)
    hub.loop.now_s += 3
    hub.witness.lose(hub.link("ada"))
    hub.loop.now_s += 3
    hub.write("hub", _expired(epoch, "connection"))


def kept_for_ever(hub: Paper) -> None:
    hub.grant("ada")
    hub.loop.now_s += 20
    hub.terms.check_times()


def waiting_for_nothing(hub: Paper) -> None:
    hub.terms.places[hub.queue("bob", "T1")].link = 1
    hub.terms.check_times()
    hub.loop.now_s += 4
    hub.terms.check_times()


def waiting_for_each_other(hub: Paper) -> None:
    hub.grant("ada", "T1")
    hub.grant("bob", "T2")
    hub.queue("ada", "T2")
    hub.queue("bob", "T1")
    hub.terms.check_circles()


def told_before_it_is_durable(hub: Paper) -> None:
    request = hub.hear("ada", "ping", {})
    hub.say("ada", {"type": "reply", "id": request, "seq": hub.ledger.head + 1, "body": {}})


def an_answer_from_the_past(hub: Paper) -> None:
    first, head = hub.hear("ada", "ping", {}), hub.ledger.head
    hub.post("bob", "bob-1", 1)
    hub.reply("ada", first, {})
    hub.say("ada", {"type": "reply", "id": hub.hear("ada", "ping", {}), "seq": head, "body": {}})


def acknowledged_and_not_there(hub: Paper) -> None:
    request = hub.hear("ada", "message.send", {"body": "ada-1"})
    hub.reply("ada", request, {"id": f"m{hub.ledger.head}", "room": "main", "channel": "general", "n": 1})


def acknowledged_with_another_number(hub: Paper) -> None:
    request = hub.post("ada", "ada-1", 1)
    hub.reply("ada", request, {"id": f"m{hub.ledger.head}", "room": "main", "channel": "general", "n": 2})


def another_answer_to_a_repeat(hub: Paper) -> None:
    idem = Idem(key="k", hash="", count=1)
    first = hub.post("ada", "ada-1", 1, key="k", idem=idem)
    place = {"room": "main", "channel": "general"}
    hub.reply("ada", first, {"id": f"m{hub.ledger.head}", "n": 1} | place)
    other = hub.post("ada", "ada-2", 2)
    second = hub.hear("ada", "message.send", {"body": "ada-2"}, key="k")
    assert other
    hub.reply("ada", second, {"id": f"m{hub.ledger.head}", "n": 2} | place)


def a_dead_epoch_is_renewed(hub: Paper) -> None:
    epoch = hub.grant("ada")
    hub.write("hub", LeaseRevoked(room=ROOM, room_name="main", task="T1", owner="ada", epoch=epoch, reason="preempted"))
    hub.reply("ada", hub.hear("ada", "lease.renew", {"task": "T1", "epoch": epoch}), _lease(epoch))


def a_live_epoch_is_called_stale(hub: Paper) -> None:
    epoch = hub.grant("ada")
    request = hub.hear("ada", "lease.renew", {"task": "T1", "epoch": epoch})
    hub.say("ada", {"type": "error", "id": request, "error": {"code": "stale_epoch", "detail": ""}})


def a_letter_to_the_wrong_door(hub: Paper) -> None:
    message = hub.mail()
    body = {"id": f"m{message}", "room": None, "channel": "@eve", "n": 1, "from": "ada", "body": "ada-1"}
    hub.say("eve", {"type": "message", "body": body})


def a_page_with_a_hole(hub: Paper) -> None:
    for number in range(1, 4):
        hub.post("ada", f"ada-{number}", number)
    request, head = hub.hear("ada", "history.read", {"channel": "main:general"}), hub.ledger.head
    shown = [{"id": f"m{head - 2}"}, {"id": f"m{head}"}]
    hub.reply("ada", request, {"messages": shown, "previous": None, "cursor": f"x:{head}"})


def a_notice_again(hub: Paper) -> None:
    hub.reply("bob", hub.hear("bob", "feed.subscribe", {"channels": ["main:general"]}), {"from_cursor": "x:1"})
    hub.post("ada", "ada-1", 1)
    place = {"room": "main", "channel": "general", "n": 1, "from": "ada", "body": "ada-1"}
    for _ in range(2):
        hub.say("bob", {"type": "message", "body": {"id": f"m{hub.ledger.head}"} | place})


LIES: dict[Callable[[Paper], None], str] = {
    a_gap_in_numbers: "numbers have a gap",
    a_message_nobody_sent: "unasked",
    a_message_twice: "applied twice",
    a_key_twice: "applied twice",
    a_hole: "hole in the journal",
    lent_after_its_ack: "acked came again",
    acked_without_asking: "unasked",
    lent_to_two: "lent twice",
    dead_too_soon: "died early",
    two_holders: "overlap",
    too_many_units: "too many units",
    granted_without_asking: "unasked",
    past_the_queue: "out of line",
    released_twice: "not live",
    a_sure_holder_is_followed: "two beliefs",
    handed_with_more: "hand-off",
    ended_a_millisecond_early: "expired early",
    ended_in_spite_of_a_renewal: "expired early",
    ended_by_a_stall: "expired early",
    ended_with_a_connection_that_stands: "expired early",
    ended_before_its_grace: "expired early",
    kept_for_ever: "expired late",
    waiting_for_nothing: "waits for nothing",
    waiting_for_each_other: "deadlock",
    told_before_it_is_durable: "not durable",
    an_answer_from_the_past: "time reversed",
    acknowledged_and_not_there: "lost",
    acknowledged_with_another_number: "altered",
    another_answer_to_a_repeat: "answered differently",
    a_dead_epoch_is_renewed: "stale accepted",
    a_live_epoch_is_called_stale: "fenced wrongly",
    a_letter_to_the_wrong_door: "foreign",
    a_page_with_a_hole: "wrong page",
    a_notice_again: "repeated",
}


@pytest.mark.parametrize(("lie", "rule"), LIES.items(), ids=lambda it: getattr(it, "__name__", it))
def test_a_lie_is_called_by_its_name(lie: Callable[[Paper], None], rule: str) -> None:
    with pytest.raises(Violation) as caught:
        lie(Paper())
    assert caught.value.rule == rule, caught.value


def test_every_rule_of_the_observers_has_its_lie() -> None:
    texts = [(Path(__file__).parent / f"{name}.py").read_text() for name in ("terms", "ledger", "witness")]
    rules = {rule for text in texts for rule in re.findall(r'Violation\(\s*"([^"]+)"', text)}
    assert rules == set(LIES.values())


def test_the_truth_passes() -> None:
    hub = Paper()
    message = hub.mail()
    hub.lend(message)
    hub.ledger.hand_out("bob", message, 1)
    hub.witness.lose(hub.link("bob"))
    hub.lend(message)
    epoch = hub.grant("ada", tied=True)
    hub.terms.beliefs[epoch] = lambda: hub.loop.now_s < 9
    hub.queue("bob", "T1")
    hub.loop.now_s += TTL_MS / 1000
    hub.terms.check_times()
    hub.write("hub", _expired(epoch))
    hub.terms.check_circles()
    request = hub.hear("ada", "lease.renew", {"task": "T1", "epoch": epoch})
    hub.say("ada", {"type": "error", "id": request, "error": {"code": "stale_epoch", "detail": ""}})
    assert (hub.witness.fenced, hub.ledger.inboxes["bob"][message].lends) == (1, 2)
