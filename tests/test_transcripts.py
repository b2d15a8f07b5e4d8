"""Plain-text dialogues, run against the hub in memory.

    # a comment
    = alice connects            also: from outside (the hub's own user does not), leaves; 31 s pass; lends_max is 2;
                                the hub is killed and comes back; the hub shuts down
    alice> {…}                  a frame of the client, as it stands
    alice< {…}                  the next frame of the hub
    alice! 4501 name_taken      the hub has closed the connection

A line that begins with two spaces goes on with the line before, from the third character on. `<cursor>`, `<seq>`,
`<id>`, `<journal>`, … stand for what differs from run to run; with a number, `<cursor:1>`, it is the same value
everywhere in the dialogue, also where the client says it. `<secret>` is a peer's own secret, and `<limits>` the object
of limits. PROTOCOL.md quotes these files.
"""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from synapse.errors import Disconnected
from synapse.protocol.codes import CLOSE_RESTART
from synapse.protocol.limits import Limits
from synapse.testing import TOKEN, MemoryHub, MemoryPeer

FOLDER = Path(__file__).parent / "transcripts"
PROTOCOL = FOLDER.parent.parent / "PROTOCOL.md"
TRANSCRIPTS = sorted(FOLDER.glob("*.txt"))

FORMS = {
    "cursor": r"[0-9a-f]{16}:\d+",
    "seq": r"\d+",
    "id": r"m\d+",
    "file": r"f\d+",
    "journal": r"[0-9a-f]{16}",
    "hub": r"[0-9a-f]{16}",
    "version": r"[\w.+-]+",
    "ms": r"\d+",
    "pid": r"\d+",
    "bytes": r"\d+",
    "limits": r"\{[^{}]*\}",
}
PLACEHOLDER = re.compile(r"<([a-z]+)(?::(\d+))?>")
STEP = re.compile(r"(?P<who>\w+)(?P<sign>[><!]) (?P<text>.+)|= (?P<act>.+)")
ACT = re.compile(
    r"(?P<comes>\w+) connects(?P<outside> from outside)?|(?P<goes>\w+) leaves|(?P<seconds>\d+) s pass"
    r"|(?P<limit>\w+) is (?P<value>\d+)|(?P<killed>the hub is killed and comes back)|(?P<down>the hub shuts down)"
)


class Step(NamedTuple):
    """One line of a dialogue, with those that go on with it. sign: `>`, `<`, `!` or `=`."""

    line: int
    who: str
    sign: str
    text: str


def steps_of(dialogue: str) -> list[Step]:
    """The steps of a dialogue. Raises `ValueError` for a line that is none."""
    steps: list[Step] = []
    for number, line in enumerate(dialogue.splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("  ") and steps:
            steps[-1] = steps[-1]._replace(text=steps[-1].text + line[2:])
            continue
        found = STEP.fullmatch(line)
        if found is None:
            raise ValueError(f"line {number} is no step: {line}")
        steps.append(Step(number, found["who"] or "", found["sign"] or "=", found["text"] or found["act"]))
    return steps


def secret_of(who: str) -> str:
    """The secret of a peer in a dialogue."""
    return f"{who}-" + "0" * (42 - len(who))


class Values(dict[str, str]):
    """What the numbered placeholders of a dialogue stand for."""

    def filled(self, text: str, who: str) -> str:
        """A client's frame with its placeholders replaced."""

        def value(found: re.Match[str]) -> str:
            return {"secret": secret_of(who), "token": TOKEN}.get(found[1]) or self[found[0]]

        return PLACEHOLDER.sub(value, text)

    def match(self, expected: str, frame: str) -> bool:
        """True when a frame is the expected one; its numbered values are kept then."""
        pattern, at, fresh = "", 0, dict[str, str]()
        for found in PLACEHOLDER.finditer(expected):
            pattern += re.escape(expected[at : found.start()])
            at, name = found.end(), found[0]
            if found[2] is None:
                pattern += f"(?:{FORMS[found[1]]})"
            elif name in self:
                pattern += re.escape(self[name])
            elif name in fresh:
                pattern += f"(?P={fresh[name]})"
            else:
                fresh[name] = f"{found[1]}_{found[2]}"
                pattern += f"(?P<{fresh[name]}>{FORMS[found[1]]})"
        same = re.fullmatch(pattern + re.escape(expected[at:]), frame)
        if same is not None:
            self.update({name: same[group] for name, group in fresh.items()})
        return same is not None


class Stage:
    """A hub in memory and the peers of a dialogue."""

    def __init__(self, hub: MemoryHub) -> None:
        self.hub = hub
        self.peers: dict[str, MemoryPeer] = {}
        self.unread: dict[str, list[str]] = {}
        self.values = Values()

    async def act(self, text: str) -> None:
        """Do what a line with `=` says."""
        found = ACT.fullmatch(text)
        assert found is not None, f"nobody knows how to do: {text}"
        if who := found["comes"]:
            self.peers[who] = self.hub.connect(owner=not found["outside"])
            self.unread[who] = []
        elif who := found["goes"]:
            await self.peers[who].aclose()
        elif found["seconds"]:
            await self.hub.advance(int(found["seconds"]) * 1000)
        elif found["killed"]:
            await self.hub.restart()
        elif found["down"]:
            for peer in self.peers.values():
                peer.close(CLOSE_RESTART, "the hub is shutting down; resume from your cursor")
        await self.settle()

    async def settle(self) -> None:
        """Wait for every answer, also for those that are read from disk after their turn."""
        for _ in range(3):
            await self.hub.settle()
            for _ in range(3):
                await asyncio.sleep(0)

    def frames(self, who: str) -> list[str]:
        """What a peer was sent and has not read yet."""
        self.unread[who] += [frame.decode() for frame in self.peers[who].received_now()]
        return self.unread[who]

    async def play(self, step: Step) -> str | None:
        """One step; what is wrong with it, or None."""
        if step.sign == "=":
            await self.act(step.text)
        elif step.sign == ">":
            await self.peers[step.who].send(self.values.filled(step.text, step.who).encode())
            await self.settle()
        elif step.sign == "!":
            return await self.goodbye(step)
        else:
            frames = self.frames(step.who)
            if not frames:
                return f"the hub said nothing to {step.who}"
            said = frames.pop(0)
            if not self.values.match(step.text, said):
                return f"the hub said to {step.who}:\n{said}\ninstead of\n{step.text}"
        return None

    async def goodbye(self, step: Step) -> str | None:
        if frames := self.frames(step.who):
            return f"the hub also said to {step.who}: {frames[0]}"
        with pytest.raises(Disconnected) as caught:
            await self.peers[step.who].receive()
        said = f"{caught.value.code} {caught.value.reason}"
        return None if said == step.text else f"closed with {said} instead of {step.text}"


def limits_of(steps: list[Step]) -> Limits:
    """The limits a dialogue asks for before anybody connects."""
    changes: dict[str, int] = {}
    for step in steps:
        found = ACT.fullmatch(step.text) if step.sign == "=" else None
        if found is not None and found["limit"]:
            changes[found["limit"]] = int(found["value"])
    return msgspec.structs.replace(Limits(), **changes)


async def play(dialogue: str) -> str | None:
    """Run a dialogue; the first thing that went otherwise, or None."""
    steps = steps_of(dialogue)
    async with MemoryHub(limits=limits_of(steps)) as hub:
        stage = Stage(hub)
        for step in steps:
            wrong = await stage.play(step)
            if wrong is not None:
                return f"line {step.line}: {wrong}"
        for who in stage.peers:
            if frames := stage.frames(who):
                return f"at the end, {who} was also told: {frames[0]}"
        assert hub.failure is None
        return None


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
async def test_a_dialogue_goes_as_written(path: Path) -> None:
    wrong = await play(path.read_text(encoding="utf-8"))
    assert wrong is None, f"{path.name}: {wrong}"


def quotes_in(document: str) -> Iterator[tuple[str, str]]:
    """The dialogues quoted in a document: file name and text. `<!-- transcript: NAME -->` stands before each."""
    for found in re.finditer(r"<!-- transcript: (\S+) -->\n```text\n(.*?)```\n", document, re.DOTALL):
        yield found[1], found[2]


def test_the_protocol_quotes_every_dialogue_word_for_word() -> None:
    quoted = dict(quotes_in(PROTOCOL.read_text(encoding="utf-8")))
    assert quoted == {path.name: path.read_text(encoding="utf-8") for path in TRANSCRIPTS}


# the runner itself

HELLO = """= ada connects
ada> {"type":"hello","id":1,"body":{"name":"ada","secret":"<secret>"}}
ada< {"type":"reply","id":1,"seq":<seq>,"body":{"protocol":1,"version":"<version>","hub_id":"<hub>",
  "journal_id":"<journal>","cursor":"<cursor:1>","connection":1,"name":"ada","bound":true,"home":"main:general",
  "limits":<limits>}}
"""


async def test_the_runner_lets_a_right_dialogue_pass() -> None:
    assert await play(HELLO) is None


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ('ada> {"type":"ping","id":2}\n', "was also told"),
        ('ada< {"type":"reply"}\n', "said nothing"),
        (
            'ada> {"type":"ping","id":2}\nada< {"type":"reply","id":3,"seq":<seq>,"body":{"cursor":"<cursor>"}}\n',
            "instead",
        ),
        ('ada> {"type":"nonsense","id":2}\nada! 1000 bye\n', "also said"),
        ("= the hub is killed and comes back\nada! 4500 unauthorized\n", "closed with"),
        (
            'ada> {"type":"message.send","id":2,"body":{"body":1}}\nada< {"type":"reply","id":2,"seq":<seq>,'
            '"body":{"id":"<id>","cursor":"<cursor:1>","room":"main","channel":"general","n":1}}\n',
            "instead",
        ),
    ],
)
async def test_the_runner_finds_a_planted_lie(more: str, complaint: str) -> None:
    wrong = await play(HELLO + more)
    assert wrong is not None
    assert complaint in wrong


@pytest.mark.parametrize("line", ["ada says hello", "= ", "ada>{}", " ada> {}"])
def test_a_line_that_is_no_step_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="line 1"):
        steps_of(line)
