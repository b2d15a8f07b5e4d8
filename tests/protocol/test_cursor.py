"""Cursors and message ids: written one way, read strictly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse.errors import Rejected
from synapse.protocol.cursor import cursor_of, message_id, seq_of, seq_of_message

JOURNAL = "0123456789abcdef"
seqs = st.integers(0, 2**53 - 1)


@given(seq=seqs)
def test_a_cursor_of_this_journal_is_read_back(seq: int) -> None:
    assert seq_of(cursor_of(JOURNAL, seq), JOURNAL, head=seq) == seq


@given(seq=seqs)
def test_a_message_id_is_read_back(seq: int) -> None:
    assert seq_of_message(message_id(seq)) == seq


@pytest.mark.bad_input("BI-20")
@pytest.mark.parametrize(
    "cursor",
    ["", ":", "12", JOURNAL, f"{JOURNAL}:", f"{JOURNAL}:-1", f"{JOURNAL}: 1", f"{JOURNAL}:1.0", f"{JOURNAL}:١"],
)
def test_what_is_no_cursor_is_a_bad_request(cursor: str) -> None:
    with pytest.raises(Rejected) as caught:
        seq_of(cursor, JOURNAL, head=10)
    assert caught.value.code == "bad_request"


@pytest.mark.bad_input("BI-20")
@pytest.mark.parametrize("cursor", [f"{JOURNAL}:{'9' * 17}", f"{JOURNAL}:{'9' * 10_000}"])
def test_a_cursor_too_long_to_be_one_is_refused_before_it_is_a_number(cursor: str) -> None:
    with pytest.raises(Rejected) as caught:
        seq_of(cursor, JOURNAL, head=10)
    assert caught.value.code == "bad_request"


@pytest.mark.bad_input("BI-20")
@pytest.mark.parametrize("cursor", [f"{JOURNAL}:11", "fedcba9876543210:5", ":5"])
def test_a_cursor_ahead_or_of_another_journal_says_so(cursor: str) -> None:
    with pytest.raises(Rejected) as caught:
        seq_of(cursor, JOURNAL, head=10)
    assert caught.value.code == "log_diverged"
    assert caught.value.facts == {"journal_id": JOURNAL, "head": 10}


@pytest.mark.bad_input("BI-20")
@pytest.mark.parametrize("text", ["", "m", "1", "M1", "m-1", "m 1", "m1.0", "m١", "mm1", "m" + "9" * 17, "m1\n"])
def test_what_is_no_message_id_is_a_bad_request(text: str) -> None:
    with pytest.raises(Rejected) as caught:
        seq_of_message(text)
    assert caught.value.code == "bad_request"
