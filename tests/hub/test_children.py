"""Child processes beside the hub: each answer comes once, and none outlives the hub."""

import asyncio
import signal
from pathlib import Path
from typing import Never

import pytest
from tests.journal.traffic import Traffic

from synapse.errors import Rejected
from synapse.hub.children import Children
from synapse.journal.compaction import Plan
from synapse.journal.store import Journal
from synapse.protocol.replies import JournalBackedUp, JournalVerified


async def answer_of(children: Children, path: Path | None = None) -> JournalVerified | JournalBackedUp | Rejected:
    """What verify, or a backup to `path`, answers."""
    found: asyncio.Future[JournalVerified | JournalBackedUp | Rejected] = asyncio.get_running_loop().create_future()
    if path is None:
        children.verify(found.set_result)
    else:
        children.back_up(str(path), found.set_result)
    return await asyncio.wait_for(found, 20)


def new_journal(home: Path) -> None:
    """A journal without events."""
    Journal.open(home, at_ms=1_800_000_000_000, reserve_bytes=1 << 16).close()


async def test_verify_and_backup_answer_with_figures_or_a_refusal(tmp_path: Path) -> None:
    home = tmp_path / "home"
    new_journal(home)
    children = Children(home)
    verified = await answer_of(children)
    assert isinstance(verified, JournalVerified)
    assert (verified.events, verified.cursor) == (0, f"{verified.journal_id}:{verified.head}")
    copied = await answer_of(children, tmp_path / "copy.db")
    assert isinstance(copied, JournalBackedUp)
    assert (copied.path, copied.bytes) == (str(tmp_path / "copy.db"), (tmp_path / "copy.db").stat().st_size)
    again = await answer_of(children, tmp_path / "copy.db")
    assert isinstance(again, Rejected)
    assert (again.code, "exists already" in again.detail) == ("bad_request", True)
    (home / "journal.db").write_bytes(b"")
    empty = await answer_of(children)
    assert isinstance(empty, Rejected)
    assert (empty.code, "0 bytes" in empty.detail) == ("journal_broken", True)
    await children.stop()


async def test_one_of_a_kind_at_a_time_and_stop_ends_it(tmp_path: Path) -> None:
    new_journal(tmp_path)
    children = Children(tmp_path)
    answers: list[object] = []
    children.verify(answers.append)
    children.snapshot()
    children.snapshot()
    with pytest.raises(Rejected, match="under way") as refused:
        children.verify(answers.append)
    assert (refused.value.code, refused.value.retry_after_ms) == ("limit", 1_000)
    await asyncio.wait_for(children.stop(), 10)
    await asyncio.sleep(0)
    assert answers == []
    assert not children._tasks


@pytest.mark.parametrize("kind", ["backup", "snapshot"])
async def test_what_is_half_written_when_the_hub_ends_is_cleared_away(tmp_path: Path, kind: str) -> None:
    home = tmp_path / "home"
    traffic = Traffic.begin(home, 1)
    traffic.go_on(3_000)
    traffic.journal.close()
    children = Children(home)
    begun, half = 0, list[Path]()
    async with asyncio.timeout(60):
        while not half:
            if not children._tasks:  # or it was done before it was seen: once more
                begun += 1
                for done in home.rglob("*.snapshot"):
                    done.unlink()
                if kind == "backup":
                    children.back_up(str(tmp_path / f"{begun}.db"), lambda _: None)
                else:
                    children.snapshot()
            await asyncio.sleep(0.0005)
            half = list(tmp_path.rglob("*.new*"))
    await children.stop()
    assert [path for path in half if path.exists()] == []


async def test_what_nobody_waits_for_is_done_gently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, ...]] = []

    async def remembered(*arguments: str, **_: object) -> Never:
        started.append(arguments[2:])
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", remembered)
    children = Children(tmp_path)
    children.snapshot()
    await answer_of(children)
    planned: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    children.compact({}, 0, planned.set_result, dry_run=True)
    await asyncio.wait_for(planned, 20)
    assert [line[0] for line in started] == ["synapse.hub.gentle", "synapse.journal", "synapse.hub.gentle"]
    assert started[0][1:] == (str(tmp_path / "journal.db-wal"), "synapse.journal.snapshot", str(tmp_path))
    assert started[2][1:4] == (str(tmp_path / "journal.db-wal"), "synapse.journal", "compact")


async def test_without_a_process_to_be_had_the_asker_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def none_left(*_: object, **__: object) -> Never:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", none_left)
    children = Children(tmp_path)
    planned: asyncio.Future[Plan | Rejected] = asyncio.get_running_loop().create_future()
    children.compact({}, 0, planned.set_result, dry_run=True)
    for kind, refused in (
        ("verify", await answer_of(children)),
        ("backup", await answer_of(children, tmp_path / "copy.db")),
        ("compact", await asyncio.wait_for(planned, 20)),
    ):
        assert isinstance(refused, Rejected)
        assert (refused.code, refused.retry_after_ms, refused.facts) == ("limit", 1_000, {})
        assert refused.detail.startswith(
            f"the journal {kind} could not be done: no process can be started (Too many open"
        )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_child_that_is_killed_says_nothing_of_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """SIGTERM is caught by the child, which ends with the code that stands for it."""
    new_journal(tmp_path)
    start = asyncio.create_subprocess_exec

    async def killed(*arguments: str, stdin: int, stdout: int, stderr: int) -> asyncio.subprocess.Process:
        caught = f"signal.signal(15, lambda *_: sys.exit({128 + 15}))"
        script = f"import signal, sys; {caught}; print('up', flush=True); signal.pause()"
        process = await start(arguments[0], "-c", script, stdin=stdin, stdout=stdout, stderr=stderr)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        process.send_signal(number)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", killed)
    children = Children(tmp_path)
    for kind, refused in (
        ("verify", await answer_of(children)),
        ("backup", await answer_of(children, tmp_path / "copy.db")),
    ):
        assert isinstance(refused, Rejected)
        assert (refused.code, refused.retry_after_ms, refused.facts) == ("limit", 1_000, {})
        assert refused.detail == f"the journal {kind} could not be done: its process was ended by {number.name}"


@pytest.mark.parametrize(
    ("prints", "code", "verified", "backed_up"),
    [
        ('{"error":"a row is broken","seq":7}', 78, ("journal_broken", 7), ("journal_broken", 7)),
        ('{"error":"its base is missing","seq":null}', 78, ("journal_broken", None), ("journal_broken", None)),
        ('{"finding":"its index does not fit","broken_seq":null}', 0, ("journal_broken", None), None),
        ('{"error":"cannot be read","seq":null}', 74, ("limit", None), ("bad_request", None)),
        ("", 1, ("limit", None), ("limit", None)),
    ],
)
async def test_a_journal_is_broken_only_when_the_child_found_it_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prints: str,
    code: int,
    verified: tuple[str, int | None],
    backed_up: tuple[str, int | None] | None,
) -> None:
    start = asyncio.create_subprocess_exec

    async def instead(*arguments: str, stdin: int, stdout: int, stderr: int) -> asyncio.subprocess.Process:
        script = f"import sys; print({prints!r}); sys.exit({code})"
        return await start(arguments[0], "-c", script, stdin=stdin, stdout=stdout, stderr=stderr)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", instead)
    children = Children(tmp_path)
    answer = await answer_of(children)
    assert isinstance(answer, Rejected)
    assert (answer.code, answer.facts.get("seq")) == verified
    if backed_up is not None:
        answer = await answer_of(children, tmp_path / "copy.db")
        assert isinstance(answer, Rejected)
        assert (answer.code, answer.facts.get("seq")) == backed_up
