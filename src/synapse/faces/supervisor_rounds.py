"""A supervisor at work: it asks, decides, and does one step after the other. An ordinary client; no step needs more
than any agent may do."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from synapse.client.client import Client
from synapse.errors import Rejected
from synapse.faces.supervisor import (
    ESCALATED,
    ORPHANED,
    PREFIX,
    TOLD,
    UNBLOCKED,
    Board,
    Kept,
    Record,
    Step,
    Terms,
    body_of,
    decide,
    idem_of,
    may_stall,
    note_of,
    sentence,
)
from synapse.protocol.plan_replies import TaskInfo

KEPT_S: Final = 30 * 24 * 3600.0
"""What was told is remembered so long."""
TRIES_S: Final = 24 * 3600.0
"""A task that was put back and has not been orphaned again for so long begins anew."""
_CLAIM_S: Final = 30.0


@dataclass(slots=True, frozen=True)
class Done:
    """One thing that was done. what: told, put_back, escalated. to: who was told; the room's channel, or agents.
    cursor: behind all of it."""

    room: str
    what: str
    record: Record
    to: tuple[str, ...]
    cursor: str | None = None


async def look(client: Client, room: str, terms: Terms) -> Board:
    """Ask for everything that a decision needs. Raises `Rejected(not_found)` for no room."""
    kept: dict[str, Kept] = {}
    for value in await client.values(PREFIX, room=room):
        if isinstance(value.value, msgspec.Raw):
            try:
                kept[value.key] = Kept(msgspec.json.decode(value.value, type=Record), value.version)
            except msgspec.DecodeError:  # somebody else's, under our prefix
                continue
    now = await client.digest(room=room, limit=1)  # by the hub's clock, not this machine's
    leases = await client.leases(room=room)
    found = [task for status in ("in_progress", "blocked") for task in await client.tasks(status=status, room=room)]
    tasks, lines = {task.task: task for task in found}, dict[int, int]()
    for lease in leases:
        is_long = isinstance(lease.idle_ms, int) and lease.idle_ms >= terms.stalled_ms
        if is_long and lease.task not in tasks and may_stall(lease, None):
            task = await _planned(client, room, lease.task)
            if task is not None:
                tasks[task.task] = task
        if is_long and (lease.task in tasks or may_stall(lease, None)):
            page = await client.progress(lease.task, agent=lease.owner, limit=1, room=room)
            if page.lines:
                lines[lease.epoch] = page.lines[-1].seq
    assert client.welcome.name is not None, "a supervisor is an agent"
    return Board(
        me=client.welcome.name,
        seq=now.seq,
        now_ms=now.at_ms,
        tasks=tasks,
        leases=leases,
        lines=lines,
        kept=kept,
    )


async def _planned(client: Client, room: str, task: str) -> TaskInfo | None:
    try:
        return await client.task(task, room=room)
    except Rejected as refusal:
        if refusal.code != "not_found":
            raise
        return None


async def supervise(client: Client, room: str, terms: Terms, say: Callable[[str], None]) -> list[Done]:
    """One round of a room; what was done. say: takes a line about what could not be done. Raises as `look`."""
    done: list[Done] = []
    for step in decide(await look(client, room, terms), terms):
        try:
            done += await _carry_out(client, room, step)
        except Rejected as refusal:
            if refusal.code != "version_conflict":  # then another supervisor does it
                say(f"{room}: {'' if step.record is None else step.record.task + ': '}{refusal}")
    return done


async def _carry_out(client: Client, room: str, step: Step) -> list[Done]:
    if step.record is None:
        await client.delete(step.key, if_version=step.version, room=room)
        return []
    assert client.welcome.name is not None, "a supervisor is an agent"
    record = msgspec.structs.replace(step.record, by=client.welcome.name)
    kept_s = TRIES_S if record.cause == ORPHANED and record.stage == TOLD else KEPT_S
    begun = await client.put(step.key, msgspec.to_builtins(record), ttl=kept_s, if_version=step.version, room=room)
    done = await _act(client, room, record)
    ended = msgspec.structs.replace(record, done=True)
    kept = await client.put(step.key, msgspec.to_builtins(ended), ttl=kept_s, if_version=begun.version, room=room)
    return [replace(each, cursor=kept.cursor or None) for each in done]


async def _act(client: Client, room: str, record: Record) -> list[Done]:
    if record.cause == ORPHANED and record.stage == TOLD:
        if not await _put_back(client, room, record):
            return []  # somebody has it, or moved it: there is nothing to tell
        await _tell_room(client, room, record)
        return [Done(room, "put_back", record, (f"{room}:general",))]
    if record.stage == ESCALATED:
        people = [agent.name for agent in await client.who(room) if agent.kind == "human"]
        told = tuple([name for name in people if await _tell_one(client, room, record, name)])
        if not told:
            await _tell_room(client, room, record, f"{sentence(record)}. No person is a member of this room")
        return [Done(room, "escalated", record, told or (f"{room}:general",))]
    await _tell_room(client, room, record)
    to = [f"{room}:general"]
    if record.cause == UNBLOCKED and record.who and await _tell_one(client, room, record, record.who):
        to.append(record.who)
    return [Done(room, "told", record, tuple(to))]


async def _tell_room(client: Client, room: str, record: Record, subject: str | None = None) -> None:
    await client.send(
        body_of(record, room),
        channel=f"{room}:general",
        subject=(sentence(record) if subject is None else subject)[:256],
        idem_key=idem_of(record, ""),
    )


async def _tell_one(client: Client, room: str, record: Record, name: str) -> bool:
    """A direct message; False when it cannot be delivered to that agent."""
    try:
        await client.send(
            body_of(record, room),
            to=name,
            subject=sentence(record),
            priority="high",
            idem_key=idem_of(record, name),
        )
    except Rejected as refusal:
        if refusal.code not in ("not_found", "bad_name", "inbox_full"):
            raise
        return False
    return True


async def _put_back(client: Client, room: str, record: Record) -> bool:
    """Move an orphan to open, so that it is ready again and announced; True also when I had done it already.

    Under a lease of its own, so that nobody else can move the task between the look and the step. Should this process
    end in between, the lease does, and the hub itself puts the task back.
    """
    task, note = record.task, note_of(record)
    now = await _planned(client, room, task)
    others = [holder for holder in now.holders if holder.owner != record.by] if now is not None else []
    if now is None or now.status != "in_progress" or others or now.moved_at_ms != record.mark:
        lines = (await client.progress(task, limit=5, room=room)).lines
        lapsed = f"the lease of {record.by} "
        return any(
            line.text == note or (line.by == "hub" and lapsed in line.text and line.at_ms >= record.at_ms)
            for line in lines
        )
    try:
        lease = await client.claim(task, ttl=_CLAIM_S, room=room)
    except Rejected as refusal:
        if refusal.code not in ("lease_held", "lease_queued"):
            raise
        return False
    now = await _planned(client, room, task)
    if now is None or now.status != "in_progress" or now.moved_at_ms != record.mark:
        await client.release(task, epoch=lease.epoch, room=room)
        return False
    await client.update_task(task, "open", note=note, epoch=lease.epoch, room=room)
    return True
