"""What the tests of the journal share: rows to append, homes to break, and a look at their bytes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from synapse.core.events import Delivery, MessagePosted, MessageSent, Recorded, Row, to_row
from synapse.journal.files import Files
from synapse.journal.snapshot import Folding
from synapse.journal.store import Journal

AT_MS = 1_763_696_770_123
RESERVE_BYTES = 2 << 20
ROOT = Path(__file__).parents[2]


def post(seq: int, *, channel: int = 7, mentions: tuple[int, ...] = (), text: str = "hello") -> Row:
    """A channel message at `seq`, which also lands in the inboxes of the agents mentioned."""
    event = MessagePosted(
        channel=channel,
        address="main:general",
        n=1,
        body=msgspec.Raw(msgspec.json.encode({"text": text})),
        mentions=tuple(Delivery(f"agent-{agent}", agent, 1) for agent in mentions),
    )
    return to_row(Recorded(seq, AT_MS, "ada", event))


def send(seq: int, *agents: int) -> Row:
    """A direct message to agents at `seq`."""
    to = tuple(Delivery(f"agent-{agent}", agent, 1) for agent in agents)
    return to_row(Recorded(seq, AT_MS, "ada", MessageSent(to=to, body=msgspec.Raw(b'"hi"'))))


def posts(after: int, count: int, *, channel: int = 7) -> list[Row]:
    """`count` channel messages behind `after`."""
    return [post(after + 1 + n, channel=channel, text=f"message {n}") for n in range(count)]


def open_journal(home: Path, at_ms: int = AT_MS) -> Journal:
    """The journal of `home`, with a small reserve."""
    return Journal.open(home, at_ms=at_ms, reserve_bytes=RESERVE_BYTES)


def home_with(home: Path, count: int) -> int:
    """Make a journal of `count` messages, cleanly closed; answer its base."""
    journal = open_journal(home)
    base = journal.base
    for start in range(0, count, 16):
        journal.append(posts(base + start, min(16, count - start)))
    journal.close()
    return base


def killed_home_with(home: Path, count: int) -> int:
    """As `home_with`, but the writer is killed: the newest transactions are in the WAL. Answers the base."""
    script = f"""
import os
from pathlib import Path
from tests.journal.conftest import open_journal, posts
journal = open_journal(Path({str(home)!r}))
print(journal.base, flush=True)
for start in range({count}):
    journal.append(posts(journal.head, 1))
os.kill(os.getpid(), 9)
"""
    child = run_python(script)
    assert child.returncode == -9, child.stderr
    return int(child.stdout)


def run_python(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, with this repository's modules."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)


def journal_bytes(home: Path) -> dict[str, bytes]:
    """All bytes of a journal. An empty WAL is the same as none, and the `-shm` holds nothing of its own."""
    files = Files(home)
    paths = [files.database, files.wal, files.mark, *sorted(files.snapshots.glob("*"))]
    return {path.name: path.read_bytes() for path in paths if path.exists() and path.stat().st_size}


def flip(path: Path, offset: int, mask: int = 0x10) -> None:
    """Flip a bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


@contextmanager
def small_disk(path: Path, size_bytes: int, *, options: str = "") -> Iterator[Path]:
    """A tmpfs of `size_bytes` at `path`. Where mounting is not permitted the test is skipped, and fails under CI."""
    path.mkdir()
    argument = f"size={size_bytes}{options}"
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", argument, "tmpfs", path]).returncode:
        reason = "mounting a small tmpfs needs root (run the tests as root, or in a container that may mount)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill_disk(directory: Path, leave_bytes: int = 0) -> Path:
    """Fill the file system of `directory` up to `leave_bytes`; answer the file that takes the space."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for chunk in (1 << 16, 1 << 12):
            try:
                while os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize > leave_bytes:
                    file.write(bytes(chunk))
            except OSError:
                continue
    return filler


@dataclass(slots=True)
class Seen:
    """A stand-in for the hub's state: what was folded."""

    seqs: list[int] = field(default_factory=list)
    actors: list[str] = field(default_factory=list)


def _apply(state: Seen, recorded: Recorded) -> None:
    state.seqs.append(recorded.seq)
    state.actors.append(recorded.actor)


def _encode(state: Seen) -> bytes:
    return msgspec.json.encode([state.seqs, state.actors])


def _decode(data: bytes) -> Seen:
    return Seen(*msgspec.json.decode(data, type=tuple[list[int], list[str]]))


def _digest(state: Seen) -> str:
    return _encode(state).hex()[-64:]


FOLDING = Folding(Seen, _apply, _encode, _decode, _digest, _decode)
