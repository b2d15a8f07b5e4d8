"""Messages that the loop guard holds, over `kill -9` of the hub: what was told of one stays so, whoever is asked."""

import json
import os
import random
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from tests.faults.conftest import HubProcess, Line, line_to, operator_at
from tests.figures import tell

from synapse.protocol.codec import HubFrame
from synapse.protocol.commands import Command, ListInbox, SendMessage
from synapse.protocol.delivery_commands import GetReceipt
from synapse.protocol.delivery_replies import HeldFate, Receipts
from synapse.protocol.held_commands import DropHeld, ReleaseHeld
from synapse.protocol.held_replies import HeldEnded, HeldNote
from synapse.protocol.replies import Inbox, Sent

MESSAGES = 60
"""Held in each round."""


class Hub:
    """One hub after another on one home, each killed while it is asked."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.chance, self.cut = home, random.Random(seed), 0
        home.mkdir(mode=0o700)
        (home / "config.toml").write_text("[limits]\nsends_per_chain_max = 1\n")

    def fire(self, name: str | None, requests: Sequence[tuple[Command, str | None]]) -> list[HubFrame]:
        """The answers of a hub that is killed meanwhile, as far as they came."""
        answers: list[HubFrame] = []
        with HubProcess(self.home) as hub:
            hub.until_ready()
            with operator_at(self.home) if name is None else line_to(self.home, name) as line:
                killer = threading.Timer(self.chance.uniform(0.005, 0.1), hub.process.kill)
                killer.start()
                try:
                    for request in requests:
                        answers.append(line.exchange(*request))  # those before the kill count
                except (EOFError, OSError):
                    self.cut += 1
                killer.join()
            hub.kill()
        return answers


def body_of(frame: HubFrame) -> bytes:
    """Of a reply."""
    assert frame.type == "reply", frame
    return bytes(frame.body)


def fate(line: Line, held: str) -> HeldFate:
    """What became of a held message, as its sender is told."""
    found = line.ask(GetReceipt(id=held), Receipts).held
    assert isinstance(found, HeldFate)
    return found


def decision(number: int, held: str) -> Command:
    """Of every third it is that it is dropped."""
    return ReleaseHeld(id=held) if number % 3 else DropHeld(id=held)


def letters(line: Line) -> Counter[tuple[str, str, str | None]]:
    """What the hub has written to a sender of what it held: type, the id of then, and the new one."""
    found = Counter[tuple[str, str, str | None]]()
    for message in line.ask(ListInbox(limit=200), Inbox).messages:
        body = json.loads(bytes(message.body))
        if isinstance(body, dict) and body.get("type") in ("message.released", "message.dropped"):
            found[body["type"], body["id"], body.get("released_as")] += 1
    return found


def go_round(hub: Hub, number: int) -> None:
    """Hold, decide, and see what everybody is told of it, with a kill in each of the first two."""
    sender, receiver = f"ada-{number}", f"bob-{number}"
    with HubProcess(hub.home).until_ready(), line_to(hub.home, sender), line_to(hub.home, receiver) as bob:
        root = bob.ask(SendMessage(body=msgspec.Raw(b'"root"'), to=(sender,)), Sent).id
    sends: list[tuple[Command, str | None]] = [
        (SendMessage(body=msgspec.Raw(b"%d" % at), to=(receiver,), reply_to=root), f"key-{at}")
        for at in range(MESSAGES + 1)
    ]
    told = [msgspec.json.decode(body_of(frame), type=Sent) for frame in hub.fire(sender, sends)]
    with HubProcess(hub.home).until_ready(), line_to(hub.home, sender) as ada:
        sent = [ada.ask(command, Sent, key) for command, key in sends]
    assert [one.id for one in sent[: len(told)]] == [one.id for one in told], "what was answered stands"
    assert sent[0].held is msgspec.UNSET
    held = [one.id for one in sent[1:]]
    assert all(isinstance(one.held, HeldNote) and not one.held.decided for one in sent[1:])
    decisions: list[tuple[Command, str | None]] = [(decision(at, one), None) for at, one in enumerate(held)]
    decided = [msgspec.json.decode(body_of(frame), type=HeldEnded) for frame in hub.fire(None, decisions)]

    with (
        HubProcess(hub.home).until_ready(),
        line_to(hub.home, sender) as ada,
        line_to(hub.home, receiver) as bob,
        operator_at(hub.home) as operator,
    ):
        for at, one in enumerate(held):
            state, is_release = fate(ada, one).state, bool(at % 3)
            if at < len(decided):
                assert state == ("released" if is_release else "dropped"), "what was answered stands"
                assert decided[at].ids == ((fate(ada, one).released_as,) if is_release else (one,))
            elif state == "held":
                operator.ask(decision(at, one), HeldEnded)
            else:
                assert at == len(decided), "a decision that was never asked for"
        fates = {one: fate(ada, one) for one in held}
        inbox = bob.ask(ListInbox(limit=200), Inbox).messages
        due = [(fates[one].released_as, at + 1) for at, one in enumerate(held) if at % 3]
        assert [(message.id, json.loads(bytes(message.body))) for message in inbox] == [(sent[0].id, 0), *due]
        assert letters(ada) == Counter((f"message.{it.state}", one, it.released_as) for one, it in fates.items())


def check_under_fire(home: Path, rounds: int, seed: int) -> int:
    """How many kills came while the hub was asked, of two in each round."""
    hub = Hub(home, seed)
    for number in range(rounds):
        go_round(hub, number)
    assert hub.cut, "no kill came while the hub was asked"
    return hub.cut


def test_what_was_held_and_decided_is_so_after_any_kill(tmp_path: Path) -> None:
    check_under_fire(tmp_path / "home", 2, seed=1)


@pytest.mark.prove
@pytest.mark.timeout(3_600)
def test_over_dozens_of_kills_nothing_held_is_decided_twice_or_otherwise_than_was_told(tmp_path: Path) -> None:
    rounds = int(os.environ.get("CRASH_KILLS", "90")) // 2
    kills = check_under_fire(tmp_path / "home", rounds, seed=2)
    tell(
        "processes",
        f"held messages that vanished or came twice over {kills} kills of a hub that was asked",
        0,
        bound="0",
    )
    tell("processes", "messages held, and released or dropped", rounds * MESSAGES)
