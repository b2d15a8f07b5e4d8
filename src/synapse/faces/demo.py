"""`make demo`: a hub, three agents and some accidents, told as a story that is counted at the end.

Every process is real and everything goes through the command line, as an agent or a script would use it. Rule: what is
printed as a fact was observed in this run; a claim that does not hold is printed as FAILED and the exit code is 1.
"""

import argparse
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from types import FrameType
from typing import IO, Final, TypeAlias

from synapse.errors import EXIT_DEADLINE, EXIT_FAILED, EXIT_OK, EXIT_UNREACHABLE, SynapseError

Json: TypeAlias = dict[str, object]

CHANNEL: Final = "main:general"
TALK = 24
"""Messages that each of the two speakers posts to the channel while the hub is killed."""
LETTERS = 16
"""Direct messages that ada sends to bob meanwhile."""
HUB_KILLS = 3
REPORT_CHARS: Final = 120_000
"""More than a pipe holds, so that whoever prints it to a reader that stops is stuck half-way."""
PATIENCE_S: Final = 60.0
"""How long one step may take on a busy machine before the demo gives up."""
PAUSE_S: Final = 0.05
SIGINT_EXIT: Final = 130


class StoryBroken(SynapseError):
    """The demo could not go on: a process ended as it should not, or something took too long."""


@dataclass(slots=True)
class Seen:
    """What happened, as its witnesses reported it.

    acked: id by text, of each channel message whose sender got an answer. heard, kept: the `n` and id of each channel
    message, in the order in which the listener printed it and in which history has it. sent, read: ids of direct
    messages, as ada's `send` and bob's `wait` printed them. lent, returned: the message bob died with, and what he was
    given next. left: messages in bob's inbox at the end. retries: calls that found no hub. verdict: `journal verify`.
    """

    acked: dict[str, str] = field(default_factory=dict)
    heard: list[tuple[int, str]] = field(default_factory=list)
    kept: list[tuple[int, str]] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    read: list[str] = field(default_factory=list)
    lent: str = ""
    returned: str = ""
    left: int = -1
    agent_kills: int = 0
    hub_kills: int = 0
    retries: int = 0
    ready_ms: list[int] = field(default_factory=list)
    events: int = 0
    verdict: str = ""

    @property
    def lost(self) -> int:
        """Acknowledged messages that are not there any more, or never reached their reader."""
        in_channel = set(self.acked.values())
        kept, heard = {id_ for _, id_ in self.kept}, {id_ for _, id_ in self.heard}
        return len(in_channel - kept) + len(in_channel - heard) + len(set(self.sent) - set(self.read))

    @property
    def repeated(self) -> int:
        """Messages that are kept twice, or that a reader was given twice."""
        lists = ([id_ for _, id_ in self.kept], [id_ for _, id_ in self.heard], self.read)
        return sum(len(ids) - len(set(ids)) for ids in lists)


def claims(seen: Seen) -> list[tuple[str, bool]]:
    """What the demo claims, each with whether it is true of this run."""
    count = len(seen.acked)
    gapless = list(range(1, count + 1))
    return [
        (f"all {count} channel messages were acknowledged to their senders", count == 2 + 2 * TALK),
        (f"the channel's numbers are 1 to {count}, no gap and none twice", [n for n, _ in seen.kept] == gapless),
        (
            "the history has exactly the acknowledged messages",
            sorted(seen.acked.values()) == sorted(id_ for _, id_ in seen.kept),
        ),
        ("the listener printed exactly the history, in its order", bool(seen.heard) and seen.heard == seen.kept),
        (
            f"bob read all {len(seen.sent)} direct messages once each, in order",
            len(seen.sent) == 2 + LETTERS and seen.read == seen.sent,
        ),
        ("the message bob died with came back under the same id", bool(seen.lent) and seen.lent == seen.returned),
        ("bob's inbox is empty", seen.left == 0),
        (f"the hub was killed {HUB_KILLS} times and came back", seen.hub_kills == HUB_KILLS == len(seen.ready_ms) - 1),
        (f"the journal proves itself: {seen.events} events", seen.verdict.startswith("whole") and seen.events > count),
        ("nothing acknowledged was lost", seen.lost == 0),
        ("nothing was repeated", seen.repeated == 0),
    ]


class Cast:
    """The processes of the demo: started, heard and ended here, so that none outlives it."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.log = root / "hub.log"
        self.hub: subprocess.Popen[str] | None = None
        self.is_over = threading.Event()
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        mine = ("SYNAPSE_", "SYN_IDENTITY")
        self._environ = {key: text for key, text in os.environ.items() if not key.startswith(mine)}
        self._environ |= {"SYNAPSE_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}

    def start(self, *words: str, name: str = "", stderr: "IO[str] | int | None" = None) -> "subprocess.Popen[str]":
        """`synapse WORDS` as `name`, in a session of its own: Ctrl-C ends the demo, and the demo ends the rest."""
        with self._lock:
            if self.is_over.is_set():
                raise StoryBroken("the demo is over")
            process = subprocess.Popen(
                [sys.executable, "-m", "synapse", *words],
                env=self._environ | ({"SYNAPSE_NAME": name} if name else {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if stderr is None else stderr,
                text=True,
                start_new_session=True,
            )
            self._running.add(process)
            return process

    def run(self, *words: str, name: str = "", stdin: str = "") -> tuple[int, str, str]:
        """`synapse WORDS` to its end: exit code, stdout, stderr."""
        process = self.start(*words, name=name)
        try:
            out, err = process.communicate(stdin, timeout=PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            raise StoryBroken(f"synapse {' '.join(words)} took longer than {PATIENCE_S:g} s") from error
        self.forget(process)
        return process.returncode, out, err

    def must(self, *words: str, name: str = "", stdin: str = "") -> str:
        """As `run`; what it printed. Raises `StoryBroken` unless it exits 0."""
        code, out, err = self.run(*words, name=name, stdin=stdin)
        if code:
            raise StoryBroken(f"synapse {' '.join(words)} exited {code}: {err.strip() or out.strip()}")
        return out

    def start_hub(self) -> tuple[str, int]:
        """Start the hub on a free port; its ready line, and the milliseconds from start to that line."""
        begun_s = monotonic()
        with self.log.open("a") as log:
            self.hub = hub = self.start("hub", "--port", "0", stderr=log)
        assert hub.stdout is not None
        if not select.select([hub.stdout], [], [], PATIENCE_S)[0]:
            raise StoryBroken(f"the hub was not ready within {PATIENCE_S:g} s")
        line = hub.stdout.readline().strip()
        if not line.startswith("synapse hub ready "):
            raise StoryBroken(f"the hub did not start: {self.log.read_text()[-500:].strip()}")
        return line, round((monotonic() - begun_s) * 1000)

    def kill(self, process: "subprocess.Popen[str]") -> None:
        """SIGKILL: no warning, no last words."""
        process.kill()
        process.wait()
        self.forget(process)

    def forget(self, process: "subprocess.Popen[str]") -> None:
        """A process has ended: let its pipes go."""
        with self._lock:
            self._running.discard(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def end(self, *, but_hub: bool) -> None:
        """End all processes; `but_hub` spares the hub."""
        with self._lock:
            self.is_over.set()
            left = {process for process in self._running if not (but_hub and process is self.hub)}
        for process in left:
            process.terminate()
        for process in left:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        """Let all pipes go."""
        for process in list(self._running):
            self.forget(process)


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
        self._talk()
        self._die_with_a_message()
        self._kill_the_hub()
        self._count()

    def _talk(self) -> None:
        say("1  A hub, and agents that talk")
        shown("", "hub --port 0")
        line, ready_ms = self.cast.start_hub()
        self.seen.ready_ms.append(ready_ms)
        output(line)
        joined = [self.cast.must("channel", "join", CHANNEL, "--json", name=name) for name in ("ada", "bob", "cleo")]
        since = str(json.loads(joined[-1])["cursor"])
        shown("cleo", f"listen {CHANNEL} --since {since} &")
        self._listener = self.cast.start(
            "listen", CHANNEL, "--since", since, "--json", name="cleo", stderr=subprocess.DEVNULL
        )
        self._begin(self._hear)
        for name, text in (("ada", "I take the parser."), ("bob", "Then I take the tests.")):
            shown(name, f'send "{text}"')
            reply = json.loads(self.cast.must("send", "--json", text, name=name))
            self.seen.acked[text] = reply["id"]
            output(f"{reply['id']}  {reply['room']}:{reply['channel']} #{reply['n']}")
        shown("ada", 'send --to bob "Mind the tabs."')
        self.seen.sent.append(
            json.loads(self.cast.must("send", "--json", "--to", "bob", "Mind the tabs.", name="ada"))["id"]
        )
        shown("bob", "wait")
        block = self.cast.must("wait", "--wait=5", name="bob").rstrip()
        self.seen.read.append(block.splitlines()[0].split()[-1])
        output(block)

    def _die_with_a_message(self) -> None:
        say("2  An agent dies with a message in its hands")
        shown("ada", f"send --to bob - < report    ({REPORT_CHARS} characters)")
        text = "x" * REPORT_CHARS
        sent = json.loads(self.cast.must("send", "--json", "--to", "bob", "-", name="ada", stdin=text))["id"]
        self.seen.sent.append(sent)
        shown("bob", "wait &")
        reader = self.cast.start("wait", "--json", name="bob")
        assert reader.stdout is not None
        reader.stdout.read(1)  # it has the message and prints it; the pipe is full long before the end
        entry = json.loads(self.cast.must("inbox", "--json", name="bob"))
        output(f"{entry['id']} is {entry['delivery']}, not acked; bob has begun to print it")
        shown("", f"kill -9 {reader.pid}        (bob's wait)", is_synapse=False)
        if reader.poll() is not None:
            raise StoryBroken("bob's wait ended before it could be killed")
        self.cast.kill(reader)
        self.seen.agent_kills += 1
        self.seen.lent = str(entry["id"])
        shown("bob", "wait")
        again = json.loads(self.cast.must("wait", "--wait=5", "--json", name="bob"))
        self.seen.returned = again["id"]
        self.seen.read.append(again["id"])
        output(f"{again['id']} again, {len(again['body'])} characters, acked now")
        if sent != self.seen.lent or again["body"] != text:
            raise StoryBroken(f"ada sent {sent}, bob was given {self.seen.lent} and then another text")

    def _kill_the_hub(self) -> None:
        say(f"3  The hub is killed {HUB_KILLS} times while everybody talks")
        say(f"   ada and bob post {TALK} messages each, ada sends bob {LETTERS} letters, bob reads them with `wait`,")
        say("   cleo's `listen` goes on. A `send` that finds no hub is repeated with its --idem-key.")
        speakers = [
            self._begin(lambda: self._speak("ada")),
            self._begin(lambda: self._speak("bob")),
            self._begin(self._write_letters),
        ]
        reader = self._begin(self._read_letters)
        total = 2 * TALK + LETTERS
        for kill in range(1, HUB_KILLS + 1):
            self._await_answers(total * kill // (HUB_KILLS + 1))
            hub = self.cast.hub
            assert hub is not None
            shown(
                "", f"kill -9 {hub.pid}        (the hub, after {self._answered()} of {total} answers)", is_synapse=False
            )
            self.cast.kill(hub)
            self.seen.hub_kills += 1
            _, ready_ms = self.cast.start_hub()
            self.seen.ready_ms.append(ready_ms)
            output(f"ready again after {ready_ms} ms")
        for thread in (*speakers, reader):
            self._join(thread)
        count = len(self.seen.acked)
        self._await(lambda: len(self.seen.heard) >= count, f"the listener's {count} messages")
        sleep(2 * PAUSE_S)  # a repeat would come now

    def _await_answers(self, goal: int) -> None:
        self._await(lambda: self._answered() >= goal, f"{goal} messages")

    def _answered(self) -> int:
        """Answers in the third part: four messages were sent before."""
        return len(self.seen.acked) + len(self.seen.sent) - 4

    def _count(self) -> None:
        seen = self.seen
        seen.kept = read_history(self.cast)
        seen.left = len(self.cast.must("inbox", "--json", name="bob").splitlines())
        code, out, err = self.cast.run("journal", "verify", "--json")
        seen.verdict = "whole" if code == EXIT_OK else err.strip() or out.strip()
        if code == EXIT_OK:
            seen.events = json.loads(out)["events"]

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

    def _join(self, thread: threading.Thread) -> None:
        self._await(lambda: not thread.is_alive(), "an agent")

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

    def _speak(self, name: str) -> None:
        for turn in range(1, TALK + 1):
            text = f"{name}: step {turn} is done"
            reply = self._send(name, text)
            with self._changed:
                self.seen.acked[text] = str(reply["id"])
                self._changed.notify_all()

    def _write_letters(self) -> None:
        for turn in range(1, LETTERS + 1):
            reply = self._send("ada", f"letter {turn}", "--to", "bob")
            with self._changed:
                self.seen.sent.append(str(reply["id"]))
                self._changed.notify_all()

    def _send(self, name: str, text: str, *options: str) -> Json:
        """Send until there is an answer, under one key."""
        key = f"{name} {text}"
        deadline_s = monotonic() + PATIENCE_S
        while True:
            code, out, err = self.cast.run("send", "--json", "--idem-key", key, *options, text, name=name)
            if code == EXIT_OK:
                reply: Json = json.loads(out)
                return reply
            if code != EXIT_UNREACHABLE or monotonic() > deadline_s:
                raise StoryBroken(f"{name}'s send exited {code}: {err.strip()}")
            self._retry()

    def _read_letters(self) -> None:
        while len(self.seen.read) < 2 + LETTERS:
            code, out, err = self.cast.run("wait", "--wait=10", "--json", name="bob")
            if code == EXIT_OK:
                self.seen.read.append(json.loads(out)["id"])
            elif code == EXIT_UNREACHABLE:
                self._retry()
            elif code != EXIT_DEADLINE:
                raise StoryBroken(f"bob's wait exited {code}: {err.strip()}")

    def _retry(self) -> None:
        with self._changed:
            self.seen.retries += 1
        sleep(PAUSE_S)

    def _hear(self) -> None:
        """Read what the listener prints until it ends."""
        listener = self._listener
        assert listener is not None and listener.stdout is not None
        for line in listener.stdout:
            message = json.loads(line)
            with self._changed:
                self.seen.heard.append((message["n"], message["id"]))
                self._changed.notify_all()
        if not self.cast.is_over.is_set():
            raise StoryBroken("the listener ended")


def read_history(cast: Cast) -> list[tuple[int, str]]:
    """Number and id of each message of the channel, oldest first."""
    lines = cast.must("history", CHANNEL, "--limit", "1000", "--json", name="cleo").splitlines()
    return [(message["n"], message["id"]) for message in map(json.loads, lines)]


def say(text: str) -> None:
    """A line of the story, shown at once."""
    print(f"\n{text}" if text[:1].isdigit() else text, flush=True)


def shown(name: str, command: str, *, is_synapse: bool = True) -> None:
    """A command, as it would be typed."""
    print(f"   {name + ' ' if name else ''}$ {'synapse ' if is_synapse else ''}{command}", flush=True)


def output(text: str) -> None:
    """What a command printed, or what was seen of it."""
    for line in text.splitlines():
        print(f"     {line}", flush=True)


def report(seen: Seen) -> bool:
    """Print the claims and the figures; True when every claim holds."""
    say("4  Counted")
    is_right = True
    for text, holds in claims(seen):
        print(f"   {'ok    ' if holds else 'FAILED'}  {text}")
        is_right = is_right and holds
    if not seen.verdict.startswith("whole"):
        print(f"   journal verify: {seen.verdict}")
    restarts = ", ".join(map(str, seen.ready_ms[1:]))
    print()
    print(f"   messages acknowledged   {len(seen.acked) + len(seen.sent)}")
    print(f"   messages read           {len(seen.heard)} heard by the listener, {len(seen.read)} taken from the inbox")
    print(f"   processes killed        {seen.hub_kills} times the hub, {seen.agent_kills} agent")
    print(f"   start to ready, ms      {seen.ready_ms[0] if seen.ready_ms else '-'} first, then {restarts or '-'}")
    print(f"   calls repeated          {seen.retries} (they found no hub)")
    print(f"   lost                    {seen.lost}")
    print(f"   repeated                {seen.repeated}", flush=True)
    return is_right


def farewell(cast: Cast) -> None:
    """How to talk to the hub that stays, and how to stop it."""
    assert cast.hub is not None
    script = Path(sys.executable).with_name("synapse")
    command = os.path.relpath(script) if script.exists() else f"{sys.executable} -m synapse"
    print(f"\nThe hub stays up (pid {cast.hub.pid}). Talk to it:")
    print(f"   export SYNAPSE_HOME={cast.home}")
    print(f"   {command} who")
    print(f"   {command} --name bob wait &")
    print(f"   {command} --name ada send --to bob hello")
    print("Stop it, and remove what it kept:")
    print(f"   kill {cast.hub.pid}")
    print(f"   rm -r {cast.home.parent}    # once it has ended", flush=True)


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run the demo; 0 when every claim holds, 1 when one does not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="make demo", description="A hub, three agents and some accidents.")
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
