"""Topics: which channels are in one, against looking at each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.conftest import World

from synapse.core.topics import Topics, channels_in, is_followed, is_topic, keys_on_disk, split_key, topic_key
from synapse.errors import Rejected
from synapse.protocol.names import split_topic

NAMES = st.text("ab-", min_size=1, max_size=4)
PREFIXES = st.text("ab-", max_size=3)
ROOMS = ("main", "side")


def world_of(names: set[tuple[str, str]]) -> World:
    world = World()
    world.boot({room: sorted({"general", *(name for at, name in names if at == room)}) for room in ROOMS})
    return world


def key_of(world: World, room: str, prefix: str) -> str:
    return topic_key(world.state.rooms.by_name[room].id, prefix)


@given(
    st.sets(st.tuples(st.sampled_from(ROOMS), NAMES.filter(lambda name: name[0] != "-")), max_size=8),
    st.lists(st.tuples(st.sampled_from(ROOMS), PREFIXES), max_size=8),
    st.lists(st.integers(0, 7), max_size=6),
)
def test_the_topics_of_a_channel_are_those_it_begins_like(
    names: set[tuple[str, str]], followed: list[tuple[str, str]], ended: list[int]
) -> None:
    world, topics = world_of(names), Topics()
    live: dict[str, None] = {}
    for room, prefix in followed:
        key = key_of(world, room, prefix)
        if key not in live:
            live[key] = None
            topics.add(key)
    for at in ended:
        if at < len(followed) and (key := key_of(world, *followed[at])) in live:
            del live[key]
            topics.remove(key)
    rooms = world.state.rooms
    for channel in rooms.channels.values():
        expected = {
            key for key in live if split_key(key)[0] == channel.room and channel.name.startswith(split_key(key)[1])
        }
        assert set(topics.of(channel, live)) == expected
        for key in live:
            assert (channel in channels_in(world.state, key)) == (key in expected)
    assert bool(topics.lengths) == bool(live), "what nobody follows costs nothing"


@given(
    st.sets(st.tuples(st.just("main"), NAMES.filter(lambda name: name[0] != "-")), max_size=6),
    st.lists(PREFIXES, max_size=3),
    PREFIXES,
)
def test_what_two_would_follow_is_found_be_it_there_or_not(
    names: set[tuple[str, str]], others: list[str], prefix: str
) -> None:
    world = world_of(names)
    taken = {key_of(world, "main", other) for other in others}
    key = key_of(world, "main", prefix)
    assert is_followed(world.state, key, taken) == any(
        prefix.startswith(other) or other.startswith(prefix) for other in others
    )
    assert not is_followed(world.state, key_of(world, "side", prefix), taken)
    for channel in channels_in(world.state, key):
        at = f"ch/{channel.id}"
        assert is_followed(world.state, key, {at})
        assert is_followed(world.state, at, {at})
        assert is_followed(world.state, at, taken) == any(channel.name.startswith(other) for other in others)


def test_other_keys_stay_as_they_are() -> None:
    world = world_of({("main", "a1"), ("main", "a2"), ("main", "b")})
    rooms = world.state.rooms
    first, second = (rooms.by_address[f"main:{name}"].id for name in ("a1", "a2"))
    keys = (f"ch/{first}", "in/7", key_of(world, "main", "a"), "leases")
    assert set(keys_on_disk(world.state, keys)) == {f"ch/{first}", f"ch/{second}", "in/7", "leases"}
    assert [key for key in keys if is_topic(key)] == [keys[2]]
    assert Topics().of(None, {}) == [], "a channel that is gone is in no topic"
    assert channels_in(world.state, topic_key(1, "a")) == [], "nor is any in a room that is gone"


@pytest.mark.parametrize(
    ("address", "expected"), [("main:*", ("main", "")), ("main:a*", ("main", "a")), ("r:x-1.y_*", ("r", "x-1.y_"))]
)
def test_a_topic_is_a_room_and_the_beginning_of_a_channel(address: str, expected: tuple[str, str]) -> None:
    assert split_topic(address) == expected


@pytest.mark.parametrize("address", ["main", "main:", "main:a", "*", "main*", "*:a", "main:*a", "main:**", "main:-*"])
def test_anything_else_is_none(address: str) -> None:
    with pytest.raises(Rejected) as refused:
        split_topic(address)
    assert refused.value.code == "bad_name"
