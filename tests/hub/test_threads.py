"""The threads beside the loop: jobs in order, results on the loop, bugs never swallowed."""

import asyncio
import threading
from functools import partial

import pytest
from tests.hub.conftest import SmallDisk

from synapse.core.events import HubStarted, Recorded, to_row
from synapse.errors import JournalError, StoreFailed
from synapse.hub.threads import InlineWorker, ThreadWorker, commit


async def test_jobs_run_in_order_on_one_thread_and_results_come_on_the_loop() -> None:
    bugs: list[BaseException] = []
    worker = ThreadWorker("test", asyncio.get_running_loop(), bugs.append)
    seen: list[tuple[int | None, bool]] = []
    threads: set[int] = set()

    def job(number: int) -> int:
        threads.add(threading.get_ident())
        return number

    def done(result: int | None, error: JournalError | None) -> None:
        seen.append((result, threading.get_ident() in threads))

    for number in range(20):
        worker.submit(partial(job, number), done)
    worker.stop()
    await asyncio.sleep(0)
    assert seen == [(number, False) for number in range(20)]
    assert len(threads) == 1
    assert bugs == []


async def test_a_store_error_comes_to_the_asker_and_a_bug_to_the_hub() -> None:
    bugs: list[BaseException] = []
    worker = ThreadWorker("test", asyncio.get_running_loop(), bugs.append)
    errors: list[JournalError | None] = []

    def fails() -> None:
        raise StoreFailed("no")

    worker.submit(fails, lambda _, error: errors.append(error))
    worker.submit(lambda: [][0], lambda _, error: errors.append(error))
    worker.stop()
    await asyncio.sleep(0)
    assert [str(error) for error in errors] == ["no"]
    assert [type(bug) for bug in bugs] == [IndexError]


async def test_an_inline_worker_answers_in_the_next_step() -> None:
    worker = InlineWorker(asyncio.get_running_loop())
    seen: list[int | None] = []
    worker.submit(lambda: 7, lambda result, _: seen.append(result))
    assert seen == []
    await asyncio.sleep(0)
    worker.stop()
    assert seen == [7]


def test_a_turn_is_committed_again_after_the_reserve_was_given_up() -> None:
    disk = SmallDisk()
    turn = [to_row(Recorded(disk.head + 1, 0, "hub", HubStarted(version="1")))]
    assert commit(disk, turn) is False
    turn = [to_row(Recorded(disk.head + 1, 0, "hub", HubStarted(version="1")))]
    disk.is_full = True
    assert commit(disk, turn) is True
    assert (disk.appends, disk.has_reserve) == (2, False)


def test_a_turn_that_does_not_even_fit_into_the_reserve_has_an_unknown_outcome() -> None:
    disk = SmallDisk()
    disk.is_full, disk.has_reserve = True, False
    with pytest.raises(StoreFailed, match="the reserve is spent"):
        commit(disk, [to_row(Recorded(disk.head + 1, 0, "hub", HubStarted(version="1")))])
    assert disk.appends == 0
