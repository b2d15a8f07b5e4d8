"""`resource …`: what agents lend to each other, such as machines, models and tools. Taking is a claim of units."""

import os

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.claims import described
from synapse.faces.cli.given import given_json, given_text
from synapse.faces.cli.options import UsageError
from synapse.faces.cli.render import clock, field, safe, table
from synapse.faces.cli.terms import claim_body, milliseconds, units_by_pool
from synapse.faces.cli.waiting import Claim

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]


def resource_offer(call: Call) -> int:
    """Lend something, or say anew what is lent."""
    parsed = call.parsed
    kind = parsed.text("kind")
    if kind is None:
        raise UsageError("of what kind? synapse resource offer NAME --kind compute, model, tool, or another word")
    body: Json = {"resource": parsed.arguments[0], "kind": kind, "capacity": parsed.number("capacity", 1)}
    ttl_s, description, data = parsed.seconds("ttl"), parsed.text("description"), parsed.text("data")
    if ttl_s is not None:
        body["ttl_ms"] = milliseconds(ttl_s)
    if description is not None:
        body["description"] = description
    if data is not None:
        body["data"] = given_json(given_text(data, "keep it elsewhere and say where"), "--data")
    answer = call.open_as(call.worker).ask("resource.offer", body)
    until = answer.get("expires_at_ms")
    ends = f", until {clock(until)}" if isinstance(until, int) else ""
    units = field(answer, "capacity")
    call.show(answer, f"{field(answer, 'resource')}: {units} of kind {field(answer, 'kind')} offered{ends}")
    return EXIT_OK


def resource_withdraw(call: Call) -> int:
    """Lend it no more."""
    body: Json = {"resource": call.parsed.arguments[0]}
    link = call.open_as_operator() if call.parsed.has("operator") else call.open_as(call.worker)
    answer = link.ask("resource.withdraw", body)
    left = f"; {field(answer, 'held')} units go on to the end of their leases" if answer.get("held") else ""
    call.show(answer, f"{field(answer, 'resource')} is lent no more{left}")
    return EXIT_OK


def resource_list(call: Call) -> int:
    """What is lent, by whom, and how much of it is taken."""
    body: Json = {key: text for key in ("kind", "owner") if (text := call.parsed.text(key)) is not None}
    answer = call.pages("resource.list", body, ("resources",))
    resources = answer.get("resources")
    rows = [["NAME", "KIND", "UNITS", "HELD", "WAITED FOR", "OWNER", "THERE", "STATUS", "UNTIL", "DESCRIPTION"]]
    for item in resources if isinstance(resources, list) else []:
        until = item.get("expires_at_ms")
        row = [field(item, key) for key in ("resource", "kind", "capacity", "held", "waiting", "owner", "presence")]
        ends = clock(until) if isinstance(until, int) else ""
        rows.append([*row, field(item, "status"), ends, safe(field(item, "description"))])
    call.show(answer, table(rows) if len(rows) > 1 else "nothing is lent")
    return EXIT_OK


def resource_take(call: Call) -> int:
    """Take units under a lease: of a task of its own, unless one is named."""
    parsed = call.parsed
    units = units_by_pool(parsed.arguments, "resource take")
    if parsed.text("idem_key") and not parsed.text("task"):
        raise UsageError("--idem-key needs --task: the same take again is of the same task")
    task = parsed.text("task") or f"take/{next(iter(units))}-{os.urandom(4).hex()}"
    body = claim_body(call, task) | {"pools": units}
    lease = Claim(call, body, parsed.text("idem_key")).grant().lease
    call.show(lease, f"{described(lease)}\n  give it back with: synapse release {field(lease, 'task')}")
    return EXIT_OK
