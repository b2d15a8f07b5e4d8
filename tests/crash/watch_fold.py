"""What a room was at each position of an exported journal: tasks, leases, and what a supervisor wrote down and said."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.crash.history import Frame
from tests.crash.rows import Row

SUPERVISOR = "supervisor"
PREFIX = "supervisor/"
ENDS = ("lease.released", "lease.expired", "lease.revoked")


@dataclass(slots=True)
class Lease:
    """One lease. signs: the rows that show progress, its grant first. renewed: those of other terms, from which the hub
    counts anew, and which are no work. ended: the row that ended it."""

    task: str
    owner: str
    signs: list[Row]
    renewed: list[Row] = field(default_factory=list)
    ended: Row | None = None

    @property
    def epoch(self) -> int:
        return self.signs[0].seq

    def is_live(self, seq: int) -> bool:
        return self.epoch <= seq and (self.ended is None or self.ended.seq > seq)


@dataclass(slots=True)
class Task:
    """One task. at: the seqs of its moves, its declaration first; statuses: what it was from then on."""

    declared: Row
    at: list[int]
    moves: list[Row]
    statuses: list[str]
    leases: list[Lease] = field(default_factory=list)

    @property
    def needs(self) -> list[str]:
        return list(self.declared.body.get("depends_on", ()))

    def upto(self, seq: int) -> tuple[str, Row] | None:
        """Its status after the row at `seq`, and the row that made it so."""
        index = bisect_right(self.at, seq)
        return (self.statuses[index - 1], self.moves[index - 1]) if index else None

    def holders(self, seq: int) -> list[Lease]:
        return [lease for lease in self.leases if lease.is_live(seq)]


@dataclass(slots=True, frozen=True)
class Record:
    """A supervisor wrote down what it is about to say, or has said. value: the record itself."""

    row: Row
    key: str
    value: Frame

    @property
    def cause(self) -> tuple[str, str, int]:
        return self.value["cause"], self.value["task"], self.value["mark"]

    @property
    def stage(self) -> tuple[str, str, int, int, str, int]:
        """One thing to say: another stage of a cause, another stall of a lease, or another try."""
        return (*self.cause, self.value["since_at_ms"], self.value["stage"], self.value["tries"])


@dataclass(slots=True, frozen=True)
class Said:
    """A message of a supervisor. to: the agent, or '' for the room."""

    row: Row
    to: str
    body: Frame

    @property
    def cause(self) -> tuple[str, str, int]:
        return self.body["type"].removeprefix("task."), self.body["task"], int(self.body["cause"].partition(":")[2])


class Watched:
    """The fold. starts: of hubs. kept: the last record under each key."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.seqs = [row.seq for row in rows]
        self.tasks: dict[str, Task] = {}
        self.leases: dict[int, Lease] = {}
        self.starts: list[Row] = []
        self.records: list[Record] = []
        self.kept: dict[str, Record] = {}
        self.said: list[Said] = []
        self.put_back: list[tuple[Row, Row]] = []
        """Moves by the supervisor, each with the move that it undid."""
        self.acked: set[tuple[int, int]] = set()
        self.dead: set[tuple[int, int]] = set()
        self.people: set[str] = set()
        self._names: dict[int, str] = {}
        self._humans: set[int] = set()
        self._of_task: dict[str, list[Lease]] = defaultdict(list)
        for row in rows:
            self._enter(row)

    def _enter(self, row: Row) -> None:
        kind, _, _ = row.type.partition(".")
        match kind:
            case "task":
                self._task(row)
            case "lease":
                self._lease(row)
            case "value":
                self._value(row)
            case "message" | "messages":
                self._message(row)
            case "agent" | "room":
                self._agent(row)
            case "hub" if row.type == "hub.started":
                self.starts.append(row)
            case _:
                pass

    def _task(self, row: Row) -> None:
        name = row.body["task"]
        if row.type == "task.declared" and name not in self.tasks:
            self.tasks[name] = Task(row, [row.seq], [row], ["open"], self._of_task[name])
        elif row.type == "task.moved":
            task = self.tasks[name]
            if row.actor == SUPERVISOR:
                self.put_back.append((row, task.moves[-1]))
            task.at.append(row.seq)
            task.moves.append(row)
            task.statuses.append(row.body["status"])
        if row.type in ("task.moved", "task.noted") and row.body.get("epoch") in self.leases:
            self.leases[row.body["epoch"]].signs.append(row)

    def _lease(self, row: Row) -> None:
        body = row.body
        if row.type == "lease.granted":
            lease = self.leases[row.seq] = Lease(body["ask"]["task"], body["ask"]["owner"], [row])
            self._of_task[lease.task].append(lease)
            if body.get("replaces") is not None:
                self.leases[body["replaces"]].ended = row
        elif row.type in ENDS:
            lease = self.leases[body["epoch"]]
            lease.ended = lease.ended or row
        elif row.type == "lease.checkpointed":
            self.leases[body["epoch"]].signs.append(row)
        elif row.type == "lease.renewed":
            self.leases[body["epoch"]].renewed.append(row)
        else:
            assert row.type in ("lease.queued", "lease.unqueued"), f"nobody does {row.type} here"

    def _value(self, row: Row) -> None:
        key = row.body["key"]
        if not key.startswith(PREFIX):
            return
        if row.type == "value.put":
            self.kept[key] = Record(row, key, row.body["value"])
            self.records.append(self.kept[key])
        else:
            self.kept.pop(key, None)

    def _message(self, row: Row) -> None:
        body = row.body
        if row.type == "messages.acked":
            self.acked.update((body["agent"], message) for message in body["messages"])
        elif row.type == "message.died":
            self.dead.add((body["agent"], body["message"]))
        elif row.actor == SUPERVISOR and row.type == "message.posted":
            self.said.append(Said(row, "", body["body"]))
        elif row.actor == SUPERVISOR and row.type == "message.sent":
            self.said += [Said(row, name, body["body"]) for name, *_ in body["to"]]

    def _agent(self, row: Row) -> None:
        if row.type == "agent.created":
            self._names[row.seq] = row.body["name"]
            if row.body["card"].get("kind") == "human":
                self._humans.add(row.seq)
        elif row.type == "room.joined" and row.body["agent"] in self._humans:
            self.people.add(self._names[row.body["agent"]])

    # Between two positions.

    def is_orphan(self, name: str, mark: int, seq: int) -> bool:
        """In progress since then, and nobody has a lease on it."""
        return self._is(name, "in_progress", mark, seq) and not self.tasks[name].holders(seq)

    def is_unblocked(self, name: str, mark: int, seq: int) -> bool:
        """Blocked since then, though all it depends on is done."""
        if not self._is(name, "blocked", mark, seq):
            return False
        needs = [self.tasks[other].upto(seq) for other in self.tasks[name].needs]
        return bool(needs) and all(it is not None and it[0] == "done" for it in needs)

    def _is(self, name: str, status: str, mark: int, seq: int) -> bool:
        found = self.tasks[name].upto(seq) if name in self.tasks else None
        return found is not None and (found[0], found[1].at_ms) == (status, mark)

    def may_stall(self, lease: Lease, seq: int) -> bool:
        """Live, and on a task in progress or in no plan."""
        task = self.tasks.get(lease.task)
        status = None if task is None else task.upto(seq)
        return lease.is_live(seq) and (status is None or status[0] == "in_progress")

    def moments(self, at_ms: int, upto: int) -> list[int]:
        """The positions from a time of the hub's clock up to a seq, that excluded."""
        last = bisect_right(self.seqs, upto - 1)
        first = last
        while first > 0 and self.rows[first - 1].at_ms >= at_ms:
            first -= 1
        return self.seqs[max(0, first - 1) : last]

    def run_of(self, seq: int) -> int:
        """Which process of the hub wrote this row."""
        return bisect_right([start.seq for start in self.starts], seq)
