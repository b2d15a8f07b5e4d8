"""The grammar of names: one set of strings is accepted unchanged, everything else is refused."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synapse.errors import Rejected
from synapse.protocol.names import (
    NAME_MAX,
    RESERVED,
    ancestors,
    is_agent_name,
    mentioned,
    require_agent_name,
    require_segment,
    shown,
    split_address,
)

segments = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
GOOD = ["a", "0", "alice", "a.b-c_d", "a/b", "a/b/c/d", "user@host", "a-b@c.d", "x" * 64, "alls", "all/x", "hub/x"]
BAD = [
    "",
    " ",
    "Alice",
    "älice",
    "a b",
    "a\n",
    "\na",
    "a\0",
    "-a",
    ".a",
    "_a",
    "..",
    "a/..",
    "/a",
    "a/",
    "a//b",
    "a/b/c/d/e",
    "a@b@c",
    "a/b@c",
    "@a",
    "a@",
    "x" * 65,
    "/".join(["x" * 64, "x" * 64]),
    "all",
    "hub",
    "system",
    "operator",
    "role:x",
    "pool:x",
    "a:b",
    "a\\b",
    "a\u200b",
    "\u0430",
    "\u202ea",
    "a\u2028",
    "$(id)",
    "~",
]


@pytest.mark.parametrize("name", GOOD)
def test_a_name_inside_the_grammar_is_taken_as_it_is(name: str) -> None:
    assert require_agent_name(name) == name


@pytest.mark.bad_input("BI-19")
@pytest.mark.parametrize("name", BAD)
def test_a_name_outside_the_grammar_is_refused_and_never_repaired(name: str) -> None:
    with pytest.raises(Rejected) as caught:
        require_agent_name(name)
    assert caught.value.code == "bad_name"
    assert caught.value.detail.isascii() and "\n" not in caught.value.detail


@settings(max_examples=300)
@given(parts=st.lists(segments, min_size=1, max_size=5))
def test_up_to_four_segments_and_128_characters_are_a_name(parts: list[str]) -> None:
    name = "/".join(parts)
    assert is_agent_name(name) == (len(parts) <= 4 and len(name) <= NAME_MAX and name not in RESERVED)


@settings(max_examples=300)
@given(text=st.text(max_size=8))
def test_no_other_text_is_a_name(text: str) -> None:
    segment = "[a-z0-9][a-z0-9._-]*"
    assert not is_agent_name(text) or re.fullmatch(rf"{segment}(/{segment})*|{segment}@{segment}", text)


@pytest.mark.bad_input("BI-19")
@pytest.mark.parametrize(
    "address", ["", "main", "main:", ":general", "a:b:c", "a/b:c", "Main:general", "a: b", "a:b\n"]
)
def test_an_address_outside_the_grammar_is_refused(address: str) -> None:
    with pytest.raises(Rejected) as caught:
        split_address(address)
    assert caught.value.code == "bad_name"


@given(room=segments, channel=segments)
def test_an_address_is_a_room_and_a_channel(room: str, channel: str) -> None:
    assert split_address(f"{room}:{channel}") == (room, channel)
    assert require_segment(room, "room") == room


def test_a_sub_agent_hangs_under_its_ancestors_nearest_first() -> None:
    assert ancestors("a/b/c") == ["a/b", "a"]
    assert ancestors("a") == ancestors("user@host") == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("@bob", ["bob"]),
        ("ask @bob, then @carol.", ["bob", "carol"]),
        ("@bob @bob @bob", ["bob"]),
        ("(@a/b/c)", ["a/b/c"]),
        ("@a/b/c/d/e", ["a/b/c/d"]),
        ("@user@host said", ["user@host"]),
        ("end of sentence @bob.", ["bob"]),
        ("@bob- and @bob...", ["bob"]),
        ("@bob.dev is another", ["bob.dev"]),
        ("mail bob@example.org", []),
        ("path/@bob", []),
        ("@@bob", []),
        ("@Bob", []),
        ("@", []),
        ("no names", []),
        ("\u00e9@bob", []),
        ("\n@bob\n", ["bob"]),
    ],
)
def test_mentions_are_names_behind_an_at_sign_that_stands_alone(text: str, names: list[str]) -> None:
    assert mentioned(text) == names


@settings(max_examples=300)
@given(text=st.text(st.sampled_from("@ab/.- \n"), max_size=30))
def test_mentions_are_lawful_names_without_repeats(text: str) -> None:
    found = mentioned(text)
    assert len(found) == len(set(found))
    assert all(is_agent_name(name) and f"@{name}" in text for name in found)


@given(text=st.text())
def test_a_peers_text_is_shown_short_and_printable(text: str) -> None:
    assert shown(text).isascii() and shown(text).isprintable()
    assert len(shown(text)) <= 12 * 80
