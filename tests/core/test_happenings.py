"""The one table of what is told of each event."""

import msgspec
import pytest
from tests.core.conftest import World, text

from synapse.core.by import By
from synapse.core.events import MessageDied, MessagesAcked, MessagesLent, Recorded
from synapse.core.happenings import KINDS, LINES, MEMORY, REMEMBERED, Place, kinds_named, line_of
from synapse.core.rooms import may_see
from synapse.errors import Rejected
from synapse.protocol.commands import AckInbox, ClaimLease, HandOffLease, JoinRoom, SaveCheckpoint, SetPool, TakeInbox
from synapse.protocol.plan_commands import DeclareTask, NoteProgress
from synapse.protocol.resource_commands import OfferResource
from synapse.protocol.terms import PROGRESS_KINDS
from synapse.protocol.value_commands import DeleteValue, PutValue


class OwnEyes:
    """What the state alone knows."""

    def __init__(self, world: World, by: By) -> None:
        self.by = by
        self.journal_id = world.state.journal_id
        self._state = world.state

    def sees(self, room: int) -> bool:
        return may_see(self._state.rooms.by_id[room], self.by)

    def reads(self, channel: int, seq: int) -> bool:
        return True

    def knows(self, agent: int) -> bool:
        return True

    def knows_actor(self, name: str) -> bool:
        return True

    def agent(self, agent: int) -> str:
        return self._state.agents.by_id[agent].name

    def room(self, room: int) -> str:
        return self._state.rooms.by_id[room].name

    def channel(self, channel: int) -> Place:
        found = self._state.rooms.channels[channel]
        return Place(found.room, found.name)


def lines(world: World, name: str, *kinds: str, room: int | None = None) -> list[dict[str, object]]:
    """What an agent is told of all that happened."""
    eyes, wanted = OwnEyes(world, world.by(name)), kinds_named(kinds)
    found = [line_of(item, eyes, wanted, room) for item in world.read(0, 1 << 60)]
    return [msgspec.json.decode(line, type=dict[str, object]) for line in found if line is not None]


def test_what_goes_on_in_inboxes_is_never_shown() -> None:
    assert {kind for kind, line in LINES.items() if line is None} >= {MessagesLent, MessagesAcked, MessageDied}
    owners = [kind for line in LINES.values() if line is not None for kind in line.kinds]
    assert len(owners) == len(set(owners)), "no kind is of two events"


def test_what_is_remembered() -> None:
    world = World()
    world.join("ada", "bob")
    world.do(DeclareTask(task="T"), "ada")
    world.do(ClaimLease(task="T"), "ada")
    for kind in PROGRESS_KINDS:
        world.do(NoteProgress(task="T", text=f"a {kind}", kind=kind), "ada")
    world.do(SaveCheckpoint(task="T", data=msgspec.Raw(b'{"step":3}')), "ada")
    world.do(PutValue(key="k", value=msgspec.Raw(b"1")), "ada")
    world.do(text("finding: not a ledger line"), "ada")
    kinds = {str(line["kind"]) for line in lines(world, "bob", MEMORY)}
    assert kinds == {
        "progress.finding",
        "progress.decision",
        "progress.checkpoint",
        "progress.handoff",
        "lease.checkpointed",
    }
    assert {"lease.handed_off", *kinds} <= set(REMEMBERED)
    (checkpoint,) = lines(world, "bob", "lease.checkpointed")
    assert (checkpoint["data"], checkpoint["task"], checkpoint["by"]) == ({"step": 3}, "T", "ada")
    assert lines(world, "bob", MEMORY, "value") == [
        line for line in lines(world, "bob") if line["kind"] in kinds or str(line["kind"]).startswith("value.")
    ]


def test_an_inbox_is_its_owners_business() -> None:
    world = World()
    world.join("ada", "bob", "eve")
    world.do(text("CANARY", to=("bob",)), "ada")
    lent = world.decide(TakeInbox(), world.by("bob"))
    world.record(lent, "bob")
    world.do(AckInbox(all=True), "bob")
    seen = {name: msgspec.json.encode(lines(world, name)).decode() for name in ("ada", "bob", "eve", "operator")}
    assert [name for name, text_seen in seen.items() if "CANARY" in text_seen] == ["ada", "bob"]
    (mine,) = lines(world, "bob", "message.sent")
    assert (mine["channel"], mine["n"], mine["by"]) == ("@bob", 1, "ada")
    (ours,) = lines(world, "ada", "message.sent")
    assert ours == {key: value for key, value in mine.items() if key not in ("channel", "n")}
    assert all("acked" not in text_seen and "lent" not in text_seen for text_seen in seen.values())


def test_a_room_shows_what_is_of_it() -> None:
    world = World()
    world.join("ada")
    world.do(JoinRoom(room="lab"), "ada")
    world.do(PutValue(key="k", value=msgspec.Raw(b'"v"'), room="lab"), "ada")
    world.do(DeleteValue(key="k", room="lab"), "ada")
    world.do(DeclareTask(task="T", room="main"), "ada")
    lab = world.state.rooms.by_name["lab"].id
    assert [line["kind"] for line in lines(world, "ada", room=lab)] == [
        "room.created",
        "channel.created",
        "room.joined",
        "value.put",
        "value.deleted",
    ]
    assert all(line["room"] == "lab" for line in lines(world, "ada", room=lab))
    put, deleted = lines(world, "ada", "value")
    assert put["value"] == "v"
    assert "value" not in deleted
    by = world.by("ada")
    by.rooms = frozenset({"main"})
    eyes = OwnEyes(world, by)
    shown = [line_of(item, eyes, kinds_named(()), None) for item in world.read(0, 1 << 60)]
    assert not any(b'"lab"' in bytes(line) for line in shown if line is not None)


def test_no_secret_and_no_id_leaves() -> None:
    world = World()
    world.join("ada", "bob")
    world.do(SetPool(pool="gpu", capacity=2), "operator")
    world.do(OfferResource(resource="box", kind="host", capacity=1), "ada")
    world.do(ClaimLease(task="T"), "ada", key="once")
    world.do(HandOffLease(task="T", to="bob"), "ada")
    for line in lines(world, "operator"):
        assert {"secret_hash", "idem", "agent_id", "owner_id"}.isdisjoint(line), line
        assert {"cursor", "at_ms", "by", "kind"} <= line.keys()
        assert isinstance(line.get("room", ""), str)
        assert isinstance(line.get("agent", ""), str)
    (offered,) = lines(world, "ada", "resource")
    assert (offered["name"], offered["resource_kind"], offered["owner"]) == ("box", "host", "ada")


@pytest.mark.bad_input("BI-104")
@pytest.mark.parametrize("word", ["gossip", "lease.", "lease.grant", "", "leases", "memory.finding"])
def test_an_unknown_kind_is_refused_with_the_known_ones(word: str) -> None:
    with pytest.raises(Rejected) as refused:
        kinds_named(["lease", word])
    assert refused.value.code == "bad_request"
    assert refused.value.facts["allowed"] == [MEMORY, *KINDS]


def test_a_word_stands_for_all_that_begin_with_it() -> None:
    assert kinds_named(["lease.granted", "task"]) == {"lease.granted"} | {k for k in KINDS if k.startswith("task.")}
    assert kinds_named([]) == set(KINDS)
    assert kinds_named([MEMORY]) == set(REMEMBERED)


def test_a_recorded_event_of_no_line_is_nothing() -> None:
    world = World()
    world.join("ada")
    item = Recorded(world.state.seq + 1, 0, "ada", MessagesAcked(agent=world.agent("ada"), messages=(1,)))
    assert line_of(item, OwnEyes(world, world.by("ada")), kinds_named(()), None) is None
