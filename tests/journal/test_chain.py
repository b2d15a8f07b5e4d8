"""The hash chain: every field counts, and no two headers look alike."""

from hashlib import sha256

import pytest

from synapse.core.events import Row
from synapse.journal.chain import genesis, link, link_over_hole, may_follow

ROW = Row(8, "message.posted", 1, 1000, "ada", "ch/7", b'{"a":1}')
PREV = genesis("0" * 16, 7)


def test_the_hash_is_the_one_the_specification_spells_out() -> None:
    header = b"8:1:1000:14:message.posted3:ada4:ch/7"
    assert link(PREV, ROW) == sha256(PREV + header + sha256(b'{"a":1}').digest()).digest()


@pytest.mark.parametrize(
    "other",
    [
        ROW._replace(seq=9),
        ROW._replace(type="message.sent"),
        ROW._replace(version=2),
        ROW._replace(at_ms=1001),
        ROW._replace(actor="bob"),
        ROW._replace(key="ch/8"),
        ROW._replace(body=b'{"a":2}'),
        ROW._replace(actor="ada4", key="ch/"),
    ],
)
def test_a_change_of_any_field_changes_the_hash(other: Row) -> None:
    assert link(PREV, other) != link(PREV, ROW)


def test_the_hash_before_counts() -> None:
    assert link(genesis("0" * 16, 8), ROW) != link(PREV, ROW)
    assert genesis("1" * 16, 7) != PREV


def test_index_keys_beyond_the_first_are_not_hashed() -> None:
    assert link(PREV, ROW._replace(also=("in/3",))) == link(PREV, ROW)


def test_a_text_that_looks_like_two_fields_is_still_one() -> None:
    split = Row(8, "t", 1, 1, "a1:b", "", b"x")
    joined = Row(8, "t", 1, 1, "a", "b", b"x")
    assert link(PREV, split) != link(PREV, joined)


def test_the_chain_holds_over_a_dropped_body() -> None:
    assert link_over_hole(PREV, ROW._replace(body=b""), sha256(ROW.body).digest()) == link(PREV, ROW)


def test_only_an_adoption_may_leave_a_hole() -> None:
    assert may_follow(8, "message.posted", 7)
    assert not may_follow(9, "message.posted", 7)
    assert may_follow(9, "journal.adopted", 7)
    assert not may_follow(7, "journal.adopted", 7)
