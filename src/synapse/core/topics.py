"""Topics: the channels of a room whose names begin so, those that come to exist later included.

A topic is followed by an index key that no event has: what is live is asked which topics a channel is in, and what is
read from disk is read by the keys of the channels that are in a topic now. Both look at the channels that there are, so
both tell the same; what was said in a channel that has been deleted is gone for either.
"""

from collections.abc import Collection, Container, Iterable
from typing import TYPE_CHECKING, Final

from synapse.core.rooms import Channel

if TYPE_CHECKING:
    from synapse.core.state import State

_TOPIC: Final = "to/"


def topic_key(room: int, prefix: str) -> str:
    """The key that followers of a topic have."""
    return f"{_TOPIC}{room}/{prefix}"


def is_topic(key: str) -> bool:
    """True for a key of `topic_key`."""
    return key.startswith(_TOPIC)


def split_key(key: str) -> tuple[int, str]:
    """Room id and prefix of a topic's key."""
    room, _, prefix = key.removeprefix(_TOPIC).partition("/")
    return int(room), prefix


def channels_in(state: "State", key: str) -> list[Channel]:
    """The channels that are in a topic now."""
    room, prefix = split_key(key)
    return [channel for name, channel in state.rooms.in_room.get(room, {}).items() if name.startswith(prefix)]


def keys_on_disk(state: "State", keys: Iterable[str]) -> tuple[str, ...]:
    """The keys of these followers under which events stand: topics are taken apart into their channels."""
    found: dict[str, None] = {}
    for key in keys:
        if is_topic(key):
            found.update(dict.fromkeys(f"ch/{channel.id}" for channel in channels_in(state, key)))
        else:
            found[key] = None
    return tuple(found)


def is_followed(state: "State", key: str, taken: Collection[str]) -> bool:
    """True when some channel of `key`, be it there or not yet, is also followed by one of the keys in `taken`."""
    others = [split_key(other) for other in taken if is_topic(other)]
    if is_topic(key):
        room, prefix = split_key(key)
        if any(room == at and prefix.startswith(other[: len(prefix)]) for at, other in others):
            return True
        return any(f"ch/{channel.id}" in taken for channel in channels_in(state, key))
    if key.startswith("ch/"):
        channel = state.rooms.channels[int(key[3:])]
        if any(channel.room == at and channel.name.startswith(other) for at, other in others):
            return True
    return key in taken


class Topics:
    """The topics that somebody follows live, so that a channel's are found without looking at each."""

    def __init__(self) -> None:
        self.lengths: dict[int, dict[int, int]] = {}
        """How many topics of a room have a prefix of that length."""

    def add(self, key: str) -> None:
        """Somebody follows this topic, the first one to do so."""
        room, prefix = split_key(key)
        lengths = self.lengths.setdefault(room, {})
        lengths[len(prefix)] = lengths.get(len(prefix), 0) + 1

    def remove(self, key: str) -> None:
        """Nobody follows this topic any more."""
        room, prefix = split_key(key)
        lengths = self.lengths[room]
        lengths[len(prefix)] -= 1
        if not lengths[len(prefix)]:
            del lengths[len(prefix)]
        if not lengths:
            del self.lengths[room]

    def of(self, channel: Channel | None, live: Container[str]) -> list[str]:
        """The keys of the topics that a channel is in, of those in `live`; none for a channel that is gone."""
        if channel is None:
            return []
        name = channel.name
        keys = [topic_key(channel.room, name[:length]) for length in self.lengths.get(channel.room, ())]
        return [key for key in dict.fromkeys(keys) if key in live]
