"""One-line faults in private rooms and channels."""

from tests.planted.fault import Fault

ROOMS, MEMBERS = "core/rooms.py", "core/members.py"
_TESTS = ("tests/core/test_members.py",)
_LOOPS, _CYCLES = "core/loops.py", "core/cycles.py"
_CANARY = "tests/hostile/test_privacy.py"
_CAVE = (f"{_CANARY}::test_nothing_handed_on_waited_for_or_held_in_a_private_room_reaches_who_is_no_member",)

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
        (_CANARY,),
    ),
    Fault(
        "people outside of a private room are told of what is held there",
        _LOOPS,
        '        if agent.card.kind == "human" and (circle is None or agent.id in circle.members)\n',
        '        if agent.card.kind == "human"\n',
        _CAVE,
    ),
    Fault(
        "a question about what is held in a private room is raised outside of it",
        _LOOPS,
        "None if circle is None else circle.name, by)",
        "None, by)",
        _CAVE,
    ),
    Fault(
        "what is held of a private room is read by who is no member",
        _LOOPS,
        "(_is_within(state, held, by) and _is_inside(state, held, by.agent))",
        "_is_within(state, held, by)",
        _CAVE,
    ),
    Fault(
        "who was put out is told what became of what it sent",
        _LOOPS,
        " if _is_inside(state, held, agent) else ()",
        "",
        _CAVE,
    ),
    Fault(
        "a circle names who holds in a private room",
        _CYCLES,
        "    name = masked(state, other, by).owner\n",
        "    name = other.owner\n",
        _CAVE,
    ),
    Fault(
        "a circle names who waits in a private room",
        _CYCLES,
        "                told = name if masked(state, place.ask, by) is place.ask else PRIVATE\n",
        "                told = name\n",
        _CAVE,
    ),
    Fault(
        "a repeat tells who was put out what a lease is like now",
        "hub/requests.py",
        "                    if isinstance(body, Lease) and body.live:  # told as it is now\n",
        "                    if False:\n",
        ("tests/hub/test_requests_out_of_sight.py",),
    ),
    Fault(
        "a repeat tells who was put out what a task is like now",
        "core/plan_answers.py",
        "    if now is None or where is None or not may_see(where, by):\n",
        "    if now is None:\n",
        ("tests/hub/test_requests_out_of_sight.py",),
    ),
]
