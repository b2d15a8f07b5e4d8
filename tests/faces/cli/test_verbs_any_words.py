"""Random words for every verb that comes back by itself: each ends with an exit code of the table, and with `--json` it
says an object a line, with a cursor."""

import io
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest
from tests.faces.conftest import RealHub

from synapse.faces.cli.main import main
from synapse.faces.cli.options import Verb
from synapse.faces.cli.verbs import VERBS

STAYS = ("hub", "listen", "wait", "kv watch", "relay", "relay write", "supervisor")
STARTS_OR_ENDS = ("lock", "up", "down", "service", "journal restore", "journal import", "journal adopt")
NO_LINES = ("completions", "instructions", "journal export", "manifest")
"""What `manifest NAME --a2a` prints is A2A's, and has no cursor."""
NUMBERS = ["-1", "0", "1", "99999999999999999999", "1e999", "nan", "NaN", "2d", "15m", "9e9", "=", "k=v", "gpu=2"]
DATA = ["1e999", "[-1e400]", "null", "[]", "{}", '{"a":1}', '{"a":1e999}', "[1e999]", "true", "-", ""]
NAMES = [
    "x",
    "ü☃",
    "a/b",
    "main:general",
    "role:x",
    "all",
    "hub",
    "../x",
    "/etc/passwd",
    "*",
    "a,b,,c",
    "main",
    "ada",
    "bob",
]
IDS = [
    "m1",
    "q1",
    "s1",
    "l1",
    "f1",
    "t1",
    "cafe:5",
    "none",
    "low",
    "done",
    "open",
    "x" * 300,
    "\x1b[31m",
    "\u202e",
    "\u2028",
]
WORDS = NUMBERS + DATA + NAMES + IDS
STDIN = (b"", b"text", b"{}", b"\xff", b'[{"task":"q"}]')
CODES = {0, 1, 2, 3, 4, 5, 77, 78}
ROUNDS = 2


def _verbs() -> list[Verb]:
    left_out = (*STAYS, *STARTS_OR_ENDS)
    return [verb for name, verb in VERBS.items() if name not in left_out and name.split()[0] != "service"]


def _arguments(verb: Verb, chance: random.Random) -> list[str]:
    """Random ones, JSON where that is asked for."""
    found = [chance.choice(WORDS) for _ in range(chance.randint(verb.least, min(verb.most, verb.least + 2)))]
    return [*found[: verb.most - 1], chance.choice(DATA)] if "JSON" in verb.arguments else found


def _words(verb: Verb, chance: random.Random) -> list[str]:
    """A verb with arguments and options."""
    words = [*verb.name.split(), *_arguments(verb, chance)]
    options = [option for option in verb.options if option.name not in ("watch", "follow", "wait")]
    for option in chance.sample(options, min(len(options), chance.randint(0, 3))):
        value = chance.choice(DATA if "JSON" in option.shown else WORDS)
        words.append(f"--{option.name}" + ("" if option.kind == "flag" else f"={value}"))
    return [*words, "--json", *chance.choice((["--name", "ada"], ["--name", "bob"], []))]


def _calls(seed: int) -> Iterator[list[str]]:
    """Each verb as plainly as it goes, then each with random words: some rounds, or for as long as WORDS_S says."""
    chance, end_s = random.Random(seed), monotonic() + float(os.environ.get("WORDS_S", "0"))
    for verb in _verbs():
        sys.stdin = io.TextIOWrapper(io.BytesIO(b""))
        yield [*verb.name.split(), *["x"] * verb.least, "--json", "--name", "ada"]
    rounds = 0
    while rounds < ROUNDS or monotonic() < end_s:
        rounds += 1
        for verb in _verbs():
            sys.stdin = io.TextIOWrapper(io.BytesIO(chance.choice(STDIN)))
            yield _words(verb, chance)


@pytest.mark.timeout(600)
def test_every_verb_ends_in_order_whatever_it_is_given(
    hub: RealHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "stdin", sys.stdin)
    monkeypatch.setenv("SYNAPSE_HOME", str(hub.home))
    monkeypatch.delenv("SYNAPSE_NAME", raising=False)
    refused = 0
    for words in _calls(seed=int(os.environ.get("WORDS_SEED", "1"))):
        code = main(words)
        said = capsysbinary.readouterr()
        assert code in CODES, (words, said.err)
        refused += code in (3, 4, 77)
        if words[0] in NO_LINES or " ".join(words[:2]) in NO_LINES:
            continue
        lines = [json.loads(line) for line in said.out.decode().split("\n") if line]
        assert code == 0 or "error" in lines[-1] or words[0] in ("doctor", "journal"), (words, said)
        assert all("cursor" in line or "error" in line for line in lines), (words, lines)
    assert refused > len(_verbs()) // 4, "it reached the hub"
    assert hub.json("health")["health"] == "green"
