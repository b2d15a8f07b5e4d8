"""A sender or a receiver of direct messages, as a process of its own: `python -m tests.crash.delivery_load ROLE …`.

send HOME RUN NAME TO       sends to TO in turn, under keys, until RUN/stop is there; notes each acknowledged id
take HOME RUN NAME          takes, and acks most of what it takes, until RUN/drain is there and nothing is left
"""

import random
import sys
import time
from pathlib import Path

from synapse.client.blocking import BlockingClient, connect
from synapse.errors import Rejected
from synapse.protocol.replies import Taken


def send(home: Path, run: Path, name: str, to: list[str]) -> None:
    """Send until it is enough. What is noted was acknowledged."""
    chance, number = random.Random(name), 0
    with connect(name=name, home=home, timeout=60) as hub, (run / f"{name}.sent").open("a", buffering=1) as sent:
        while not (run / "stop").exists():
            number += 1
            names = (to[number % len(to)],) if number % 5 else tuple(to)
            key = f"{name}.{number}"
            if chance.random() < 0.1:
                try:
                    reply = hub.send(number, expires=chance.uniform(0.05, 1.0), to=names, create=True, idem_key=key)
                except Rejected as refusal:
                    if refusal.code == "bad_request" and "expires_at_ms" in refusal.detail:
                        continue  # its date passed while the hub was away: it was never taken
                    raise
            else:
                priority = chance.choice(("low", "normal", "high", "urgent"))
                reply = hub.send(number, to=names, create=True, priority=priority, idem_key=key)  # type: ignore[arg-type]  # one of them
            sent.write(f"{reply.id} {' '.join(reply.to or ())}\n")
            time.sleep(0.002)


def take(home: Path, run: Path, name: str) -> None:
    """Take until nothing is left. Now and then it forgets to ack what it took."""
    chance = random.Random()
    with connect(name=name, home=home, timeout=60) as hub:
        while (taken := _next(hub, run)) is not None:
            with (run / f"{name}.taken").open("a") as log:
                log.write(f"{taken.message.id}\n")
            if chance.random() < 0.9 or (run / "drain").exists():
                hub.ack(taken.message.id)


def _next(hub: BlockingClient, run: Path) -> Taken | None:
    while True:
        taken = hub.take(wait=0.5)
        if taken is not None or (run / "drain").exists():
            return taken


if __name__ == "__main__":
    _, role, home, run, name, *rest = sys.argv
    if role == "send":
        send(Path(home), Path(run), name, rest)
    else:
        take(Path(home), Path(run), name)
