"""Plants one fault at a time in a copy of src and runs the tests against it, those first that should notice.

`python -m tests.planted [WORD…]` (WORD: only the faults whose name or file holds one of the words)

Prints which test caught each, in what time, and how many were caught. Exits with 1 when one was not, or does not fit.
"""

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
ROOMS = {"client": ("tests/client",), "core": ("tests/core",), "hub": ("tests/hub",), "journal": ("tests/journal",)}
"""Who is asked when the named tests notice nothing: the tests of the room the fault is in."""
SECONDS_MAX = 240
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Which test failed first; None when none did. by_name: it is in a file that the fault names."""

    by: str | None
    by_name: bool
    seconds: float


def planted(fault: Fault | None, folder: Path) -> Path:
    """A copy of src with the fault in it. Raises `AssertionError` when the fault does not fit."""
    copy = folder / "src"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    if fault is not None:
        file = copy / "synapse" / fault.file
        text = file.read_text(encoding="utf-8")
        found = text.count(fault.old)
        assert found == 1, f"{fault.name}: {fault.file} holds {fault.old!r} {found} times"
        file.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return copy


def first_failure(tests: tuple[str, ...], copy: Path) -> str | None:
    """The test that fails first against the copy, None when all pass. Raises `AssertionError` when they do not run."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "SYNAPSE_PLANTED": "1"}
    where = "import synapse, sys; sys.exit(not synapse.__file__.startswith(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", where, str(copy)], env=environment, cwd=ROOT, check=True)
    options = ("-x", "-q", "-p", "no:cacheprovider", "-m", "not prove", "--basetemp", str(copy.parent / "tests"))
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{tests[0]} (it hangs)"  # a fault that a run in .ci would show too
    if done.returncode == 0:
        return None
    failed = _FAILED.search(done.stdout)
    assert failed is not None, f"the tests did not run: {done.stdout[-2_000:]}{done.stderr[-2_000:]}"
    return failed[1]


def outcome_of(fault: Fault, parent: Path) -> Outcome:
    """Plant it and ask the named tests, then those of its room, then the machine."""
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        copy = planted(fault, Path(folder))
        rest = ROOMS.get(fault.file.partition("/")[0], ("tests/protocol",))
        for tests in (fault.tests, rest, (MACHINE,)):
            by = first_failure(tests, copy) if tests else None
            if by is not None:
                return Outcome(by, tests is fault.tests, time.monotonic() - started_s)
    return Outcome(None, False, time.monotonic() - started_s)


def main(words: list[str]) -> int:
    """Plant them all, as many at once as there are cores. Returns the exit code."""
    faults = [fault for fault in FAULTS if not words or any(word in fault.name or word in fault.file for word in words)]
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="synapse-planted-") as folder:
        sound = planted(None, Path(folder))
        named = tuple(sorted({test for fault in faults for test in fault.tests}))
        failed = first_failure(named, sound) if named else None
        if failed is not None:
            print(f"{failed} fails without any fault: nothing is proved", flush=True)
            return 1
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            outcomes = []
            for fault, outcome in zip(faults, pool.map(partial(outcome_of, parent=Path(folder)), faults), strict=True):
                outcomes.append(outcome)
                note = "" if outcome.by_name or outcome.by is None else "  (not by the tests it names)"
                by = outcome.by or "SURVIVED"
                print(f"{outcome.seconds:5.1f} s  {fault.file:24}{fault.name}\n{'':9}{by}{note}", flush=True)
    caught = sum(outcome.by is not None for outcome in outcomes)
    tell("planted faults", f"caught of {len(faults)}", caught, bound=f"= {len(faults)}", is_kept=caught == len(faults))
    tell("planted faults", "time", round(time.monotonic() - started_s), unit="s", bound="<= 1800")
    return 0 if caught == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
