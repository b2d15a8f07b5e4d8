"""`instructions`: every command in the lines that agents are given works as written."""

import re
import shlex
import sys

import pytest
from tests.faces.conftest import RealHub

from synapse.faces.cli.instructions import CLIENTS, lines_for
from synapse.faces.cli.verbs import VERBS

COMMAND = re.compile(r"`(?:export SYNAPSE_NAME=\$\()?(synapse [^`]*?)\)?`")
WORDS = {
    "TASK": "T1",
    "AGENT": "bob",
    "OTHER": "T0",
    "NAME": "once",
    "PREFIX": "ada",
    "VERB": "claim",
    "COMMAND": shlex.quote(sys.executable) + " -c pass",
}
TEXTS = [lines_for(client) for client in (None, *CLIENTS)]
COMMANDS = sorted({command for text in TEXTS for command in COMMAND.findall(" ".join(text.split()))})


def filled_in(command: str) -> list[str]:
    return shlex.split(re.sub(r"\b[A-Z]{4,}\b", lambda word: WORDS[word[0]], command))[1:]


def test_there_are_commands_of_many_verbs() -> None:
    verbs = {command.split()[1] for command in COMMANDS}
    assert {"claim", "renew", "release", "checkpoint", "handoff", "lock", "send", "wait", "inbox", "state"} <= verbs
    assert all(any(name.split()[0] == verb for name in VERBS) or verb == "VERB" for verb in verbs - {"up"})


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "synapse up"])
def test_each_command_works_as_written(hub: RealHub, command: str) -> None:
    for name in ("ada", "bob"):
        hub.json("room", "join", "main", "--name", name)
    hub.json("send", "--to", "ada", "first", "--name", "bob")
    hub.json("task", "declare", "T1", "--name", "ada")
    words = filled_in(command)
    if words[0] not in ("claim", "agent"):
        hub.json("claim", "T1", "--paths", "src/parser/**", "--name", "ada")
    done = hub.run(*words, SYNAPSE_NAME="ada")
    assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.mark.parametrize("client", [None, *CLIENTS])
def test_they_are_printed_whole_and_stay_short(hub: RealHub, client: str | None) -> None:
    words = [] if client is None else ["--for", client]
    done = hub.run("instructions", *words)
    assert done.returncode == 0
    assert done.stdout == lines_for(client)
    assert hub.json("instructions", *words)["text"] == done.stdout
    assert len(done.stdout) < 3_000, "an agent reads them in every session"


def test_a_client_nobody_wrote_lines_for_is_named_with_those_there_are(hub: RealHub) -> None:
    done = hub.run("instructions", "--for", "clippy")
    assert done.returncode == 2
    assert "claude-code" in done.stderr
