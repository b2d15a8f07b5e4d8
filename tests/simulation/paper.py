"""A hub on paper: a test writes its journal and its frames by hand, and the observers of the simulation look on."""

import json
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from tests.simulation.ledger import Ledger
from tests.simulation.network import Link
from tests.simulation.shelf import Shelf
from tests.simulation.terms import Bounds, Terms
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
    LeaseQueued,
    LeaseReleased,
    MessagePosted,
    MessageSent,
    MessagesLent,
    PoolSet,
    Recorded,
    to_row,
)
from synapse.core.value_events import ValuePut

TTL_MS = 10_000
ROOM = 7


class Paper:
    """A hub on paper: what it writes, hears and says, the observers are shown. Agents ada and bob are there."""

    def __init__(self) -> None:
        self.loop = SimpleNamespace(now_s=0.0)
        self.clock = Clock(self.loop)
        self.terms = Terms(self.clock, Bounds(grace_ms=4_000, parked_ms=60_000), {"ada": 1, "bob": 1, "eve": 1})
        self.shelf = Shelf(self.clock, lambda _: None)
        self.ledger = Ledger(self.terms, self.shelf, lambda _: None, base=0, lends_max=2, lend_ms=30_000)
        self.witness = Witness(self.ledger, self.clock, lambda _: None, lambda *_: None)
        self.ids = {name: self.write("hub", AgentCreated(name=name, card=Card())) for name in ("ada", "bob", "eve")}
        self.write("hub", PoolSet(name="gpu", capacity=2))
        self._requests = 0
        self._putting: dict[str, Any] = {}
        self.put_request = 0

    def write(self, actor: str, *events: Event) -> int:
        """A transaction; the seq of its last event."""
        return self.write_of(*((actor, event) for event in events))

    def write_at(self, at_ms: int, actor: str, event: Event) -> int:
        """As `write`, at another time of the wall."""
        row = to_row(Recorded(self.ledger.head + 1, at_ms, actor, event))
        self.ledger.fold([row], self.clock.now_ms)
        return self.ledger.head

    def write_of(self, *entries: tuple[str, Event]) -> int:
        """A transaction of events by several; the seq of its last event."""
        head = self.ledger.head
        rows = [to_row(Recorded(head + at, 0, actor, event)) for at, (actor, event) in enumerate(entries, 1)]
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
        return self.write(owner, self.granted(owner, task, paths, **more))

    def granted(self, owner: str, task: str, paths: tuple[str, ...] = (), **more: Any) -> LeaseGranted:
        """Asked; the grant that follows from it."""
        return LeaseGranted(ask=self.claim(owner, task, paths, **more), ttl_ms=TTL_MS, tied=more.get("tied", False))

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

    def lend(self, message: int, *, is_first: bool = True) -> None:
        """A message of ada's is lent to bob."""
        senders = (self.ids["ada"],) if is_first else ()
        self.write("bob", MessagesLent(agent=self.ids["bob"], messages=(message,), senders=senders))

    def ask_put(self, owner: str, mark: str, **more: Any) -> int:
        """A request to put a value under `k`; its id."""
        self._putting = {"mark": mark} | more.pop("value", {})
        return self.hear(owner, "value.put", {"key": "k", "value": self._putting} | more)

    def put(self, owner: str, mark: str, *, replaces: int | None = None, of: str | None = None, **more: Any) -> int:
        """Asked and put; the version. of: the owner, when it is not who asks."""
        ttl_ms = more.get("ttl_ms")
        self.put_request = self.ask_put(owner, mark, **more)
        event = ValuePut(
            room=ROOM, room_name="main", key="k", value=msgspec.Raw(msgspec.json.encode(self._putting)),
            owner=of or owner, owner_id=1, expires_at_ms=ttl_ms, replaces=replaces,
        )  # fmt: skip
        return self.write(owner, event)

    def info(self, version: int, mark: str, owner: str = "ada") -> dict[str, Any]:
        """A value as it is told."""
        return {
            "key": "k", "value": {"mark": mark}, "version": version, "owner": owner, "updated_at_ms": 0,
            "updated_by": owner, "created_at_ms": 0, "expires_at_ms": None, "owners": [],
        }  # fmt: skip

    def change(self, seq: int, mark: str) -> dict[str, Any]:
        """A put as followers hear of it."""
        body = {
            "change": "put", "room": "main", "key": "k", "value": {"mark": mark}, "version": seq, "owner": "ada",
            "expires_at_ms": None, "by": "ada", "at_ms": 0, "cursor": f"x:{seq}",
        }  # fmt: skip
        return {"type": "value.changed", "seq": seq, "body": body}


def released(epoch: int, owner: str) -> LeaseReleased:
    return LeaseReleased(room=ROOM, room_name="main", task="T1", owner=owner, epoch=epoch)


def expired(epoch: int, reason: str = "ttl") -> LeaseExpired:
    return LeaseExpired(room=ROOM, room_name="main", task="T1", owner="ada", epoch=epoch, reason=reason)


def lease(epoch: int, owner: str = "ada") -> dict[str, Any]:
    return {
        "epoch": epoch, "owner": owner, "task": "T1", "worktree": None, "paths": [], "pools": {}, "mode": "exclusive",
        "outcome": "granted", "live": True,
    }  # fmt: skip
