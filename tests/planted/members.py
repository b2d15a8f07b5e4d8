"""One-line faults in private rooms and channels."""

from tests.planted.fault import Fault

ROOMS, MEMBERS = "core/rooms.py", "core/members.py"
_TESTS = ("tests/core/test_members.py",)

MEMBER_FAULTS = [
    Fault(
        "a private channel answers everybody",
        ROOMS,
        "    if channel is None or not may_see_channel(state, channel, by):",
        "    if channel is None:",
        _TESTS,
    ),
    Fault(
        "a new member reads what was said before it came",
        ROOMS,
        "    return state.seq if where.private and agent not in where.shown_all else 0",
        "    return 0",
        _TESTS,
    ),
    Fault(
        "who is put out keeps its leases",
        MEMBERS,
        "[removed, *_ended(state, room, agent.id), *lanes]",
        "[removed, *lanes]",
        _TESTS,
    ),
    Fault(
        "a lane of a private room goes on to who was put out",
        MEMBERS,
        "[removed, *_ended(state, room, agent.id), *lanes]",
        "[removed, *_ended(state, room, agent.id)]",
        ("tests/core/test_lanes.py",),
    ),
    Fault(
        "a lease of a private room is handed to anybody",
        "core/holding.py",
        "    require_insider(state.rooms.by_id[lease.ask.room], to)\n",
        "",
        _TESTS,
    ),
    Fault(
        "a mention reaches who may not read the channel",
        "core/messages.py",
        " or not reads(state, channel, agent.id)",
        "",
        _TESTS,
    ),
    Fault(
        "who is put out is told on",
        "hub/effects.py",
        "    ended = turns.feeds.end_hidden(turns.of_agent.get(agent.name, ()), room, channel)",
        "    ended = []",
        ("tests/hostile/test_privacy.py",),
    ),
]
