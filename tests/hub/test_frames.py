"""Our own half of RFC 6455 agrees with the library's, byte for byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from synapse.hub.frames import frame_at, plain_texts, text_frame, unmasked, xor_mask

SIZES = (0, 1, 125, 126, 127, 65_535, 65_536, 65_537, 262_144)


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_is_the_one_the_library_builds(size: int) -> None:
    payload = b"x" * size
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


@given(st.binary(max_size=300) | st.sampled_from([b"y" * size for size in SIZES]), st.binary(max_size=20))
def test_a_masked_frame_of_the_library_is_read_where_it_ends(payload: bytes, behind: bytes) -> None:
    data = Frame(Opcode.TEXT, payload).serialize(mask=True)
    found = frame_at(behind + data + behind, len(behind))
    assert found is not None
    assert (found.is_masked, found.length, found.end) == (True, len(payload), len(behind) + len(data))
    assert unmasked(behind + data + behind, found) == payload
    assert xor_mask(data[found.key - len(behind) + 4 :], data[found.key - len(behind) :][:4]) == payload


def test_a_head_that_is_not_complete_is_none() -> None:
    for size in (5, 200, 70_000):
        data = Frame(Opcode.TEXT, b"x" * size).serialize(mask=True)
        head = len(data) - size - 4
        assert [frame_at(data[:have], 0) is None for have in range(head + 1)] == [True] * head + [False]


def test_an_unmasked_frame_is_seen_as_such() -> None:
    found = frame_at(text_frame(b"hello"), 0)
    assert found is not None
    assert not found.is_masked


@given(
    st.binary(max_size=300) | st.sampled_from([b"y" * size for size in SIZES]),
    st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.CONT]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 12),
)
def test_the_short_way_takes_whole_masked_texts_and_agrees_with_the_long_one(
    payload: bytes, opcode: Opcode, fin: bool, masked: bool, missing: int
) -> None:
    data = Frame(opcode, payload, fin=fin).serialize(mask=masked)
    here = data[: len(data) - missing]
    found = plain_texts(b"before" + here, 6, 1 << 20, 64)
    is_plain = opcode is Opcode.TEXT and fin and masked and not missing
    if is_plain and len(payload) < 65_536 and payload.isascii():
        assert found == ([payload], 6 + len(data))
    else:
        assert found == ([], 6)


@given(
    st.lists(st.text(max_size=140), max_size=6),
    st.sampled_from([b"", b"\x81", b"\x81\xfe\x01", Frame(Opcode.PING, b"p").serialize(mask=True)]),
    st.integers(0, 140),
)
def test_the_short_way_takes_frames_up_to_the_first_of_another_shape(
    texts: list[str], behind: bytes, bound: int
) -> None:
    payloads = [text.encode() for text in texts]
    frames = [Frame(Opcode.TEXT, payload).serialize(mask=True) for payload in payloads]
    taken = 0
    while taken < len(payloads) and payloads[taken].isascii() and len(payloads[taken]) <= bound:
        taken += 1
    assert plain_texts(b"".join(frames) + behind, 0, bound, 64) == (payloads[:taken], sum(map(len, frames[:taken])))
