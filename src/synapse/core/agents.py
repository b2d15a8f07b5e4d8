"""Agents: durable identities, each bound to a secret at its first hello.

Several connections may be one agent; every one of them shows the secret. A sub-agent `a/b` is bound only by who also
shows the secret of its nearest bound ancestor.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING, Final

import msgspec

from synapse.core.bounds import require_chars, require_few
from synapse.core.by import By, Rules
from synapse.core.events import AgentBound, AgentCreated, AgentDescribed, AgentUnbound, Card, Event
from synapse.core.inboxes import Dates, Inbox
from synapse.core.rooms import knows_agent
from synapse.errors import Rejected, bad_request
from synapse.protocol.commands import Hello
from synapse.protocol.names import ancestors, require_agent_name, shown

if TYPE_CHECKING:
    from synapse.core.state import State

SECRET_CHARS_MIN: Final = 32
SECRET_CHARS_MAX: Final = 128

_SAID: Final = ("kind", "display_name", "personality", "avatar", "client", "capabilities")
"""What a hello may say of its agent; `card.set` says the rest."""
_TEXTS: Final = ("display_name", "personality", "avatar", "client")


@dataclass(slots=True)
class Agent:
    """One identity. id: seq of its creation. secret_hash: SHA-256 hex, None while unbound."""

    id: int
    name: str
    card: Card
    secret_hash: str | None
    created_at_ms: int
    created_by: str


@dataclass(slots=True)
class Agents:
    """All agents, by id and by name. inboxes: theirs by their ids, and the queues of roles by the ids of those.

    Derived from those: dead_of: dead letters by who sent them, as pairs of seq and inbox, sorted. dates: when messages
    end.
    """

    by_id: dict[int, Agent] = field(default_factory=dict)
    by_name: dict[str, Agent] = field(default_factory=dict)
    inboxes: dict[int, Inbox] = field(default_factory=dict)
    dead_of: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    dates: Dates = field(default_factory=Dates)

    def add(self, agent: Agent) -> None:
        """Put an agent and its empty inbox in place."""
        assert agent.name not in self.by_name, "a name is taken once"
        self.by_id[agent.id] = agent
        self.by_name[agent.name] = agent
        self.inboxes[agent.id] = Inbox()

    def remove(self, agent_id: int) -> None:
        """Forget an agent and its inbox."""
        agent = self.by_id.pop(agent_id)
        del self.by_name[agent.name]
        del self.inboxes[agent_id]


def hash_of(secret: str) -> str:
    """What the journal keeps of a secret. Secrets are 256 random bits, so a plain hash is enough."""
    return sha256(secret.encode()).hexdigest()


def require_known(state: "State", name: str, by: By) -> Agent:
    """The agent of that name, if who asks may know of it. Raises `Rejected`: `bad_name`, or `not_found` with near
    names."""
    agent = state.agents.by_name.get(require_agent_name(name))
    if agent is None or not knows_agent(state, agent.id, by):
        near = near_names(state, name, by)
        hint = f"; near {name}: {', '.join(near)}" if near else ""
        raise Rejected(
            "not_found", f"no agent {name} was ever seen{hint}; synapse who lists them", {"agent": name, "near": near}
        )
    return agent


def near_names(state: "State", name: str, by: By) -> list[str]:
    """Up to five agents that who asks may know of, within two typing errors, nearest first."""
    return near(name, [known for known, agent in state.agents.by_name.items() if knows_agent(state, agent.id, by)])


def near(name: str, names: Iterable[str]) -> list[str]:
    """Up to five of the names within two typing errors, nearest first."""
    close = ((_distance(name, known), known) for known in names if abs(len(known) - len(name)) <= 2)
    return [known for distance, known in sorted(close) if distance <= 2][:5]


def _distance(a: str, b: str) -> int:
    """Levenshtein distance of two short strings."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def decide_hello(state: "State", rules: Rules, command: Hello) -> list[Event]:
    """Bind or recognise an agent. The hub has checked the token and, for an operator, the peer's uid."""
    if command.operator:
        if command.name is not None:
            raise bad_request("an operator connection names no agent", "$.body.name")
        return []
    if command.name is None:
        raise Rejected("bad_request", "hello needs the name of an agent - at `$.body.name`", {"path": "$.body.name"})
    name = require_agent_name(command.name)
    agent = state.agents.by_name.get(name)
    if agent is not None and agent.secret_hash is not None:
        if command.secret is None or not compare_digest(agent.secret_hash, hash_of(command.secret)):
            raise _taken(agent)
        card = _card(command, agent.card, rules)
        return [] if card == agent.card else [AgentDescribed(agent=agent.id, card=card)]
    secret = command.secret
    if secret is None or not SECRET_CHARS_MIN <= len(secret) <= SECRET_CHARS_MAX:
        raise Rejected(
            "bad_request",
            f"the first hello of {name} binds it to a secret of {SECRET_CHARS_MIN} to {SECRET_CHARS_MAX} characters"
            " - at `$.body.secret`",
            {"path": "$.body.secret"},
        )
    _require_ancestor(state, name, command)
    if agent is None:
        require_room_for_agents(state, rules, 1)
        return [AgentCreated(name=name, card=_card(command, Card(), rules), secret_hash=hash_of(secret))]
    events: list[Event] = [AgentBound(agent=agent.id, secret_hash=hash_of(secret))]
    card = _card(command, agent.card, rules)
    if card != agent.card:
        events.append(AgentDescribed(agent=agent.id, card=card))
    return events


def require_room_for_agents(state: "State", rules: Rules, count: int) -> None:
    """Raises `Rejected(limit)` when `count` more agents are too many."""
    known, most = len(state.agents.by_id), rules.limits.agents_max
    if known + count > most:
        raise Rejected(
            "limit",
            f"the hub knows {known} agents of {most}: an operator can forget some (synapse agent forget NAME)",
            {"limit": "agents_max", "value": most},
        )


def _taken(agent: Agent) -> Rejected:
    return Rejected(
        "name_taken",
        f"the name {agent.name} ({agent.card.kind}, first seen at {agent.created_at_ms} ms) belongs to another secret: "
        f"use another name (synapse agent new), bring its secret (SYNAPSE_AGENT_SECRET_FILE), or let an operator run "
        f"synapse agent rebind {agent.name}",
        {"name": agent.name, "kind": agent.card.kind, "first_seen_at_ms": agent.created_at_ms},
    )


def _require_ancestor(state: "State", name: str, command: Hello) -> None:
    for above in ancestors(name):
        agent = state.agents.by_name.get(above)
        if agent is None or agent.secret_hash is None:
            continue
        shown_secret = command.ancestors.get(above)
        if shown_secret is None or not compare_digest(agent.secret_hash, hash_of(shown_secret)):
            raise Rejected(
                "name_taken",
                f"{name} hangs under the agent {above} (first seen at {agent.created_at_ms} ms): the first hello of a "
                f"sub-agent must also show the secret of {above}, which lies in the home it was bound from",
                {"name": above, "kind": agent.card.kind, "first_seen_at_ms": agent.created_at_ms},
            )
        return


def _card(command: Hello, old: Card, rules: Rules) -> Card:
    """The card after this hello: what it says replaces, what it leaves out stays."""
    said = {name: value for name in _SAID if (value := getattr(command, name)) is not None}
    card = msgspec.structs.replace(old, **said) if said else old
    if card == old:
        return old
    if not 0 < len(card.kind) <= 64:
        raise bad_request(f"kind {shown(card.kind)} must have 1 to 64 characters", "$.body.kind")
    for name in _TEXTS:
        if text := said.get(name):
            require_chars(name, text, rules.limits.card_text_chars_max)
    require_few(said.get("capabilities", ()), rules.limits.card_words_max, "$.body.capabilities", "card_words_max")
    require_card_size(card, rules)
    return card


def require_card_size(card: Card, rules: Rules) -> None:
    """Raises `Rejected(too_large)`."""
    size = len(msgspec.json.encode(card))
    if size > rules.limits.card_bytes_max:
        raise Rejected(
            "too_large",
            f"the card has {size} bytes; at most {rules.limits.card_bytes_max}",
            {"bytes": size, "card_bytes_max": rules.limits.card_bytes_max},
        )


def decide_rebind(state: "State", name: str, by: By) -> list[Event]:
    """Drop a secret; without one there is nothing to change."""
    agent = require_known(state, name, by)
    return [] if agent.secret_hash is None else [AgentUnbound(agent=agent.id)]
