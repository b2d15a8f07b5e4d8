"""The client's half of cards: what agents say they can do."""

from collections.abc import Iterable

from synapse.client.asking import Asking
from synapse.protocol import card_commands
from synapse.protocol.card_commands import Skill
from synapse.protocol.card_replies import CardInfo, CardsPage


class Cards(Asking):
    """What agents can do: a part of `Client`."""

    async def set_card(
        self,
        *,
        description: str | None = None,
        version: str | None = None,
        skills: Iterable[Skill] | None = None,
        task_classes: Iterable[str] | None = None,
        models: Iterable[str] | None = None,
        tags: Iterable[str] | None = None,
        client: str | None = None,
        capabilities: Iterable[str] | None = None,
    ) -> CardInfo:
        """Say what I can do. What is None stays as it was; an empty text or list takes away what was said."""
        command = card_commands.SetCard(
            description=description,
            version=version,
            skills=None if skills is None else tuple(skills),
            task_classes=None if task_classes is None else tuple(task_classes),
            models=None if models is None else tuple(models),
            tags=None if tags is None else tuple(tags),
            client=client,
            capabilities=None if capabilities is None else tuple(capabilities),
        )
        return await self.request(command, CardInfo)

    async def card_of(self, name: str) -> CardInfo:
        """An agent's card, with its presence. Raises `Rejected(not_found)`."""
        return await self.request(card_commands.ShowCard(name=name), CardInfo)

    async def manifest(self, *, skill: str | None = None, tag: str | None = None) -> tuple[CardInfo, ...]:
        """The cards of all agents that say what they can do; those with a skill, or with a tag. All pages."""
        pages = self._pages(
            lambda at: card_commands.ListCards(skill=skill, tag=tag, limit=self._page, after=at), CardsPage
        )
        return tuple([card async for page in pages for card in page.cards])
