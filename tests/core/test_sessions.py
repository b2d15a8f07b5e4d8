"""Work sessions: what a run leaves behind is kept, belongs to its agent, and no update is lost."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from synapse.core import kernel
from synapse.core.answers import answer, look
from synapse.core.by import By, Rules
from synapse.core.events import Recorded
from synapse.core.holding import decide_expiry
from synapse.core.kernel import shown_to
from synapse.core.mail import numbered
from synapse.core.resuming import resumptions
from synapse.core.retention import pinned
from synapse.core.session_changes import hear_of
from synapse.core.state import State, decode_state, digest, encode_state, new_state
from synapse.errors import Rejected
from synapse.protocol.commands import ClaimLease, CreateRoom, DeleteRoom, ForgetAgent, Hello, ReleaseLease
from synapse.protocol.limits import Limits
from synapse.protocol.session_commands import (
    BeatSession,
    EndSession,
    Lines,
    ListSessions,
    SaveSessionPoint,
    ShowSession,
    StartSession,
    UpdateSession,
)

LIMITS = Limits(
    sessions_per_agent_max=3,
    sessions_ended_max=2,
    session_items_max=4,
    session_item_chars_max=32,
    session_bytes_max=1_024,
    sessions_bytes_max=16 * 1024,
    checkpoint_bytes_max=64,
)
NAMES = ("ada", "bob")
SILENT = (Hello, CreateRoom, DeleteRoom)


class World:
    """A state with agents and rooms, and what was journalled."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.rules = Rules(limits)
        self.state: State = new_state()
        self.log: list[Recorded] = []
        self.at_ms = 1_000
        self.lease_ms = 1_000
        for room in ("main", "side"):
            self.do("operator", CreateRoom(room=room))
        for name in NAMES:
            self.do(name, Hello(name=name, secret=name * 32))

    def by(self, name: str, rooms: frozenset[str] | None = None) -> By:
        agent = self.state.agents.by_name.get(name)
        known = None if agent is None else agent.id
        who = By(name, known, 1, "main:general", self.at_ms, self.lease_ms, operator=name == "operator")
        who.rooms = rooms
        return who

    def do(self, name: str, command: Any) -> Any:
        """Decide and apply; the answer, of commands that have one here. Checks that deciding changes nothing."""
        by, before = self.by(name), digest(self.state)
        try:
            events = kernel.decide(self.state, self.rules, command, by)
        finally:
            assert digest(self.state) == before, "a decision changes nothing"
        recorded = [self.record(event, name) for event in events]
        self.follow(recorded)
        if isinstance(command, SILENT):
            return None
        said = answer(self.state, command, by, recorded, self.state.seq)
        assert answer(self.state, command, by, recorded, self.state.seq) == said, "a repeat is told the same"
        return said

    def follow(self, recorded: list[Recorded]) -> list[Recorded]:
        """What the hub adds in the same transaction."""
        return [self.record(event, "hub") for event in numbered(self.state, resumptions(self.state, recorded))]

    def expire(self, task: str, room: str = "main") -> list[Recorded]:
        """The leases on a task are not renewed in time; what followed."""
        key = (self.state.rooms.by_name[room].id, task)
        events = [
            event
            for lease in list(self.state.leases.of_task[key].values())
            for event in decide_expiry(self.state, lease, "ttl")
        ]
        return self.follow([self.record(event, "hub") for event in events])

    def mail_of(self, name: str) -> list[Any]:
        """The letters in an inbox, oldest first: their bodies."""
        agent = self.state.agents.by_name[name].id
        entries = self.state.agents.inboxes[agent].entries
        letters = [shown_to("j", recorded, agent) for recorded in self.log if recorded.seq in entries]
        return [msgspec.json.decode(letter.body) for letter in letters if letter is not None]

    def record(self, event: Any, name: str) -> Recorded:
        recorded = kernel.record(self.state, event, name, self.at_ms)
        self.log.append(recorded)
        return recorded

    def show(self, name: str = "ada", **query: Any) -> Any:
        return look(self.state, self.rules, ShowSession(**query), self.by(name))

    def listed(self, **query: Any) -> list[str]:
        page: Any = look(self.state, self.rules, ListSessions(**query), self.by("bob"))
        return [one.session for one in page.sessions]

    def replayed(self) -> State:
        """The state that the events alone give."""
        state = new_state()
        for recorded in self.log:
            kernel.apply(state, recorded)
        return state


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


@pytest.fixture
def world() -> World:
    return World()


def refused(world: World, name: str, command: Any) -> Rejected:
    with pytest.raises(Rejected) as caught:
        world.do(name, command)
    return caught.value


def test_a_run_is_recorded_appended_to_and_replaced_in(world: World) -> None:
    started = world.do("ada", StartSession(task="T1", repo="r", summary="s", metadata=raw({"a": 1})))
    lines = Lines(decisions=("d1",), files=("a", "b", "a"), todos=("t1", "t2"))
    appended = world.do("ada", UpdateSession(append=lines))
    assert (appended.session, appended.decisions, appended.files, appended.todos) == (started.session, 1, 2, 2)
    world.do("ada", UpdateSession(append=Lines(decisions=("d2",), files=("b", "c")), todos=("t2",), state=WAITING))
    found = world.show(session=started.session)
    assert (found.decisions, found.files, found.todos) == (("d1", "d2"), ("a", "b", "c"), ("t2",))
    assert (found.state, found.task, found.repo, found.display_name) == (WAITING, "T1", "r", "ada")
    assert msgspec.json.decode(found.metadata) == {"a": 1}
    world.do("ada", UpdateSession(repo="", task="", display_name="x"))
    found = world.show()
    assert (found.repo, found.task, found.display_name, found.summary) == (None, None, "x", "s")


WAITING = "waiting_for_input"


def test_the_version_is_that_of_the_last_change_and_only_it_is_replaced(world: World) -> None:
    first = world.do("ada", StartSession())
    second = world.do("ada", UpdateSession(summary="s", if_version=first.version))
    assert second.version > first.version
    stale = refused(world, "ada", UpdateSession(todos=(), if_version=first.version))
    assert (stale.code, stale.facts["version"]) == ("version_conflict", second.version)
    same = world.do("ada", UpdateSession(summary="s", files=(), append=Lines()))
    assert (same.changed, same.version) == (False, second.version)
    world.do("ada", SaveSessionPoint(data=raw(1)))
    assert world.show().version == second.version, "a checkpoint is appended, and changes no field"


def test_only_its_agent_and_an_operator_change_it_until_it_has_ended(world: World) -> None:
    session = world.do("ada", StartSession()).session
    for command in (
        UpdateSession(session=session, summary="s"),
        BeatSession(session=session),
        SaveSessionPoint(session=session, data=raw(1)),
        EndSession(session=session),
    ):
        assert refused(world, "bob", command).code == "not_permitted"
    assert refused(world, "bob", BeatSession()).code == "not_found"
    assert world.do("operator", EndSession(session=session, state="error", reason="stuck")).state == "error"
    ended = refused(world, "ada", UpdateSession(session=session, summary="s"))
    assert (ended.code, ended.facts["state"], ended.facts["by"]) == ("illegal_transition", "error", "operator")
    assert world.show("bob", agent="ada").reason == "stuck"
    assert refused(world, "ada", EndSession(session=session)).code == "illegal_transition"


def test_the_latest_open_one_is_meant_and_the_latest_started_is_shown(world: World) -> None:
    first, second = (world.do("ada", StartSession()).session for _ in range(2))
    assert world.do("ada", UpdateSession(summary="s")).session == second
    world.do("ada", EndSession())
    assert world.do("ada", UpdateSession(summary="s")).session == first
    assert world.show(agent="ada").session == second
    assert world.listed(agent="ada") == [second, first]
    assert world.listed(state="done") == [second]
    assert world.listed(state="offline", room="side") == []


def test_checkpoints_are_numbered_and_the_last_one_is_at_hand_and_never_dropped(world: World) -> None:
    session = world.do("ada", StartSession(task="T1")).session
    for n in (1, 2):
        point = world.do("ada", SaveSessionPoint(data=raw({"n": n})))
        assert (point.n, point.task, point.session) == (n, "T1", session)
    last = world.show().last
    assert (msgspec.json.decode(last.data), last.checkpoint) == ({"n": 2}, point.checkpoint)
    assert last.checkpoint in set(pinned(world.state))
    assert refused(world, "ada", SaveSessionPoint(data=raw("x" * 64))).code == "too_large"
    assert refused(world, "ada", SaveSessionPoint()).code == "bad_request"


def test_an_epoch_of_a_checkpoint_is_checked(world: World) -> None:
    world.do("ada", StartSession(task="T1"))
    epoch = world.do("ada", ClaimLease(task="T1")).epoch
    assert world.do("ada", SaveSessionPoint(data=raw(1), epoch=epoch)).epoch == epoch
    world.do("ada", ReleaseLease(task="T1"))
    assert refused(world, "ada", SaveSessionPoint(data=raw(1), epoch=epoch)).code == "stale_epoch"
    world.do("ada", UpdateSession(task=""))
    assert refused(world, "ada", SaveSessionPoint(data=raw(1), epoch=epoch)).code == "bad_request"


def test_presence_is_worked_out_from_connections_polls_and_beats(world: World) -> None:
    session = world.do("ada", StartSession()).session
    ada = world.by("ada").agent
    assert ada is not None
    presence = world.state.soft.presence
    assert world.show().presence == "offline", "nothing of it is journalled"
    hear_of(world.state, BeatSession(), world.by("ada"))
    world.lease_ms += 89_999
    assert world.show().presence == "online"
    world.lease_ms += 1
    assert world.show().presence == "offline"
    assert world.listed(state="offline") == [session]
    presence.connect(ada, 7, world.at_ms, world.lease_ms, lasting=False)
    assert world.show().presence == "offline", "a one-shot call is no presence"
    presence.poll(ada, 7, 0)
    assert world.show().presence == "online", "who waits in a long poll is there"
    presence.unpoll(ada, 7)
    assert world.show().presence == "offline"
    presence.poll(ada, 7, 0)
    presence.disconnect(ada, 7, world.at_ms, world.lease_ms)
    assert world.show().presence == "offline"
    presence.connect(ada, 8, world.at_ms, world.lease_ms, lasting=True)
    assert world.show().presence == "online"
    world.do("ada", EndSession())
    assert world.show().presence == "offline", "a run that is over is not there"


def test_what_ended_longest_ago_leaves_the_state_and_open_ones_stay(world: World) -> None:
    open_one = world.do("ada", StartSession()).session
    ids = []
    for _ in range(4):
        ids.append(world.do("ada", StartSession()).session)
        world.do("ada", EndSession())
    assert world.listed(agent="ada") == [ids[3], ids[2], open_one]
    assert refused(world, "ada", EndSession(session=ids[0])).code == "not_found"
    assert digest(world.replayed()) == digest(world.state)


def test_limits_are_told(world: World) -> None:
    for _ in range(3):
        world.do("ada", StartSession())
    assert refused(world, "ada", StartSession()).facts["limit"] == "sessions_per_agent_max"
    five = tuple(str(n) for n in range(5))
    assert refused(world, "ada", UpdateSession(todos=five)).facts["limit"] == "session_items_max"
    big = refused(world, "ada", UpdateSession(metadata=raw({"x": "y" * 600})))
    assert (big.code, big.facts["session_bytes_max"]) == ("too_large", 1_024)
    world.rules = Rules(msgspec.structs.replace(LIMITS, sessions_bytes_max=2_048))
    assert refused(world, "bob", StartSession(summary="x" * 64)).facts["limit"] == "sessions_bytes_max"


def test_a_room_that_who_asks_may_not_see_has_no_sessions(world: World) -> None:
    session = world.do("ada", StartSession(room="side")).session
    hidden = world.by("bob", rooms=frozenset({"main"}))
    for query in (ShowSession(session=session), ShowSession(agent="ada")):
        with pytest.raises(Rejected) as caught:
            look(world.state, world.rules, query, hidden)
        assert caught.value.code == "not_found"
    page: Any = look(world.state, world.rules, ListSessions(), hidden)
    assert page.sessions == ()


def test_a_forgotten_agents_sessions_end_and_a_room_with_open_ones_stays(world: World) -> None:
    session = world.do("ada", StartSession(room="side")).session
    assert refused(world, "operator", DeleteRoom(room="side")).facts["sessions"] == 1
    world.do("operator", ForgetAgent(name="ada"))
    found = world.show("bob", session=session)
    assert (found.state, found.reason, found.presence) == ("error", "its agent was forgotten", "offline")
    world.do("operator", DeleteRoom(room="side"))
    assert world.listed() == []
    assert digest(world.replayed()) == digest(world.state)


def test_a_snapshot_knows_all_of_it(world: World) -> None:
    for name in NAMES:
        for _ in range(2):
            world.do(name, StartSession(task="T1", metadata=raw({"a": 1})))
    world.do("ada", SaveSessionPoint(data=raw({"a": [1]})))
    world.do("bob", EndSession())
    world.do("ada", EndSession(session=world.listed(agent="ada")[1]))
    started = decode_state(encode_state(world.state))
    assert digest(started) == digest(world.state)
    sessions, again = world.state.sessions, started.sessions
    assert (list(again.ended), again.bytes) == (list(sessions.ended), sessions.bytes)
    assert (again.of_agent, again.of_task) == (sessions.of_agent, sessions.of_task)


# No update is lost: several who read and replace, each with the version that it saw.


@dataclass
class Modelled:
    """What a session must hold. version: None until it is known."""

    todos: list[str] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    version: int = 0


class Writers(RuleBasedStateMachine):
    """Two processes of one agent append, and replace what they read, with and without the version; against a model."""

    @initialize()
    def begin(self) -> None:
        limits = msgspec.structs.replace(LIMITS, session_items_max=200, session_bytes_max=64 * 1024)
        self.world = World(msgspec.structs.replace(limits, sessions_bytes_max=1 << 20))
        self.model = Modelled(version=self.world.do("ada", StartSession()).version)
        self.seen: dict[int, tuple[int, list[str]]] = {}
        self.count = 0

    def line(self) -> str:
        self.count += 1
        return f"line {self.count}"

    @rule(who=st.integers(0, 1))
    def read(self, who: int) -> None:
        found = self.world.show()
        self.seen[who] = (found.version, list(found.todos))

    @rule(most=st.integers(1, 3))
    def append(self, most: int) -> None:
        lines = [self.line() for _ in range(most)]
        self.model.todos += lines
        self.model.decisions += lines[:1]
        append = Lines(todos=tuple(lines), decisions=tuple(lines[:1]))
        self.model.version = self.world.do("ada", UpdateSession(append=append)).version

    @rule(who=st.integers(0, 1), drop=st.booleans())
    def read_modify_write(self, who: int, drop: bool) -> None:
        if who not in self.seen:
            return
        version, todos = self.seen[who]
        todos = (todos[1:] if drop else todos) + [self.line()]
        command = UpdateSession(todos=tuple(todos), if_version=version)
        if version == self.model.version:
            self.model.version = self.world.do("ada", command).version
            self.model.todos = todos
        else:
            assert refused(self.world, "ada", command).facts["version"] == self.model.version

    @rule()
    def checkpoint(self) -> None:
        self.world.do("ada", SaveSessionPoint(data=raw(self.count)))

    @rule()
    def restart(self) -> None:
        self.world.state = decode_state(encode_state(self.world.replayed()))

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        if not hasattr(self, "world"):
            return
        found = self.world.show()
        assert list(found.todos) == self.model.todos
        assert list(found.decisions) == self.model.decisions
        assert found.version == self.model.version
        sessions = self.world.state.sessions
        assert sessions.bytes == sum(session.size for session in sessions.by_id.values())


Writers.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestNoUpdateIsLost = Writers.TestCase
