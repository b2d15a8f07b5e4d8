"""What clients of a hub heard, and whether the journal that is left agrees."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from tests.faults.conftest import Line, Outcome, line_to, message
from tests.faults.table import rows_that_fit
from tests.faults.world import AT_MS, Past

from synapse.core.events import LeaseGranted, MessagePosted, MessageSent
from synapse.core.state import encode_state
from synapse.errors import JournalError
from synapse.journal.admin import verify
from synapse.journal.reader import JournalReader
from synapse.journal.recovery import recover
from synapse.journal.upcast import decode
from synapse.protocol.codec import ErrorBody
from synapse.protocol.commands import AckInbox, ClaimLease, ReleaseLease, SendMessage, TakeInbox
from synapse.protocol.replies import Lease, Sent, Taken

SEED: Final = int(os.environ.get("FAULTS_SEED", "4"))
IS_FULL: Final = os.environ.get("FAULTS_FULL") == "1"
RESERVE_BYTES: Final = 4096


@contextmanager
def fast_directory() -> Iterator[Path]:
    """A temporary directory, in memory where there is such a place: each start syncs several times."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="synapse-faults-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@dataclass
class Told:
    """What the clients of a life heard: by text, the seq at which a message was acknowledged."""

    acked: dict[str, int] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    codes: set[str] = field(default_factory=set)
    epochs: list[int] = field(default_factory=list)
    is_done: bool = False

    def send(self, line: Line, *texts: str, to: tuple[str, ...] = ()) -> None:
        """Send messages in one piece, and write down what comes back. Raises OSError, EOFError when nothing does."""
        commands = [SendMessage(body=message(text).body, to=to) if to else message(text) for text in texts]
        self.unknown.update(texts)
        keys = [f"key of {text[:40]}" for text in texts]
        for text, frame in zip(texts, line.exchange_all(list(zip(commands, keys, strict=True))), strict=True):
            self.unknown.discard(text)
            if frame.type == "reply":
                self.acked[text] = int(msgspec.json.decode(frame.body, type=Sent).id[1:])
            else:
                assert isinstance(frame.error, ErrorBody), frame
                self.refused.add(text)
                self.codes.add(frame.error.code)


def talk(home: Path, told: Told) -> None:
    """Some of everything, one request at a time but for one group. Raises OSError, EOFError when the hub ends."""
    with ExitStack() as lines:
        ada, bob = (lines.enter_context(line_to(home, name)) for name in ("ada", "bob"))
        for number in range(5):
            told.send(ada, f"post {number} " + "y" * 700 * number)
            told.send(ada, f"direct {number}", to=("bob",))
        told.send(ada, *(f"together {number}" for number in range(3)))
        claimed = ada.exchange(ClaimLease(task="the task", paths=("a/**",), worktree="/w"))
        if claimed.type == "reply":
            told.epochs.append(msgspec.json.decode(claimed.body, type=Lease).epoch)
            ada.exchange(ReleaseLease(task="the task", epoch=told.epochs[-1]))
        taken = bob.exchange(TakeInbox())
        if taken.type == "reply" and (lent := msgspec.json.decode(taken.body, type=Taken).message):
            bob.exchange(AckInbox(ids=(lent.id,)))
        told.send(bob, "the last")


def ending_of(outcome: Outcome, said: str, home: Path, *, is_cut: bool) -> str:
    """What is wrong with how a hub ended; nothing when it was stopped, or said a documented line."""
    if "Traceback" in said:
        return f"{outcome.code}, a traceback: {outcome.line}"
    if outcome.code == 0:
        return "it exited with 0, but did not answer" if is_cut else ""
    if not rows_that_fit(outcome, home):
        return f"not documented: {outcome.code} {outcome.line}"
    return ""


def truth(home: Path, past: Past, told: Told) -> str:
    """What is wrong with the journal that a life left behind."""
    try:
        report = verify(home)
        if report.finding:
            return f"verify: {report.finding}"
        found = recover(home, AT_MS, reserve_bytes=RESERVE_BYTES)
    except JournalError as error:
        return f"the next start is refused: {error}"
    with closing(found.journal), closing(JournalReader(home)) as reader:
        rows = reader.scan(past.base, found.journal.head, -1)
    if [row._replace(also=()) for row in rows[: len(past.rows)]] != past.rows:
        return "the log from before is another"
    if past.head == found.journal.head and encode_state(found.state) != past.states[past.head]:
        return "the state from before is another"
    texts: list[tuple[str, int]] = []
    epochs = set()
    for row in rows[len(past.rows) :]:
        event = decode(row)
        if isinstance(event, MessagePosted | MessageSent):
            texts.append((msgspec.json.decode(event.body, type=str), row.seq))
        elif isinstance(event, LeaseGranted):
            epochs.add(row.seq)
    return compare(dict(texts), len(texts), epochs, told)


def compare(texts: dict[str, int], count: int, epochs: set[int], told: Told) -> str:
    """What the journal has against what was told."""
    if len(texts) != count:
        return "a message is there twice"
    if lost := [text[:20] for text, seq in told.acked.items() if texts.get(text) != seq]:
        return f"acknowledged and lost: {lost}"
    if told.codes - {"read_only"}:
        return f"refused for another reason than a full disk: {told.codes}"
    if not set(told.epochs) <= epochs:
        return "a lease that was granted is lost"
    if refused := told.refused & set(texts):
        return f"refused and there: {refused}"
    if others := set(texts) - set(told.acked) - told.unknown:
        return f"nobody was told of: {others}"
    return ""
