"""The relay's form gives back what it was given, to the letter."""

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synapse.faces import relay_form
from synapse.faces.relay_form import Decoder, Encoder, Header, Reading, RelayBroken, header_of

JOURNAL = "4a11baa6f94f67a2"
SEQ, AT_MS = 3_764_971_081_039_872, 1_795_278_111_940
Json = dict[str, Any]


def header(begins: str = f"{JOURNAL}:{SEQ}") -> Header:
    return Header(1, begins, begins, AT_MS, None)


def decoded(decoder: Decoder, text: str) -> list[Json]:
    assert text.endswith("\n")
    lines = [decoder.read(line) for line in text[:-1].split("\n")]
    return [line.value for line in lines if line.value is not None]


near = st.integers(-10, 10_000)
words = st.sampled_from(["ada", "bob", "main", "general", "T1", "src/**", "m17", "m", "m01", "", "ready", "normal"])
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words
    | st.text(max_size=12)
    | near.map(lambda n: SEQ + n)
    | near.map(lambda n: AT_MS + n)
    | near.map(lambda n: f"m{SEQ + n}")
    | near.map(lambda n: f"{JOURNAL}:{SEQ + n}")
)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3))
keys = st.sampled_from(
    ["cursor", "at_ms", "by", "kind", "room", "id", "n", "body", "epoch", "paths", "status", "expires_at_ms", "lost"]
) | st.text(max_size=4)
cursors = near.map(lambda n: f"{JOURNAL}:{SEQ + n}") | st.sampled_from(
    [f"{JOURNAL}:007", f"{JOURNAL}:", f"{JOURNAL}:-1", f"{JOURNAL}:{10**16}", "other:5", f"{JOURNAL}:٣"]
)
usual = st.fixed_dictionaries({"cursor": cursors, "at_ms": near.map(lambda n: AT_MS + n), "by": words, "kind": words})
happenings = st.builds(lambda head, rest: {**head, **rest}, usual, st.dictionaries(keys, values, max_size=5))
anything = st.dictionaries(keys, values, max_size=6) | happenings


@settings(max_examples=120, deadline=None)
@given(st.lists(anything, max_size=12), st.integers(0, 12))
def test_what_is_decoded_is_what_was_encoded_also_after_a_restart(told: list[Json], restart_at: int) -> None:
    encoder, decoder = Encoder(Reading(header())), Decoder(header_of(header().text()))
    for number, happening in enumerate(told):
        if number == restart_at:
            encoder = Encoder(deepcopy(decoder.at))
        found = decoded(decoder, encoder.lines(happening))
        assert [json.dumps(one) for one in found] == [json.dumps(happening)]


@settings(max_examples=40, deadline=None)
@given(st.lists(happenings, max_size=30))
def test_it_also_holds_where_names_and_shapes_are_full(told: list[Json]) -> None:
    most = relay_form.NAMES_MAX, relay_form.SHAPES_MAX, relay_form.ONCE_MAX
    relay_form.NAMES_MAX, relay_form.SHAPES_MAX, relay_form.ONCE_MAX = 2, 3, 4
    try:
        encoder, decoder = Encoder(Reading(header())), Decoder(header_of(header().text()))
        for happening in told:
            found = decoded(decoder, encoder.lines(happening))
            assert [json.dumps(one) for one in found] == [json.dumps(happening)]
        assert len(decoder.at.names) <= 2
        assert len(decoder.at.shapes) <= 3
    finally:
        relay_form.NAMES_MAX, relay_form.SHAPES_MAX, relay_form.ONCE_MAX = most


def test_what_has_a_shape_too_many_moves_the_position_and_not_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_form, "SHAPES_MAX", 1)
    encoder, decoder = Encoder(Reading(header())), Decoder(header())
    told: list[Json] = [
        {"cursor": f"{JOURNAL}:{SEQ + 1}", "at_ms": AT_MS + 5, "id": f"m{SEQ + 1}"},
        {"cursor": f"{JOURNAL}:{SEQ + 2}", "at_ms": AT_MS + 900, "odd": None},
        {"cursor": f"{JOURNAL}:{SEQ + 3}", "at_ms": AT_MS + 950, "id": f"m{SEQ + 3}"},
    ]
    lines = [encoder.lines(happening) for happening in told]
    assert ["raw" in line for line in lines] == [False, True, False]
    assert [one for line in lines for one in decoded(decoder, line)] == told
    assert decoder.position == f"{JOURNAL}:{SEQ + 3}"


def test_a_line_costs_little_and_its_text_stands_in_it() -> None:
    encoder = Encoder(Reading(header()))
    lines = [
        encoder.lines(
            {
                "cursor": f"{JOURNAL}:{SEQ + n}",
                "at_ms": AT_MS + 40 * n,
                "by": "worker-7",
                "kind": "message.posted",
                "id": f"m{SEQ + n}",
                "room": "main",
                "channel": "general",
                "n": n,
                "body": "the tests are green",
                "priority": "normal",
            }
        )
        for n in range(1, 4)
    ]
    assert lines[0].split("\n")[1] == '[0,1,40,"worker-7",0,"main","general",1,"the tests are green"]'
    assert lines[1].split("\n")[:3] == ['["+","worker-7"]', '["+","main"]', '["+","general"]']
    assert lines[2] == '[0,1,40,0,0,1,2,3,"the tests are green"]\n'


def test_a_position_and_a_loss_are_told() -> None:
    encoder, decoder = Encoder(Reading(header())), Decoder(header())
    assert decoded(decoder, encoder.at(SEQ + 9)) == []
    assert decoder.position == f"{JOURNAL}:{SEQ + 9}"
    told = decoded(decoder, encoder.lost(f"{JOURNAL}:{SEQ + 9}", f"{JOURNAL}:{SEQ + 50}"))
    assert told == [{"lost": {"from": f"{JOURNAL}:{SEQ + 9}", "to": f"{JOURNAL}:{SEQ + 50}"}}]
    after: Json = {"cursor": f"{JOURNAL}:{SEQ + 51}", "kind": "x"}
    assert decoded(decoder, encoder.lines(after)) == [after]


@pytest.mark.bad_input("BI-108")
@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[]",
        "[0]",
        '["="]',
        '["=",[["cursor","z"]]]',
        '["=",[5]]',
        '["raw",5]',
        '["at","x"]',
        '["lost","a","b"]',
        "[true]",
        "[-1]",
        '["gossip"]',
        "[" * 5_000,
        '["at",1] 5',
    ],
)
def test_a_line_that_is_none_is_said_to_be_none(line: str) -> None:
    with pytest.raises(RelayBroken):
        Decoder(header()).read(line)


@pytest.mark.bad_input("BI-108")
@pytest.mark.parametrize("line", ['[5,1,0,"a"]', '[0,1,0,5,"a"]', '[0,1,0,-1,"a"]', "[0,1]", '[0,1,0,"a","b","c"]'])
def test_values_that_do_not_fit_their_shape_are_said(line: str) -> None:
    decoder = Decoder(header())
    decoder.read('["=",[["cursor","c"],["at_ms","t"],["by","n"],["body","v"]]]')
    decoder.read('["+","ada"]')
    with pytest.raises(RelayBroken):
        decoder.read(line)


@pytest.mark.bad_input("BI-108")
@pytest.mark.parametrize(
    "line",
    [
        "hello",
        '{"a":1}',
        '{"relay":2}',
        '{"relay":1}',
        '{"relay":1,"file":1,"began":"a:1","from":"a","at_ms":0,"before":null}',
        '{"relay":1,"file":1,"began":"a:01","from":"a:1","at_ms":0,"before":null}',
        '{"relay":1,"file":1,"began":"a:1","from":"a:1","at_ms":"0","before":null}',
        '{"relay":1,"file":1,"began":"a:1","from":"a:1","at_ms":0,"before":null,"of":[]}',
        '{"relay":1,"file":1,"began":"a:1","from":"a:1","at_ms":0,"before":null,"of":{"name":"eve"}}',
        '{"relay":1,"file":1,"began":"a:1","from":"a:1","at_ms":0,"before":null,"of":{"name":[1]}}',
    ],
)
def test_a_header_that_is_none_is_said_to_be_none(line: str) -> None:
    with pytest.raises(RelayBroken):
        header_of(line)
