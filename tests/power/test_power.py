"""Power cuts: nothing that was answered is lost, and the hub starts again on whatever the disk has left.

Hubs are recorded call by call, and their files are built anew as they would be had the power gone at some step: with
what was synced and any part of the rest. `POWER_CUTS` (1 500) says how often in `make prove`, `POWER_SEED` (1) what
the disk keeps. Recordings differ a little from run to run, because processes share the machine.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

import pytest
from tests.conftest import require_tool
from tests.figures import tell
from tests.power import compacting
from tests.power.compacting import COMPACTS, Compacting
from tests.power.cuts import Report, image_at, lay_down, plan, plan_since, run_cuts, run_on_all_cores
from tests.power.disk import DRAWS, Disk
from tests.power.judge import MARKS_OF_REQUESTS, Broken, Uncut, operations_of
from tests.power.lies import broken_source, hasty, numbers_of, told_too_early, with_another_row, without_syncs
from tests.power.load import Load
from tests.power.recording import Ends, Recorder, Recording, fast_folder, reached
from tests.power.restoring import Restoring, run_cuts_of

SEED: Final = int(os.environ.get("POWER_SEED", "1"))
CUTS: Final = int(os.environ.get("POWER_CUTS", "1600"))
CUTS_FAST: Final = 100
STARTS: Final = 8
CUTS_OF_A_LIE: Final = 20
CUTS_OF_A_CONTROL: Final = 60
PART: Final = "power cuts"

Run: TypeAlias = tuple[Load, Ends]
SHORT: Final[tuple[Run, ...]] = ((Load(8), "killed"), (Load(8), "stopped"))
LIFE: Final[tuple[Run, ...]] = (
    (Load(25), "killed"),
    (Load(25), "stopped"),
    (Load(25), "killed at a sync"),
    (Load(25), "stopped"),
    (Load(25), "killed at a sync"),
    (Load(25), "stopped"),
)
"""Hubs that come and go: kills under load, stops, snapshots, a WAL that is removed and made anew."""
LONG: Final[tuple[Run, ...]] = ((Load(800, agents=1, burst_max=1), "killed"), (Load(10), "stopped"))
"""One hub that lives for many small commits: checkpoints while it works, and a WAL that is begun anew."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with fast_folder() as path:
        yield path


@pytest.fixture(scope="module")
def short(folder: Path) -> Recording:
    return record(folder / "short", SHORT)


def record(
    place: Path, runs: Sequence[Run], *, environ: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> Recording:
    """One hub after the other on a home that the first one makes."""
    root = place / "root"
    root.mkdir(parents=True)
    recorder = Recorder(root, environ or {}, prefix)
    for load, ends in runs:
        recorder.run(load, ends)
    recording = recorder.finish()
    shutil.rmtree(place)
    return recording


def few_cuts(recording: Recording, cuts: int, folder: Path) -> Report:
    """In this process."""
    return run_cuts(recording, plan(recording.steps, cuts, SEED), SEED, folder)


@pytest.mark.xdist_group("power")
def test_nothing_answered_is_lost_to_a_power_cut(short: Recording, folder: Path) -> None:
    report = few_cuts(short, CUTS_FAST, folder)
    assert report.checked > CUTS_FAST
    assert not report.findings, report.words()


def cut_again(recording: Recording, number: int, folder: Path) -> tuple[Recording, int]:
    """A real hub on what a cut has left, recorded in turn, and the step at which it began."""
    cut = plan(recording.steps, STARTS, SEED)[number]
    disk = Disk(recording.directories)
    for step in recording.steps[: cut.step]:
        disk.take(step)
    image = image_at(disk, cut, SEED)
    root = folder / f"start-{number}" / "root"
    root.parent.mkdir()
    lay_down(image, root)
    uncut, recorder = Uncut(recording), Recorder(root)
    since = recorder.begin_with(image, uncut.told_by(cut.step))
    recorder.run(Load(3), "killed" if number % 2 else "stopped")
    second = recorder.finish()
    shutil.rmtree(root.parent)
    known = [row for row in uncut.rows if row.seq <= (uncut.told_by(cut.step) or 0)]
    assert [row._replace(also=()) for row in second.rows[: len(known)]] == known
    return second, since


@pytest.mark.prove
@pytest.mark.xdist_group("power")
def test_real_hubs_start_after_a_cut_and_are_cut_again(short: Recording, folder: Path) -> None:
    report = Report()
    for number in range(STARTS):
        second, since = cut_again(short, number, folder)
        cuts = plan_since(second.steps, since, CUTS // 100, SEED)
        report.add(run_on_all_cores(second, cuts, SEED, folder))
    count = len(report.findings)
    tell(PART, "cuts of a start after a cut", report.cuts.total(), seed=SEED)
    tell(PART, "cuts of a start after a cut that broke something", count, bound="= 0", is_kept=count == 0, seed=SEED)
    assert not report.findings, report.words()


def record_restore(place: Path) -> Restoring:
    """A home whose hub was killed, and the backup of an hour before put in its place."""
    (place / "root").mkdir(parents=True)
    recorder, backup = Recorder(place / "root"), place / "backup.db"
    recorder.run(Load(6), "stopped")
    recorder.run_python("-m", "synapse", "journal", "backup", "--home", str(recorder.home), str(backup))
    recorder.run(Load(12), "killed at a sync")
    old = recorder.finish()
    recorder.run_python("-m", "synapse", "journal", "restore", "--home", str(recorder.home), str(backup))
    return Restoring(old, replace(recorder.finish(), told=[]), backup)


def cut_restore(folder: Path, cuts: int) -> tuple[Report, Counter[str]]:
    restoring = record_restore(folder / "restore")
    since = len(restoring.old.steps)
    report, left = run_cuts_of(restoring, plan_since(restoring.new.steps, since, cuts, SEED), SEED, folder)
    shutil.rmtree(folder / "restore")
    return report, left


@pytest.mark.prove
@pytest.mark.xdist_group("power")
def test_a_restore_that_is_cut_deletes_nothing(folder: Path) -> None:
    report, left = cut_restore(folder, CUTS // 10)
    count = len(report.findings)
    tell(PART, "cuts during a restore", report.cuts.total(), seed=SEED)
    tell(PART, "cuts during a restore that lost one, or ended it", count, bound="= 0", is_kept=count == 0, seed=SEED)
    print("a restore left:", dict(left))
    assert not report.findings, report.words()
    assert set(left) == {"old", "new", "restored again"}, left


def record_compaction(place: Path) -> Compacting:
    """A home whose hub was killed, and is compacted two days later."""
    (place / "root").mkdir(parents=True)
    recorder = Recorder(place / "root")
    recorder.run(Load(12), "stopped")
    recorder.run(Load(12), "killed")
    old = recorder.finish()
    recorder.run_python("-c", COMPACTS, str(recorder.home))
    compacted = recorder.finish()
    shutil.rmtree(place)
    return Compacting(old, compacted)


def cut_compaction(recorded: Compacting, folder: Path, cuts: int) -> tuple[Report, Counter[str]]:
    planned = plan_since(recorded.new.steps, len(recorded.old.steps), cuts, SEED)
    return compacting.run_cuts_of(recorded, planned, SEED, folder)


def without_synced_base(true: Compacting) -> Compacting:
    """As if the base had never been synced, which a start needs from the event on."""
    [base] = {name for name in true.new.image_of_all() if name.endswith(".base")}
    return replace(true, new=without_syncs(true.new, numbers_of(true.new, Path(base).name)))


def with_drops_before_the_event(true: Compacting) -> Compacting:
    """As if another row, and it alone, said what was to go."""
    row = true.new.rows[-1]
    return replace(true, new=replace(true.new, rows=[*true.new.rows, row._replace(seq=row.seq + 1)]))


@pytest.mark.prove
@pytest.mark.xdist_group("power")
def test_a_compaction_that_is_cut_drops_nothing_that_was_to_stay(folder: Path) -> None:
    recorded = record_compaction(folder / "compaction")
    report, left = cut_compaction(recorded, folder, CUTS // 10)
    count = len(report.findings)
    tell(PART, "cuts during a compaction", report.cuts.total(), seed=SEED)
    tell(PART, "cuts during a compaction that lost one, or ended it", count, bound="= 0", is_kept=count == 0, seed=SEED)
    print("a compaction left:", dict(left))
    assert not report.findings, report.words()
    assert set(left) >= {"all bodies", "what was to stay"}, left
    assert cut_compaction(without_synced_base(recorded), folder, CUTS_OF_A_CONTROL)[0].found("refused")
    assert cut_compaction(with_drops_before_the_event(recorded), folder, CUTS_OF_A_CONTROL)[0].found("lost")


def test_a_secret_that_was_handed_out_is_still_known_after_a_power_cut(tmp_path: Path) -> None:
    """Else an agent that the hub knows could not show who it is."""
    (tmp_path / "root").mkdir()
    recorder = Recorder(tmp_path / "root")
    call = f"from synapse.client.secrets import Secrets; Secrets({str(recorder.home)!r}, {{}}).of('hub', 'ada')"
    recorder.run_python("-c", call)
    left = recorder.left_without_power()
    assert left.get("home/secrets/hub/ada") == (recorder.home / "secrets" / "hub" / "ada").read_bytes()


LIES: Final[dict[str, tuple[Callable[[Recording], Recording], str]]] = {
    "the WAL is never synced": (lambda true: without_syncs(true, numbers_of(true, "journal.db-wal")), "lost"),
    "no directory is ever synced": (lambda true: without_syncs(true, true.directories), "not ours"),
    "answers left before the sync": (lambda true: told_too_early(true, 8), "lost"),
    "the journal had another row": (with_another_row, "not ours"),
}


@pytest.mark.xdist_group("power")
@pytest.mark.parametrize("lie", LIES)
def test_a_recording_that_lies_is_seen_through(lie: str, short: Recording, folder: Path) -> None:
    tell_it, rule = LIES[lie]
    report = few_cuts(tell_it(short), CUTS_OF_A_LIE, folder)
    assert report.found(rule), report.words()


@pytest.mark.xdist_group("power")
def test_each_answered_operation_is_looked_for_and_known_by_its_content(short: Recording) -> None:
    answered = {operation.seq for operation in operations_of(short)}
    places = [place for place, row in enumerate(short.rows) if row.seq in answered]
    assert len(places) > 30
    for place in places:
        gone = replace(short, rows=[*short.rows[:place], *short.rows[place + 1 :]])
        with pytest.raises(Broken, match="without a cut"):
            list(operations_of(gone))
        row = short.rows[place]
        if row.type in ("lease.granted", "value.put", "question.asked", "session.started", "lane.offered"):
            later = [*short.rows[:place], row._replace(seq=row.seq + 1), *short.rows[place + 1 :]]
            with pytest.raises(Broken, match="told as"):
                list(operations_of(replace(short, rows=later)))
        if row.type in ("value.put", "session.checkpointed", "lane.offered", "message.posted"):
            body = row.body.replace(b'{"mark":', b'{"more":1,"mark":')
            assert body != row.body
            changed = replace(short, rows=[*short.rows[:place], row._replace(body=body), *short.rows[place + 1 :]])
            with pytest.raises(Broken, match="another content"):
                list(operations_of(changed))


@pytest.mark.prove
@pytest.mark.xdist_group("power")
def test_thousands_of_power_cuts(folder: Path) -> None:
    happened: Counter[str] = Counter()
    kinds: set[str] = set()
    report = Report()
    for name, runs in (("life", LIFE), ("long", LONG)):
        recording = record(folder / name, runs)
        happened += reached(recording)
        kinds.update(operation.name.partition(" ")[0] for operation in operations_of(recording))
        report.add(run_on_all_cores(recording, plan(recording.steps, CUTS // 2, SEED), SEED, folder))
    lost, refused = report.found("lost", "not ours"), report.found("refused")
    other = len(report.findings) - lost - refused
    tell(PART, "cuts", report.cuts.total(), seed=SEED)
    tell(PART, "cuts that tear writes at 512 bytes", report.cuts["torn"])
    tell(PART, "answered operations looked for", report.checked)
    tell(PART, "cuts that lost one", lost, bound="= 0", is_kept=lost == 0, seed=SEED)
    tell(PART, "starts refused", refused, bound="= 0", is_kept=refused == 0, seed=SEED)
    tell(PART, "journals broken or unusable", other, bound="= 0", is_kept=other == 0, seed=SEED)
    print("in the recordings:", dict(happened))
    assert all(happened.values()), happened
    assert kinds >= {*MARKS_OF_REQUESTS, "lease.release", "inbox.ack"}, kinds
    assert set(report.cuts) == set(DRAWS)
    assert not report.findings, report.words()


def normal(folder: Path) -> Path:
    return broken_source(folder, "journal/connection.py", "PRAGMA synchronous=FULL", "PRAGMA synchronous=NORMAL")


@pytest.mark.prove
@pytest.mark.xdist_group("power")
def test_hubs_that_do_not_sync_are_found_out(folder: Path, tmp_path: Path) -> None:
    """Else the proof above would prove nothing."""
    controls: dict[str, dict[str, object]] = {
        "eatmydata": {"prefix": (require_tool("eatmydata", "eatmydata"),)},
        "synchronous=NORMAL": {"environ": {"PYTHONPATH": str(normal(tmp_path / "normal"))}},
        "answers before the commit": {"environ": {"PYTHONPATH": str(hasty(tmp_path / "hasty"))}},
    }
    detected = []
    for name, how in controls.items():
        recording = record(folder / name, SHORT[1:], **how)  # type: ignore[arg-type]  # as the dictionary above has it
        report = few_cuts(recording, CUTS_OF_A_CONTROL, folder)
        detected += [name] * (report.found("lost", "not ours") > 0)
        print(f"{name}: {len(report.findings)} of {CUTS_OF_A_CONTROL} cuts found it")
    count = len(detected)
    tell(PART, "controls detected", count, unit=f"of {len(controls)}", bound="all", is_kept=count == len(controls))
    assert detected == list(controls)
