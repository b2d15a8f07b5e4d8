"""`journal.mark`: 64 bytes that are either whole or refused."""

import errno
import os
from pathlib import Path

import pytest

from synapse.journal.mark import MARK_BYTES, Mark, MarkFile, decode_mark, encode_mark, read_mark

MARK = Mark("00112233445566aa", "ffeeddccbbaa9988", 3_698_000_000_000_123, bytes(range(32)))


def test_a_mark_survives_its_encoding() -> None:
    data = encode_mark(MARK)
    assert len(data) == MARK_BYTES
    assert decode_mark(data) == MARK


def test_no_flipped_bit_gives_another_mark() -> None:
    data = encode_mark(MARK)
    for bit in range(MARK_BYTES * 8):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        assert decode_mark(bytes(broken)) is None


@pytest.mark.parametrize("data", [b"", bytes(64), encode_mark(MARK)[:63], encode_mark(MARK) + b"\0"])
def test_what_is_not_exactly_one_mark_is_none(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.mark"
    path.write_bytes(data)
    assert read_mark(path) is None


def test_a_mark_is_overwritten_in_place(tmp_path: Path) -> None:
    path = tmp_path / "journal.mark"
    path.write_bytes(encode_mark(MARK))
    file = MarkFile(path, hub_id=MARK.hub_id, journal_id=MARK.journal_id)
    file.write(MARK.seq + 5, bytes(32))
    file.close()
    assert read_mark(path) == MARK._replace(seq=MARK.seq + 5, hash=bytes(32))


def test_a_mark_that_cannot_be_written_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.mark"
    path.write_bytes(encode_mark(MARK))
    file = MarkFile(path, hub_id=MARK.hub_id, journal_id=MARK.journal_id)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        file.write(7, bytes(32))
    assert caught.value.filename == str(path)
    file.close()
