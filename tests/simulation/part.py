"""What the parts of a simulated agent find in the whole: its name, its world, its dice, and how it asks the hub."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.agents import Process
    from tests.simulation.world import World

    from synapse.client.client import Client, Terms
    from synapse.protocol.commands import Command
    from synapse.protocol.replies import Reply


class Part:
    """Declares what `Agent` has."""

    name: str
    world: "World"
    _chance: Random
    _terms: "Callable[..., Terms]"
    mark: Callable[[], str]
    keyed: Callable[..., Awaitable[Any]]
    pause: Callable[[float], Awaitable[None]]
    crash: "Callable[[Process], Awaitable[None]]"
    twin: "Callable[[], Process]"

    async def loosely(self, client: "Client", command: "Command", kind: "type[Reply]") -> Any:
        """Ask under a key or, as often, without: what became of that nobody can find out, and no key keeps its row."""
        if self._chance.random() < 0.5:
            return await client._lifeline.ask(command, kind)
        return await self.keyed(client, command, kind)

    def _word(self, letter: str) -> str:
        """A word that nobody said before, for something private: a letter says for what."""
        return f"zq{letter}{next(self.world.secret_numbers)}x"

    def _my_place(self, *, rooms_only: bool = False) -> str | None:
        """A private place of which it is a member."""
        mine = [name for name in self.world.ledger.privacy.mine(self.name) if not (rooms_only and ":" in name)]
        return self._chance.choice(mine) if mine else None
