"""A journal as lines of JSON: it comes back as it was, and what was done to the file is found before a byte changes."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.journal.conftest import AT_MS, FOLDING, home_with, journal_bytes, open_journal, posts

from synapse.errors import JournalLocked, JournalRefused
from synapse.journal.admin import bring_in, verify
from synapse.journal.create import base_at
from synapse.journal.export import ExportFile, ExportReport, export
from synapse.journal.files import Files
from synapse.journal.reader import JournalReader
from synapse.journal.recovery import recover_with

LATER_MS = AT_MS + 60_000


def exported(home: Path, *, bodies: bool = True) -> tuple[bytes, ExportReport]:
    reader = JournalReader(home)
    try:
        out = io.BytesIO()
        report = export(reader, out, bodies=bodies)
        return out.getvalue(), report
    finally:
        reader.close()


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The export of a journal of twelve events."""
    home = tmp_path_factory.mktemp("home")
    home_with(home, 12)
    return exported(home)[0].splitlines(keepends=True)


def test_what_was_exported_comes_back_with_the_same_rows_and_state_under_a_new_id(tmp_path: Path) -> None:
    base = home_with(tmp_path / "old", 3_000)
    data, report = exported(tmp_path / "old")
    assert (report.events, report.head) == (3_000, base + 3_000)
    (tmp_path / "file").write_bytes(data)
    brought = bring_in(tmp_path / "new", tmp_path / "file", LATER_MS)
    assert brought.journal_id != report.journal_id == brought.previous_id
    assert brought.head > max(base + 3_000, base_at(LATER_MS))
    assert verify(tmp_path / "new").is_whole
    old, new = JournalReader(tmp_path / "old"), JournalReader(tmp_path / "new")
    assert new.rows(base + 1, base + 3_000) == old.rows(base + 1, base + 3_000)
    assert new.page(["ch/1"], base, base + 3_000, 50) == old.page(["ch/1"], base, base + 3_000, 50)
    old.close()
    new.close()
    recovered = recover_with(tmp_path / "new", LATER_MS, FOLDING)
    recovered.journal.close()
    again, _ = exported(tmp_path / "new")
    assert again.startswith(b"\n".join(data.split(b"\n")[1:2])) or again.split(b"\n")[1] == data.split(b"\n")[1]


def test_each_line_is_a_json_object_with_the_event_in_it(lines: list[bytes]) -> None:
    head, *events, end = [json.loads(line) for line in lines]
    assert head["synapse_journal"] == 1
    assert [event["seq"] for event in events] == list(range(head["base"] + 1, head["base"] + 13))
    assert all(isinstance(event["body"], dict) and len(event["hash"]) == 64 for event in events)
    assert end == {"end": {"events": 12, "head": head["base"] + 12, "hash": events[-1]["hash"]}}


def refusal_of(tmp_path: Path, lines: list[bytes]) -> str:
    """Why an import of these lines is refused; the home is not touched."""
    home = tmp_path / "home"
    if not home.exists():
        home_with(home, 3)
    before = journal_bytes(home)
    (tmp_path / "file").write_bytes(b"".join(lines))
    with pytest.raises(JournalRefused) as refused:
        bring_in(home, tmp_path / "file", LATER_MS)
    assert journal_bytes(home) == before
    assert refused.value.exit_code == 78
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_every_cut_is_refused(tmp_path: Path, lines: list[bytes]) -> None:
    for kept in range(1, len(lines)):
        assert "cut short" in refusal_of(tmp_path, lines[:kept])
    assert "no export" in refusal_of(tmp_path, [])
    assert "line" in refusal_of(tmp_path, [*lines[:-1], lines[-1][:-9]])


def test_a_line_that_is_missing_doubled_or_moved_is_named(tmp_path: Path, lines: list[bytes]) -> None:
    assert "line 6: the hash of event" in refusal_of(tmp_path, [*lines[:5], *lines[6:]])
    assert "line 7: the hash of event" in refusal_of(tmp_path, [*lines[:6], *lines[5:]])
    assert "line 3: the hash of event" in refusal_of(tmp_path, [*lines[:2], lines[3], lines[2], *lines[4:]])
    assert "behind the end" in refusal_of(tmp_path, [*lines, b"{}\n"])
    assert "the lines at" in refusal_of(tmp_path, [*lines[:5], lines[-1]])


def test_a_file_of_another_format_or_kind_is_refused(tmp_path: Path, lines: list[bytes]) -> None:
    newer = lines[0].replace(b'"synapse_journal":1', b'"synapse_journal":2')
    assert "format 2" in refusal_of(tmp_path, [newer, *lines[1:]])
    assert "no export" in refusal_of(tmp_path, [b"SQLite format 3\0"])


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_changed_byte_is_imported(tmp_path: Path, lines: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(b"".join(lines))
    at = data.draw(st.integers(0, len(whole) - 1))
    new = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    whole[at] = new
    (tmp_path / "file").write_bytes(whole)
    try:
        found = ExportFile(tmp_path / "file")
    except JournalRefused:
        return
    # What may change is what no hash covers: the journal's id, and how the JSON around the body is written.
    sound = tmp_path / "sound"
    sound.write_bytes(b"".join(lines))
    original = ExportFile(sound)
    assert found.tip() == original.tip()
    base = original.identity.base
    assert found.checked(base, 1 << 62, 100) == original.checked(base, 1 << 62, 100)
    assert (found.identity.hub_id, found.identity.base) == (original.identity.hub_id, base)


def test_without_bodies_it_tells_nothing_of_what_was_said_and_proves_itself_and_cannot_be_imported(
    tmp_path: Path,
) -> None:
    home_with(tmp_path / "home", 12)
    whole, _ = exported(tmp_path / "home")
    data, report = exported(tmp_path / "home", bodies=False)
    assert report.events == 12
    assert all("body" not in json.loads(line) for line in data.splitlines())
    kept = [json.loads(line).get("hash") for line in whole.splitlines()]
    assert [json.loads(line).get("hash") for line in data.splitlines()] == kept
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(JournalRefused, match="has no body"):
        bring_in(tmp_path / "new", tmp_path / "file", LATER_MS)
    lines = data.splitlines(keepends=True)
    forged = json.loads(lines[5])
    forged["body_hash"] = "00" * 32
    lines[2:6] = [json.dumps(forged).encode() + b"\n"]
    (tmp_path / "file").write_bytes(b"".join(lines[:2] + lines[2:]))
    with pytest.raises(JournalRefused):
        ExportFile(tmp_path / "file")


def test_a_home_in_use_takes_no_import(tmp_path: Path, lines: list[bytes]) -> None:
    (tmp_path / "file").write_bytes(b"".join(lines))
    journal = open_journal(tmp_path / "home")
    journal.append(posts(journal.head, 3))
    with pytest.raises(JournalLocked):
        bring_in(tmp_path / "home", tmp_path / "file", LATER_MS)
    journal.close()
    bring_in(tmp_path / "home", tmp_path / "file", LATER_MS)
    assert list(Files(tmp_path / "home").aside.iterdir()), "what was there is kept"
