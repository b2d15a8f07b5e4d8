"""Each planted fault is found by the simulation; the quick ones in every test run, all of them under `make prove`."""

import pytest
from tests.figures import tell
from tests.planted.__main__ import SOURCE
from tests.planted.fault import Fault
from tests.simulation.controls import CONTROLS, SOONEST, find, seeds_for

QUICK = ("answers leave before the commit", "epochs begin again", "a lease ends a tick early")


@pytest.mark.parametrize("fault", CONTROLS, ids=lambda fault: fault.name)
def test_each_control_fits_the_source_in_one_place(fault: Fault) -> None:
    text = (SOURCE / "synapse" / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.old) == 1, "the source has changed: plant the fault anew"
    compile(text.replace(fault.old, fault.new), fault.file, "exec")


def test_each_seed_that_is_tried_first_is_that_of_a_control() -> None:
    assert SOONEST.keys() <= {fault.name for fault in CONTROLS}


@pytest.mark.parametrize("fault", [fault for fault in CONTROLS if fault.name in QUICK], ids=lambda fault: fault.name)
def test_a_planted_fault_is_found_at_once(fault: Fault) -> None:
    assert find(fault, (1,)).rule


@pytest.mark.prove
def test_every_planted_fault_is_found() -> None:
    found = {fault.name: find(fault, seeds_for(fault)) for fault in CONTROLS}
    missed = [name for name, it in found.items() if not it.rule]
    for name, it in found.items():
        print(f"{name}: {it.rule or 'NOT FOUND'}, seed {it.seed}, {it.steps} steps, {it.simulated_s} s")
    caught = len(found) - len(missed)
    tell("simulation, controls", "planted faults found", caught, bound=f"= {len(found)}", is_kept=not missed)
    tell("simulation, controls", "most steps to find one", max(it.steps for it in found.values()))
    assert not missed
