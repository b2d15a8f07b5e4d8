"""A socket that listens, and how fast a host's newcomers come in: as fast as its bucket fills, in small numbers.

Letting somebody in costs the hub as much as thirty requests, before a word is said. So a newcomer costs its host
`NEWCOMER_TOKENS`; who comes when they are not there waits, outside, for its turn. Even accepting it costs as much as
three requests; so once somebody has to wait, one is accepted in each round. asyncio's own servers accept as many
at once as may queue, which with a thousand newcomers holds the loop for a tenth of a second.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final

from synapse.hub.buckets import Buckets
from synapse.hub.clock import Clock

BACKLOG: Final = 1024
"""So many may queue in the operating system."""
AT_ONCE: Final = 4
"""So many are accepted before others have their turn of the loop."""
NEWCOMER_TOKENS: Final = 32
PARKED_MAX: Final = 128
"""So many of one host wait outside; who comes then is cut off."""
ROUND_S: Final = 0.002
RETRY_S: Final = 1.0
"""Nobody is accepted for so long when the system has no descriptor or no memory for it."""
NO_RESOURCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""The system has no descriptor or no memory left."""


class Door:
    """One of the hub's listening sockets. make: the protocol of a newcomer; host_of: which bucket it counts for.

    tls: what newcomers have to speak; handshake_s and shutdown_s bound that.
    """

    def __init__(
        self,
        raw: socket.socket,
        make: Callable[[], asyncio.BufferedProtocol],
        host_of: Callable[[socket.socket], str],
        buckets: Buckets,
        clock: Clock,
        *,
        tls: ssl.SSLContext | None = None,
        handshake_s: float | None = None,
        shutdown_s: float | None = None,
    ) -> None:
        self._raw = raw
        self._make = make
        self._host_of = host_of
        self._buckets = buckets
        self._clock = clock
        self._tls = tls
        self._handshake_s = handshake_s if tls is not None else None
        self._shutdown_s = shutdown_s if tls is not None else None
        self._loop = asyncio.get_running_loop()
        self._parked: dict[str, deque[socket.socket]] = {}
        self._entering: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._retry: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Listen. Raises OSError."""
        self._raw.setblocking(False)
        self._raw.listen(BACKLOG)
        self._loop.add_reader(self._raw, self._accept)

    def close(self) -> None:
        """Listen no more; who waits outside is cut off."""
        if self._raw.fileno() >= 0:
            self._loop.remove_reader(self._raw)
            self._raw.close()
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        for task in self._entering:
            task.cancel()
        for queue in self._parked.values():
            for newcomer in queue:
                newcomer.close()
        self._parked.clear()

    def _accept(self) -> None:
        now_ms = self._clock.monotonic_ms()
        for _ in range(AT_ONCE):
            try:
                newcomer, _address = self._raw.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in NO_RESOURCE:
                    raise
                self._loop.call_exception_handler(
                    {"message": "a newcomer was not let in, and nobody is for 1 s", "exception": error}
                )
                self._pause(RETRY_S)
                return
            newcomer.setblocking(False)
            if not self._meet(newcomer, self._host_of(newcomer), now_ms):
                self._pause(ROUND_S)
                return

    def _meet(self, newcomer: socket.socket, host: str, now_ms: int) -> bool:
        """False when it has to wait outside, or is cut off as there is no room even there."""
        queue = self._parked.get(host)
        if queue is None and self._may_enter(host, now_ms):
            self._let_in(newcomer)
            return True
        if queue is None:
            queue = self._parked[host] = deque()
        if len(queue) < PARKED_MAX:
            queue.append(newcomer)
        else:
            newcomer.close()
        if self._timer is None:
            self._timer = self._loop.call_later(ROUND_S, self._round)
        return False

    def _pause(self, seconds: float) -> None:
        """Accept nobody for a while."""
        self._loop.remove_reader(self._raw)
        self._retry = self._loop.call_later(seconds, self._loop.add_reader, self._raw, self._accept)

    def _may_enter(self, host: str, now_ms: int) -> bool:
        """An eighth of the burst is left to those of the host who are in."""
        return not self._buckets.of(host, now_ms).take(now_ms, NEWCOMER_TOKENS, is_last=True)

    def _round(self) -> None:
        now_ms = self._clock.monotonic_ms()
        for host, queue in list(self._parked.items()):
            for _ in range(min(len(queue), AT_ONCE)):
                if _is_gone(queue[0]):
                    queue.popleft().close()
                elif self._may_enter(host, now_ms):
                    self._let_in(queue.popleft())
                else:
                    break
            if not queue:
                del self._parked[host]
        self._timer = self._loop.call_later(ROUND_S, self._round) if self._parked else None

    def _let_in(self, newcomer: socket.socket) -> None:
        task = self._loop.create_task(self._enter(newcomer))
        self._entering.add(task)
        task.add_done_callback(self._entering.discard)

    async def _enter(self, newcomer: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make,
                newcomer,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_s,
                ssl_shutdown_timeout=self._shutdown_s,
            )
        except (OSError, ssl.SSLError):  # it went away, or does not speak TLS
            newcomer.close()


def _is_gone(newcomer: socket.socket) -> bool:
    """True when it hung up before its turn came."""
    with contextlib.suppress(BlockingIOError):
        try:
            return newcomer.recv(1, socket.MSG_PEEK) == b""
        except ConnectionError:
            return True
    return False
