"""The hello as the hub carries it out: the token first, then the agent; the rest is core's.

An observer is no agent: the name in its hello is not bound, and nobody sees that it is there.
"""

from typing import TYPE_CHECKING

from msgspec import UNSET

from synapse.core import kernel
from synapse.core.events import Recorded
from synapse.core.tokens import Token
from synapse.errors import Rejected
from synapse.hub.connection import Connection
from synapse.hub.space import SPACE_NEEDED
from synapse.hub.tokens import note_use, recognise
from synapse.protocol.codec import RequestId
from synapse.protocol.codes import PROTOCOL_VERSION
from synapse.protocol.commands import Hello
from synapse.protocol.cursor import cursor_of
from synapse.protocol.names import GENERAL, MAIN_ROOM, require_segment, split_address
from synapse.protocol.replies import Welcome
from synapse.protocol.roles import ALLOWED
from synapse.protocol.terms import ADMIN, AGENT, OBSERVER

if TYPE_CHECKING:
    from synapse.hub.turn import Turns


def greet(turns: "Turns", connection: Connection, request_id: RequestId, command: Hello) -> None:
    """Recognise the token, then the agent; the rest of the hello is core's."""
    token = recognise(turns, connection, command)
    home = _home_of(command.home, token)
    role = AGENT if token is None else token.role
    recorded: list[Recorded] = []
    if role == OBSERVER:
        name = OBSERVER
    else:
        name = "operator" if command.name is None else command.name
        is_known = name in turns.state.agents.by_name
        events = kernel.decide(turns.state, turns.rules, command, connection.by)
        try:
            recorded = turns.record(events, name)
        except Rejected as refusal:
            raise _unwritten(refusal, name, is_known=is_known) from refusal
    by = connection.by
    by.actor, by.home, by.operator, by.role = name, home, command.operator, role
    connection.allowed = ALLOWED[ADMIN if command.operator else role]
    if token is not None:
        by.token, by.rooms = token.id, None if token.rooms is None else frozenset(token.rooms)
        note_use(turns, connection, token)
    connection.session.accept()
    turns.peers.unwelcomed.pop(connection, None)
    if not command.operator and role != OBSERVER:
        _take_place(turns, connection, name, lasting=command.lasting)
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
            bound=any(getattr(entry.event, "secret_hash", None) is not None for entry in recorded),
            home=home,
            limits=turns.rules.limits,
            role=UNSET if token is None else role,
            rooms=UNSET if token is None else token.rooms,
        ),
    )


def _unwritten(refusal: Rejected, name: str, *, is_known: bool) -> Rejected:
    """Why a hello is refused on a full disk, although the hub answers reads. refusal: of its events."""
    what = f"what {name} says of itself" if is_known else name
    who = f"without that, {name} can read if it is bound already" if is_known else "a name that the hub knows can read"
    return Rejected(
        refusal.code,
        f"the disk is full, and {what} is new here and cannot be written down now: {who}, and so can an operator "
        f"(--operator where the verb has it); {SPACE_NEEDED}",
        {**refusal.facts, "name": name},
        retry_after_ms=refusal.retry_after_ms,
    )


def _take_place(turns: "Turns", connection: Connection, name: str, *, lasting: bool) -> None:
    """The connection is one of this agent's."""
    by = connection.by
    agent = turns.state.agents.by_name[name]
    by.agent, connection.agent = agent.id, name
    connection.agent_bucket = turns.peers.agent_buckets.of(name, turns.clock.monotonic_ms())
    turns.of_agent.setdefault(name, {})[connection] = None
    turns.state.soft.presence.connect(agent.id, connection.id, by.at_ms, by.lease_ms, lasting=lasting)


def _home_of(home: str | None, token: Token | None) -> str:
    """The address for messages that name none: by default in `main`, or in the first room of a grant.

    Raises `Rejected(bad_name)`.
    """
    if home is None:
        room = MAIN_ROOM if token is None or token.rooms is None or MAIN_ROOM in token.rooms else token.rooms[0]
        return f"{room}:{GENERAL}"
    if ":" in home:
        room, channel = split_address(home)
        return f"{room}:{channel}"
    return f"{require_segment(home, 'room')}:{GENERAL}"
