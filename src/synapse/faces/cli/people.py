"""`who` and `agent …`: the agents of the hub."""

import os

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.identity import Identity
from synapse.faces.cli.render import clock, field, table

PREFIX = "agent"


def who(call: Call) -> int:
    """Everybody, or the members of --room."""
    room = call.parsed.text("room")
    answer = call.pages("agent.list", {} if room is None else {"room": room}, ("agents",))
    agents = answer.get("agents")
    rows = [["NAME", "KIND", "PRESENCE", "WAKEABLE", "STATUS", "SINCE", "LAST", "UNACKED"]]
    for agent in agents if isinstance(agents, list) else []:
        presence, words = field(agent, "presence"), field(agent, "status")
        wakes = "yes" if agent.get("wakeable") else ""
        times = [clock(agent.get("connected_since_at_ms")), clock(agent.get("last_activity_at_ms"))]
        rows.append(
            [field(agent, "name"), field(agent, "kind"), presence, wakes, words, *times, field(agent, "unacked")]
        )
    call.show(answer, table(rows))
    return EXIT_OK


agent_list = who


def agent_new(call: Call) -> int:
    """A name nobody has, bound to a secret of this home."""
    prefix = call.parsed.arguments[0] if call.parsed.arguments else PREFIX
    name = f"{prefix}-{os.urandom(4).hex()}"
    welcome = call.open_as(Identity(name, None, is_named=True)).await_welcome()
    call.show({"name": name, "cursor": welcome.get("cursor")}, name)
    return EXIT_OK


def agent_status(call: Call) -> int:
    """Declare what I am doing."""
    answer = call.ask("agent.declare", {"status": call.parsed.arguments[0]})
    call.show(answer, f"{field(answer, 'name')} is {field(answer, 'status')}")
    return EXIT_OK


def agent_rebind(call: Call) -> int:
    """Drop an agent's secret."""
    answer = call.ask("agent.rebind", {"name": call.parsed.arguments[0]}, operator=True)
    call.show(answer, f"{field(answer, 'name')}: the next call binds it anew")
    return EXIT_OK


def agent_forget(call: Call) -> int:
    """Remove an agent."""
    answer = call.ask("agent.forget", {"name": call.parsed.arguments[0]}, operator=True)
    call.show(answer, f"{field(answer, 'name')} is forgotten")
    return EXIT_OK
