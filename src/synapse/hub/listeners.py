"""The hub's doors: the TCP port and the Unix socket, who may come in, and how all are shown out."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
from collections import Counter
from pathlib import Path
from typing import Final

import msgspec

from synapse import home as rendezvous
from synapse.errors import EXIT_ADDRESS_IN_USE, Rejected, SynapseError
from synapse.hub.connection import Connection
from synapse.hub.door import NO_RESOURCE, Door
from synapse.hub.http import Gate, Page
from synapse.hub.log import log
from synapse.hub.metrics import CONTENT_TYPE, render
from synapse.hub.settings import Settings, is_loopback
from synapse.hub.supervision import Doors, require_private
from synapse.hub.tls import server_context
from synapse.hub.tokens import opens
from synapse.hub.turn import Turns
from synapse.hub.wire import LinePeer, Peer, WebPeer, peer_host, peer_user
from synapse.protocol.codes import CLOSE_RESTART
from synapse.protocol.session import Session

NO_DOORS: Final = Doors()
WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104  # not to listen there, but not to take it for a name
DRAIN_S: Final = 2.0
"""How long peers have to take their last answers and say goodbye."""


class AddressInUse(SynapseError):
    """Something else listens where the hub should. One line with the cure; exit 71."""

    exit_code = EXIT_ADDRESS_IN_USE


class Listeners:
    """Sockets that listen, and the peers that came through them."""

    def __init__(
        self, turns: Turns, settings: Settings, loop: asyncio.AbstractEventLoop, doors: Doors = NO_DOORS
    ) -> None:
        """doors: sockets that a service manager has opened, in place of our own."""
        self._doors = doors
        self.turns = turns
        self.loop = loop
        self.limits = settings.limits
        self.peers: set[Peer] = set()
        self.uris: list[str] = []
        self.gate = Gate(settings.port, settings.allowed_hosts, settings.allowed_origins, self._opens)
        self._settings = settings
        self._per_host: Counter[str] = Counter()
        self._next_id = 1
        self._open: list[Door] = []
        self._tls: ssl.SSLContext | None = None
        self._tcp: socket.socket | None = None
        self._unix: socket.socket | None = None
        self._socket_path: str | None = None
        self._is_draining = False
        self._all_gone = asyncio.Event()

    def _opens(self, secret: str) -> bool:
        """True for a token that a hello would be welcomed with."""
        try:
            opens(self.turns.state, self.turns.token, secret, self.turns.clock.wall_ms())
        except Rejected:
            return False
        return True

    def bind(self) -> None:
        """Take the addresses; nobody is let in yet. Raises `AddressInUse`, `SettingsRefused`."""
        settings, doors = self._settings, self._doors
        self._tls = server_context(settings.tls_cert, settings.tls_key)
        host = settings.host
        if doors.tcp is None:
            self._tcp = _bind_tcp(host, settings.port)
        else:
            require_private(doors.tcp, is_forced=settings.insecure_bind or self._tls is not None)
            self._tcp, host = doors.tcp, str(doors.tcp.getsockname()[0])
        port = int(self._tcp.getsockname()[1])
        shown = f"[{host}]" if ":" in host else host
        own = () if host in WILDCARDS else (f"{shown.lower()}:{port}",)
        self.gate = Gate(port, (*own, *settings.allowed_hosts), settings.allowed_origins, self._opens)
        if self._tls is None and not is_loopback(host):
            log("network.open", "other machines can read along: no TLS", level=logging.WARNING, host=host)
        self.uris.append(f"{'ws' if self._tls is None else 'wss'}://{shown}:{port}")
        if doors.unix is not None:
            self._unix = doors.unix  # whoever made it takes its name away
            self.uris.append(f"unix:{self._unix.getsockname()}")
        elif settings.unix_socket:
            self._socket_path = rendezvous.socket_path(settings.home)
            self._unix = _bind_unix(self._socket_path)
            self.uris.append(f"unix:{self._socket_path}")

    def listen(self) -> None:
        """Open the doors that `bind` took."""
        assert self._tcp is not None
        buckets, clock = self.turns.peers.host_buckets, self.turns.clock
        bounds = {"handshake_s": self.limits.hello_ms / 1000, "shutdown_s": DRAIN_S / 2}
        self._open.append(Door(self._tcp, self.newcomer, peer_host, buckets, clock, tls=self._tls, **bounds))
        if self._unix is not None:
            self._open.append(Door(self._unix, lambda: LinePeer(self), peer_user, buckets, clock))
        for door in self._open:
            door.open()

    def newcomer(self) -> WebPeer:
        """Who comes through the TCP port."""
        return WebPeer(self)

    def refusal(self, host: str, *, is_owner: bool = False) -> Rejected | None:
        """Why one more connection from this host is too many; None when it is not. is_owner: the system has said that
        it is the hub's own user, and strangers that say no hello do not keep it out."""
        limits = self.limits
        if self._is_draining:
            return Rejected("draining", "the hub is shutting down; come back in a moment", retry_after_ms=1000)
        for have, most, name in (
            (len(self.turns.peers.connections), limits.connections_max, "connections_max"),
            (self._per_host[host], limits.connections_per_host_max, "connections_per_host_max"),
            (self.unwelcomed - 1, limits.connections_unauthenticated_max, "connections_unauthenticated_max"),
        ):
            if have >= most and not (is_owner and name == "connections_unauthenticated_max"):
                detail = f"the hub holds {have} of {most} connections ({name})"
                return Rejected("limit", detail, {"limit": name, "value": most}, retry_after_ms=1000)
        return None

    @property
    def unwelcomed(self) -> int:
        """How many sockets are open without a welcome, those without a complete request head among them."""
        return len(self.peers) - len(self.turns.peers.connections) + len(self.turns.peers.unwelcomed)

    def admit(self, peer: Peer, *, host: str, uid: int | None, bearer: str | None = None) -> Connection:
        """A peer with a complete handshake becomes a connection of the turn."""
        now_ms = self.turns.clock.monotonic_ms()
        connection = Connection(
            self._next_id,
            peer,
            Session(self.limits),
            kind=peer.kind,
            host=host,
            host_bucket=self.turns.peers.host_buckets.of(host, now_ms),
            opened_ms=now_ms,
            is_owner=uid is not None and uid == os.getuid(),
            bearer=bearer,
        )
        self._next_id += 1
        self._per_host[host] += 1
        self.turns.peers.open(connection)
        return connection

    def forget(self, peer: Peer) -> None:
        """A peer's socket is gone."""
        self.peers.discard(peer)
        if not self.peers and self._is_draining:
            self._all_gone.set()
        if peer.connection is not None:
            host = peer.connection.host
            self._per_host[host] -= 1
            if not self._per_host[host]:
                del self._per_host[host]

    def health(self) -> tuple[bool, dict[str, object]]:
        """What GET /health says: nothing about the fleet, since it asks for no token."""
        reasons = self.turns.requests.complaints()
        facts: dict[str, object] = {
            "health": "red" if reasons else "green",
            "reasons": reasons,
            "version": self.turns.version,
            "hub_id": self.turns.state.hub_id,
            "read_only": self.turns.is_read_only,
            "lease_clock_lag_ms": self.turns.lease_clock.lag_ms,
            "verified_through": self.turns.verified_through,
            "head": self.turns.feeds.durable,
            "outbox_bytes": self.turns.peers.outbox_bytes,
            "stuck": self.turns.peers.stuck,
        }
        return not reasons, facts

    def page(self, path: str) -> Page | None:
        """What is at a path of the port; None when nothing is."""
        if path == "/health":
            is_green, facts = self.health()
            return Page(200 if is_green else 503, "application/json", msgspec.json.encode(facts) + b"\n")
        if path == "/metrics":
            return Page(200, CONTENT_TYPE, render(self.turns))
        return None

    async def drain(self) -> None:
        """Let nobody in, answer what was heard, say goodbye, and cut who has not gone after 2 s."""
        self._is_draining = True
        for door in self._open:
            door.close()
        self.turns.peers.hold_all()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.turns.settle(), DRAIN_S / 2)
        for peer in list(self.peers):
            peer.close(CLOSE_RESTART, "the hub is shutting down; resume from your cursor")
            peer.hold_reading(hold=False)  # what comes now is not heard, but that it goes is
        if self.peers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_gone.wait(), DRAIN_S)
        self.cut()
        await asyncio.sleep(0)  # lets the aborted transports say that they are gone

    def cut(self) -> None:
        """Abort everybody, and take the socket's name away."""
        for door in self._open:
            door.close()
        for raw in (self._tcp, self._unix):
            if raw is not None:
                raw.close()
        for peer in list(self.peers):
            peer.abort()
        if self._socket_path is not None:
            with contextlib.suppress(OSError):  # the next hub replaces it
                Path(self._socket_path).unlink(missing_ok=True)
            self._socket_path = None


def _bind_tcp(host: str, port: int) -> socket.socket:
    raw: socket.socket | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        raw = socket.socket(family, kind, protocol)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        raw.bind(address)
    except OSError as error:
        if raw is not None:
            raw.close()
        if error.errno in NO_RESOURCE:
            raise
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"{host}:{port} is in use: another hub or program listens there; stop it, or choose --port 0"
            ) from error
        raise AddressInUse(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    raw.setblocking(False)
    return raw


def require_place(path: str) -> None:
    """Raises `AddressInUse` for a directory where the Unix socket belongs; what else lies there, the hub replaces."""
    if Path(path).is_dir() and not Path(path).is_symlink():
        raise AddressInUse(f"{path}: is a directory, and the hub's socket belongs there; remove it")


def _bind_unix(path: str) -> socket.socket:
    """Listen at `path`, replacing a socket that a dead hub left: the home's lock says that no hub is alive."""
    require_place(path)
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not path.endswith(f"/{rendezvous.SOCKET_FILE}"):
            rendezvous.ensure_socket_dir(path)
        Path(path).unlink(missing_ok=True)
        raw.bind(path)
        Path(path).chmod(0o600)
    except OSError as error:
        if error.errno in NO_RESOURCE:
            raise
        raise AddressInUse(f"{path}: cannot listen there: {error.strerror}") from error
    raw.setblocking(False)
    return raw
