"""The reserve: written bytes that are really there and really come free."""

from pathlib import Path

from tests.journal.conftest import fill_disk, small_disk

from synapse.journal.files import free_bytes
from synapse.journal.reserve import Reserve

SIZE = 1 << 20


def test_the_reserve_is_written_not_sparse_and_for_its_owner_only(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "journal.reserve", bytes_wanted=SIZE)
    assert not reserve.is_whole()
    assert reserve.create()
    info = reserve.path.stat()
    assert info.st_size == SIZE
    assert info.st_blocks * 512 >= SIZE
    assert info.st_mode & 0o777 == 0o600
    assert reserve.is_whole()


def test_giving_up_deletes_it_once(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "journal.reserve", bytes_wanted=SIZE)
    reserve.create()
    assert reserve.give_up()
    assert not reserve.give_up()
    assert reserve.restore()
    assert reserve.is_whole()


def test_without_room_there_is_no_reserve_and_no_trace(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE // 2) as disk:
        reserve = Reserve(disk / "journal.reserve", bytes_wanted=SIZE)
        assert not reserve.create()
        assert list(disk.iterdir()) == []


def test_the_space_it_gave_up_does_not_look_like_space_that_came_back(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2 * SIZE) as disk:
        reserve = Reserve(disk / "journal.reserve", bytes_wanted=SIZE)
        assert reserve.create()
        filler = fill_disk(disk)
        assert reserve.give_up()
        assert free_bytes(disk) >= SIZE
        assert not reserve.restore()
        filler.unlink()
        assert reserve.restore()
