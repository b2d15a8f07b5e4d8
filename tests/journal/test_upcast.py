"""Older bodies are lifted to today's; newer ones are refused."""

from collections.abc import Iterator

import msgspec
import pytest
from tests.journal.conftest import post

from synapse.core import events
from synapse.core.events import MessagePosted, MessagesLent, Recorded, Row, to_row
from synapse.errors import JournalRefused
from synapse.journal.upcast import UPCASTERS, Fields, decode


def test_a_row_of_today_is_decoded() -> None:
    event = decode(post(5, text="hello"))
    assert isinstance(event, MessagePosted)
    assert bytes(event.body) == b'{"text":"hello"}'


@pytest.mark.parametrize(
    ("body", "event"),
    [
        (b'{"agent":7,"message":9}', MessagesLent(agent=7, messages=(9,))),
        (b'{"agent":7,"message":9,"sender":3}', MessagesLent(agent=7, messages=(9,), senders=(3,))),
        (
            b'{"agent":8,"message":9,"sender":3,"recipient":"role:build"}',
            MessagesLent(agent=8, messages=(9,), senders=(3,), recipient="role:build"),
        ),
    ],
)
def test_a_lend_of_one_message_is_one_of_several(body: bytes, event: MessagesLent) -> None:
    row = Row(11, "message.lent", 1, 1000, "ada", "ag/7", body)
    assert decode(row) == event
    assert decode(to_row(Recorded(11, 1000, "ada", event))) == event


@pytest.fixture
def three_versions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if `message.posted` had been written in three versions."""

    def rename(fields: Fields) -> Fields:
        return {("channel" if name == "chan" else name): value for name, value in fields.items()}

    def add_kind(fields: Fields) -> Fields:
        return fields | {"kind": msgspec.Raw(b'"note"')}

    monkeypatch.setitem(events.VERSIONS, "message.posted", 3)
    monkeypatch.setitem(UPCASTERS, ("message.posted", 1), rename)
    monkeypatch.setitem(UPCASTERS, ("message.posted", 2), add_kind)
    yield


@pytest.mark.usefixtures("three_versions")
def test_an_old_row_takes_every_step_and_keeps_the_bytes_it_had() -> None:
    body = b'{"chan":7,"address":"main:general","n":1,"body":{"x": 1.50, "y": 1e2}}'
    event = decode(Row(5, "message.posted", 1, 1000, "ada", "ch/7", body))
    assert isinstance(event, MessagePosted)
    assert (event.channel, event.kind, bytes(event.body)) == (7, "note", b'{"x": 1.50, "y": 1e2}')


@pytest.mark.usefixtures("three_versions")
def test_a_row_of_the_middle_version_takes_the_last_step_only() -> None:
    body = b'{"channel":7,"address":"main:general","n":1,"body":0}'
    event = decode(Row(5, "message.posted", 2, 1000, "ada", "ch/7", body))
    assert isinstance(event, MessagePosted)
    assert event.kind == "note"


@pytest.mark.parametrize("row", [post(5)._replace(version=2), post(5)._replace(type="message.sung")])
def test_a_newer_version_and_an_unknown_type_are_refused(row: Row) -> None:
    with pytest.raises(JournalRefused, match="newer release that wrote it") as caught:
        decode(row)
    assert (caught.value.seq, caught.value.exit_code) == (5, 78)


@pytest.mark.parametrize("body", [b"", b"{", b'{"channel":"seven"}'])
def test_a_body_that_does_not_fit_is_refused_with_its_seq(body: bytes) -> None:
    with pytest.raises(JournalRefused, match=r"event 5 .* cannot be read") as caught:
        decode(post(5)._replace(body=body))
    assert caught.value.seq == 5
