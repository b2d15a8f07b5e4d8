"""`make demo`: agents that want the same files, and some accidents, told as a story that is counted at the end.

Every process is real and everything goes through the command line, as an agent or a script would use it. Rule: what is
printed as a fact was observed in this run; a claim that does not hold is printed as FAILED and the exit code is 1.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import Final

from synapse.errors import (
    EXIT_FAILED,
    EXIT_LOCKED,
    EXIT_NOT_PERMITTED,
    EXIT_OK,
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    SynapseError,
)
from synapse.faces.demo_cast import PATIENCE_S, Cast, Json, StoryBroken, output, say, shown
from synapse.faces.demo_counter import Store
from synapse.faces.demo_plan import OPENED, follow_a_plan
from synapse.faces.demo_question import ANSWER, GREETING, Asked, ask_a_person

CHANNEL: Final = "main:general"
COUNTERS: Final = ("ada", "bob", "cleo", "dora")
COUNTS = 6
"""How often each of them adds one while the hub is killed."""
TTL: Final = "3"
"""Seconds, of their leases: one whose holder is done while there is no hub is waited for so long."""
HUB_KILLS = 3
CHECKPOINT: Final = {"done": ["parser"], "next": "tests"}
PAUSE_S: Final = 0.05
SIGINT_EXIT: Final = 130


@dataclass(slots=True)
class Seen:
    """What happened, as its witnesses reported it.

    epochs: of every grant that was told, in order. refused: the code and the holder's epoch that bob was told.
    passed_on_ms, crashed_ms: until who waited had it, from a release and from the kill of a holder. fenced: the
    codes for the old epoch. handed, taken, left: the epochs of a hand-off, and what the receiver found; overtaken:
    who waited was granted meanwhile. asked: a person. steps: what a board told while a plan was worked off;
    unblocked_ms: from a command that ended a task until it told what had become ready. kept: the epoch of a lease
    before and after the kills of the hub. counted: number and epoch of each addition; crowded: those that were not
    alone; unwritten: those that the store refused; total: the number in the end. retries: calls that found no hub.
    acked, heard, kept_messages: ids of messages, as senders, listener and history have them. verdict: `journal
    verify`.
    """

    epochs: list[int] = field(default_factory=list)
    refused: tuple[str, int] = ("", 0)
    passed_on_ms: int = -1
    crashed_ms: int = -1
    fenced: list[str] = field(default_factory=list)
    handed: int = 0
    taken: int = 0
    left: object = None
    overtaken: bool = True
    asked: Asked = field(default_factory=Asked)
    steps: list[str] = field(default_factory=list)
    unblocked_ms: int = -1
    kept: tuple[int, int] = (0, -1)
    counted: list[tuple[int, int]] = field(default_factory=list)
    crowded: int = 0
    unwritten: int = 0
    retries: int = 0
    total: int = -1
    acked: list[str] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    kept_messages: list[str] = field(default_factory=list)
    agent_kills: int = 0
    hub_kills: int = 0
    ready_ms: list[int] = field(default_factory=list)
    events: int = 0
    verdict: str = ""


def claims(seen: Seen) -> list[tuple[str, bool]]:
    """What the demo claims, each with whether it is true of this run."""
    ordered = sorted(seen.counted)
    epochs = [epoch for _, epoch in ordered]
    return [
        (
            "an overlapping claim was refused, naming the holder's epoch",
            seen.refused[0] == "lease_held" and bool(seen.epochs) and seen.refused[1] == seen.epochs[0],
        ),
        ("who waited had it after the release", seen.passed_on_ms >= 0),
        ("who waited had it after the holder was killed", seen.crashed_ms >= 0),
        ("the one that came back was fenced, at the guard too", seen.fenced == ["stale_epoch", "stale_epoch"]),
        (
            "a hand-off went past who waited, with a new epoch and the checkpoint",
            0 < seen.handed < seen.taken and seen.left == CHECKPOINT and not seen.overtaken,
        ),
        ("each task of a plan was ready when all it depended on was done, and was told so once", seen.steps == OPENED),
        (
            "a lease stood still while a person was asked, over a killed hub, and went on with the answer",
            seen.asked.answer == ANSWER
            and [status for _, status in seen.asked.held] == ["held", "parked", "held"]
            and len({epoch for epoch, _ in seen.asked.held}) == 1,
        ),
        (
            "the answer came once, and only a person could give it, once",
            (seen.asked.code, seen.asked.left) == (EXIT_OK, 0)
            and (seen.asked.refused, seen.asked.second) == (EXIT_NOT_PERMITTED, EXIT_REFUSED),
        ),
        ("a message found its agent when that came", seen.asked.received == GREETING),
        (f"the hub was killed {HUB_KILLS} times and came back", seen.hub_kills == HUB_KILLS == len(seen.ready_ms) - 1),
        ("a lease that was held all the while kept its epoch", seen.kept[0] == seen.kept[1] > 0),
        (
            f"{len(COUNTERS)} agents made {len(COUNTERS) * COUNTS} additions, and none is missing",
            len(ordered) == len(COUNTERS) * COUNTS
            and [n for n, _ in ordered] == list(range(1, seen.total + 1))
            and not seen.unwritten,
        ),
        ("no two counters were ever at it at once", seen.crowded == 0 and bool(ordered)),
        ("each addition was made under a larger epoch", bool(epochs) and all(a < b for a, b in pairwise(epochs))),
        ("so was every other grant", len(seen.epochs) > 4 and all(a < b for a, b in pairwise(seen.epochs))),
        (
            "the channel has exactly the acknowledged messages, and the listener printed them in its order",
            bool(seen.acked) and sorted(seen.acked) == sorted(seen.heard) and seen.heard == seen.kept_messages,
        ),
        (f"the journal proves itself: {seen.events} events", seen.verdict.startswith("whole") and seen.events > 0),
    ]


class Story:
    """One run of the demo."""

    def __init__(self, cast: Cast) -> None:
        self.cast = cast
        self.seen = Seen()
        self._changed = threading.Condition()
        self._troubles: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._listener: subprocess.Popen[str] | None = None

    def tell(self) -> None:
        """All of it. Raises `StoryBroken`."""
        self._want_the_same()
        self._die()
        self._come_back()
        self._hand_over()
        self.seen.steps, self.seen.unblocked_ms = follow_a_plan(self.cast, self._claim)
        self.seen.asked = ask_a_person(self.cast, self._claim)
        self._kill_the_hub()
        self._count()

    # What agents type.

    def _claim(self, name: str, *words: str) -> Json:
        """A claim that is granted."""
        shown(name, shlex.join(("claim", *words)))
        return self._granted(name, self.cast.must("claim", *words, "--json", name=name))

    def _granted(self, name: str, out: str) -> Json:
        lease: Json = json.loads(out.splitlines()[-1])
        self.seen.epochs.append(int(str(lease["epoch"])))
        seconds = int(str(lease["ttl_ms"])) // 1000
        output(f"{name} holds {lease['task']} with epoch {lease['epoch']}, for {seconds} s from each renewal")
        return lease

    def _refused(self, name: str, *words: str) -> Json:
        """A call that is refused, and what it says."""
        shown(name, shlex.join(words))
        code, out, err = self.cast.run(*words, "--json", name=name)
        if code != EXIT_REFUSED:
            raise StoryBroken(f"synapse {' '.join(words)} exited {code}, not {EXIT_REFUSED}: {err.strip() or out}")
        error: Json = json.loads(out)["error"]
        is_known = error["code"] in self.seen.fenced
        output(str(error["code"]) if is_known else f"{error['code']}: {error['detail']}")
        return error

    def _wait_in_line(self, name: str, *words: str) -> "subprocess.Popen[str]":
        """A claim that waits; it has its place when this returns."""
        shown(name, f"{shlex.join(('claim', *words))} &")
        before = self._waiting()
        waiter = self.cast.start("claim", *words, "--json", name=name)
        self._await(lambda: self._waiting() > before, f"{name}'s place in line")
        return waiter

    def _waiting(self) -> int:
        return int(json.loads(self.cast.must("status", "--json"))["counts"]["claims_waiting"])

    def _served(self, name: str, waiter: "subprocess.Popen[str]", since_s: float) -> int:
        """Whoever waits is granted; the milliseconds since then."""
        try:
            out, err = waiter.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise StoryBroken(f"{name} waited longer than {PATIENCE_S:g} s") from error
        passed_ms = round((monotonic() - since_s) * 1000)
        self.cast.forget(waiter)
        if waiter.returncode:
            raise StoryBroken(f"{name}'s claim exited {waiter.returncode}: {err.strip() or out.strip()}")
        self._granted(name, out)
        return passed_ms

    # The parts.

    def _want_the_same(self) -> None:
        seen = self.seen
        say("1  Two agents want the same files")
        shown("", "hub --port 0")
        line, ready_ms = self.cast.start_hub()
        seen.ready_ms.append(ready_ms)
        output(line)
        mine = self._claim("ada", "T1", "--paths", "src/**", "--ttl", "60")
        error = self._refused("bob", "claim", "T2", "--paths", "src/core/state.py")
        holders = dict(error["facts"])["holders"]  # type: ignore[call-overload]  # the facts of lease_held, as documented
        seen.refused = (str(error["code"]), int(holders[0]["epoch"]))
        waiter = self._wait_in_line("bob", "T2", "--paths", "src/core/state.py", "--wait=30")
        shown("ada", f"release T1 --epoch {mine['epoch']}")
        typed_s = monotonic()
        self.cast.must("release", "T1", "--epoch", str(mine["epoch"]), name="ada")
        seen.passed_on_ms = self._served("bob", waiter, typed_s)
        output(f"{seen.passed_on_ms} ms after ada's command was begun")
        self.cast.must("release", "T2", name="bob")

    def _die(self) -> None:
        seen = self.seen
        say("2  A holder dies at work")
        shown("bob", "lock build --ttl 2 -- cat &        (cat: work without an end)")
        holder = self.cast.start("lock", "build", "--ttl", "2", "--", "cat", name="bob", stderr=subprocess.DEVNULL)
        self._await(lambda: self._epoch_of("lock/build") > 0, "bob's lease")
        seen.epochs.append(self._epoch_of("lock/build"))
        output(f"bob holds lock/build with epoch {seen.epochs[-1]}, for 2 s from each renewal")
        waiter = self._wait_in_line("cleo", "lock/build", "--wait=30")
        shown("", f"kill -9 {holder.pid}        (bob's lock)", is_synapse=False)
        killed_s = monotonic()
        self.cast.kill(holder)
        seen.agent_kills += 1
        seen.crashed_ms = self._served("cleo", waiter, killed_s)
        output(f"{seen.crashed_ms} ms after the kill")
        self.cast.must("release", "lock/build", name="cleo")

    def _come_back(self) -> None:
        seen = self.seen
        say("3  One comes back from the dead")
        old = self._claim("bob", "deploy", "--ttl", "1")
        output("and falls asleep")
        waiter = self._wait_in_line("ada", "deploy", "--wait=30")
        self._served("ada", waiter, monotonic())
        output("bob wakes up. Before anything is deployed, a guard asks:")
        for words in (("lease", "check", "deploy"), ("renew", "deploy")):
            error = self._refused("bob", *words, "--epoch", str(old["epoch"]))
            seen.fenced.append(str(error["code"]))

    def _hand_over(self) -> None:
        seen = self.seen
        say("4  Work is handed over, past who waits for it")
        waiter = self._wait_in_line("cleo", "deploy", "--wait=30")
        data = json.dumps(CHECKPOINT)
        shown("ada", f"checkpoint deploy '{data}'")
        self.cast.must("checkpoint", "deploy", data, name="ada")
        shown("ada", "handoff deploy --to bob")
        seen.handed = seen.epochs[-1]
        lease = json.loads(self.cast.must("handoff", "deploy", "--to", "bob", "--json", name="ada"))
        seen.taken = lease["epoch"]
        seen.epochs.append(seen.taken)
        output(f"{lease['owner']} holds deploy with epoch {lease['epoch']}, and cleo still waits")
        seen.overtaken = waiter.poll() is not None
        shown("bob", "wait")
        output(self.cast.must("wait", "--wait=5", name="bob").rstrip().splitlines()[0])
        shown("bob", "renew deploy")
        seen.left = json.loads(self.cast.must("renew", "deploy", "--json", name="bob"))["checkpoint"]["data"]
        output(f"with what ada left: {json.dumps(seen.left)}")
        shown("", "state")
        output(self.cast.must("state").rstrip())
        self.cast.must("release", "deploy", name="bob")
        self._served("cleo", waiter, monotonic())

    def _kill_the_hub(self) -> None:
        seen = self.seen
        say(f"7  The hub is killed {HUB_KILLS} times while {len(COUNTERS)} agents add to one number")
        say(
            f"   {COUNTS} times each: `lock counter --wait -- COMMAND`, which reads, thinks and writes, then a message."
        )
        say("   Only the lease keeps them apart. cleo holds `deploy` all the while, and a `listen` goes on.")
        for name in COUNTERS:
            self.cast.must("channel", "join", CHANNEL, name=name)
        self._listener = self.cast.start("listen", CHANNEL, "--json", name="ear", stderr=subprocess.PIPE)
        assert self._listener.stderr is not None
        self._listener.stderr.readline()  # it listens
        self._begin(self._hear)
        held = self._epoch_of("deploy")
        place = self.cast.root / "store"
        place.mkdir()
        counters = [self._begin(lambda name=name: self._add(name, place)) for name in COUNTERS]  # type: ignore[misc]  # bound per loop
        total = len(COUNTERS) * COUNTS
        for kill in range(1, HUB_KILLS + 1):
            self._await(lambda kill=kill: len(seen.counted) >= total * kill // (HUB_KILLS + 1), "additions")  # type: ignore[misc]  # bound per loop
            hub = self.cast.hub
            assert hub is not None
            shown("", f"kill -9 {hub.pid}        (the hub, at {len(seen.counted)} of {total})", is_synapse=False)
            self.cast.kill(hub)
            seen.hub_kills += 1
            _, ready_ms = self.cast.start_hub()
            seen.ready_ms.append(ready_ms)
            output(f"ready again after {ready_ms} ms")
        for thread in counters:
            self._await(lambda thread=thread: not thread.is_alive(), "a counter")  # type: ignore[misc]  # bound per loop
        seen.kept = (held, self._epoch_of("deploy"))
        seen.total = Store(place).read()[0]
        self._await(lambda: len(seen.heard) >= len(seen.acked), f"the listener's {len(seen.acked)} messages")
        sleep(2 * PAUSE_S)  # a repeat would come now

    def _count(self) -> None:
        seen = self.seen
        seen.kept_messages = read_history(self.cast)
        code, out, err = self.cast.run("journal", "verify", "--json")
        seen.verdict = "whole" if code == EXIT_OK else err.strip() or out.strip()
        if code == EXIT_OK:
            seen.events = json.loads(out)["events"]

    def _epoch_of(self, task: str) -> int:
        """Of the live lease on a task; 0 when there is none."""
        found = json.loads(self.cast.must("state", "--json"))["leases"]
        return next((int(lease["epoch"]) for lease in found if lease["task"] == task), 0)

    def end(self, *, but_hub: bool) -> None:
        """End all processes, and what this one did beside them; `but_hub` spares the hub."""
        self.cast.end(but_hub=but_hub)
        for thread in self._threads:
            thread.join(5)
        self.cast.close()

    # What goes on at the same time.

    def _begin(self, act: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                act()
            except (SynapseError, OSError, ValueError, KeyError) as error:
                with self._changed:
                    self._troubles.append(error)
                    self._changed.notify_all()

        thread = threading.Thread(target=guarded, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _await(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until something is so. Raises `StoryBroken` when it takes too long or an agent is in trouble."""
        deadline_s = monotonic() + PATIENCE_S
        with self._changed:
            while not is_so():
                if self._troubles:
                    raise StoryBroken(str(self._troubles[0])) from self._troubles[0]
                if monotonic() > deadline_s:
                    raise StoryBroken(f"waited {PATIENCE_S:g} s for {what}")
                self._changed.wait(PAUSE_S)
            if self._troubles:
                raise StoryBroken(str(self._troubles[0])) from self._troubles[0]

    def _add(self, name: str, place: Path) -> None:
        """One counter: add one so many times, and tell the channel of each."""
        step = (sys.executable, "-m", "synapse.faces.demo_counter", str(place))
        for _ in range(COUNTS):
            out = self._insist(name, "lock", "counter", "--paths", "number.json", "--ttl", TTL, "--wait", "--", *step)
            number, epoch, is_alone, is_written = json.loads(out.splitlines()[-1])
            with self._changed:
                self.seen.counted.append((number, epoch))
                self.seen.crowded += not is_alone
                self.seen.unwritten += not is_written
                self._changed.notify_all()
            text = f"{name} made it {number}"
            sent = json.loads(self._insist(name, "send", "--json", "--idem-key", text, text))
            with self._changed:
                self.seen.acked.append(sent["id"])

    def _insist(self, name: str, *words: str) -> str:
        """Type it until there is a hub and it is done; what it printed."""
        deadline_s = monotonic() + PATIENCE_S
        while True:
            code, out, err = self.cast.run(*words, name=name)
            if code == EXIT_OK or (code == EXIT_LOCKED and out.strip()):  # the lease was lost once the work was done
                return out
            if code not in (EXIT_LOCKED, EXIT_UNREACHABLE) or monotonic() > deadline_s:
                raise StoryBroken(f"{name}'s {words[0]} exited {code}: {err.strip() or out.strip()}")
            with self._changed:
                self.seen.retries += 1
            sleep(PAUSE_S)

    def _hear(self) -> None:
        """Read what the listener prints until it ends."""
        listener = self._listener
        assert listener is not None
        assert listener.stdout is not None
        for line in listener.stdout:
            message = json.loads(line)
            with self._changed:
                self.seen.heard.append(message["id"])
                self._changed.notify_all()
        if not self.cast.is_over.is_set():
            raise StoryBroken("the listener ended")


def read_history(cast: Cast) -> list[str]:
    """Id of each message of the channel, oldest first. Raises `StoryBroken` unless they are numbered without a gap."""
    lines = cast.must("history", CHANNEL, "--limit", "1000", "--json", name="ear").splitlines()
    messages = [json.loads(line) for line in lines]
    if [message["n"] for message in messages] != list(range(1, len(messages) + 1)):
        raise StoryBroken("the numbers of the channel have a gap")
    return [message["id"] for message in messages]


def report(seen: Seen) -> bool:
    """Print the claims and the figures; True when every claim holds."""
    say("8  Counted")
    is_right = True
    for text, holds in claims(seen):
        print(f"   {'ok    ' if holds else 'FAILED'}  {text}")
        is_right = is_right and holds
    if not seen.verdict.startswith("whole"):
        print(f"   journal verify: {seen.verdict}")
    restarts = ", ".join(map(str, seen.ready_ms[1:]))
    print()
    print(f"   grants                  {len(seen.epochs) + len(seen.counted)}, each with a larger epoch")
    print(f"   additions               {len(seen.counted)} by {len(COUNTERS)} agents; the number is {seen.total}")
    print(f"   at it at once           {seen.crowded}")
    print(f"   calls repeated          {seen.retries} (they found no hub)")
    print(f"   passed on, ms           {seen.passed_on_ms} after a release, {seen.crashed_ms} after a crash")
    print(f"   unblocked, ms           {seen.unblocked_ms} after the command that ended what was waited for")
    print(f"   messages acknowledged   {len(seen.acked)}, heard {len(seen.heard)}, kept {len(seen.kept_messages)}")
    print(f"   processes killed        {seen.hub_kills + seen.asked.hub_kills} times the hub, {seen.agent_kills} agent")
    print(
        f"   start to ready, ms      {seen.ready_ms[0] if seen.ready_ms else '-'} first, then {restarts or '-'}",
        flush=True,
    )
    return is_right


def farewell(cast: Cast) -> None:
    """How to talk to the hub that stays, and how to stop it."""
    assert cast.hub is not None
    script = Path(sys.executable).with_name("synapse")
    command = os.path.relpath(script) if script.exists() else f"{sys.executable} -m synapse"
    print(f"\nThe hub stays up (pid {cast.hub.pid}). Talk to it:")
    print(f"   export SYNAPSE_HOME={cast.home}")
    print(f"   {command} state")
    print(f"   {command} board --tree --all")
    print(f"   {command} --name ada claim T1 --paths 'src/**'")
    print(f"   {command} --name bob claim T2 --paths src/core/state.py")
    print("Stop it, and remove what it kept:")
    print(f"   kill {cast.hub.pid}")
    print(f"   rm -r {cast.home.parent}    # once it has ended", flush=True)


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run the demo; 0 when every claim holds, 1 when one does not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="make demo", description="Agents that want the same files, and some accidents."
    )
    parser.add_argument("--keep", action="store_true", help="leave the hub up, and say how to talk to it")
    is_keeping = bool(parser.parse_args(arguments).keep)
    root = Path(tempfile.mkdtemp(prefix="synapse-demo-"))
    cast = Cast(root)
    story = Story(cast)
    before = signal.signal(signal.SIGTERM, _as_interrupt)
    code, is_told = EXIT_FAILED, False
    begun_s = monotonic()
    try:
        print(f"Synapse demo, in {root}", flush=True)
        story.tell()
        code = EXIT_OK if report(story.seen) else EXIT_FAILED
        print(f"   seconds                 {monotonic() - begun_s:.1f}", flush=True)
        is_told = True
        if is_keeping:
            farewell(cast)
    except StoryBroken as error:
        print(f"FAILED  {error}", flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted: every process is stopped", file=sys.stderr)
        code = SIGINT_EXIT
    finally:
        signal.signal(signal.SIGTERM, before)
        story.end(but_hub=is_keeping and is_told)
        if code == SIGINT_EXIT or (code == EXIT_OK and not is_keeping):
            shutil.rmtree(root, ignore_errors=True)
        elif not is_keeping:
            print(f"The journal and the hub's log are left in {root}", flush=True)
    return code


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    raise SystemExit(main())
