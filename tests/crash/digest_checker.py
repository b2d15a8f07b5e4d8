"""What must be true of digests, one after the other, in a recorded history and the export of the journal at the end.

A digest is of one position. What is asked of an agent, what blocks it and what is its own at that position is folded
from the rows, by other means than the hub's; what it counts since a cursor are the rows between. Who asks with the
cursor of the digest before, over all kills, so leaves no position out.
"""

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tests.crash.checker import Finding
from tests.crash.history import Frame, History
from tests.crash.rows import Row

RULES = {
    "wrong list": "what is asked, blocks or is mine is not what the journal has at that position, in its order",
    "wrong count": "a number is not what the journal has, at the position or since the cursor; news are denied",
    "over budget": "a text is longer than its budget, says another length, or was refused though it would have fitted",
    "wasted": "lines were left out though there was room",
    "not in the text": "an item that counts as shown is not in the text, or the text does not end with the cursor",
    "cursor": "a digest goes on from a cursor that this agent was not told before, or its own goes back",
    "not covered": "the chain of an agent leaves positions out, or ends before what was last addressed to it",
}
RANK = {"low": 0, "normal": 1, "high": 2, "urgent": 3}
OVER = ("done", "failed", "cancelled")
CHARS_PER_TOKEN = 4
LINE_TOKENS = 110
"""A line, and what its section's head and the numbers take besides."""
LIST_CHARS = 38_000
"""A longer list may be cut for its size."""
ROWS_MAX = 2_000
"""More rows are not counted."""
USAGE = 2
ROOM = "main"


@dataclass(slots=True, frozen=True)
class Told:
    """A digest that somebody got. limit: of items; None for `synapse digest`, whose lists are as long as its budget
    allows. body: as `digest.read` has it, with `text`, `tokens` and what was left out of each list by the command."""

    agent: str
    since: str | None
    asked_ns: int
    told_ns: int
    limit: int | None
    budget: int | None
    code: int
    body: Frame

    @property
    def seq(self) -> int:
        seq: int = self.body["seq"]
        return seq

    @property
    def since_seq(self) -> int:
        return 0 if self.since is None else int(self.since.partition(":")[2])

    def items(self, name: str) -> list[Frame]:
        found = self.body[name]
        items: list[Frame] = found["items"] if isinstance(found, dict) else found
        return items

    def total(self, name: str) -> int:
        found = self.body[name]
        total: int = found["total"] if isinstance(found, dict) else self.body[f"{name}_total"]
        return total


def told_in(line: Frame) -> Told:
    """What `synapse digest` was asked and printed, as it was written down."""
    times = {"asked_ns": line["asked_ns"], "told_ns": line["ns"]}
    return Told(line["agent"], line["since"], **times, limit=None, budget=line["budget"], **_printed(line))


def _printed(line: Frame) -> Frame:
    return {"code": line["code"], "body": line["printed"] or {}}


def told_by(history: History) -> list[Told]:
    """The replies to `digest.read`."""
    return [
        Told(op.agent, op.body.get("since"), op.invoked_ns, op.returned_ns or 0, op.body["limit"], None, 0, op.reply)
        for op in history.ops
        if op.type == "digest.read" and op.is_ok
    ]


@dataclass(slots=True)
class Entry:
    """A message in an inbox that is not acked."""

    seq: int
    priority: str
    at_ms: int
    is_to_all: bool


@dataclass(slots=True)
class Task:
    """One task of the plan."""

    needs: list[str]
    suggested: str | None
    priority: str
    status: str
    moved_at_ms: int


@dataclass(slots=True)
class World:
    """What the rows make of a hub, up to a position. leases, places: task and owner, by epoch and by place."""

    names: dict[int, str] = field(default_factory=dict)
    inboxes: dict[str, dict[int, Entry]] = field(default_factory=lambda: defaultdict(dict))
    tasks: dict[str, Task] = field(default_factory=dict)
    leases: dict[int, tuple[str, str]] = field(default_factory=dict)
    places: dict[int, tuple[str, str]] = field(default_factory=dict)

    def enter(self, row: Row) -> None:
        """One more row."""
        act = _ENTERS.get(row.type)
        if act is not None:
            act(self, row)
        else:
            assert row.type.partition(".")[0] in _SILENT, f"nobody does {row.type} here"

    def _created(self, row: Row) -> None:
        self.names[row.seq] = row.body["name"]

    def _arrived(self, row: Row) -> None:
        body = row.body
        is_to_all = row.type == "message.sent" and body.get("room") is not None
        for name, *_ in body["to"] if row.type == "message.sent" else body.get("mentions", ()):
            self.inboxes[name][row.seq] = Entry(row.seq, body.get("priority", "normal"), row.at_ms, is_to_all)

    def _left(self, row: Row) -> None:
        for message in row.body.get("messages", [row.body.get("message")]):
            self.inboxes[self.names[row.body["agent"]]].pop(message, None)

    def _declared(self, row: Row) -> None:
        body, known = row.body, self.tasks.get(row.body["task"])
        status, at_ms = ("open", row.at_ms) if known is None else (known.status, known.moved_at_ms)
        needs, priority = list(body.get("depends_on", ())), body.get("priority", "normal")
        self.tasks[body["task"]] = Task(needs, body.get("suggested_owner"), priority, status, at_ms)

    def _moved(self, row: Row) -> None:
        task = self.tasks[row.body["task"]]
        task.status, task.moved_at_ms = row.body["status"], row.at_ms

    def _granted(self, row: Row) -> None:
        self.places.pop(row.body.get("place", 0), None)
        self.leases.pop(row.body.get("replaces", 0), None)
        self.leases[row.seq] = (row.body["ask"]["task"], row.body["ask"]["owner"])

    def _queued(self, row: Row) -> None:
        self.places[row.seq] = (row.body["ask"]["task"], row.body["ask"]["owner"])

    def _unqueued(self, row: Row) -> None:
        del self.places[row.body["place"]]

    def _ended(self, row: Row) -> None:
        del self.leases[row.body["epoch"]]

    # What an agent should be told.

    def missing(self, task: Task) -> list[str]:
        """What a task waits for."""
        return [name for name in task.needs if name not in self.tasks or self.tasks[name].status != "done"]

    def is_stuck(self, task: Task) -> bool:
        return task.status == "blocked" or bool(self.missing(task))

    def is_ready(self, task: Task) -> bool:
        return task.status == "open" and not self.missing(task)

    def asked(self, agent: str) -> list[str]:
        found = [entry for entry in self.inboxes[agent].values() if not entry.is_to_all]
        return [f"m{entry.seq}" for entry in sorted(found, key=lambda it: (-RANK[it.priority], it.at_ms))]

    def blocked(self, agent: str) -> list[tuple[object, ...]]:
        """The claims that wait, each with the leases in its way, then the tasks, each with what it waits for."""
        claims: list[tuple[object, ...]] = []
        for _, (task, owner) in sorted(self.places.items()):
            if owner == agent:
                against = sorted(epoch for epoch, (other, _) in self.leases.items() if other == task)
                claims.append(("claim", task, *against))
        held = self._held(agent)
        stuck = [
            (name, task)
            for name, task in self.tasks.items()
            if self.is_stuck(task) and (name in held or (task.suggested == agent and task.status not in OVER))
        ]
        stuck.sort(key=lambda item: (-RANK[item[1].priority], item[0]))
        return claims + [("task", name, *sorted(self.missing(task))) for name, task in stuck]

    def mine(self, agent: str) -> list[object]:
        """The epochs of leases, in their order, then the tasks that are suggested."""
        held = self._held(agent)
        free = [
            (name, task)
            for name, task in self.tasks.items()
            if task.suggested == agent and task.status not in OVER and name not in held and not self.is_stuck(task)
        ]
        free.sort(key=lambda it: (not self.is_ready(it[1]), -RANK[it[1].priority], it[1].moved_at_ms, it[0]))
        epochs = sorted(epoch for epoch, (_, owner) in self.leases.items() if owner == agent)
        return [*epochs, *(name for name, _ in free)]

    def _held(self, agent: str) -> set[str]:
        return {task for task, owner in self.leases.values() if owner == agent}

    def counts(self) -> dict[str, Counter[str]]:
        """What is counted of all."""
        tasks = Counter("ready" if self.is_ready(task) else task.status for task in self.tasks.values())
        return {"tasks": tasks, "held": Counter(owner for _, owner in self.leases.values())}


_ENTERS: dict[str, Callable[[World, Row], None]] = {
    "agent.created": World._created,
    "message.sent": World._arrived,
    "message.posted": World._arrived,
    "messages.acked": World._left,
    "message.died": World._left,
    "task.declared": World._declared,
    "task.moved": World._moved,
    "lease.granted": World._granted,
    "lease.queued": World._queued,
    "lease.unqueued": World._unqueued,
    "lease.released": World._ended,
    "lease.expired": World._ended,
    "lease.revoked": World._ended,
    "message.lent": lambda world, row: None,
    "task.noted": lambda world, row: None,
    "lease.checkpointed": lambda world, row: None,
    "lease.renewed": lambda world, row: None,
}
_SILENT = ("journal", "hub", "room", "channel", "tasks", "value", "agent", "token")


def check_digests(told: Sequence[Told], rows: Sequence[Row]) -> list[Finding]:
    """Everything that is wrong with the digests; empty when the hub and the command kept their promises."""
    found: list[Finding] = []
    world, place, seqs = World(), 0, [row.seq for row in rows]
    for digest in sorted((it for it in told if it.code == 0), key=lambda it: it.seq):
        while place < len(rows) and rows[place].seq <= digest.seq:
            world.enter(rows[place])
            place += 1
        found += _lists_are_exact(digest, world)
        found += _counts_are_exact(digest, world, rows[bisect_right(seqs, digest.since_seq) : place])
        found += _text_is_within(digest)
    found += [finding for it in told if it.code == USAGE for finding in _refusal_is_lawful(it)]
    return [*found, *_chains_are_whole([it for it in told if it.code == 0], rows)]


def _name(digest: Told) -> str:
    return f"the digest of {digest.agent} at {digest.seq} since {digest.since_seq}"


def _lists_are_exact(digest: Told, world: World) -> Iterator[Finding]:
    needs = [(it["kind"], it["task"], *sorted(map(_need, _in_the_way(it)))) for it in digest.items("blocked")]
    own = [it["epoch"] if it["kind"] == "lease" else it["task"] for it in digest.items("mine")]
    leases = sum(1 for it in digest.items("mine") if it["kind"] == "lease")
    mine = world.mine(digest.agent)
    if set(own[:leases]) <= {it for it in mine if isinstance(it, int)}:  # their order is by what is left of them
        mine = own[:leases] + [it for it in mine if it not in own[:leases]]
    for name, shown, there in (
        ("asked", [it["id"] for it in digest.items("asked")], world.asked(digest.agent)),
        ("blocked", needs, world.blocked(digest.agent)),
        ("mine", own, mine),
    ):
        is_cut = digest.limit is None or len(shown) == digest.limit or len(str(digest.items(name))) > LIST_CHARS
        if shown != there[: len(shown)] or (len(shown) < len(there) and not is_cut):
            yield Finding("wrong list", f"{_name(digest)}: {name} {shown}; the journal has {there}")
        if digest.total(name) != len(there):
            yield Finding("wrong count", f"{_name(digest)}: {digest.total(name)} {name}, and there are {there}")
    for it in digest.items("asked"):
        if it.get("new", False) != (digest.since is not None and int(it["id"][1:]) > digest.since_seq):
            yield Finding("wrong count", f"{_name(digest)}: new is wrong of {it}")


def _in_the_way(item: Frame) -> list[Frame]:
    return [need for need in item["needs"] if need["status"] != "ahead"]


def _need(need: Frame) -> int | str:
    found: int | str = need["epoch"] if need["status"] == "held" else need["task"]
    return found


def _counts_are_exact(digest: Told, world: World, since: Sequence[Row]) -> Iterator[Finding]:
    """What is counted of all, and of the rows since the cursor."""
    is_whole = digest.budget is None  # a command may have left counts out
    lines = {line["of"]: line for line in digest.items("rest")}
    wanted: dict[str, Counter[str]] = world.counts() if digest.body["new"] or is_whole else {}
    news = [line for line in lines.values() if line.get("since")]
    if digest.since is not None:
        wanted |= _news(digest.agent, since)
        is_new = any(wanted[of] for of in ("inbox", "messages", "plan", "leases"))
        if (is_new or bool(news)) and not digest.body["new"]:
            yield Finding("wrong count", f"{_name(digest)} says that nothing is new; there is {wanted}")
        if is_whole and digest.body["new"] and not news:
            yield Finding("wrong count", f"{_name(digest)} says that something is new, and counts nothing")
    for of, counts in wanted.items():
        line = lines.get(of, {"counts": {}, "total": 0})
        is_left_out = of not in lines and not is_whole
        is_same = line["counts"] == dict(counts) and line["total"] == counts.total()
        if not is_same and not is_left_out and not (line.get("at_least") and len(since) >= ROWS_MAX):
            yield Finding("wrong count", f"{_name(digest)}: {of} {line}; the journal has {dict(counts)}")


def _news(agent: str, rows: Sequence[Row]) -> dict[str, Counter[str]]:
    """What others did that is for an agent, or in a channel of the room."""
    others = [row for row in rows if row.actor != agent]
    sent = sum(1 for row in others if row.type == "message.sent" and any(it[0] == agent for it in row.body["to"]))
    posted = [row for row in others if row.type == "message.posted"]
    named = sum(1 for row in posted if any(it[0] == agent for it in row.body.get("mentions", ())))
    channels = Counter(row.body["address"].partition(":")[2] for row in posted)
    inbox = +Counter(messages=sent, mentions=named)
    plan = Counter(_step(row) for row in others if _is_step(row, agent))
    leases = Counter(_step(row) for row in others if row.type.startswith("lease."))
    return {"inbox": inbox, "messages": channels, "plan": plan, "leases": leases}


def _is_step(row: Row, agent: str) -> bool:
    """Of the plan, and not what the hub did because this agent claimed or gave back."""
    body = row.body
    is_own = row.type == "task.moved" and body.get("owner") == agent and body.get("reason") in ("claimed", "released")
    return row.type.startswith(("task.", "tasks.")) and not is_own


def _step(row: Row) -> str:
    """In a word."""
    status: str = row.body["status"] if row.type == "task.moved" else row.type.partition(".")[2]
    return status


def _text_is_within(digest: Told) -> Iterator[Finding]:
    """The text of the command: under its budget, and with what it says it shows."""
    if digest.budget is None:
        return
    text, tokens = digest.body["text"], digest.body["tokens"]
    if tokens > digest.budget or math.ceil(len(text) / CHARS_PER_TOKEN) != tokens:
        yield Finding("over budget", f"{_name(digest)}: {tokens} of {digest.budget} for {len(text)} characters")
    left = {name: digest.total(name) - len(digest.items(name)) for name in ("asked", "blocked", "mine", "rest")}
    if digest.body["new"] and any(left.values()) and tokens + LINE_TOKENS < digest.budget:
        yield Finding("wasted", f"{_name(digest)}: {tokens} of {digest.budget}, and {left} is left out")
    keys = (("asked", "id"), ("blocked", "task"), ("mine", "task"))
    place = 0
    for word in [it[key] for name, key in keys for it in digest.items(name)] + [digest.body["cursor"]]:
        place = text.find(word, place)
        if place < 0:
            yield Finding("not in the text", f"{_name(digest)}: {word} in {text!r}")
            return


def _refusal_is_lawful(refused: Told) -> Iterator[Finding]:
    """Only a budget below what the refusal says is enough is refused."""
    said = refused.body.get("error", {}).get("detail", "")
    least = said.rpartition("it takes ")[2]
    if not least.isdecimal() or refused.budget is None or int(least) <= refused.budget:
        yield Finding("over budget", f"{refused.agent} was refused {refused.budget} tokens: {refused.body}")


def _chains_are_whole(told: Sequence[Told], rows: Sequence[Row]) -> Iterator[Finding]:
    of_agent: dict[str, list[Told]] = defaultdict(list)
    for digest in sorted(told, key=lambda it: it.told_ns):
        of_agent[digest.agent].append(digest)
    for agent, chain in of_agent.items():
        yield from _goes_on(chain)
        covered = chain[0].seq
        for digest in sorted((it for it in chain if it.since is not None), key=lambda it: it.since_seq):
            if digest.since_seq > covered:
                yield Finding("not covered", f"{agent}: nothing counts what came from {covered} to {digest.since_seq}")
            covered = max(covered, digest.seq)
        arrived = [row.seq for row in rows if _is_for(agent, row)]
        if arrived and arrived[-1] > covered:
            yield Finding("not covered", f"{agent}: {arrived[-1]} came after its last digest, at {covered}")


def _is_for(agent: str, row: Row) -> bool:
    return any(it[0] == agent for key in ("to", "mentions") for it in row.body.get(key, ()) if isinstance(it, list))


def _goes_on(chain: Sequence[Told]) -> Iterator[Finding]:
    """Each cursor was told before it was used, and none goes back."""
    for digest in chain:
        cursor = int(digest.body["cursor"].partition(":")[2])
        if cursor != digest.seq or cursor < digest.since_seq:
            yield Finding("cursor", f"{_name(digest)} tells {cursor}")
        known = {it.body["cursor"] for it in chain if it.told_ns <= digest.asked_ns}
        if digest.since is not None and digest.since not in known:
            yield Finding("cursor", f"{_name(digest)}: it was not told {digest.since} before")
    for first, second in pairwise(sorted(chain, key=lambda it: it.asked_ns)):
        if first.told_ns <= second.asked_ns and second.seq < first.seq:
            yield Finding("cursor", f"{_name(second)} is behind {_name(first)}, which was told before it was asked")


def shown_once(told: Sequence[Told]) -> int:
    """How many messages were told in digests."""
    return len({(it.agent, item["id"]) for it in told if it.code == 0 for item in it.items("asked")})
