"""The processes that are measured: the baseline on `websockets`, and the hub as a user starts it."""

import hashlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.machine import pinned

RAISED = {
    "RATE_AGENT_PER_S": "10000000",
    "RATE_AGENT_BURST": "10000000",
    "RATE_HOST_PER_S": "10000000",
    "RATE_HOST_BURST": "10000000",
}
"""The only settings that differ from production: how much one agent and one host may send."""

SETTINGS = {f"SYNAPSE_LIMIT_{name}": value for name, value in RAISED.items()}
LEASES_EACH = 500
"""Leases of one agent when the hub is filled with leases; an agent may hold 1000."""
LIVE_FROM = 1_000_000
"""The numbers in the scopes of those leases; measured claims have lower ones."""
IN_FLIGHT = 32
HUB_COMMAND = (sys.executable, "-m", "synapse", "hub")


class ServerFailed(Exception):
    """A server did not start, or did not end as it should."""


class Server:
    """A process on the server's core, used as a block; `port` is set when it listens."""

    def __init__(self, command: Sequence[str], core: int | None, env: dict[str, str] | None = None) -> None:
        self.command = list(command)
        self.core = core
        self.env = {**os.environ, **(env or {})}
        self.port = 0
        self.ready_s = 0.0
        self._process: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  # lives as long as the server

    @property
    def pid(self) -> int:
        """The process id while it runs."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Self:
        started = time.perf_counter()
        with pinned(self.core):
            self._process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=self._log, text=True, env=self.env
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.ready_s = time.perf_counter() - started
        if not line:
            raise ServerFailed(self._last_words(self._process.wait()))
        self.port = self.port_of(line)
        return self

    def port_of(self, line: str) -> int:
        """The port in the line the server prints when it listens."""
        return int(line)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(timeout=15)
        if kind is None and code:
            raise ServerFailed(self._last_words(code))
        self._log.close()

    def _last_words(self, code: int) -> str:
        self._log.seek(0)
        return f"{' '.join(self.command)} ended with {code}: {self._log.read()[-500:].strip()}"

    def kill(self) -> None:
        """SIGKILL, as after a crash: no snapshot and no checkpoint at the end."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def baseline(mode: str, core: int | None) -> Server:
    """The `websockets` server: `echo` or `broadcast`."""
    return Server([sys.executable, "-m", "benchmarks.echo_server", mode], core)


class Hub(Server):
    """`python -m synapse hub` on its own home, with production defaults and raised rates."""

    def __init__(self, home: Path, core: int | None, command: Sequence[str] = HUB_COMMAND) -> None:
        super().__init__([*command, "--port", "0", "--home", str(home)], core, SETTINGS)
        self.home = home
        self.ready_line = ""

    def port_of(self, line: str) -> int:
        """The port of `synapse hub ready ws://HOST:PORT unix:… journal=… seq=…`."""
        self.ready_line = line.strip()
        return int(line.split("ws://")[1].split()[0].rpartition(":")[2].rstrip("/"))

    def hellos(self, count: int, first: int = 1) -> Path:
        """A file with the hello of each connection: the hub's token, a name of its own and its secret."""
        token = (self.home / "token").read_text("ascii").strip()
        path = self.home / f"hellos-{first}-{count}"
        lines = [json.dumps(hello(token, f"bench-{n:04}"), separators=(",", ":")) for n in range(first, first + count)]
        path.write_text("\n".join(lines) + "\n", "ascii")
        return path

    def limits(self) -> dict[str, int]:
        """The limits as the hub tells them to an operator on the Unix socket."""
        found = self.ask({"type": "hello", "id": 1, "body": {"operator": True}})
        limits: dict[str, int] = found["body"]["limits"]
        return limits

    @property
    def unix_path(self) -> str:
        """The path of its Unix socket."""
        return self.ready_line.split("unix:")[1].split()[0]

    def ask(self, request: dict[str, object]) -> dict[str, dict[str, dict[str, int]]]:
        """One line to the Unix socket, and the answer."""
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(self.unix_path)
            link.sendall(json.dumps(request).encode() + b"\n")
            with link.makefile("rb") as lines:
                found: dict[str, dict[str, dict[str, int]]] = json.loads(lines.readline())
                return found

    def fill(self, count: int, worktree: str, path: str) -> None:
        """Let other agents hold `count` leases, a number for the # in `path`. Raises `ServerFailed` for a refusal."""
        for first in range(0, count, LEASES_EACH):
            requests: list[dict[str, object]] = []
            for n in range(first, min(first + LEASES_EACH, count)):
                scope = {"worktree": worktree, "paths": [path.replace("#", str(LIVE_FROM + n))]}
                requests.append({"type": "lease.claim", "id": n, "body": {"task": f"live-{n}", **scope}})
            self.ask_as(f"holder-{first // LEASES_EACH:04}", requests)

    def ask_as(self, name: str, requests: Sequence[dict[str, object]]) -> None:
        """Ask as an agent, some at a time, over the Unix socket. Raises `ServerFailed` for a refusal."""
        requests = [hello((self.home / "token").read_text("ascii").strip(), name), *requests]
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(self.unix_path)
            with link.makefile("rb") as lines:
                for first in range(0, len(requests), IN_FLIGHT):
                    some = requests[first : first + IN_FLIGHT]
                    link.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in some))
                    for _ in some:
                        answer = lines.readline()
                        if not answer.startswith(b'{"type":"reply"'):
                            raise ServerFailed(f"refused: {answer.decode()[:500]}")


def hello(token: str, name: str) -> dict[str, object]:
    """The hello of one connection. The secret is the same on every run, so that a home can be used again."""
    secret = hashlib.sha256(f"benchmark {name}".encode()).hexdigest()
    body = {"protocol": [1, 1], "token": token, "name": name, "secret": secret, "lasting": True}
    return {"type": "hello", "id": "hello", "body": body}


def rows_of(home: Path, kind: str = "message.posted") -> int:
    """How many events of a type the journal of a stopped hub holds."""
    link = sqlite3.connect(f"file:{home / 'journal.db'}?mode=ro", uri=True)
    try:
        return int(link.execute("SELECT count(*) FROM events WHERE type = ?", (kind,)).fetchone()[0])
    finally:
        link.close()


def bodies_of(home: Path, kind: str) -> list[bytes]:
    """What the events of a type say, of a stopped hub."""
    link = sqlite3.connect(f"file:{home / 'journal.db'}?mode=ro", uri=True)
    try:
        return [row[0] for row in link.execute("SELECT body FROM events WHERE type = ?", (kind,))]
    finally:
        link.close()


def require_rows(home: Path, acknowledged: int) -> None:
    """Raises `ServerFailed` unless the journal holds as many messages as were acknowledged."""
    rows = rows_of(home)
    if rows != acknowledged:
        raise ServerFailed(f"{acknowledged} messages were acknowledged, {rows} are in the journal")


def require_leases(home: Path, acknowledged: int, filled: int = 0) -> None:
    """Raises `ServerFailed` unless the journal holds one grant and one release for two acknowledged operations each.

    filled: leases granted besides and not released.
    """
    grants, releases = rows_of(home, "lease.granted"), rows_of(home, "lease.released")
    if (grants - filled) * 2 != acknowledged or releases * 2 != acknowledged:
        raise ServerFailed(
            f"{acknowledged} claims and releases were acknowledged, {filled} leases granted besides; "
            f"{grants} grants and {releases} releases are in the journal"
        )
