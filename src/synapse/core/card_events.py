"""What an agent says of itself, and that it said so; `events` has them in its union."""

import msgspec

from synapse.core.idem import Idem
from synapse.protocol.card_commands import Skill


class Card(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an agent describes itself."""

    kind: str = "agent"
    display_name: str | None = None
    personality: str | None = None
    avatar: str | None = None
    client: str | None = None
    capabilities: tuple[str, ...] = ()
    description: str | None = None
    version: str | None = None
    skills: tuple[Skill, ...] = ()
    task_classes: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


class AgentDescribed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent changed its card."""

    agent: int
    card: Card
    idem: Idem | None = None
