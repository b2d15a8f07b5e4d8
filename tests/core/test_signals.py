"""What a signal may be, and which channels are ephemeral."""

import msgspec
import pytest
from tests.core.conftest import World

from synapse.core.events import ChannelCreated, ChannelJoined, RoomCreated
from synapse.core.rooms import decide_bootstrap
from synapse.core.signals import TYPING_EVERY_MS, TYPISTS_MAX, Signalling
from synapse.core.state import decode_state, encode_state
from synapse.protocol.commands import CreateChannel, JoinChannel, SendMessage, ShowChannel
from synapse.protocol.limits import Limits
from synapse.protocol.replies import ChannelInfo


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _world(*, schema: str | None = None, limits: Limits | None = None) -> World:
    world = World(limits)
    world.join("ada")
    world.do(CreateChannel(channel="main:live", ephemeral=True, schema=schema), "ada")
    return world


def _send(body: object, **fields: object) -> SendMessage:
    return msgspec.structs.replace(SendMessage(body=_raw(body), channel="main:live"), **fields)


def test_a_signal_becomes_no_event() -> None:
    world = _world()
    head = world.state.seq
    assert world.decide(_send("half done"), world.by("ada")) == []
    assert world.state.seq == head


def test_a_channel_is_ephemeral_for_ever() -> None:
    world = _world(schema="telemetry")
    channel = decode_state(encode_state(world.state)).rooms.by_address["main:live"]
    assert (channel.ephemeral, channel.schema) == (True, "telemetry")
    info = world.look(ChannelInfo, ShowChannel(channel="main:live"))
    assert (info.ephemeral, info.schema, info.messages) == (True, "telemetry", 0)
    assert world.refusal(CreateChannel(channel="main:live"), "ada").code == "already_exists"


def test_an_ordinary_channel_says_nothing_of_signals() -> None:
    info = World().look(ChannelInfo, ShowChannel(channel="main:general"))
    assert (info.ephemeral, info.schema, info.signals) == (False, None, msgspec.UNSET)


@pytest.mark.bad_input("BI-99")
@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"reply_to": "m1001"}, "$.body.reply_to"),
        ({"thread": "t"}, "$.body.thread"),
        ({"priority": "urgent"}, "$.body.priority"),
    ],
)
def test_what_would_need_to_be_kept_is_refused(fields: dict[str, object], path: str) -> None:
    world = _world()
    refusal = world.refusal(_send("x", **fields), "ada")
    assert (refusal.code, refusal.facts["path"], refusal.facts["ephemeral"]) == ("bad_request", path, True)
    assert "main:live is ephemeral" in refusal.detail


@pytest.mark.bad_input("BI-99")
def test_a_date_of_expiry_is_refused() -> None:
    world = _world()
    refusal = world.refusal(_send("x", expires_at_ms=world.at_ms + 60_000), "ada")
    assert refusal.code in ("bad_request", "unsupported")


@pytest.mark.bad_input("BI-100")
def test_a_signal_has_a_bound() -> None:
    world = _world(limits=Limits(ephemeral_bytes_max=10))
    assert world.decide(_send("12345678"), world.by("ada")) == []
    refusal = world.refusal(_send("123456789"), "ada")
    assert refusal.code == "too_large"
    assert refusal.facts == {"bytes": 11, "ephemeral_bytes_max": 10}


def test_a_name_in_a_signal_is_plain_text() -> None:
    world = _world()
    world.join("bob")
    assert world.decide(_send("@bob look"), world.by("ada")) == []
    assert not world.state.agents.inboxes[world.agent("bob")].entries


LAWFUL: list[dict[str, object]] = [
    {"eventType": "build", "payload": {}},
    {"eventType": "build.finished", "payload": {"ok": True}},
    {"eventType": "a.b.c.d.e.f.g.h", "payload": {}, "at_ms": 0, "severity": "critical"},
    {"eventType": "Build_1.step-2", "payload": {"deep": {"er": [1, None]}}, "severity": "debug"},
    {"eventType": "x" * 32, "payload": {}},
    {"eventType": "build", "payload": {}, "at_ms": None, "severity": None},
]

UNLAWFUL: list[tuple[object, str]] = [
    ("build", "$.body.body"),
    (None, "$.body.body"),
    ([], "$.body.body"),
    ({}, "$.body.body"),
    ({"payload": {}}, "$.body.body"),
    ({"eventType": "build"}, "$.body.body"),
    ({"eventType": 7, "payload": {}}, "$.body.body.eventType"),
    ({"eventType": None, "payload": {}}, "$.body.body.eventType"),
    ({"eventType": "", "payload": {}}, "$.body.body.eventType"),
    ({"eventType": ".build", "payload": {}}, "$.body.body.eventType"),
    ({"eventType": "build.", "payload": {}}, "$.body.body.eventType"),
    ({"eventType": "build..done", "payload": {}}, "$.body.body.eventType"),
    ({"eventType": "1build", "payload": {}}, "$.body.body.eventType"),
    ({"eventType": "build\n", "payload": {}}, "$.body.body.eventType"),
    ({"eventType": "bü", "payload": {}}, "$.body.body.eventType"),
    ({"eventType": "a b", "payload": {}}, "$.body.body.eventType"),
    ({"eventType": "x" * 33, "payload": {}}, "$.body.body.eventType"),
    ({"eventType": "a.b.c.d.e.f.g.h.i", "payload": {}}, "$.body.body.eventType"),
    ({"eventType": ".".join(["x" * 31] * 5), "payload": {}}, "$.body.body.eventType"),
    ({"eventType": "build", "payload": None}, "$.body.body.payload"),
    ({"eventType": "build", "payload": []}, "$.body.body.payload"),
    ({"eventType": "build", "payload": "{}"}, "$.body.body.payload"),
    ({"eventType": "build", "payload": 1}, "$.body.body.payload"),
    ({"eventType": "build", "payload": {}, "at_ms": -1}, "$.body.body.at_ms"),
    ({"eventType": "build", "payload": {}, "at_ms": 2**53}, "$.body.body.at_ms"),
    ({"eventType": "build", "payload": {}, "at_ms": 1.5}, "$.body.body.at_ms"),
    ({"eventType": "build", "payload": {}, "at_ms": True}, "$.body.body.at_ms"),
    ({"eventType": "build", "payload": {}, "at_ms": "now"}, "$.body.body.at_ms"),
    ({"eventType": "build", "payload": {}, "severity": "loud"}, "$.body.body.severity"),
    ({"eventType": "build", "payload": {}, "severity": 3}, "$.body.body.severity"),
    ({"eventType": "build", "payload": {}, "extra": 1}, "$.body.body"),
]


@pytest.mark.parametrize("body", LAWFUL, ids=str)
def test_a_telemetry_event_that_is_one(body: dict[str, object]) -> None:
    world = _world(schema="telemetry")
    assert world.decide(_send(body), world.by("ada")) == []


@pytest.mark.bad_input("BI-101")
@pytest.mark.parametrize(("body", "path"), UNLAWFUL, ids=str)
def test_a_telemetry_event_that_is_none(body: object, path: str) -> None:
    refusal = _world(schema="telemetry").refusal(_send(body), "ada")
    assert (refusal.code, refusal.facts["path"]) == ("bad_request", path)
    assert refusal.detail.endswith(f"- at `{path}`")


@pytest.mark.bad_input("BI-101")
@pytest.mark.parametrize("body", ["typing", {}, {"typing": 1}, {"typing": True, "x": 1}, None], ids=str)
def test_a_body_of_a_typing_channel_that_is_none(body: object) -> None:
    world = _world(schema="typing")
    assert world.decide(_send({"typing": True}), world.by("ada")) == []
    refusal = world.refusal(_send(body), "ada")
    assert (refusal.code, str(refusal.facts["path"])[:11]) == ("bad_request", "$.body.body")


@pytest.mark.bad_input("BI-102")
def test_a_schema_is_of_an_ephemeral_channel_and_known() -> None:
    world = World()
    world.join("ada")
    for command in (
        CreateChannel(channel="main:x", schema="telemetry"),
        CreateChannel(channel="main:x", ephemeral=True, schema="xml"),
        CreateChannel(channel="main:x", ephemeral=True, schema=""),
    ):
        refusal = world.refusal(command, "ada")
        assert (refusal.code, refusal.facts["path"]) == ("bad_request", "$.body.schema")


TELEMETRY = SendMessage(body=_raw({"eventType": "x", "payload": {}}), channel="telemetry:events")


def test_the_channel_for_telemetry_is_made_when_it_is_first_used() -> None:
    world = World()
    world.join("ada")
    head = world.state.seq
    assert world.decide(TELEMETRY, world.by("ada")) == [
        RoomCreated(name="telemetry"),
        ChannelCreated(room=head + 1, name="general"),
        ChannelCreated(room=head + 1, name="events", ephemeral=True, schema="telemetry"),
    ]
    other = msgspec.structs.replace(TELEMETRY, channel="telemetry:other")
    assert world.refusal(other, "ada").code == "not_found"


def test_it_is_made_in_a_room_that_is_there() -> None:
    world = World()
    world.join("ada")
    world.boot({"telemetry": ["general"]})
    room = world.state.rooms.by_name["telemetry"].id
    made = ChannelCreated(room=room, name="events", ephemeral=True, schema="telemetry")
    assert world.decide(TELEMETRY, world.by("ada")) == [made]


@pytest.mark.bad_input("BI-101")
def test_what_is_no_event_makes_no_channel() -> None:
    world = World()
    world.join("ada")
    wrong = msgspec.structs.replace(TELEMETRY, body=_raw("x"))
    assert world.refusal(wrong, "ada").code == "bad_request"


@pytest.mark.bad_input("BI-102")
def test_it_is_not_made_where_joining_would_not_make_it() -> None:
    closed = World(auto_create=False)
    closed.join("ada")
    assert closed.refusal(TELEMETRY, "ada").code == "not_found"
    strict = World(create_needs_operator=True)
    strict.join("ada")
    assert strict.refusal(TELEMETRY, "ada").code == "not_permitted"
    granted = World()
    granted.join("ada")
    by = granted.by("ada")
    by.rooms = frozenset({"main"})
    assert granted.refusal(TELEMETRY, by).code == "not_found"
    granted.boot({"telemetry": ["general"]})
    assert granted.refusal(TELEMETRY, by).code == "not_found"


def test_joining_makes_telemetry_channels_in_the_room_of_that_name() -> None:
    world = World()
    world.join("ada")
    events = world.events(JoinChannel(channel="telemetry:gpu"), "ada")
    assert [event.ephemeral for event in events if isinstance(event, ChannelCreated)] == [False, True]
    agent = world.agent("ada")
    made, joined = world.events(JoinChannel(channel="telemetry:cpu"), "ada")
    assert isinstance(made, ChannelCreated)
    assert (made.ephemeral, made.schema) == (True, "telemetry")
    assert joined == ChannelJoined(channel=world.state.rooms.by_address["telemetry:cpu"].id, agent=agent)


def test_the_configuration_makes_ephemeral_channels() -> None:
    world = World()
    wanted = {"build:progress": "plain", "main:beat": "typing"}
    while events := decide_bootstrap(world.state, world.rules, {"telemetry": ["events"]}, wanted):
        world.record(events, "hub")
    found = {address: channel for address, channel in world.state.rooms.by_address.items() if channel.ephemeral}
    assert {address: channel.schema for address, channel in found.items()} == {
        "build:progress": None,
        "main:beat": "typing",
        "telemetry:events": "telemetry",
    }
    assert all(channel.bootstrap for channel in found.values())


def test_typing_is_told_once_in_a_while_for_each_agent_and_channel() -> None:
    soft = Signalling()
    assert soft.may_type(1, 7, 1_000)
    assert not soft.may_type(1, 7, 1_000 + TYPING_EVERY_MS - 1)
    assert soft.may_type(2, 7, 1_500)
    assert soft.may_type(1, 8, 1_500)
    assert soft.may_type(1, 7, 1_000 + TYPING_EVERY_MS)
    assert not soft.may_type(1, 7, 1_000 + TYPING_EVERY_MS + 1)


def test_who_is_typing_is_remembered_for_a_moment_and_of_a_bounded_number() -> None:
    soft = Signalling()
    for agent in range(TYPISTS_MAX):
        assert soft.may_type(agent, 7, agent // 10)
    assert not soft.may_type(TYPISTS_MAX, 7, 999)
    assert soft.may_type(0, 7, TYPING_EVERY_MS + 2_000)
    assert len(soft.typed) == 1
