"""One-line faults in role queues."""

from tests.planted.fault import Fault

INBOXES = "core/inboxes.py"
ROLES = "core/role_queues.py"
_CORE = ("tests/core/test_role_queues.py",)
_MACHINE = ("tests/hub/test_role_machine.py",)

ROLE_FAULTS = [
    Fault(
        "a member acks what another has lent",
        INBOXES,
        "            if held is not None and held.holder != agent:\n",
        "            if held is not None and held.holder is None:\n",
        _CORE,
    ),
    Fault(
        "own mail goes before what waits longer for a role",
        INBOXES,
        "*(zip(free[lane], repeat(inbox)) for inbox, free in found for lane in lanes if lane in free)",
        "(at for inbox, free in found for lane in lanes for at in zip(free.get(lane, ()), repeat(inbox)))",
        _CORE,
    ),
    Fault(
        "who acks all takes from the others what they have lent",
        INBOXES,
        "[lend for lend in self.lends.values() if lend.holder == holder]",
        "[lend for lend in self.lends.values() if lend.holder is not None]",
        _CORE,
    ),
    Fault(
        "a forgotten agent stays a member",
        ROLES,
        "            self.by_id[role_id].members.discard(agent)\n\n\n",
        "            pass\n\n\n",
        _CORE,
    ),
    Fault(
        "a role is deleted with what waits in its queue",
        ROLES,
        "    if role.members or entries:",
        "    if role.members:",
        _CORE,
    ),
    Fault(
        "who came last is served first",
        "hub/waiting.py",
        "sorted(found, key=lambda item: item[0].order)",
        "sorted(found, key=lambda item: -item[0].order)",
        _MACHINE,
    ),
    Fault(
        "who joins is not told of what waits",
        "hub/requests.py",
        "            self._turns.arrived([connection.by.require_agent()])  # what waits in the queue is there for it\n",
        "            pass\n",
        _MACHINE,
    ),
    Fault(
        "who leaves keeps what it has lent",
        "hub/requests.py",
        "            if lend.agent == role:\n",
        "            if lend.agent != role:\n",
        _MACHINE,
    ),
    Fault(
        "what a member has lent is said to be its agent's own",
        "hub/takes.py",
        "        holder = connection.by.agent if inbox in state.roles.by_id else None\n",
        "        holder = None\n",
        _MACHINE,
    ),
    Fault(
        "a receipt names the role and not the member",
        "core/events.py",
        "if event.by_member else ()",
        "if not event.by_member else ()",
        ("tests/client/test_role_queues.py",),
    ),
]
