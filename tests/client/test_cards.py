"""Cards through the client."""

from typing import TYPE_CHECKING

from synapse import Skill
from synapse.testing import MemoryHub

if TYPE_CHECKING:
    from tests.client.conftest import People


async def test_what_an_agent_says_others_find_also_after_it_came_back(people: "type[People]") -> None:
    review = Skill(id="review", name="Review", description="Reads diffs", tags=("python",))
    async with MemoryHub() as hub, people(hub).client("bob") as bob:
        async with people(hub).client("ada") as ada:
            await ada.set_card(description="Reviews code", skills=[review], models=["opus-4"])
            said = await ada.set_card(tags=["careful"])
            assert (said.description, said.skills, said.tags) == ("Reviews code", (review,), ("careful",))
            [found] = await bob.manifest(skill="review")
            assert (found.name, found.presence, found.models) == ("ada", "online", ("opus-4",))
        async with people(hub).client("ada"):
            kept = await bob.card_of("ada")
            assert (kept.description, kept.skills) == ("Reviews code", (review,))
        assert [card.name for card in await bob.manifest(tag="python")] == ["ada"]
        assert await bob.manifest(tag="careless") == ()
        assert {agent.name: agent.skills for agent in await bob.who()} == {"ada": ("review",), "bob": ()}
