"""One-line faults in work sessions, lanes and in who goes on."""

from tests.planted.fault import Fault

CHANGES, SESSIONS, LANES, RESUMING = (
    "core/session_changes.py",
    "core/sessions.py",
    "core/lanes.py",
    "core/resuming.py",
)
_SESSIONS = ("tests/core/test_sessions.py",)
_LANES = ("tests/core/test_lanes.py",)
_RESUMING = ("tests/core/test_resuming.py",)

SESSION_FAULTS = [
    Fault(
        "the expected version of a session is not compared",
        CHANGES,
        "    if command.if_version is not None and command.if_version != session.version:",
        "    if command.if_version is not None and command.if_version > session.version:",
        _SESSIONS,
    ),
    Fault(
        "anybody changes a session",
        SESSIONS,
        "    if not by.has_role(ADMIN) and session.agent != by.require_agent():",
        "    if not by.has_role(ADMIN) and not by.require_agent():",
        _SESSIONS,
    ),
    Fault(
        "who waits in a long poll is offline",
        SESSIONS,
        "    if here is not None and here.is_online:",
        "    if here is not None and here.lasting:",
        _SESSIONS,
    ),
    Fault(
        "a lane is accepted after its time",
        LANES,
        "        return TIMED_OUT if self.state == OFFERED and self.expires_at_ms <= at_ms else self.state",
        "        return self.state",
        _LANES,
    ),
    Fault(
        "anybody accepts a lane",
        LANES,
        "    if by.require_agent() != lane.receiver:",
        "    if not by.require_agent():",
        _LANES,
    ),
    Fault(
        "letters of one decision have the same number",
        "core/mail.py",
        "                last[delivery.agent] = n",
        "                last[delivery.agent] = n - 1",
        _LANES,
    ),
    Fault(
        "the lease stays with the sender of an accepted lane",
        LANES,
        "    if lease is not None:\n        handed = hand_over",
        "    if lease is None and lease is not None:\n        handed = hand_over",
        _LANES,
    ),
    Fault(
        "what was resumed is offered again",
        SESSIONS,
        "        session.resumed_n = session.points",
        "        session.resumed_n = 0",
        _RESUMING,
    ),
    Fault(
        "a run is offered before its date",
        RESUMING,
        "    is_early = date_ms is not None and date_ms > at_ms",
        "    is_early = False",
        _RESUMING,
    ),
    Fault(
        "a resumed offer stays open",
        SESSIONS,
        "            session.is_offered = False\n            del self.offers[session.key]",
        "            session.is_offered = True",
        _RESUMING,
    ),
]
