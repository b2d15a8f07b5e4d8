"""The part of the demo about people: an agent asks one and waits, over the death of the hub; a message finds who was
not there when it was sent."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Final

from synapse.faces.demo_cast import PATIENCE_S, Cast, Json, StoryBroken, output, say, shown

ANSWER: Final = "yes"
GREETING: Final = "the release is out"
_PAUSE_S: Final = 0.05


@dataclass(slots=True)
class Asked:
    """What came of it. held: epoch and status of the lease before the question, while it was open, and after. answer,
    code: what `ask --wait` printed, and its exit code. left: how often the inbox still has the answer. refused, second:
    exit codes of an answer by an agent, and of another answer. received: what who came later found."""

    held: tuple[tuple[int, str], ...] = ()
    answer: str = ""
    code: int = -1
    left: int = -1
    refused: int = -1
    second: int = -1
    ready_ms: int = -1
    hub_kills: int = 0
    received: str = ""


def ask_a_person(cast: Cast, claim: Callable[..., Json]) -> Asked:
    """Ask, kill the hub, answer, go on; and a message for an agent that is not there. Raises `StoryBroken`."""
    asked = Asked()
    say("6  An agent asks a person, and the hub dies before the answer")
    claim("ada", "publish", "--ttl", "5")
    before = _lease(cast, "publish")
    shown("ada", "ask 'Publish it?' --option yes --option no --task publish --wait &")
    words = ("ask", "Publish it?", "--option", "yes", "--option", "no", "--task", "publish", "--wait=60")
    waiter = cast.start(*words, name="ada")
    question = _open_question(cast)
    shown("", "questions")
    output(cast.must("questions").rstrip())
    during = _lease(cast, "publish")
    output(f"ada's lease is {during[1]}: its 5 s stand still")
    hub = cast.hub
    assert hub is not None
    shown("", f"kill -9 {hub.pid}        (the hub)", is_synapse=False)
    cast.kill(hub)
    asked.hub_kills += 1
    asked.ready_ms = cast.start_hub()[1]
    output(f"ready again after {asked.ready_ms} ms")
    shown("bob", f"answer {question} no")
    asked.refused, out, _ = cast.run("answer", question, "no", "--json", name="bob")
    output(str(json.loads(out).get("error", {}).get("code", "it counts")))
    shown("", f"answer {question} {ANSWER}        (a person, with no name set)")
    output(cast.must("answer", question, ANSWER).rstrip())
    asked.second = cast.run("answer", question, "no")[0]
    out, err = waiter.communicate(timeout=PATIENCE_S)
    cast.forget(waiter)
    asked.code, asked.answer = waiter.returncode, out.strip()
    if asked.code:
        raise StoryBroken(f"ada's question exited {asked.code}: {err.strip() or out.strip()}")
    asked.left = sum(question in line for line in cast.must("inbox", "--json", name="ada").splitlines())
    asked.held = (before, during, _lease(cast, "publish"))
    output(f"ada reads {asked.answer!r}, and goes on under the same epoch {asked.held[2][0]}")
    cast.must("release", "publish", name="ada")
    shown("ada", f"send --to eve --create '{GREETING}'        (nobody has seen eve yet)")
    cast.must("send", "--to", "eve", "--create", GREETING, name="ada")
    shown("eve", "wait")
    asked.received = str(json.loads(cast.must("wait", "--wait=5", "--json", name="eve"))["body"])
    output(f"eve comes, and reads {asked.received!r}")
    return asked


def _lease(cast: Cast, task: str) -> tuple[int, str]:
    """Epoch and status of the live lease on a task."""
    found = json.loads(cast.must("state", "--json"))["leases"]
    return next(((lease["epoch"], lease["status"]) for lease in found if lease["task"] == task), (0, "none"))


def _open_question(cast: Cast) -> str:
    deadline_s = monotonic() + PATIENCE_S
    while monotonic() < deadline_s:
        found = json.loads(cast.must("questions", "--json"))["questions"]
        if found:
            return str(found[0]["id"])
        sleep(_PAUSE_S)
    raise StoryBroken("the question was not asked")
