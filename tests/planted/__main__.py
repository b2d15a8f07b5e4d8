"""Plants one fault at a time in a copy of src and runs the tests against it, those first that should notice.

`python -m tests.planted [WORD…]` (WORD: only the faults whose name or file holds one of the words)

Prints which test caught each, in what time, and how many were caught. Exits with 1 when one was not, or does not fit,
or when all took more than half an hour.
A run that does not end catches nothing: a test that hangs is ended by its own time limit, and named.
"""

import compileall
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.figures import tell
from tests.planted import FAULTS
from tests.planted.fault import Fault

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
MACHINE = "tests/core/test_lease_machine.py"
ROOMS = {room: (f"tests/{room}",) for room in ("client", "core", "faces", "hub", "journal")}
"""Who is asked when the named tests notice nothing: the tests of the room the fault is in."""
SECONDS_OF_ALL_MAX = 1_800
SECONDS_MAX = 900
"""Of one run: a room takes a few minutes, on a machine in use."""
AT_ONCE = ("-n", "auto", "--dist", "loadgroup")
TEST_SECONDS_MAX = 60
"""Of one test that has no limit of its own."""
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Which test failed first; None when none did. by_name: it is in a file that the fault names."""

    by: str | None
    by_name: bool
    seconds: float


def planted(fault: Fault | None, folder: Path, source: Path = SOURCE) -> Path:
    """A copy of `source` with the fault in it; what is compiled there comes along, but for the faulty file.

    Raises `AssertionError` when the fault does not fit.
    """
    copy = folder / "src"
    shutil.copytree(source, copy)
    if fault is not None:
        file = copy / "synapse" / fault.file
        text = file.read_text(encoding="utf-8")
        found = text.count(fault.old)
        assert found == 1, f"{fault.name}: {fault.file} holds {fault.old!r} {found} times"
        for compiled in file.parent.glob(f"__pycache__/{file.stem}.*"):
            compiled.unlink()
        file.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return copy


def first_failure(tests: tuple[str, ...], copy: Path, *options: str) -> str | None:
    """The test that fails first against the copy, None when all pass. options: more, for pytest.

    Raises `AssertionError` when the tests do not run, `TimeoutExpired` when they do not end.
    """
    environment = {**os.environ, "PYTHONPATH": str(copy), "SYNAPSE_PLANTED": "1"}
    # A short path: the name of a Unix socket below it has at most a hundred characters.
    limits = ("--timeout", str(TEST_SECONDS_MAX), "--basetemp", str(copy.parent / "t"))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not prove", *limits]
    done = subprocess.run(
        [*command, *options, *tests],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    if done.returncode == 0:
        return None
    failed = _FAILED.search(done.stdout)
    assert failed is not None, f"the tests did not run: {done.stdout[-2_000:]}{done.stderr[-2_000:]}"
    return failed[1]


def require_import_of(copy: Path) -> None:
    """Raises `CalledProcessError` when a process that is to import the copy would import another synapse."""
    where = "import synapse, sys; sys.exit(not synapse.__file__.startswith(sys.argv[1]))"
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    subprocess.run([sys.executable, "-c", where, str(copy)], env=environment, cwd=ROOT, check=True)


def outcome_of(fault: Fault, parent: Path, sound: Path) -> Outcome:
    """Plant it in a copy of `sound`, and ask the named tests, then those of its room, then the machine."""
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="", dir=parent) as folder:
        copy = planted(fault, Path(folder), sound)
        rest = ROOMS.get(fault.file.partition("/")[0], ("tests/protocol",))
        for tests in (fault.tests, rest, (MACHINE,)):
            try:
                by = first_failure(tests, copy)
                if by is not None and (tests is fault.tests or passes(by, parent, sound)):
                    return Outcome(by, tests is fault.tests, time.monotonic() - started_s)
            except subprocess.TimeoutExpired:
                continue  # no test says what is wrong
    return Outcome(None, False, time.monotonic() - started_s)


def passes(test: str, parent: Path, sound: Path) -> bool:
    """Whether a test passes without a fault: those that no fault names have not been tried yet."""
    with tempfile.TemporaryDirectory(prefix="", dir=parent) as folder:
        return first_failure((test,), planted(None, Path(folder), sound)) is None


def sound_copy(folder: Path) -> Path:
    """A copy without a fault, compiled: so that each run compiles what differs and nothing else."""
    sound = planted(None, folder)
    require_import_of(sound)
    compileall.compile_dir(sound, quiet=1)
    return sound


def main(words: list[str]) -> int:
    """Plant them all, as many at once as there are cores. Returns the exit code."""
    faults = [fault for fault in FAULTS if not words or any(word in fault.name or word in fault.file for word in words)]
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        sound = sound_copy(Path(folder))
        named = tuple(sorted({test for fault in faults for test in fault.tests}))
        failed = first_failure(named, sound, *AT_ONCE) if named else None
        if failed is not None:
            print(f"{failed} fails without any fault: nothing is proved", flush=True)
            return 1
        print(f"all that is named passes without a fault, in {time.monotonic() - started_s:.0f} s", flush=True)
        ask = partial(outcome_of, parent=Path(folder), sound=sound)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = []
            for fault, outcome in zip(faults, pool.map(ask, faults), strict=True):
                outcomes.append(outcome)
                note = "" if outcome.by_name or outcome.by is None else "  (not by the tests it names)"
                by = outcome.by or "SURVIVED"
                print(f"{outcome.seconds:5.1f} s  {fault.file:24}{fault.name}\n{'':9}{by}{note}", flush=True)
    caught = sum(outcome.by is not None for outcome in outcomes)
    tell("planted faults", f"caught of {len(faults)}", caught, bound=f"= {len(faults)}", is_kept=caught == len(faults))
    took_s = round(time.monotonic() - started_s)
    is_in_time = took_s <= SECONDS_OF_ALL_MAX
    tell("planted faults", "time", took_s, unit="s", bound=f"<= {SECONDS_OF_ALL_MAX}", is_kept=is_in_time)
    if not is_in_time:
        print("BROKEN: it took too long", flush=True)
    return 0 if caught == len(faults) and is_in_time else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
