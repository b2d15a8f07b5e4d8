"""Plants one fault at a time in a copy of src and runs the tests of leases against it.

`python -m tests.planted [WORD…]`

Prints who caught it and, at the end, how many were caught. Exits with 1 when one was not, or does not fit the source.
WORD: only the faults whose name holds one of the words. `--machine`: by the state machine alone.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.planted.faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
UNIT = [
    *(f"tests/core/test_{name}.py" for name in ("claims", "holding", "cycles", "leases", "leasing", "idempotency")),
    *(f"tests/core/test_{name}.py" for name in ("scope_index", "refusals", "lease_events", "lease_answers")),
    *("tests/hub/test_leasing.py", "tests/hub/test_turn.py", "tests/hub/test_disk.py"),
]
MACHINE = ["tests/core/test_lease_machine.py"]
SECONDS_MAX = 240


def planted(fault: Fault, folder: Path) -> Path:
    """A copy of src with the fault in it. Raises `AssertionError` when the fault does not fit."""
    copy = folder / "src"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / "synapse" / fault.file
    text = file.read_text(encoding="utf-8")
    assert text.count(fault.old) == 1, f"{fault.name}: {fault.file} holds {fault.old!r} {text.count(fault.old)} times"
    file.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    return copy


def is_caught_by(tests: list[str], copy: Path) -> bool:
    """Whether one of the tests fails against the copy. Raises `AssertionError` when the tests did not run at all."""
    there = [test for test in tests if (ROOT / test).exists()]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "SYNAPSE_PLANTED": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not prove", *there]
    where = "import synapse, sys; sys.exit(not synapse.__file__.startswith(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", where, str(copy)], env=environment, cwd=ROOT, check=True)
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        return True  # it hangs: a fault that a run in .ci would show too
    assert done.returncode in (0, 1), f"the tests did not run: {done.stdout[-2_000:]}{done.stderr[-2_000:]}"
    return done.returncode != 0


def main(arguments: list[str]) -> int:
    """Plant them all. Returns the exit code."""
    suites = (
        [("the machine", MACHINE)] if "--machine" in arguments else [("unit tests", UNIT), ("the machine", MACHINE)]
    )
    words = [word for word in arguments if not word.startswith("--")]
    faults = [fault for fault in FAULTS if not words or any(word in fault.name for word in words)]
    caught, started_s = 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="synapse-sound-") as folder:
        copy = Path(folder) / "src"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for name, tests in suites:
            if is_caught_by(tests, copy):
                print(f"{name} fail without any fault: nothing is proved", flush=True)
                return 1
    for fault in faults:
        with tempfile.TemporaryDirectory(prefix="synapse-planted-") as folder:
            copy = planted(fault, Path(folder))
            by = next((name for name, tests in suites if is_caught_by(tests, copy)), None)
        caught += by is not None
        print(f"{'caught by ' + by if by else 'SURVIVED':24}{fault.file:24}{fault.name}", flush=True)
    print(
        f"planted faults in leases: caught {caught}/{len(faults)} in {time.monotonic() - started_s:.0f} s", flush=True
    )
    return 0 if caught == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
