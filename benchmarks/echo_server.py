"""The baseline server: what `websockets` does on the plain asyncio loop with frames of the same sizes.

`echo` sends every frame back. `broadcast` answers each publish with a reply of the hub's size and hands a notice of the
hub's size to every subscriber with `websockets.asyncio.server.broadcast`. Prints its port when it listens.
"""

import argparse
import asyncio
import contextlib
import signal

from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

HELLO = '{"type":"hello"'
SUBSCRIBE = '{"type":"feed.subscribe"'
# As the hub writes them; only the id, the number and the body vary.
REPLY = (
    '{"type":"reply","id":"%s","seq":3661427671041234,"body":{"id":"m3661427671041234",'
    '"cursor":"0123456789abcdef:3661427671041234","room":"main","channel":"general","n":%d}}'
)
NOTICE = (
    '{"type":"message","seq":3661427671041234,"body":{"id":"m3661427671041234","room":"main","channel":"general",'
    '"n":%d,"cursor":"0123456789abcdef:3661427671041234","from":"bench-0001","to":null,"kind":"event","subject":null,'
    '"body":"%s","thread":null,"reply_to":null,"priority":"normal","expires_at_ms":null,"sent_at_ms":1760000000000}}'
)
ID_AT = '"id":"'
BODY_AT = '"body":"'


async def echo(connection: ServerConnection) -> None:
    """Every frame comes back unchanged."""
    with contextlib.suppress(ConnectionClosed):
        async for frame in connection:
            await connection.send(frame)


class Broadcast:
    """Publishers and subscribers of one channel with gapless numbers."""

    def __init__(self) -> None:
        self.subscribers: set[ServerConnection] = set()
        self.n = 0

    async def serve(self, connection: ServerConnection) -> None:
        """One connection: it subscribes, or it publishes."""
        try:
            async for frame in connection:
                assert isinstance(frame, str)
                request_id = _between(frame, ID_AT)
                if frame.startswith((HELLO, SUBSCRIBE)):
                    if frame.startswith(SUBSCRIBE):
                        self.subscribers.add(connection)
                    await connection.send(REPLY % (request_id, 0))
                    continue
                self.n += 1
                broadcast(self.subscribers, NOTICE % (self.n, _between(frame, BODY_AT)))
                await connection.send(REPLY % (request_id, self.n))
        except ConnectionClosed:
            pass
        finally:
            self.subscribers.discard(connection)


def _between(frame: str, label: str) -> str:
    start = frame.index(label) + len(label)
    return frame[start : frame.index('"', start)]


async def run(mode: str) -> None:
    """Serve until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    handler = echo if mode == "echo" else Broadcast().serve
    async with serve(handler, "127.0.0.1", 0, compression=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await ended.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=("echo", "broadcast"))
    asyncio.run(run(parser.parse_args().mode))
