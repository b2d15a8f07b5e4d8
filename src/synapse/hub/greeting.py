"""The hello as the hub carries it out: the token first, then the agent; the rest is core's."""

from hmac import compare_digest
from typing import TYPE_CHECKING

from synapse.core import kernel
from synapse.errors import Rejected
from synapse.hub.connection import Connection
from synapse.protocol.codec import RequestId
from synapse.protocol.codes import PROTOCOL_VERSION
from synapse.protocol.commands import Hello
from synapse.protocol.cursor import cursor_of
from synapse.protocol.names import GENERAL, MAIN_ROOM, require_segment, split_address
from synapse.protocol.replies import Welcome
from synapse.protocol.roles import ALLOWED
from synapse.protocol.terms import ADMIN

if TYPE_CHECKING:
    from synapse.hub.turn import Turns


def greet(turns: "Turns", connection: Connection, request_id: RequestId, command: Hello) -> None:
    """Recognise the token, then the agent; the rest of the hello is core's."""
    if not connection.is_owner and not connection.has_token:
        given = b"" if command.token is None else command.token.encode()
        if not compare_digest(given, turns.token):
            raise Rejected(
                "unauthorized",
                "the hub token is missing or wrong: it lies in the file `token` of the hub's home (--token-file)",
            )
    if command.operator and not connection.is_owner:
        raise Rejected("not_permitted", "an operator connection comes from the hub's own user over its Unix socket")
    home = _home_of(command.home)
    name = "operator" if command.name is None else command.name
    recorded = turns.record(kernel.decide(turns.state, turns.rules, command, connection.by), name)
    by = connection.by
    by.actor, by.home, by.operator = name, home, command.operator
    connection.allowed = ALLOWED[ADMIN if by.operator else by.role]
    connection.session.accept()
    turns.peers.unwelcomed.pop(connection, None)
    if not command.operator:
        agent = turns.state.agents.by_name[name]
        by.agent, connection.agent = agent.id, name
        connection.agent_bucket = turns.peers.agent_buckets.of(name, turns.clock.monotonic_ms())
        turns.of_agent.setdefault(name, {})[connection] = None
        turns.state.soft.presence.connect(agent.id, connection.id, by.at_ms, by.lease_ms, lasting=command.lasting)
    bound = any(getattr(entry.event, "secret_hash", None) is not None for entry in recorded)
    turns.reply(
        connection,
        request_id,
        Welcome(
            protocol=PROTOCOL_VERSION,
            version=turns.version,
            hub_id=turns.state.hub_id,
            journal_id=turns.state.journal_id,
            cursor=cursor_of(turns.state.journal_id, turns.state.seq),
            connection=connection.id,
            name=connection.agent,
            bound=bound,
            home=home,
            limits=turns.rules.limits,
        ),
    )


def _home_of(home: str | None) -> str:
    """The address for messages that name none. Raises `Rejected(bad_name)`."""
    if home is None:
        return f"{MAIN_ROOM}:{GENERAL}"
    if ":" in home:
        room, channel = split_address(home)
        return f"{room}:{channel}"
    return f"{require_segment(home, 'room')}:{GENERAL}"
