"""What must be true of what a supervisor did in a room, by the journal's export at the end.

It is an agent like any other, so all it did is in the journal: what it wrote down before it spoke and after it, what it
said, and the tasks that it put back. What it should have found follows from tasks and leases. When it looked is known
by what it wrote down; a cause is passed over when it stood at one look of a hub's life and still does at the next one.

What is judged by time uses the hub's clock; a stall is long when the rows of the journal show the hub at work for twice
as long as a stall takes, because a hub that stands still does not count that time.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from tests.crash.checker import Finding
from tests.crash.rows import Row
from tests.crash.watch_fold import SUPERVISOR, Lease, Record, Said, Watched
from tests.crash.watch_load import ORPHANED_S, STALLED_MS, TRIES

RULES = {
    "told twice": "the same was said twice to the room or to one agent, or a stall that had not ended was told again",
    "no cause": "told, put back or escalated, and the journal has no such cause at that time, or not for long enough",
    "passed over": "a cause stood at a look and at the next one, and nothing was written down of it",
    "never told": "a cause stands at the end and was not told, or not to the people when it should be",
    "half said": "written down as said and not said, said and not written down, or begun and never ended",
    "wrong tries": "a task was put back more or less often than the tries say before people were called",
    "nobody called": "a person of the room did not get a letter, or it is neither acked nor waiting",
}
SLACK_MS = 5_000
"""Progress so soon after a stall began belongs to it."""
STEPS_MAX = 20
"""A round has no more steps."""
QUIET_MS = 300
"""A hub that writes nothing for longer may have stood still."""
ORPHANED_MS = ORPHANED_S * 1_000


def check_watch(rows: Sequence[Row]) -> list[Finding]:
    """Everything that is wrong with what the supervisor did; empty when it kept its promises."""
    watched = Watched(rows)
    return [
        *_nothing_twice(watched),
        *(finding for said in watched.said for finding in _is_written(said, watched)),
        *(finding for begun in _begun(watched) for finding in _is_so(begun, watched)),
        *_is_said(watched),
        *_tries_follow(watched),
        *_people_are_called(watched),
        *_nothing_is_passed_over(watched),
        *_all_is_told(watched),
    ]


def is_told(rows: Sequence[Row]) -> bool:
    """True when nothing is left to say of what stands."""
    watched = Watched(rows)
    return not any(True for _ in _all_is_told(watched)) and not any(True for _ in _left_unsaid(watched))


def _nothing_twice(watched: Watched) -> Iterator[Finding]:
    counts = Counter(
        (said.to, *said.cause, said.body["since"], said.body["stage"], said.body.get("tries")) for said in watched.said
    )
    for words, count in counts.items():
        if count > 1:
            yield Finding("told twice", f"{count} times {words}")
    since: dict[int, list[int]] = defaultdict(list)
    for said in watched.said:
        if said.cause[0] == "stalled" and said.body["stage"] == "told":
            since[said.cause[2]].append(said.body["since"])
    for epoch, times in since.items():
        for first, second in pairwise(times):
            signs = [sign.at_ms for sign in watched.leases[epoch].signs if first < sign.at_ms]
            if second <= first or not signs:
                yield Finding("told twice", f"{epoch}: since {first}, then since {second}; progress at {signs}")


def _record_of(said: Said, watched: Watched) -> Record | None:
    """What was written down before it was said; the last one of that cause."""
    found = [
        record
        for record in watched.records
        if record.cause == said.cause and record.row.seq < said.row.seq and record.value["stage"] == said.body["stage"]
    ]
    return found[-1] if found else None


def _is_written(said: Said, watched: Watched) -> Iterator[Finding]:
    """It was written down before it was said; and it is told to who it is for."""
    record = _record_of(said, watched)
    if record is None or record.value["since_at_ms"] != said.body["since"] or record.value["done"]:
        yield Finding("half said", f"{said} was not written down before: {record}")
        return
    cause, task, _ = said.cause
    if cause == "stalled" and said.body["owner"] != watched.leases[said.cause[2]].owner:
        yield Finding("no cause", f"{said}: it is another one who holds it")
    moments = watched.moments(record.value["at_ms"], record.row.seq)
    if cause == "unblocked" and said.to and said.to not in _who(task, moments, watched):
        yield Finding("no cause", f"{said}: {_who(task, moments, watched)} can move it on")


def _begun(watched: Watched) -> list[Record]:
    """The first record of each thing that there was to say."""
    found: dict[object, Record] = {}
    for record in watched.records:
        if not record.value["done"]:
            found.setdefault(record.stage, record)
    return list(found.values())


def _is_so(begun: Record, watched: Watched) -> Iterator[Finding]:
    """There was such a cause when the supervisor looked, or at least until it wrote it down."""
    cause, task, mark = begun.cause
    looked_at_ms = begun.value["at_ms"]
    moments = watched.moments(looked_at_ms, begun.row.seq)
    if cause == "stalled":
        is_so = _was_stalled(begun, moments, watched)
    elif cause == "orphaned":
        is_long = looked_at_ms - mark >= ORPHANED_MS
        is_so = is_long and any(watched.is_orphan(task, mark, seq) for seq in moments)
    else:
        is_so = any(watched.is_unblocked(task, mark, seq) for seq in moments)
    if not is_so:
        yield Finding("no cause", f"{begun}: looked at {looked_at_ms}")


def _was_stalled(begun: Record, moments: Sequence[int], watched: Watched) -> bool:
    _, task, epoch = begun.cause
    lease, since, looked_at_ms = watched.leases.get(epoch), begun.value["since_at_ms"], begun.value["at_ms"]
    if lease is None or (lease.task, lease.owner) != (task, begun.value["who"]):
        return False
    is_first = begun.value["stage"] == "told"
    late_ms = begun.row.at_ms - looked_at_ms + 50  # the leases were read after the clock
    hidden_upto = since + (late_ms if is_first else SLACK_MS)
    is_idle = not any(hidden_upto < sign.at_ms < looked_at_ms for sign in lease.signs)
    is_long = looked_at_ms - since >= STALLED_MS * (1 if is_first else TRIES)
    return is_idle and is_long and any(watched.may_stall(lease, seq) for seq in moments)


def _who(task: str, moments: Sequence[int], watched: Watched) -> set[str]:
    """Who could move a blocked task on."""
    found = watched.tasks[task]
    owner = found.declared.body.get("suggested_owner") or found.declared.actor
    holders = {lease.owner for seq in moments for lease in found.holders(seq)}
    return holders or {owner}


def _is_said(watched: Watched) -> Iterator[Finding]:
    """What is written down as said was said between the two records."""
    begun: dict[object, Record] = {}
    for record in watched.records:
        if not record.value["done"]:
            begun.setdefault(record.stage, record)
            continue
        first = begun.get(record.stage)
        if first is None:
            yield Finding("half said", f"{record} was never begun")
            continue
        told = _told_between(first, record, watched)
        cause, stage = record.value["cause"], record.value["stage"]
        is_room_told = stage == "told" and any(said.to == "" for said in told)
        is_put_back = cause == "orphaned" and _is_left(record, watched)
        is_somebody_called = stage == "escalated" and told
        if not (is_room_told or is_put_back or is_somebody_called):
            yield Finding("half said", f"{record} says it was said; there is {told}")
        if cause == "unblocked" and not any(said.to == record.value["who"] for said in told):
            yield Finding("half said", f"{record}: {record.value['who']} was not told")
    yield from _left_unsaid(watched)


def _told_between(first: Record, last: Record, watched: Watched) -> list[Said]:
    return [
        said
        for said in watched.said
        if first.row.seq < said.row.seq < last.row.seq
        and (*said.cause, said.body["since"], said.body["stage"]) == last.stage[:5]
    ]


def _is_left(record: Record, watched: Watched) -> bool:
    """Nothing is told of an orphan that somebody else took or moved before it was put back."""
    _, task, mark = record.cause
    moves = watched.tasks[task].moves
    next_ = next((move for move in moves if move.at_ms > mark and move.seq < record.row.seq), None)
    held = any(lease.owner != SUPERVISOR for lease in watched.tasks[task].leases if lease.is_live(record.row.seq))
    return record.value["stage"] == "told" and (held or (next_ is not None and next_.actor != SUPERVISOR))


def _left_unsaid(watched: Watched) -> Iterator[Finding]:
    for record in watched.kept.values():
        if not record.value["done"]:
            yield Finding("half said", f"{record} was begun and never ended")


def _tries_follow(watched: Watched) -> Iterator[Finding]:
    """Of each task that is put back again and again: 1 to `TRIES` times, and from then on people are called."""
    tries: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for record in watched.records:
        if record.value["cause"] == "orphaned" and not record.value["done"]:
            found = (record.value["mark"], record.value["tries"], record.value["stage"])
            if found not in tries[record.value["task"]]:
                tries[record.value["task"]].append(found)
    for task, counted in tries.items():
        yield from _count_up(task, counted)
    done: Counter[tuple[str, int]] = Counter()
    for move, before in watched.put_back:
        task, mark = move.body["task"], before.at_ms
        stages = [stage for at_ms, _, stage in tries.get(task, ()) if at_ms == mark]
        done[task, before.seq] += 1
        is_asked = stages == ["told"] and (before.body.get("status"), move.body["status"]) == ("in_progress", "open")
        if not is_asked or done[task, before.seq] > 1:
            yield Finding(
                "wrong tries", f"{task} is put back at {move.seq}; it was {before}, and the tries say {stages}"
            )


def _count_up(task: str, found: Sequence[tuple[int, int, str]]) -> Iterator[Finding]:
    for number, (_, count, stage) in enumerate(found, 1):
        wanted = (number, "told") if number <= TRIES else (TRIES + 1, "escalated")
        if (count, stage) != wanted:
            yield Finding("wrong tries", f"{task}, cause {number}: {count} {stage}, not {wanted}; {found}")
    if len({mark for mark, *_ in found}) != len(found):
        yield Finding("told twice", f"{task}: one cause under two tries: {found}")


def _people_are_called(watched: Watched) -> Iterator[Finding]:
    """Every person of the room has a letter of each escalation, and it is acked or waits."""
    begun: dict[object, Record] = {}
    for record in watched.records:
        if record.value["stage"] != "escalated":
            continue
        first = begun.setdefault(record.stage, record)
        if not record.value["done"]:
            continue
        told = _told_between(first, record, watched)
        for person in sorted(watched.people):
            letters = [said for said in told if said.to == person]
            ids = {
                (agent, said.row.seq) for said in letters for name, agent, _ in said.row.body["to"] if name == person
            }
            if not ids or ids & watched.dead:
                yield Finding("nobody called", f"{person} has {letters} of {record}")


# What should have been found.


def _is_kept(watched: Watched, lease: Lease, sign: Row, upto: int, *, stage: str = "told") -> bool:
    """The stall since that sign was written down by that position."""
    return any(
        record.cause == ("stalled", lease.task, lease.epoch)
        and record.row.seq < upto
        and record.value["since_at_ms"] + SLACK_MS + QUIET_MS >= sign.at_ms
        and (stage == "told" or record.value["stage"] == stage)
        for record in watched.records
    )


def _nothing_is_passed_over(watched: Watched) -> Iterator[Finding]:
    """Two looks of one life of the hub: what stood at the first and stands at the second was written down by then."""
    looks: dict[int, dict[int, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in watched.records:
        run, looked_at_ms = watched.run_of(record.row.seq), record.value["at_ms"]
        if not record.value["done"] and looked_at_ms >= watched.starts[run - 1].at_ms:
            looks[run][looked_at_ms].append(record)
    known = {record.cause: record.row.seq for record in reversed(watched.records)}
    for run, found in looks.items():
        for first, second in pairwise(sorted(found)):
            if len(found[first]) < STEPS_MAX:
                upto = found[second][0].row.seq
                yield from _passed_tasks(watched, known, first, upto)
                yield from _passed_leases(watched, run, first, upto)


def _seq_at(watched: Watched, at_ms: int, upto: int) -> int:
    """The last position before that time of the hub's clock."""
    place = bisect_left(watched.seqs, upto)
    while place > 0 and watched.rows[place - 1].at_ms >= at_ms:
        place -= 1
    return watched.seqs[place - 1] if place else 0


def _passed_tasks(
    watched: Watched, known: dict[tuple[str, str, int], int], looked_at_ms: int, upto: int
) -> Iterator[Finding]:
    before = _seq_at(watched, looked_at_ms, upto)
    for name, task in watched.tasks.items():
        found = task.upto(before)
        if found is None or found != task.upto(upto):
            continue
        status, since = found
        cause = {"in_progress": "orphaned", "blocked": "unblocked"}.get(status)
        if cause is None or known.get((cause, name, since.at_ms), upto) < upto:
            continue
        places = range(bisect_left(watched.seqs, before), bisect_right(watched.seqs, upto))
        is_one = watched.is_orphan if cause == "orphaned" else watched.is_unblocked
        is_long = cause == "unblocked" or looked_at_ms - since.at_ms >= ORPHANED_MS
        if is_long and all(is_one(name, since.at_ms, watched.seqs[place]) for place in places):
            yield Finding("passed over", f"{name} was {cause} since {since.seq} at {looked_at_ms}, and is at {upto}")


def _passed_leases(watched: Watched, run: int, looked_at_ms: int, upto: int) -> Iterator[Finding]:
    before, began = _seq_at(watched, looked_at_ms, upto), watched.starts[run - 1]
    for lease in watched.leases.values():
        if not (watched.may_stall(lease, before) and watched.may_stall(lease, upto)):
            continue
        sign = [sign for sign in lease.signs if sign.seq <= upto][-1]
        last = max([sign, *(row for row in lease.renewed if row.seq <= upto)])
        if last.seq > before:
            continue
        is_long = _at_work_ms(watched, max(last, began), before) >= 2 * STALLED_MS
        if is_long and not _is_kept(watched, lease, sign, upto):
            yield Finding("passed over", f"{lease} was stalled at {looked_at_ms}, and is at {upto}")
        if not _is_called(watched, lease, max(last, began), before, upto, looked_at_ms):
            yield Finding(
                "passed over", f"{lease} was stalled for long at {looked_at_ms}, and nobody is called at {upto}"
            )


def _is_called(watched: Watched, lease: Lease, since: Row, before: int, upto: int, looked_at_ms: int) -> bool:
    """People were called by then about a stall that this life of the hub told, and that was long enough at the look."""
    found = [it for it in watched.records if it.cause[2] == lease.epoch and it.row.seq < upto]
    told = [it for it in found if since.seq < it.row.seq <= before and it.value["done"]]
    if not told or looked_at_ms - told[-1].value["since_at_ms"] < STALLED_MS * TRIES:
        return True
    return bool(found[-1].value["stage"] == "escalated")


def _at_work_ms(watched: Watched, since: Row, upto: int) -> int:
    """For how long the hub was at work between these positions, long pauses left out."""
    rows = watched.rows[bisect_left(watched.seqs, since.seq) : bisect_right(watched.seqs, upto)]
    pauses = (second.at_ms - first.at_ms for first, second in pairwise(rows))
    return sum(min(max(pause, 0), QUIET_MS) for pause in pauses)


def _all_is_told(watched: Watched) -> Iterator[Finding]:
    """What stands at the end."""
    head = watched.seqs[-1]
    for lease in watched.leases.values():
        if watched.may_stall(lease, head) and not _is_kept(watched, lease, lease.signs[-1], head, stage="escalated"):
            yield Finding("never told", f"{lease} stands still at the end, and no person was told")
    last = {record.key: record for record in watched.records}
    done = {record.cause: record.value["stage"] for record in last.values() if record.value["done"]}
    for name in watched.tasks:
        status, since = watched.tasks[name].upto(head) or ("", watched.rows[0])
        if watched.is_orphan(name, since.at_ms, head) and done.get(("orphaned", name, since.at_ms)) != "escalated":
            yield Finding("never told", f"{name} is {status} since {since.seq} without a lease")
        if watched.is_unblocked(name, since.at_ms, head) and ("unblocked", name, since.at_ms) not in done:
            yield Finding("never told", f"{name} is {status} since {since.seq}, and all it depends on is done")
