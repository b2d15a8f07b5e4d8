"""Cards: what agents say of themselves, durable with the agent. The hub believes what it is told, and a card grants
nothing.

A hello changes the few fields that it names, `card.set` all of them but `kind`; what is not named stays as it was.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from synapse.core.agents import Agent, require_card_size, require_known
from synapse.core.bounds import require_chars, require_few
from synapse.core.by import By, Rules
from synapse.core.card_events import AgentDescribed, Card
from synapse.core.events import Event, Recorded
from synapse.core.presence import Here
from synapse.core.rooms import knows_agent
from synapse.errors import bad_request
from synapse.protocol.card_commands import ListCards, SetCard, ShowCard
from synapse.protocol.card_replies import CardInfo
from synapse.protocol.names import require_word

if TYPE_CHECKING:
    from synapse.core.state import State

_TEXTS: Final = ("description", "version", "client", "display_name", "personality", "avatar")
_WORDS: Final = ("task_classes", "models", "tags", "capabilities")


def decide_set(state: "State", rules: Rules, command: SetCard, by: By) -> list[Event]:
    """A card with other fields; nothing when it says so already. Raises `Rejected`: `bad_request`, `too_large`."""
    agent = state.agents.by_id[by.require_agent()]
    given = {name: value for name in command.__struct_fields__ if (value := getattr(command, name)) is not None}
    if not given:
        raise bad_request("nothing is said: name at least one field of the card", "$.body")
    _require_bounds(rules, command)
    card = msgspec.structs.replace(
        agent.card, **{name: (value or None) if name in _TEXTS else value for name, value in given.items()}
    )
    if card == agent.card:
        return []
    require_card_size(card, rules)
    return [AgentDescribed(agent=agent.id, card=card)]


def _require_bounds(rules: Rules, command: SetCard) -> None:
    limits = rules.limits
    for name in _TEXTS:
        text = getattr(command, name)
        if text and name == "version":
            require_word(text, "version", "$.body.version")
        elif text:
            require_chars(name, text, limits.card_text_chars_max)
    for name in _WORDS:
        words = getattr(command, name) or ()
        require_few(words, limits.card_words_max, f"$.body.{name}", "card_words_max")
        for word in words if name != "capabilities" else ():
            require_word(word, name, f"$.body.{name}")
    skills = command.skills or ()
    require_few([skill.id for skill in skills], limits.skills_max, "$.body.skills", "skills_max")
    for at, skill in enumerate(skills):
        path = f"$.body.skills[{at}]"
        require_word(skill.id, "skill id", f"{path}.id")
        require_chars(f"skills[{at}].name", skill.name, limits.card_text_chars_max)
        require_chars(f"skills[{at}].description", skill.description, limits.card_text_chars_max)
        require_few(skill.tags, limits.card_words_max, f"{path}.tags", "card_words_max")
        for tag in skill.tags:
            require_word(tag, "tag", f"{path}.tags")


def answer_set(state: "State", by: By, events: Sequence[Recorded], cursor: str) -> CardInfo:
    """The card as it is after `card.set`, or was after an earlier one with the same key."""
    agent = state.agents.by_id[by.require_agent()]
    event = events[0].event if events else None
    assert event is None or isinstance(event, AgentDescribed)
    return _info(agent.name, agent.card if event is None else event.card, cursor=cursor)


def look_card(state: "State", query: ShowCard, by: By, cursor: str) -> CardInfo:
    """One agent's card. Raises `Rejected`: `bad_name`, `not_found`."""
    return card_info(state, require_known(state, query.name, by), by, cursor)


def card_info(state: "State", agent: Agent, by: By, cursor: str | None = None) -> CardInfo:
    """A card with what is known of its agent now."""
    here = state.soft.presence.here.get(agent.id) or Here()
    return msgspec.structs.replace(
        _info(agent.name, agent.card, cursor=cursor),
        presence=state.soft.presence.of(agent.id, by.lease_ms),
        status=here.status,
        last_activity_at_ms=here.last_activity_at_ms,
    )


def _info(name: str, card: Card, *, cursor: str | None) -> CardInfo:
    return CardInfo(
        name=name, **{field: getattr(card, field) for field in card.__struct_fields__}, cursor=cursor or UNSET
    )


def cards_to_list(state: "State", query: ListCards, by: By) -> list[str]:
    """The agents that a list goes through: those that say what they can do. Raises `Rejected(bad_name)`."""
    for word, what in ((query.skill, "skill"), (query.tag, "tag")):
        if word is not None:
            require_word(word, what, f"$.body.{what}")
    every = state.agents.by_id.values()
    return sorted(agent.name for agent in every if _fits(agent.card, query) and knows_agent(state, agent.id, by))


def _fits(card: Card, query: ListCards) -> bool:
    if query.skill is not None and all(skill.id != query.skill for skill in card.skills):
        return False
    if query.tag is not None:
        return query.tag in card.tags or any(query.tag in skill.tags for skill in card.skills)
    return bool(card.description or card.skills or card.task_classes or card.models or card.tags or card.capabilities)
