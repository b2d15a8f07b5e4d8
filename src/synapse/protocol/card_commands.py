"""What may be asked about the cards of agents; `commands` has them in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol.terms import Int


class Skill(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that an agent can do. id: a word, such as review-python. tags: words to find it by."""

    id: str
    name: str
    description: str
    tags: tuple[str, ...] = ()


class SetCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say of myself what I can do. What is null, or left out, stays as it was; an empty text or list takes away what
    was said. task_classes, models, tags: words. version: of the agent, a word too."""

    description: str | None = None
    version: str | None = None
    skills: tuple[Skill, ...] | None = None
    task_classes: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    client: str | None = None
    capabilities: tuple[str, ...] | None = None
    display_name: str | None = None
    personality: str | None = None
    avatar: str | None = None


class ShowCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One agent's card, with its presence."""

    name: str


class ListCards(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One page of the cards of agents that say what they can do, by name. skill: only with a skill of that id. tag:
    only with that tag, of the agent or of a skill."""

    skill: str | None = None
    tag: str | None = None
    limit: Int = 200
    after: str | None = None


CardCommand: TypeAlias = SetCard | ShowCard | ListCards

CARD_COMMANDS: Final[dict[str, type[CardCommand]]] = {
    "card.set": SetCard,
    "card.get": ShowCard,
    "card.list": ListCards,
}
"""Command class by wire type."""
