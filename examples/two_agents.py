"""Two agents count to ten together in the channel main:general, each by answering what the other said.

synapse hub                       # in one terminal
synapse listen main:general       # in another, to watch
python examples/two_agents.py     # in a third
"""

import asyncio

from synapse import Client
from synapse.client.client import Card, body_of
from synapse.errors import HubUnreachable

CHANNEL = "main:general"
LAST = 10


async def until_online(client: Client, name: str) -> None:
    """Watch presence until an agent is there."""
    async with client.presence() as feed:
        async for update in feed:
            if any(entry.name == name and entry.presence == "online" for entry in update.agents):
                return


async def count(name: str, other: str, *, begins: bool) -> None:
    """Say the number that follows the other's, until somebody said the last one."""
    async with Client(name=name, card=Card(display_name=name.title())) as client:
        await client.join(CHANNEL)
        async with client.subscribe(CHANNEL) as feed:
            if begins:
                await until_online(client, other)
                await client.send(1, channel=CHANNEL, thread="counting")
            async for message in feed:
                said = body_of(message)
                if message.sender not in (name, other) or not isinstance(said, int):
                    continue
                if begins:
                    print(f"{message.n:>4} {message.sender}: {said}")
                if said == LAST:
                    return
                if message.sender == other:
                    await client.send(said + 1, channel=CHANNEL, thread="counting")


async def main() -> None:
    """Both in one process; they would not notice if they were in two."""
    async with asyncio.TaskGroup() as group:
        group.create_task(count("odd", "even", begins=True))
        group.create_task(count("even", "odd", begins=False))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except* HubUnreachable as absent:
        raise SystemExit(f"{absent.exceptions[0]}") from None
