"""What the settings of the simulated hub keep how long, what an operator asks for beside them, and who dies of it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from tests.simulation.kinds import FILES, KINDS, MESSAGES

if TYPE_CHECKING:
    from tests.simulation.world import World

DAY_MS: Final = 24 * 3600 * 1000
SETTINGS: Final = {MESSAGES: DAY_MS, FILES: DAY_MS, "crew:general": 0}
"""As `[retention]` would have them: of one channel everything is kept, whatever else goes."""
CHANNELS: Final = ("main:build", "main:review", "crew:general")
FIRST_MS: Final = 10_000
EVERY_MS: Final = 90_000
"""How often the hub compacts by itself here. Elsewhere that is once a day, and no simulated hub lives so long."""
DIGESTS: Final = 2
KILLED: Final = 0.3
"""How many compactions the hub dies of."""


def some_ages(chance: Random) -> dict[str, int]:
    """What an operator names, and how long it is kept."""
    some = KINDS if chance.random() < 0.6 else chance.sample(KINDS, 2)
    ages = dict.fromkeys(some, DAY_MS)
    if chance.random() < 0.3:
        ages |= {chance.choice(CHANNELS): chance.choice((DAY_MS, DAY_MS, 0))}
    return ages


@contextmanager
def in_a_hurry() -> Iterator[None]:
    """A hub that compacts by itself does so every few minutes; and digests of files come in small pages."""
    with (
        patch.multiple("synapse.hub.retention", FIRST_MS=FIRST_MS, EVERY_MS=EVERY_MS),
        patch("synapse.client.chunks.PAGE", DIGESTS),
    ):
        yield


class Reaper:
    """Kills the hub in the middle of some compactions: between plan and event, event and drop, two steps, or after."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._chance = Random(f"{world.seed}/reaper")
        self._task: asyncio.Task[None] | None = None

    def on_plan(self) -> None:
        """The hub is about to hear of a plan."""
        world = self._world
        if world.is_calm or self._chance.random() > KILLED or (self._task is not None and not self._task.done()):
            return
        self._task = world.loop.create_task(self._kill(world.hub.lives, self._chance.choice((0.3, 1.0, 3.0))))

    async def _kill(self, lives: int, within_s: float) -> None:
        world = self._world
        await asyncio.sleep(self._chance.uniform(0.0, within_s))
        life = world.hub.life
        if world.is_calm or life is None or world.hub.lives != lives:
            return
        if life.turns.retention.is_running:
            world.sometimes("the hub died while it compacted")
        world.say("hub", "is killed while it compacts")
        world.hub.crash("killed")
        await world.restart_hub()
