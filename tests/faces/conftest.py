"""What the tests of the faces share: a hub of paper that answers by a script, and a real one as a process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

import pytest
from tests.faults.conftest import SRC

from synapse.home import HubFile, ensure_home, read_hub_file, write_hub_file

Frame: TypeAlias = dict[str, Any]
Script: TypeAlias = Callable[["PaperHub", Frame], list[Frame] | None]

JOURNAL = "cafe"
HUB_ID = "hub-of-paper"


class PaperHub:
    """Listens on the Unix socket of a home. script: from a request to frames; None cuts the connection."""

    def __init__(self, home: Path, script: Script) -> None:
        self.home = home
        self.script = script
        self.requests: list[Frame] = []
        self.connections = 0
        ensure_home(home)
        self.path = str(home / "hub.sock")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(16)
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        write_hub_file(home, HubFile(pid=os.getpid(), uris=(f"unix:{self.path}",), journal_id=JOURNAL, hub_id=HUB_ID))

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def kinds(self) -> list[str]:
        """The types of all requests so far."""
        return [request["type"] for request in self.requests]

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        with closing(stream), stream.makefile("rb") as lines, contextlib.suppress(OSError):
            for line in lines:
                request = json.loads(line)
                self.requests.append(request)
                answers = self.script(self, request)
                if answers is None:
                    stream.shutdown(socket.SHUT_RDWR)
                    return
                stream.sendall(b"".join(json.dumps(answer).encode() + b"\n" for answer in answers))


def reply(request: Frame, **body: object) -> Frame:
    """A reply frame."""
    return {"type": "reply", "id": request["id"], "seq": 7, "body": {"cursor": f"{JOURNAL}:7", **body}}


def refusal(request: Frame, code: str, detail: str = "because", **facts: object) -> Frame:
    """An error frame."""
    error = {"code": code, "detail": detail, "facts": facts, "retry_after_ms": None}
    return {"type": "error", "id": request["id"], "seq": 7, "error": error}


def welcome(request: Frame, hub_id: str = HUB_ID) -> Frame:
    """The answer to a hello."""
    limits = {"message_bytes_max": 1000, "wait_ms_max": 5000}
    return reply(request, protocol=1, hub_id=hub_id, journal_id=JOURNAL, limits=limits)


def message(n: int, **more: object) -> Frame:
    """A channel message as the hub shows it."""
    return {
        "id": f"m{n}",
        "room": "main",
        "channel": "general",
        "n": n,
        "cursor": f"{JOURNAL}:{n}",
        "from": "ada",
        "to": None,
        "kind": "event",
        "subject": None,
        "body": f"text {n}",
        "thread": None,
        "reply_to": None,
        "priority": "normal",
        "expires_at_ms": None,
        "sent_at_ms": 1_700_000_000_000,
        **more,
    }


@pytest.fixture
def paper(tmp_path: Path) -> Iterator[Callable[[Script], PaperHub]]:
    """Starts hubs of paper, each in the home `tmp_path/home`; they end with the test."""
    hubs: list[PaperHub] = []

    def start(script: Script) -> PaperHub:
        hubs.append(PaperHub(tmp_path / "home", script))
        return hubs[-1]

    yield start
    for hub in hubs:
        hub.close()


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a command: this home, and nothing of ours that could speak for it."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("SYN")}
    return {**kept, "SYNAPSE_HOME": str(home), "PYTHONPATH": str(SRC), "NO_COLOR": "1", **more}


class RealHub:
    """`synapse hub` as a process in one home, and commands against it. cwd: where commands run, if not here. prefix:
    what goes before each of their command lines."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cwd: Path | None = None
        self.prefix: tuple[str, ...] = ()
        self.process: subprocess.Popen[str] | None = None
        self.ready_line = ""
        self._begun: list[subprocess.Popen[str]] = []

    def start(self, *flags: str, **env: str) -> None:
        """Start it and wait until it says that it is ready."""
        command = [sys.executable, "-m", "synapse", "hub", "--port", "0", *flags]
        self.process = subprocess.Popen(
            command,
            env=environment(self.home, **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        assert self.ready_line.startswith("synapse hub ready "), self.ready_line

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        code = self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    @property
    def websocket(self) -> str:
        """Its ws:// address."""
        file = read_hub_file(self.home)
        assert file is not None
        return next(uri for uri in file.uris if uri.startswith("ws:"))

    def run(self, *words: str, text: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        """One command to its end."""
        command = [*self.prefix, sys.executable, "-m", "synapse", *words]
        return subprocess.run(
            command,
            env=environment(self.home, **env),
            cwd=self.cwd,
            input=text or "",
            capture_output=True,
            text=True,
            timeout=30,
        )

    def json(self, *words: str, code: int = 0, **env: str) -> Any:
        """One command with --json: its one object."""
        done = self.run(*words, "--json", **env)
        assert done.returncode == code, (done.stdout, done.stderr)
        return json.loads(done.stdout)

    def lines(self, *words: str, **env: str) -> list[Any]:
        """One command with --json: its objects, one a line."""
        done = self.run(*words, "--json", **env)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def begin(self, *words: str, **env: str) -> "subprocess.Popen[str]":
        """A command that stays."""
        self._begun.append(
            subprocess.Popen(
                [sys.executable, "-m", "synapse", *words],
                env=environment(self.home, **env),
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return self._begun[-1]

    def until(self, holds: "Callable[[Any], bool]", *words: str) -> Any:
        """Ask until the answer is as it should be; that answer. words: of the command, `state` without any."""
        deadline_s = monotonic() + 15
        while not holds(answer := self.json(*(words or ("state",)))):
            assert monotonic() < deadline_s, answer
        return answer

    def end_all(self) -> None:
        """End the hub, and what a failed test has left behind."""
        for command in self._begun:
            if command.poll() is None:
                command.kill()
                command.communicate()
        if self.process is not None:
            self.end()


@pytest.fixture(autouse=True)
def ctrl_c_is_heeded() -> Iterator[None]:
    """Commands heed SIGINT also when the tests run in the background of a script, whose shell lets them ignore it."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RealHub]:
    """A running hub."""
    real = RealHub(tmp_path / "home")
    real.start()
    yield real
    real.end_all()
