"""Lies of a supervisor, and of digests, by the rule that each breaks."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from tests.simulation.lookout import NAME, ORPHANED_MS, STALLED_MS, TRIES, Round
from tests.simulation.paper import ROOM, Paper

from synapse.core.card_events import Card
from synapse.core.events import (
    AgentCreated,
    Delivery,
    Event,
    LeaseReleased,
    MessagePosted,
    MessageSent,
    Recorded,
    to_row,
)
from synapse.core.plan_events import TaskDeclared, TaskMoved, TasksReady
from synapse.core.room_events import RoomCreated, RoomJoined
from synapse.core.value_events import ValueDeleted, ValuePut

KEY: Final = "supervisor/x"
CHANNEL: Final = "main:general"


@dataclass
class Told:
    """What a supervisor remembers of one cause, as it goes on. version: of the value."""

    hub: Paper
    record: dict[str, Any]
    version: int = 0
    said: int = 0

    def put(self, **more: Any) -> None:
        """It writes down what it is about to say, or has said."""
        hub, old = self.hub, self.version
        self.record = self.record | more
        body = {"key": KEY, "room": "main", "value": self.record, "if_version": old}
        hub.hear(NAME, "value.put", body)
        value, replaces = msgspec.Raw(json.dumps(self.record).encode()), old or None
        owner = {"owner": NAME, "owner_id": hub.ids[NAME]}
        self.version = hub.write(
            NAME,
            ValuePut(room=ROOM, room_name="main", key=KEY, value=value, replaces=replaces, **owner),  # type: ignore[arg-type]  # by name
        )

    def say(self, to: str = CHANNEL, **more: Any) -> None:
        """It says it, in the room or to one."""
        hub, record = self.hub, self.record
        self.said += 1
        body = {
            "type": f"task.{record['cause']}", "task": record["task"], "room": "main",
            "cause": f"{record['cause']}:{record['mark']}", "since": record["since_at_ms"], "stage": record["stage"],
            "owner": record["who"], "epoch": record["mark"], "tries": record["tries"],
        } | more  # fmt: skip
        raw = msgspec.Raw(json.dumps(body).encode())
        if to == CHANNEL:
            hub.hear(NAME, "message.send", {"channel": to, "body": body})
            n = hub.ledger.numbers[CHANNEL] + 1
            hub.write(NAME, MessagePosted(channel=9, address=CHANNEL, n=n, body=raw))
        else:
            hub.hear(NAME, "message.send", {"to": [to], "body": body})
            n = hub.ledger.numbers[f"@{to}"] + 1
            hub.write(NAME, MessageSent(to=(Delivery(to, hub.ids[to], n),), body=raw))

    def forget(self) -> None:
        """It forgets it."""
        body = {"key": KEY, "room": "main", "if_version": self.version}
        self.hub.hear(NAME, "value.delete", body)
        self.hub.write(NAME, ValueDeleted(room=ROOM, room_name="main", key=KEY, version=self.version))


def watched(hub: Paper) -> Round:
    """There is a supervisor, a room, and eve is a person in it; a round begins."""
    hub.ids[NAME] = hub.write("hub", AgentCreated(name=NAME, card=Card()))
    hub.ledger.lookout.people = frozenset({"eve"})
    room = hub.write("hub", RoomCreated(name="main"))
    hub.write("eve", RoomJoined(room=room, agent=hub.ids["eve"]))
    return hub.ledger.lookout.begin("main")


def silent(hub: Paper, ms: int = STALLED_MS) -> Told:
    """Ada holds T1 and shows nothing for long."""
    epoch = hub.grant("ada")
    hub.loop.now_s += ms / 1000
    since_at_ms = hub.clock.wall_ms() - ms
    return Told(hub, cause_of("stalled", epoch, since_at_ms, hub.clock.wall_ms()))


def cause_of(cause: str, mark: int, since_at_ms: int, at_ms: int) -> dict[str, Any]:
    """What is written down of it."""
    return {
        "cause": cause, "task": "T1", "mark": mark, "since_at_ms": since_at_ms, "stage": "told", "done": False,
        "by": NAME, "at_ms": at_ms, "tries": 1, "who": "ada", "signs": None,
    }  # fmt: skip


def written(hub: Paper, who: str, event: Event, *ready: str) -> None:
    """A transaction of now, with what is ready after it."""
    head, at_ms = hub.ledger.head, hub.clock.wall_ms()
    rows = [to_row(Recorded(head + 1, at_ms, who, event))]
    if ready:
        rows.append(to_row(Recorded(head + 2, at_ms, "hub", TasksReady(room=ROOM, room_name="main", tasks=ready))))
    hub.ledger.fold(rows, hub.clock.now_ms)


def declared(hub: Paper, task: str, *needs: str) -> None:
    """Ada declares a task."""
    hub.hear("ada", "task.declare", {"task": task, "description": f"d {task}", "depends_on": list(needs)})
    event = TaskDeclared(room=ROOM, room_name="main", task=task, title=task, description=f"d {task}", depends_on=needs)
    written(hub, "ada", event, *(() if needs else (task,)))


def moved(hub: Paper, task: str, previous: str, status: str, who: str = "ada") -> int:
    """Somebody moves it, now; when."""
    note = f"{who} {task} {hub.ledger.head}"
    hub.hear(who, "task.update", {"task": task, "status": status, "note": note, "epoch": None})
    step: dict[str, Any] = {"title": task, "previous": previous, "status": status, "reason": "asked", "note": note}
    event = TaskMoved(room=ROOM, room_name="main", task=task, **step)
    written(hub, who, event, *((task,) if status == "open" else ()))
    return hub.clock.wall_ms()


def orphan(hub: Paper, ms: int = ORPHANED_MS) -> Told:
    """T1 is in progress for long, and nobody has it."""
    declared(hub, "T1")
    mark = moved(hub, "T1", "open", "in_progress")
    hub.loop.now_s += ms / 1000
    return Told(hub, cause_of("orphaned", mark, mark, hub.clock.wall_ms()) | {"who": None})


def unblocked(hub: Paper) -> Told:
    """T1 is blocked and waits for T0, which is done."""
    declared(hub, "T0")
    declared(hub, "T1", "T0")
    mark = moved(hub, "T1", "open", "blocked")
    moved(hub, "T0", "open", "done")
    return Told(hub, cause_of("unblocked", mark, mark, hub.clock.wall_ms()))


# The lies.


def a_stall_is_told_too_early(hub: Paper) -> None:
    watched(hub)
    silent(hub, STALLED_MS - 6_000).put()


def a_stall_of_another(hub: Paper) -> None:
    watched(hub)
    silent(hub).put(who="bob")


def a_stall_is_told_again(hub: Paper) -> None:
    watched(hub)
    told = silent(hub)
    told.put()
    told.say()
    told.put(done=True)
    told.put(done=False, since_at_ms=told.record["since_at_ms"] + 9_000)


def a_stall_is_said_twice(hub: Paper) -> None:
    watched(hub)
    told = silent(hub)
    told.put()
    told.say()
    told.say()


def a_stall_is_said_before_it_is_written_down(hub: Paper) -> None:
    watched(hub)
    silent(hub).say()


def a_stall_is_said_of_another_epoch(hub: Paper) -> None:
    watched(hub)
    told = silent(hub)
    told.put()
    told.say(epoch=1)


def a_stall_is_never_told(hub: Paper) -> None:
    watched(hub)
    silent(hub, STALLED_MS + 4_000)
    look_once(hub)


def look_once(hub: Paper) -> None:
    """A whole round that finds nothing to do."""
    hub.ledger.lookout.end(hub.ledger.lookout.begin("main"))


def it_is_written_down_as_said_and_was_not(hub: Paper) -> None:
    watched(hub)
    told = silent(hub)
    told.put()
    told.put(done=True)


def told_and_done(hub: Paper) -> Told:
    """A stall that the room was told of."""
    told = silent(hub)
    told.put()
    told.say()
    told.put(done=True)
    return told


def people_are_called_too_early(hub: Paper) -> None:
    watched(hub)
    told = told_and_done(hub)
    hub.loop.now_s += STALLED_MS * (TRIES - 2) / 1000
    told.put(done=False, stage="escalated")


def people_are_never_called(hub: Paper) -> None:
    watched(hub)
    told_and_done(hub)
    hub.loop.now_s += STALLED_MS * TRIES / 1000
    look_once(hub)


def the_room_is_called_in_place_of_a_person_twice(hub: Paper) -> None:
    watched(hub)
    told = told_and_done(hub)
    hub.loop.now_s += STALLED_MS * TRIES / 1000
    told.put(done=False, stage="escalated")
    told.say("bob")
    told.put(done=True)


def what_goes_on_is_forgotten(hub: Paper) -> None:
    watched(hub)
    told_and_done(hub).forget()


def what_is_over_is_remembered(hub: Paper) -> None:
    watched(hub)
    epoch = told_and_done(hub).record["mark"]
    hub.hear("ada", "lease.release", {"task": "T1", "epoch": epoch})
    hub.write("ada", LeaseReleased(room=ROOM, room_name="main", task="T1", owner="ada", epoch=epoch))
    look_once(hub)


def an_orphan_is_put_back_too_early(hub: Paper) -> None:
    watched(hub)
    orphan(hub, ORPHANED_MS - 6_000).put()


def an_orphan_is_left(hub: Paper) -> None:
    watched(hub)
    orphan(hub)
    look_once(hub)


def an_orphan_is_told_and_left(hub: Paper) -> None:
    watched(hub)
    told = orphan(hub)
    told.put()
    told.say()
    told.put(done=True)
    look_once(hub)


def an_orphan_is_put_back_and_not_told(hub: Paper) -> None:
    watched(hub)
    told = orphan(hub)
    told.put()
    moved(hub, "T1", "in_progress", "open", NAME)
    told.put(done=True)


def a_task_is_moved_that_is_no_orphan(hub: Paper) -> None:
    watched(hub)
    orphan(hub)
    moved(hub, "T1", "in_progress", "open", NAME)


def people_are_called_at_the_first_try(hub: Paper) -> None:
    watched(hub)
    orphan(hub).put(stage="escalated")


def what_is_blocked_is_told_while_it_waits(hub: Paper) -> None:
    watched(hub)
    told = unblocked(hub)
    declared(hub, "T2")
    declared(hub, "T3", "T2")
    mark = moved(hub, "T3", "open", "blocked")
    told.put(task="T3", mark=mark)


def what_is_unblocked_is_never_told(hub: Paper) -> None:
    watched(hub)
    unblocked(hub)
    look_once(hub)


def who_can_move_it_on_is_not_told(hub: Paper) -> None:
    watched(hub)
    told = unblocked(hub)
    told.put()
    told.say()
    told.put(done=True)


WATCH_LIES: dict[Callable[[Paper], None], str] = {
    a_stall_is_told_too_early: "not so",
    a_stall_of_another: "not so",
    a_stall_is_told_again: "said twice",
    a_stall_is_said_twice: "said twice",
    a_stall_is_said_before_it_is_written_down: "said unremembered",
    a_stall_is_said_of_another_epoch: "altered",
    a_stall_is_never_told: "not told",
    it_is_written_down_as_said_and_was_not: "not told",
    people_are_called_too_early: "not so",
    people_are_never_called: "not told",
    the_room_is_called_in_place_of_a_person_twice: "not told",
    what_goes_on_is_forgotten: "forgotten early",
    what_is_over_is_remembered: "not forgotten",
    an_orphan_is_put_back_too_early: "not so",
    an_orphan_is_left: "not told",
    an_orphan_is_told_and_left: "not told",
    an_orphan_is_put_back_and_not_told: "not told",
    a_task_is_moved_that_is_no_orphan: "not so",
    people_are_called_at_the_first_try: "not so",
    what_is_blocked_is_told_while_it_waits: "not so",
    what_is_unblocked_is_never_told: "not told",
    who_can_move_it_on_is_not_told: "not told",
}


def an_honest_supervisor(hub: Paper) -> None:
    """A stall is told, people are called, and it is forgotten; a task that is blocked by nothing is told."""
    begun = watched(hub)
    told = told_and_done(hub)
    hub.loop.now_s += STALLED_MS * TRIES / 1000
    told.put(done=False, stage="escalated")
    told.say("eve")
    told.put(done=True)
    look_once(hub)
    epoch = told.record["mark"]
    hub.hear("ada", "lease.release", {"task": "T1", "epoch": epoch})
    hub.write("ada", LeaseReleased(room=ROOM, room_name="main", task="T1", owner="ada", epoch=epoch))
    told.forget()
    blocked = unblocked(hub)
    blocked.put()
    blocked.say()
    blocked.say("ada")
    blocked.put(done=True)
    hub.ledger.lookout.end(begun)


def an_honest_put_back(hub: Paper) -> None:
    """An orphan is put back and told."""
    begun = watched(hub)
    told = orphan(hub)
    told.put()
    moved(hub, "T1", "in_progress", "open", NAME)
    told.say()
    told.put(done=True)
    hub.ledger.lookout.end(begun)
