"""Which role a command needs: one line each, from which the hub decides and docs/reference/roles.md is generated.

A role includes those before it: an observer asks and follows; an agent does everything that it can do for itself; a
human also answers for people; an admin does what an operator does. A line says the least role; where a request may need
more than that, its remark says when.
"""

from typing import Final

from synapse.protocol.commands import COMMANDS, Command
from synapse.protocol.terms import ADMIN, AGENT, HUMAN, OBSERVER, ROLES

_OWN: Final = "`inbox` needs an agent."

ROLE_OF: Final[dict[str, tuple[str, str]]] = {
    # wire type: (least role, remark)
    "hub.identify": (OBSERVER, "Before the hello, too."),
    "ping": (OBSERVER, ""),
    "hello": (OBSERVER, "`operator` needs an admin, or the hub's own user on its Unix socket."),
    "message.send": (AGENT, ""),
    "feed.subscribe": (OBSERVER, "`inbox`, `take` and `receipts` need an agent."),
    "feed.unsubscribe": (OBSERVER, ""),
    "history.read": (OBSERVER, _OWN),
    "inbox.take": (AGENT, ""),
    "inbox.ack": (AGENT, ""),
    "inbox.list": (AGENT, ""),
    "receipt.wait": (AGENT, ""),
    "agent.list": (OBSERVER, ""),
    "agent.declare": (AGENT, ""),
    "agent.rebind": (ADMIN, ""),
    "agent.forget": (ADMIN, ""),
    "room.list": (OBSERVER, ""),
    "room.create": (AGENT, "An admin where the hub's setting `create_needs_operator` is on."),
    "room.delete": (ADMIN, ""),
    "room.info": (OBSERVER, ""),
    "room.join": (AGENT, "As `room.create` when the room is not there."),
    "room.leave": (AGENT, ""),
    "channel.list": (OBSERVER, ""),
    "channel.create": (AGENT, "An admin where the hub's setting `create_needs_operator` is on."),
    "channel.delete": (ADMIN, ""),
    "channel.info": (OBSERVER, ""),
    "channel.join": (AGENT, "As `channel.create` when the channel is not there."),
    "channel.leave": (AGENT, ""),
    "member.invite": (AGENT, "A member of the private place, or an admin."),
    "member.kick": (AGENT, "Who made the private place, while it is a member; else any member; or an admin."),
    "lease.claim": (
        AGENT,
        "`preempt` needs a human; or an operator, who names the `claimant`.",
    ),
    "lease.renew": (AGENT, ""),
    "lease.release": (AGENT, ""),
    "lease.withdraw": (AGENT, ""),
    "lease.checkpoint": (AGENT, ""),
    "lease.hand_off": (AGENT, ""),
    "lease.park": (AGENT, ""),
    "lease.check": (OBSERVER, ""),
    "lease.covers": (AGENT, ""),
    "lease.list": (OBSERVER, ""),
    "task.explain": (OBSERVER, ""),
    "pool.set": (ADMIN, ""),
    "pool.delete": (ADMIN, ""),
    "pool.list": (OBSERVER, ""),
    "receipt.get": (AGENT, ""),
    "dead.list": (AGENT, ""),
    "dead.resend": (AGENT, ""),
    "dead.drop": (AGENT, ""),
    "value.put": (AGENT, "`owner` needs an operator."),
    "value.get": (OBSERVER, ""),
    "value.delete": (AGENT, ""),
    "value.list": (OBSERVER, ""),
    "value.clear": (AGENT, ""),
    "value.transfer": (AGENT, "Of another's value: an operator."),
    "resource.offer": (AGENT, ""),
    "resource.withdraw": (AGENT, "Of another's resource: an operator."),
    "resource.list": (OBSERVER, ""),
    "channel.recent": (OBSERVER, ""),
    "channel.typing": (AGENT, ""),
    "card.set": (AGENT, ""),
    "card.get": (OBSERVER, ""),
    "card.list": (OBSERVER, ""),
    "task.declare": (AGENT, "Of another's task without `if_version`: an operator."),
    "task.declare_all": (AGENT, "As `task.declare`."),
    "task.update": (AGENT, "Of a task that another holds: an operator."),
    "task.note": (AGENT, ""),
    "task.remove": (AGENT, "Of another's task: an operator."),
    "task.show": (OBSERVER, ""),
    "task.list": (OBSERVER, ""),
    "progress.read": (OBSERVER, ""),
    "events.read": (OBSERVER, "Direct messages need an agent."),
    "question.ask": (AGENT, ""),
    "question.answer": (HUMAN, ""),
    "question.dismiss": (HUMAN, ""),
    "question.withdraw": (AGENT, "Of another's question: an operator."),
    "question.wait": (OBSERVER, ""),
    "question.show": (OBSERVER, ""),
    "question.list": (OBSERVER, ""),
    "digest.read": (AGENT, ""),
    "role.join": (AGENT, ""),
    "role.leave": (AGENT, ""),
    "role.delete": (ADMIN, ""),
    "role.list": (OBSERVER, ""),
    "role.info": (OBSERVER, ""),
    "session.start": (AGENT, ""),
    "session.update": (AGENT, "Of another's session: an operator."),
    "session.beat": (AGENT, ""),
    "session.checkpoint": (AGENT, "Of another's session: an operator."),
    "session.checkpoints": (OBSERVER, "Without `session` it needs an agent."),
    "session.show": (OBSERVER, "Without `session` and `agent` it needs an agent."),
    "session.list": (OBSERVER, ""),
    "session.end": (AGENT, "Of another's session: an operator."),
    "lane.offer": (AGENT, ""),
    "lane.accept": (AGENT, ""),
    "lane.decline": (AGENT, ""),
    "lane.close": (AGENT, "Between others: an operator."),
    "lane.send": (AGENT, ""),
    "lane.show": (OBSERVER, ""),
    "lane.list": (OBSERVER, ""),
    "token.create": (ADMIN, ""),
    "token.list": (ADMIN, ""),
    "token.revoke": (ADMIN, ""),
    "file.begin": (AGENT, ""),
    "file.put": (AGENT, ""),
    "file.complete": (AGENT, ""),
    "file.show": (OBSERVER, ""),
    "file.read": (OBSERVER, ""),
    "file.receive": (AGENT, ""),
    "file.withdraw": (AGENT, "Of another's file: an operator."),
    "file.list": (OBSERVER, ""),
    "held.list": (AGENT, "Of others' messages: a human."),
    "held.release": (HUMAN, ""),
    "held.drop": (HUMAN, ""),
    "hub.status": (OBSERVER, ""),
    "journal.verify": (ADMIN, ""),
    "journal.backup": (ADMIN, ""),
    "journal.compact": (ADMIN, ""),
}

assert ROLE_OF.keys() == COMMANDS.keys(), f"a line for each command: {sorted(ROLE_OF.keys() ^ COMMANDS.keys())}"

ALLOWED: Final[dict[str, frozenset[type[Command]]]] = {
    role: frozenset(COMMANDS[kind] for kind, (least, _) in ROLE_OF.items() if ROLES.index(least) <= at)
    for at, role in enumerate(ROLES)
}
"""The commands of each role."""

MEANING: Final = {
    OBSERVER: "asks and follows; it is no agent, has no inbox, and changes nothing",
    AGENT: "sends, waits, claims, writes: everything that an agent does for itself",
    HUMAN: "also answers as a person, and preempts",
    ADMIN: "also everything that an operator does",
}


def reference_lines() -> list[str]:
    """The tables of docs/reference/roles.md about roles and commands."""
    lines = ["| role | what it may do |", "|---|---|"]
    lines += [f"| `{role}` | {MEANING[role]} |" for role in ROLES]
    lines += ["", "| command | least role | remark |", "|---|---|---|"]
    return lines + [f"| `{kind}` | {role} | {remark or '–'} |" for kind, (role, remark) in ROLE_OF.items()]
