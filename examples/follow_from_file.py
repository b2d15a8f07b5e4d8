"""Print a channel, and go on where the last run ended: the cursor is kept in a file.

synapse hub                                             # in one terminal
python examples/follow_from_file.py /tmp/my.cursor      # in another; end it and start it again as you like
synapse send --channel main:general hello               # in a third
"""

import asyncio
import sys
from pathlib import Path

from synapse import Client
from synapse.client.client import body_of
from synapse.errors import HubUnreachable, Rejected


def kept(place: Path) -> str | None:
    """The cursor of the last run."""
    return place.read_text().strip() if place.exists() else None


def keep(place: Path, cursor: str) -> None:
    """Put a cursor into the file, whole or not at all."""
    draft = place.with_suffix(".new")
    draft.write_text(cursor)
    draft.replace(place)


async def main(place: Path) -> None:
    """Follow main:general from the cursor in `place`, or from now on."""
    since = kept(place)
    async with Client(name="follower") as client, client.subscribe("main:general", since=since) as feed:
        print(f"following from {feed.cursor}", flush=True)
        if feed.cursor is not None:
            keep(place, feed.cursor)  # or what comes after a run without a message would be missed
        async for message in feed:
            print(f"{message.n:>4} {message.sender}: {body_of(message)}", flush=True)
            keep(place, message.cursor)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python examples/follow_from_file.py FILE")
    try:
        asyncio.run(main(Path(sys.argv[1])))
    except HubUnreachable as absent:
        raise SystemExit(f"{absent}") from None
    except Rejected as refusal:
        raise SystemExit(f"{refusal} (remove {sys.argv[1]} to begin anew)") from None
    except KeyboardInterrupt:
        pass
