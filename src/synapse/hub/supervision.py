"""What a service manager gives the hub and hears from it, as systemd does: sockets, readiness, a watchdog.

READY is said behind replay and open doors. The watchdog is fed only by a beat that has gone all the way: through the
inbox and a turn, behind the commit in flight, and through the writer's queue. So a stuck loop, a stuck commit and a
stuck writer all let it bite; a full disk does not, because a restart frees no space. Nothing here can fail the hub:
who does not listen is not told.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Final, NamedTuple

from synapse.hub.settings import SettingsRefused, is_loopback

if TYPE_CHECKING:
    from synapse.hub.threads import Worker
    from synapse.hub.turn import Turns

FIRST_SOCKET: Final = 3
SOCKETS_MAX: Final = 2
VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""What is meant for this process alone: children do not inherit it."""


class Doors(NamedTuple):
    """Listening sockets that were given: each stands for the one that the settings name."""

    tcp: socket.socket | None = None
    unix: socket.socket | None = None


class Supervisor:
    """Whoever started the hub. name: `systemd`, `launchd`, or '' for a shell. watchdog_s: None without a watchdog."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Takes the variables out of the environment. Raises `SettingsRefused` for sockets that the hub cannot use."""
        given = {key: environ.pop(key) for key in VARIABLES if key in environ}
        self.name = _name_of(given, environ)
        self.watchdog_s = _watchdog_s(given)
        self.doors = _take_sockets(given)
        self._address = _address_of(given.get("NOTIFY_SOCKET", ""))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def say(self, **variables: str | int) -> None:
        """One datagram of `NAME=value` lines."""
        if self._address is not None:
            data = "\n".join(f"{name}={value}" for name, value in variables.items())
            with contextlib.suppress(OSError):
                self._socket.sendto(data.encode(errors="replace"), self._address)

    def close(self) -> None:
        """Let go of the datagram socket."""
        self._socket.close()

    async def feed(self, turns: "Turns", writer: "Worker") -> None:
        """Feed the watchdog for as long as beats come back. Without one, nothing."""
        if self.watchdog_s is None:
            return
        while True:
            await beat(turns, writer)
            self.say(WATCHDOG=1)
            await asyncio.sleep(self.watchdog_s / 2)


async def beat(turns: "Turns", writer: "Worker") -> None:
    """Answers when a turn has run and was released, and the writer has done what was queued before."""
    is_back = asyncio.get_running_loop().create_future()

    def done(_: object, __: object) -> None:
        if not is_back.done():
            is_back.set_result(None)

    turns.put(None, lambda: turns.after_release(lambda: writer.submit(lambda: None, done)))
    await is_back


def _name_of(given: Mapping[str, str], environ: Mapping[str, str]) -> str:
    if given.get("NOTIFY_SOCKET") or environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
        return "systemd"
    return "launchd" if environ.get("XPC_SERVICE_NAME", "").startswith("io.synapse.") else ""


def _watchdog_s(given: Mapping[str, str]) -> float | None:
    usec, pid = given.get("WATCHDOG_USEC", ""), given.get("WATCHDOG_PID", "")
    is_ours = not pid or pid == str(os.getpid())
    return int(usec) / 1_000_000 if usec.isdecimal() and int(usec) and is_ours else None


def _address_of(text: str) -> str | None:
    """A path, or with `@` a name in Linux's abstract space."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else None


def _take_sockets(given: Mapping[str, str]) -> Doors:
    """The sockets from descriptor 3 on, if they are meant for this process."""
    count, pid = given.get("LISTEN_FDS", ""), given.get("LISTEN_PID", "")
    if not count or pid != str(os.getpid()):
        return Doors()
    if not count.isdecimal():
        raise SettingsRefused(f"LISTEN_FDS: {count!a} where a number of sockets belongs")
    if int(count) > SOCKETS_MAX:
        raise SettingsRefused(f"the service manager gave {int(count)} sockets; a hub has one TCP and one Unix socket")
    doors = Doors()
    for descriptor in range(FIRST_SOCKET, FIRST_SOCKET + int(count)):
        doors = _with_socket(doors, descriptor)
    return doors


def _with_socket(doors: Doors, descriptor: int) -> Doors:
    try:
        os.set_inheritable(descriptor, False)
        given = socket.socket(fileno=descriptor)
        is_listening = bool(given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError as error:
        raise SettingsRefused(
            f"descriptor {descriptor} from the service manager is no socket ({error.strerror})"
        ) from error
    if given.type != socket.SOCK_STREAM or not is_listening:
        given.close()
        raise SettingsRefused(f"descriptor {descriptor} from the service manager is no listening stream socket")
    kind = "unix" if given.family == socket.AF_UNIX else "tcp"
    if getattr(doors, kind) is not None:
        given.close()
        raise SettingsRefused(f"the service manager gave two {kind} sockets; a hub has one")
    given.setblocking(False)
    return doors._replace(**{kind: given})


def require_private(door: socket.socket, *, is_forced: bool) -> None:
    """Raises `SettingsRefused` for a TCP socket that other machines reach, unless it speaks TLS or that was forced."""
    host = str(door.getsockname()[0])
    if not is_forced and not is_loopback(host):
        raise SettingsRefused(
            f"the socket of the service manager listens on {host}: other machines could read along, because no TLS is "
            "there; set tls_cert and tls_key, let it listen on 127.0.0.1, or force it with insecure_bind"
        )
