"""Direct messages over `kill -9` of the hub and of those who receive them: what was acknowledged to its sender ends
acked or dead in each inbox that it was for, and nothing else is there."""

import os
import random
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.crash.killing import Hubs, end, join, journal_of, spawn
from tests.figures import tell

from synapse.core.events import AgentCreated, MessageDied, MessagesAcked, MessageSent

SENDERS = ("ann", "ben")
RECEIVERS = ("xia", "yan")
COPIES = 2
"""How many processes of each receiver compete for its inbox: one takes, the other is lent ahead."""


@dataclass
class Ended:
    """What came of a run, from the journal and from what the processes noted."""

    hub_kills: int
    reader_kills: int
    acknowledged: int = 0
    acked: int = 0
    dead: int = 0
    again: int = 0
    vanished: list[str] = field(default_factory=list)


def under_fire(tmp_path: Path, rounds: int, seed: int) -> Ended:
    home, run, chance = tmp_path / "home", tmp_path / "run", random.Random(seed)
    run.mkdir()
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text("[limits]\nlend_ms = 300\n")
    module = "tests.crash.delivery_load"
    readers: dict[str, subprocess.Popen[bytes]] = {}
    senders: dict[str, subprocess.Popen[bytes]] = {}
    ended = Ended(0, 0)

    def begin(name: str) -> None:
        how = "follow" if name.endswith("-1") else "take"
        readers[name] = spawn(run, name, module, how, str(home), str(run), name.partition("-")[0])

    with Hubs(home, run / "hub.log") as hubs:
        try:
            hubs.start()
            for name in SENDERS:
                senders[name] = spawn(run, name, module, "send", str(home), str(run), name, *RECEIVERS)
            for name in [f"{name}-{copy}" for name in RECEIVERS for copy in range(COPIES)]:
                begin(name)
            time.sleep(1.5)
            for number in range(rounds):
                victim = chance.choice(list(readers))
                readers[victim].kill()
                readers[victim].wait()
                ended.reader_kills += 1
                if number % 2:
                    hubs.kill()
                    ended.hub_kills += 1
                    hubs.start()
                begin(victim)
                time.sleep(chance.uniform(0.3, 0.8))
            (run / "stop").touch()
            for name, process in senders.items():
                join(run, name, process, "the load ended")
            time.sleep(1.5)  # what is dated ends, and what was lent to the killed comes back
            (run / "drain").touch()
            for name, process in readers.items():
                join(run, name, process, "the inboxes were drained")
            assert hubs.stop() == 0
        finally:
            end([*readers.values(), *senders.values()])
    judge(home, run, ended)
    return ended


def judge(home: Path, run: Path, ended: Ended) -> None:
    """Look at the journal without a hub."""
    journal = journal_of(home)
    names = {item.seq: item.event.name for item in journal if isinstance(item.event, AgentCreated)}
    stands = {f"m{item.seq}": item.event for item in journal if isinstance(item.event, MessageSent)}
    acked: Counter[tuple[str, str]] = Counter()
    died: set[tuple[str, str]] = set()
    for item in journal:
        event = item.event
        if isinstance(event, MessagesAcked):
            acked.update((f"m{seq}", names[event.agent]) for seq in event.messages)
        elif isinstance(event, MessageDied):
            died.add((f"m{event.message}", names[event.agent]))
    assert max(acked.values()) == 1, "a message leaves an inbox once"
    for sender in SENDERS:
        for line in (run / f"{sender}.sent").read_text().splitlines():
            message, *to = line.split()
            assert [delivery.name for delivery in stands[message].to] == to, (
                "what was acknowledged stands as it was sent"
            )
            for name in to:
                ended.acknowledged += 1
                is_acked, is_dead = (message, name) in acked, (message, name) in died
                if not (is_acked or is_dead):
                    ended.vanished.append(f"{message} is neither acked nor dead at {name}")
                ended.acked += is_acked
                ended.dead += is_dead and not is_acked
    for name in RECEIVERS:
        taken = Counter((run / f"{name}.taken").read_text().split())
        assert taken.keys() <= stands.keys(), "nothing is taken that was not sent"
        ended.again += sum(taken.values()) - len(taken)
        gone = {message for message, whose in acked if whose == name}
        assert gone <= taken.keys(), "what is acked was taken"


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.xdist_group("crash")
def test_what_was_acknowledged_ends_acked_or_dead_over_kills_of_hub_and_readers(tmp_path: Path) -> None:
    ended = under_fire(tmp_path, 6, seed=1)
    print(f"\n{ended}")
    assert ended.vanished == []
    assert ended.acknowledged > 50, "the load was a load"
    assert (ended.hub_kills, ended.reader_kills) == (3, 6)


@pytest.mark.prove
@pytest.mark.timeout(3_600)
def test_over_dozens_of_kills_of_hub_and_readers_no_direct_message_vanishes(tmp_path: Path) -> None:
    ended = under_fire(tmp_path, int(os.environ.get("CRASH_KILLS", "90")) // 2, seed=2)
    part, vanished = "real processes, direct messages", len(ended.vanished)
    tell(part, "kills of the hub", ended.hub_kills, seed=2)
    tell(part, "kills of those who read", ended.reader_kills, seed=2)
    tell(part, "acknowledged to their senders", ended.acknowledged, seed=2)
    tell(part, "of them acked by their recipients", ended.acked, seed=2)
    tell(part, "of them dead letters", ended.dead, seed=2)
    tell(part, "of them taken more than once", ended.again, seed=2)
    tell(part, "acknowledged and lost", vanished, bound="= 0", is_kept=not vanished, seed=2)
    assert ended.vanished == []
    assert ended.dead > 0
    assert ended.again > 0
