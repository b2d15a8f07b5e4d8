"""Events: each type survives its row, tolerates a field of tomorrow, and has its keys."""

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.protocol.conftest import plain, structs_of

from synapse.core.events import TYPES, VERSIONS, Event, MessageSent, Recorded, from_row, keys_of, to_row


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=20)
@given(data=st.data(), seq=st.integers(1, 2**53))
def test_every_event_survives_its_row(name: str, data: st.DataObject, seq: int) -> None:
    event: Event = data.draw(structs_of(TYPES[name]))
    assume(not isinstance(event, MessageSent) or event.to)
    row = to_row(Recorded(seq, 5, "ada", event))
    assert (row.seq, row.type, row.version, row.at_ms, row.actor) == (seq, name, VERSIONS[name], 5, "ada")
    assert plain(from_row(row.type, row.body)) == plain(event)
    assert b"\n" not in row.body
    assert (row.key, *row.also) == keys_of(seq, event)


@pytest.mark.parametrize("name", TYPES)
@settings(max_examples=5)
@given(data=st.data())
def test_an_event_tolerates_a_field_of_tomorrow(name: str, data: st.DataObject) -> None:
    event: Event = data.draw(structs_of(TYPES[name]))
    body = msgspec.json.decode(msgspec.json.encode(event))
    body["tomorrow"] = [1]
    assert plain(from_row(name, msgspec.json.encode(body))) == plain(event)


def test_event_names_are_nouns_and_past_participles() -> None:
    assert {"message.posted", "journal.started", "agent.forgotten", "messages.acked"} <= TYPES.keys()
    assert all(name.count(".") == 1 and name.islower() for name in TYPES)


def test_an_unknown_type_and_a_body_that_does_not_fit_are_said() -> None:
    with pytest.raises(KeyError):
        from_row("comet.seen", b"{}")
    with pytest.raises(msgspec.DecodeError):
        from_row("room.joined", b'{"room":1}')
