"""What a setting may be: the kinds of values, and the check of one. Nothing is repaired."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from synapse.core.retention import FILES, KEEP_MS_MIN, KINDS
from synapse.core.signals import PLAIN, SCHEMAS
from synapse.errors import EXIT_JOURNAL, Rejected, SynapseError
from synapse.protocol.limits import Limits
from synapse.protocol.names import GENERAL, MAIN_ROOM, require_segment, split_address


class SettingsRefused(SynapseError):
    """A setting is unknown, ill-typed or out of bounds. One line that names its place and the cure; exit 78."""

    exit_code = EXIT_JOURNAL


Value: TypeAlias = (
    str | int | bool | Path | tuple[str, ...] | dict[str, list[str]] | dict[str, int] | dict[str, str] | None
)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. kind: text, path, integer, boolean, texts (a list), rooms (a table of
    lists), pools (a table of numbers), retention (a table of ages) or ephemeral (a table of texts).

    least and most bound integers; choices bound texts. env, flag and key are its variable, its flag of `synapse hub`
    and its place in config.toml; '' where it has none.
    """

    name: str
    kind: str
    default: Value
    doc: str
    unit: str = ""
    least: int = 1
    most: int = 2**53 - 1
    choices: tuple[str, ...] = ()
    env: str = ""
    flag: str = ""
    key: str = ""


def checked(setting: Setting, value: object, place: str, base: str) -> Value:
    """A value of the right type within its bounds. Paths are taken from `base`. Raises `SettingsRefused`."""
    match setting.kind, value:
        case "integer", int() if not isinstance(value, bool):
            if not setting.least <= value <= setting.most:
                raise SettingsRefused(f"{place}: {value} is not within {setting.least} to {setting.most}")
            return value
        case "boolean", bool():
            return value
        case "text", str():
            if setting.choices and value not in setting.choices:
                raise SettingsRefused(f"{place}: {value!a} is none of {', '.join(setting.choices)}")
            if not value.isprintable() or not value:
                raise SettingsRefused(f"{place}: {value!a} cannot be used")
            return value
        case "path", str() if value:
            return Path(os.path.abspath(os.path.join(base, os.path.expanduser(value))))  # noqa: PTH100, PTH111, PTH118  # as in home.py
        case "texts", list() if all(isinstance(item, str) for item in value):
            return tuple(value)
        case "rooms", dict():
            return _checked_rooms(value, place)
        case "pools", dict():
            return _checked_pools(value, place)
        case "retention", dict():
            return _checked_retention(value, place)
        case "ephemeral", dict():
            return _checked_ephemeral(value, place)
        case _:
            wanted = {"integer": "a whole number", "boolean": "true or false", "texts": "a list of texts"}
            wanted |= {"rooms": "a table of lists of texts", "pools": "a table of whole numbers"}
            wanted["ephemeral"] = "a table of texts"
            wanted["retention"] = 'a table of ages such as "30d"'
            kind = wanted.get(setting.kind, "a text")
            raise SettingsRefused(f"{place}: {kind_of(value)} where {kind} belongs")


def _checked_rooms(value: Mapping[str, object], place: str) -> dict[str, list[str]]:
    """Rooms with their channels; `general` is in every room, `main` is there always."""
    rooms: dict[str, list[str]] = {MAIN_ROOM: [GENERAL]}
    for room, channels in value.items():
        if not isinstance(channels, list) or not all(isinstance(name, str) for name in channels):
            raise SettingsRefused(f"{place}.{room}: {kind_of(channels)} where a list of texts belongs")
        try:
            names = [require_segment(name, "channel") for name in channels]
            rooms[require_segment(room, "room")] = list(dict.fromkeys([GENERAL, *names]))
        except Rejected as error:
            raise SettingsRefused(f"{place}.{room}: {error.detail}") from error
    return rooms


def _checked_pools(value: Mapping[str, object], place: str) -> dict[str, int]:
    """Pools with their capacity."""
    pools: dict[str, int] = {}
    for pool, capacity in value.items():
        if not isinstance(capacity, int) or isinstance(capacity, bool):
            raise SettingsRefused(f"{place}.{pool}: {kind_of(capacity)} where a whole number belongs")
        if not 1 <= capacity <= Limits().pool_units_max:
            raise SettingsRefused(f"{place}.{pool}: {capacity} is not within 1 to {Limits().pool_units_max}")
        try:
            pools[require_segment(pool, "pool")] = capacity
        except Rejected as error:
            raise SettingsRefused(f"{place}.{pool}: {error.detail}") from error
    return pools


def _checked_ephemeral(value: Mapping[str, object], place: str) -> dict[str, str]:
    """Ephemeral channels by address, with their schema or `plain`."""
    kinds, found = (PLAIN, *SCHEMAS), dict[str, str]()
    for address, kind in value.items():
        if not isinstance(kind, str) or kind not in kinds:
            raise SettingsRefused(f"{place}.{address}: {kind!a} is none of {', '.join(kinds)}")
        try:
            split_address(address)
        except Rejected as error:
            raise SettingsRefused(f"{place}.{address}: {error.detail}") from error
        found[address] = kind
    return found


RETENTION_KINDS: Final = KINDS
"""What a retention can be given for, besides channels."""
RETENTION: Final[Mapping[str, int]] = {FILES: KEEP_MS_MIN}
"""Where nothing else is set. Chunks of a file that ended are read by nobody, and would fill the disk for ever."""
_AGE: Final = re.compile("([1-9][0-9]{0,5})(h|d)")
_HOURS: Final = {"h": 1, "d": 24}


def age_ms(text: object, place: str) -> int:
    """An age such as `30d` or `36h` in ms; 0 for `all`. Raises `SettingsRefused` for others, and for less than 24 h."""
    found = _AGE.fullmatch(text) if isinstance(text, str) else None
    if text == "all":
        return 0
    if found is None:
        raise SettingsRefused(f"{place}: {text!a} where an age such as 30d or 36h, or all, belongs")
    age = int(found[1]) * _HOURS[found[2]] * 3_600_000
    if age < KEEP_MS_MIN:
        raise SettingsRefused(f"{place}: {text!a} is less than 24h, for which everything is kept")
    return age


def shown_age(age: int) -> str:
    """An age in ms as config.toml writes it."""
    hours = age // 3_600_000
    return "all" if age == 0 else f"{hours // 24}d" if hours % 24 == 0 else f"{hours}h"


def _checked_retention(value: Mapping[str, object], place: str) -> dict[str, int]:
    """Ages in ms by kind or `room:channel`, above those that hold anyway; 0: all is kept."""
    ages = dict(RETENTION)
    for name, text in value.items():
        if name not in KINDS:
            room, colon, channel = name.partition(":")
            if not colon:
                raise SettingsRefused(f"{place}: {name!a} is no room:channel and none of {', '.join(KINDS)}")
            try:
                require_segment(room, "room")
                require_segment(channel, "channel")
            except Rejected as error:
                raise SettingsRefused(f"{place}.{name}: {error.detail}") from error
        ages[name] = age_ms(text, f"{place}.{name}")
    return ages


def kind_of(value: object) -> str:
    """What a value of TOML is, in words."""
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), f"a {type(value).__name__}")
