"""Values of every wire type, made from the types themselves."""

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from synapse.protocol.limits import Limits

LIMITS = Limits()

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
integers = st.integers(-LIMITS.int_max, LIMITS.int_max)
floats = st.floats(allow_nan=False, allow_infinity=False)
leaves = st.none() | st.booleans() | integers | floats | text
free_json = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))
raws = free_json.map(lambda value: msgspec.Raw(msgspec.json.encode(value)))

_SIMPLE: dict[object, st.SearchStrategy[Any]] = {
    str: text,
    int: integers,
    bool: st.booleans(),
    bytes: st.binary(max_size=12),
    NoneType: st.none(),
    object: leaves,
    msgspec.Raw: raws,
    msgspec.UnsetType: st.just(msgspec.UNSET),
}


def values_of(hint: object) -> st.SearchStrategy[Any]:
    """A strategy for one type hint of a wire struct."""
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return st.one_of([values_of(part) for part in parts])
    if origin is tuple and parts[-1] is ...:
        return st.lists(values_of(parts[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*(values_of(part) for part in parts))
    if origin is dict:
        return st.dictionaries(values_of(parts[0]), values_of(parts[1]), max_size=2)
    assert isinstance(hint, type) and issubclass(hint, msgspec.Struct), f"no strategy for {hint!r}"
    return structs_of(hint)


def structs_of(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """A strategy for one wire struct; every field varies, also those with a default."""
    return st.builds(kind, **{name: values_of(hint) for name, hint in get_type_hints(kind).items()})


def plain(value: object) -> object:
    """A struct as plain data, in which two values are equal when they mean the same on the wire."""
    return msgspec.json.decode(msgspec.json.encode(value))
