"""What is answered about the cards of agents; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import card_commands
from synapse.protocol.card_commands import Skill


class CardInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent's card. presence, status, last_activity_at_ms: as of now; not in the answer to `card.set`."""

    name: str
    kind: str
    presence: str | UnsetType = UNSET
    status: str | UnsetType = UNSET
    last_activity_at_ms: int | UnsetType | None = UNSET
    display_name: str | None
    description: str | None
    version: str | None
    skills: tuple[Skill, ...]
    task_classes: tuple[str, ...]
    models: tuple[str, ...]
    tags: tuple[str, ...]
    client: str | None
    capabilities: tuple[str, ...]
    personality: str | None
    avatar: str | None
    cursor: str | UnsetType = UNSET


class CardsPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of cards by the names of the agents."""

    cards: tuple[CardInfo, ...]
    next: str | None
    cursor: str


CardReply: TypeAlias = CardInfo | CardsPage

CARD_REPLY_TO: Final[dict[type[msgspec.Struct], type[CardReply]]] = {
    card_commands.SetCard: CardInfo,
    card_commands.ShowCard: CardInfo,
    card_commands.ListCards: CardsPage,
}
