"""`role …`: addresses whose messages are taken by one of several agents."""

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.render import clock, field, safe, table

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]


def role_list(call: Call) -> int:
    """All roles with their counts."""
    answer = call.pages("role.list", {}, ("roles",))
    found = answer.get("roles")
    rows = [["ROLE", "MEMBERS", "UNACKED", "MESSAGES", "CREATED", "BY"]]
    for role in found if isinstance(found, list) else []:
        counts = [field(role, key) for key in ("role", "members", "unacked", "messages")]
        rows.append([*counts, clock(role.get("created_at_ms")), field(role, "created_by")])
    call.show(answer, table(rows))
    return EXIT_OK


def role_info(call: Call) -> int:
    """One role with its queue and members."""
    answer = call.pages("role.info", {"role": call.parsed.arguments[0]}, ("participants",))
    members = answer.get("participants")
    names = [safe(str(name)) for name in members] if isinstance(members, list) else []
    lines = [
        f"role:{field(answer, 'role')}  created {clock(answer.get('created_at_ms'))} by {field(answer, 'created_by')}",
        f"queue: {field(answer, 'waiting')} waiting, {field(answer, 'lent')} lent, {field(answer, 'dead')} dead; "
        f"{field(answer, 'messages')} sent so far",
        f"members ({len(names)}): {', '.join(names) or '–'}",
    ]
    call.show(answer, "\n".join(lines))
    return EXIT_OK


def role_join(call: Call) -> int:
    """Take what is sent to a role."""
    return _change(call, "role.join", "joined", "joined before")


def role_leave(call: Call) -> int:
    """Take no more of it."""
    return _change(call, "role.leave", "left", "was no member")


def role_delete(call: Call) -> int:
    """Delete an empty role, as operator."""
    return _change(call, "role.delete", "deleted", "was not there", operator=True)


def _change(call: Call, kind: str, done: str, same: str, *, operator: bool = False) -> int:
    answer = call.ask(kind, {"role": call.parsed.arguments[0]}, operator=operator)
    created = ", the first to do so" if answer.get("created") else ""
    call.show(answer, f"role:{field(answer, 'role')}: {done if answer.get('changed') else same}{created}")
    return EXIT_OK
