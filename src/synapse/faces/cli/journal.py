"""`journal …`: a running hub is asked; where none has the lock, the files are opened here."""

import os
import sys
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from time import time

from synapse.client.home import find_hub
from synapse.errors import EXIT_JOURNAL, EXIT_OK, HubUnreachable, JournalLocked, JournalRefused, Rejected
from synapse.faces.cli.call import Call
from synapse.faces.cli.given import require_file, require_stdin
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import field, print_json, print_words, require_stdout
from synapse.faces.cli.waiting import catch_signals, restore_signals
from synapse.home import ensure_home
from synapse.hub.settings import RETENTION_KINDS, SettingsRefused, age_ms, load_settings
from synapse.journal import admin
from synapse.journal.compaction import CompactReport, compact
from synapse.journal.export import export
from synapse.journal.files import EXPORT_PREFIX, Files
from synapse.journal.lock import HomeLock
from synapse.journal.reader import JournalReader
from synapse.protocol.cursor import cursor_of

TYPE_CHECKING = False  # as everywhere in this room
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

STDOUT = "-"
_BACKUP_PATH = "$.body.path"
LONG_TIMEOUT_S = 3600.0
"""Reading all of a journal takes its time; a time-out that is set still bounds it."""


def journal_verify(call: Call) -> int:
    """Prove every row. Raises `JournalError` where there is none that could be read."""
    if _hub_runs(call):
        answer = _ask(call, "journal.verify", {})
        call.show(answer, f"whole: {field(answer, 'events')} events, head {field(answer, 'head')}")
        return EXIT_OK
    report = admin.verify(_home(call))
    figures: Json = {
        "journal_id": report.journal_id,
        "events": report.events,
        "first_seq": report.first_seq,
        "head": report.head,
        "bytes": report.size_bytes,
        "cursor": cursor_of(report.journal_id, report.head),
    }
    if report.finding is None:
        call.show(figures, f"whole: {report.events} events, head {report.head}")
        return EXIT_OK
    if call.as_json:
        facts = {**figures, "seq": report.broken_seq}
        print_json({"error": {"code": "journal_broken", "detail": report.finding, "facts": facts}})
    else:
        print_words(report.finding)
    return EXIT_JOURNAL


def journal_backup(call: Call) -> int:
    """Copy the journal into a new file, and prove the copy. Raises `FileUnusable`, also for a hub that says so."""
    path = os.path.abspath(call.parsed.arguments[0])
    if _hub_runs(call):
        try:
            answer = _ask(call, "journal.backup", {"path": path})
        except Rejected as refusal:
            if refusal.facts.get("path") != _BACKUP_PATH:
                raise
            raise admin.FileUnusable(refusal.detail.removesuffix(f" - at `{_BACKUP_PATH}`")) from refusal
    else:
        report = admin.backup(_home(call), Path(path))
        answer = {
            "journal_id": report.journal_id,
            "path": str(report.path),
            "events": report.events,
            "head": report.head,
            "bytes": report.size_bytes,
            "cursor": cursor_of(report.journal_id, report.head),
        }
    call.show(answer, f"{field(answer, 'path')}: {field(answer, 'events')} events, head {field(answer, 'head')}")
    return EXIT_OK


def journal_restore(call: Call) -> int:
    """Put a backup in the journal's place. Raises `JournalLocked` while a hub runs."""
    source = Path(os.path.abspath(call.parsed.arguments[0]))
    require_file(source)
    return _replaced(call, admin.restore(_home_to_fill(call), source, int(time() * 1000)))


def journal_adopt(call: Call) -> int:
    """Accept what is there as the truth. Raises `JournalLocked` while a hub runs."""
    return _replaced(call, admin.adopt(_local_home(call), int(time() * 1000), drop=call.parsed.has("drop")))


def journal_export(call: Call) -> int:
    """Write the journal as lines of JSON, to stdout or a new file; of a running hub, from a backup made for it."""
    name = call.parsed.arguments[0] if call.parsed.arguments else STDOUT
    has_bodies = not call.parsed.has("no_bodies")
    if name == STDOUT:
        require_stdout()
    with _ending_in_order(), closing(_readable(call)) as reader:
        if name == STDOUT:
            export(reader, sys.stdout.buffer, bodies=has_bodies)
            return EXIT_OK
        path = os.path.abspath(name)
        with ExitStack() as undo:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            undo.callback(os.unlink, path)
            with os.fdopen(descriptor, "wb") as out:
                report = export(reader, out, bodies=has_bodies)
                out.flush()
                os.fsync(out.fileno())
            undo.pop_all()
    answer: Json = {
        "journal_id": report.journal_id,
        "path": path,
        "events": report.events,
        "head": report.head,
        "cursor": cursor_of(report.journal_id, report.head),
    }
    call.show(answer, f"{path}: {report.events} events, head {report.head}")
    return EXIT_OK


def _readable(call: Call) -> JournalReader:
    """The journal, or while a hub runs a copy that the hub makes: it is open here, and has no name any more.

    The copy lies in the home because a hub behind a service manager may write nowhere else.
    """
    home = _home(call)
    if not _hub_runs(call):
        return JournalReader(home)
    try:
        folder = TemporaryDirectory(prefix=EXPORT_PREFIX, dir=home, ignore_cleanup_errors=True)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise UsageError(
            f"{home}: no copy of the journal can lie there ({error.strerror}): an export is made from one that the hub "
            "puts into its home; on the hub's machine, name that with --home"
        ) from error
    with folder as path:
        copy = Path(path) / "journal.db"
        _ask(call, "journal.backup", {"path": str(copy)})
        return JournalReader.of_file(copy)


@contextmanager
def _ending_in_order() -> "Iterator[None]":
    """What this command made for itself goes with it, also when a signal ends it."""
    handlers = catch_signals()
    try:
        yield
    finally:
        restore_signals(handlers)


def journal_import(call: Call) -> int:
    """Put an exported journal in the journal's place. Raises `JournalLocked` while a hub runs."""
    name, now_ms = call.parsed.arguments[0], int(time() * 1000)
    if name != STDOUT:
        require_file(Path(name))
    home = _home_to_fill(call)
    if name != STDOUT:
        return _replaced(call, admin.bring_in(home, Path(os.path.abspath(name)), now_ms))
    source = require_stdin()
    with _ending_in_order(), TemporaryDirectory() as folder:
        spool = Path(folder) / "stdin"
        with spool.open("wb") as file:
            copyfileobj(source, file)
        return _replaced(call, admin.bring_in(home, spool, now_ms))


def journal_compact(call: Call) -> int:
    """Drop what is older than is kept. Raises `Rejected` for a retention that cannot be."""
    named = _named_ages(call)
    dry_run = call.parsed.has("dry_run")
    if _hub_runs(call):
        answer = _ask(call, "journal.compact", {"keep": named, "dry_run": dry_run})
    else:
        home = _home(call)
        try:
            settings = load_settings({"home": str(home)}, os.environ).retention
        except SettingsRefused as error:
            raise JournalRefused(str(error)) from error
        answer = _compacted(
            compact(home, named, int(time() * 1000), settings=settings, dry_run=dry_run), dry_run=dry_run
        )
    words = _compact_words(answer)
    if not named and not answer.get("rows"):
        words += "\nwhat may go is said by --keep messages=30d, or by the table [retention] of config.toml"
    call.show(answer, words)
    return EXIT_OK


def _named_ages(call: Call) -> dict[str, int]:
    """What `--keep KIND=AGE` and `--channel ADDRESS=AGE` say, in ms."""
    ages: dict[str, int] = {}
    for option in ("keep", "channel"):
        for text in call.parsed.texts(option):
            name, equals, age = text.rpartition("=")
            is_kind = name in RETENTION_KINDS
            if not equals or is_kind != (option == "keep"):
                what = f"KIND=AGE with {', '.join(RETENTION_KINDS)}" if option == "keep" else "ROOM:CHANNEL=AGE"
                raise UsageError(f"--{option} takes {what}, not {text!a}")
            try:
                ages[name if is_kind else call.address(name)] = age_ms(age, f"--{option} {name}")
            except SettingsRefused as error:
                raise UsageError(str(error)) from error
    return ages


def _compacted(report: CompactReport, *, dry_run: bool) -> "Json":
    return {
        "journal_id": report.journal_id,
        "upto": report.upto,
        "rows": report.rows,
        "bytes": report.bytes,
        "kept": [{"name": name, "first_kept": cursor_of(report.journal_id, seq)} for name, seq in report.kept],
        "more": 0,
        "dry_run": dry_run,
        "cursor": cursor_of(report.journal_id, report.head),
    }


def _compact_words(answer: "Json") -> str:
    """The figures, and a line for each channel and so on that lost something."""
    would = "would drop" if answer.get("dry_run") else "dropped"
    lines = [f"{would} the bodies of {field(answer, 'rows')} events, {field(answer, 'bytes')} bytes"]
    kept = answer.get("kept")
    for item in kept if isinstance(kept, list) else []:
        lines.append(f"{field(item, 'name')}  kept from {field(item, 'first_kept')} on")
    if answer.get("more"):
        lines.append(f"and {field(answer, 'more')} more")
    return "\n".join(lines)


def _replaced(call: Call, report: admin.ReplacedReport) -> int:
    answer: Json = {
        "journal_id": report.journal_id,
        "previous_id": report.previous_id,
        "head": report.head,
        "events": report.events,
        "dropped": report.dropped,
        "aside": None if report.aside is None else str(report.aside),
        "cursor": cursor_of(report.journal_id, report.head),
    }
    before = "" if report.aside is None else f"; what was there is in {report.aside}"
    call.show(answer, f"{report.events} events, head {report.head}, {report.dropped} dropped{before}")
    return EXIT_OK


def _hub_runs(call: Call) -> bool:
    """True when a hub has the home, or another address was named. The lock decides, not hub.json."""
    if call.around.get("uri") is not None:
        return True
    home = _home(call)
    if not Files(home).lock.exists():
        return False
    try:
        HomeLock(home).close()
    except JournalLocked:
        return True
    return False


def _home_to_fill(call: Call) -> Path:
    """The home, for a journal that comes from elsewhere. Raises as `_local_home`, and `HomeRefused` as a start does."""
    home = _local_home(call)
    ensure_home(home)
    return home


def _local_home(call: Call) -> Path:
    """The home, for what no hub does. Raises `UsageError` when a hub was named."""
    if call.around.get("uri") is not None:
        raise UsageError("this works on the files of a home, with no hub running: leave out --uri and SYNAPSE_URI")
    return _home(call)


def _home(call: Call) -> Path:
    return Path(call.around.home)


def _ask(call: Call, kind: str, body: "Json") -> "Json":
    """Ask the running hub, as operator, and give it time. Raises `HubUnreachable` when it has only the lock."""
    if not call.parsed.has("timeout") and call.around.get("timeout") is None:
        call.timeout_s = LONG_TIMEOUT_S
    try:
        find_hub(call.around)
    except ValueError as error:
        raise UsageError(str(error)) from error
    except HubUnreachable as error:
        raise HubUnreachable(f"{error} (a hub has the lock of this home, and is not ready)") from error
    return call.ask(kind, body, operator=True)
