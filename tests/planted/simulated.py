"""One-line faults in questions, sessions and lanes that an hour of the simulation finds."""

from tests.planted.fault import Fault

ASKING, LANES = "core/asking.py", "core/lanes.py"
_TESTS = ("tests/simulation/test_simulation.py",)

SIMULATED_FAULTS = [
    Fault(
        "who asked is not told of the answer",
        ASKING,
        "    told = [question.agent]\n",
        "    told: list[int] = []\n",
        _TESTS,
    ),
    Fault(
        "a default is the answer although nobody agreed to that",
        ASKING,
        "    if question.on_deadline == DEFAULT:\n        assert question.default is not None",
        "    if question.default is not None:\n        assert question.default is not None",
        _TESTS,
    ),
    Fault(
        "a lease stands still for twice the ceiling",
        "hub/leasing.py",
        "                soft.untie(event.epoch)\n"
        "                soft.arm(event.epoch, lease_ms + self._limits.parked_ms_max, PARKED)",
        "                soft.untie(event.epoch)\n"
        "                soft.arm(event.epoch, lease_ms + 2 * self._limits.parked_ms_max, PARKED)",
        _TESTS,
    ),
    Fault(
        "a checkpoint has the number of the one before",
        "core/session_changes.py",
        "            n=session.points + 1,",
        "            n=session.points or 1,",
        _TESTS,
    ),
    Fault(
        "what an operator took away is not offered to who goes on",
        "core/resuming.py",
        "            case LeaseExpired() | LeaseRevoked():",
        "            case LeaseExpired():",
        _TESTS,
    ),
    Fault(
        "a lane is accepted after it was declined",
        LANES,
        "    DECLINED: (CLOSED,),",
        "    DECLINED: (ACCEPTED, CLOSED),",
        _TESTS,
    ),
    Fault(
        "who closes a lane is told, and the other side is not",
        LANES,
        "    others = tuple(side for side in (lane.sender, lane.receiver) if side != by.agent)",
        "    others = tuple(side for side in (lane.sender, lane.receiver) if side == by.agent)",
        _TESTS,
    ),
]
