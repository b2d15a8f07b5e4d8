"""WebSocket conformance: every Autobahn case that the library passes passes on the hub's own transport.

Without compression, which the hub never agrees to, the suite has 301 cases; all take about five seconds on each server.
"""

from pathlib import Path
from typing import Final

import pytest
from tests.figures import tell
from tests.hostile.conformance import EchoPeer, library_server, our_server, verdicts

from synapse.hub.connection import Connection
from synapse.hub.frames import text_frame

CASES: Final = 301
SLOW: Final = ("9.*", "6.4.3", "6.4.4")
"""Megabytes in a message, and pauses of seconds within one; the rest of the suite takes a second or two."""

EXCEPTIONS: Final = {
    "7.1.5": "a close between the fragments of a message: the library's parser, which is the hub's, answers 1002 "
    "(incomplete fragmented message), where the suite wants 1000 or none; either way the connection ends at once",
}
"""Cases that do not pass, and why."""
LIBRARY_ONLY: Final = {
    "9.3.1": "more than 4 096 fragments, which the library closes with 1009",
    "9.3.2": "as 9.3.1",
    "9.4.1": "as 9.3.1, binary",
    "9.4.2": "as 9.3.1, binary",
}
"""Cases that only the library's server does not pass: the bound of fragments is a setting of the hub, and high here."""


async def test_the_quick_cases_pass_but_for_the_listed_ones(tmp_path: Path) -> None:
    async with our_server(tmp_path) as uri:
        ours = await verdicts(uri, without=SLOW)
    assert len(ours) == 245
    assert {case: verdict for case, verdict in ours.items() if not verdict.passed}.keys() == EXCEPTIONS.keys()


async def test_a_transport_that_is_wrong_on_purpose_fails_the_cases_that_are_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hear_what_is_no_text(peer: EchoPeer, connection: Connection, data: bytes) -> None:
        peer._hear(connection, data)

    def lose_the_last_byte(peer: EchoPeer, payload: bytes) -> bytes:
        return text_frame(payload[:-1])

    async with our_server(tmp_path) as uri:
        whole = await verdicts(uri, ["1.1.2", "6.3.1"])
        assert all(verdict.passed for verdict in whole.values())
        monkeypatch.setattr(EchoPeer, "_hear_text", hear_what_is_no_text)
        monkeypatch.setattr(EchoPeer, "frame", lose_the_last_byte)
        broken = await verdicts(uri, ["1.1.2", "6.3.1"])
        assert not any(verdict.passed for verdict in broken.values())


@pytest.mark.prove
async def test_every_case_that_the_library_passes_passes(tmp_path: Path) -> None:
    async with our_server(tmp_path) as uri:
        ours = await verdicts(uri)
    async with library_server() as uri:
        library = await verdicts(uri)
    passed = sum(verdict.passed for verdict in ours.values())
    theirs = sum(verdict.passed for verdict in library.values())
    lost = [case for case, verdict in library.items() if verdict.passed and not ours[case].passed]
    strict = sum(verdict.behavior == "NON-STRICT" for verdict in ours.values())
    tell("hostile peers", f"conformance cases of {CASES} passed", passed, bound=f">= {theirs}", is_kept=not lost)
    tell("hostile peers", "conformance cases that the library's own server passes", theirs)
    tell("hostile peers", "conformance cases passed without failing as fast as they might", strict)
    assert len(ours) == len(library) == CASES
    assert lost == []
    assert {case for case, verdict in ours.items() if not verdict.passed} == EXCEPTIONS.keys()
    assert {case for case, verdict in library.items() if not verdict.passed} == EXCEPTIONS.keys() | LIBRARY_ONLY.keys()
