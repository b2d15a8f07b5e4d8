"""The planted faults fit the source of today; `make prove-planted` shows that each is caught."""

from pathlib import Path

import pytest
from tests.planted import FAULTS
from tests.planted.fault import Fault

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_fits_the_source_in_one_place(fault: Fault) -> None:
    text = (ROOT / "src" / "synapse" / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.old) == 1, "the source has changed: plant the fault anew"
    compile(text.replace(fault.old, fault.new), fault.file, "exec")
    assert fault.tests, "name the tests that should notice"
    for path, _, name in (test.partition("::") for test in fault.tests):
        function = name.rpartition("::")[2].partition("[")[0]
        assert function in (ROOT / path).read_text(encoding="utf-8"), "a test has another name now"


def test_each_fault_has_its_own_name() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 20
