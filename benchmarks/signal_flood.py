"""A flood of signals over the Unix socket, with followers that read and some that read slowly; run by signals.py.

    python -m benchmarks.signal_flood SOCKET HELLOS CHANNEL --rate 2000 --followers 6 --slow 2

Prints `flooding` once everybody follows; goes on until its standard input ends; then prints what was sent and delivered
as JSON. Exits 1 when for a follower that reads, what it got and what it was told to have missed is not what was sent.
"""

import argparse
import json
import re
import selectors
import socket
import sys
import time
from pathlib import Path

TICK_S = 0.005
SLOW_BYTES = 4 * 1024
SLOW_EVERY_S = 0.05
SETTLE_S = 0.5
WINDOW = 32
_dropped = re.compile(rb'"dropped":(\d+)')


class Follower:
    """Counts the signals that come and those it was told to have missed."""

    def __init__(self, link: socket.socket, *, is_slow: bool) -> None:
        self.link = link
        self.is_slow = is_slow
        self.got = 0
        self.missed = 0
        self._rest = b""

    def read(self) -> None:
        """What is there."""
        try:
            data = self._rest + self.link.recv(SLOW_BYTES if self.is_slow else 1 << 20)
        except BlockingIOError:
            return
        whole, newline, self._rest = data.rpartition(b"\n")
        lines = whole + newline
        self.got += lines.count(b'{"type":"signal"')
        if b'"dropped"' in lines:
            self.missed += sum(map(int, _dropped.findall(lines)))


class Sender:
    """Sends `rate` signals a second, or with 0 as fast as answers come."""

    def __init__(self, link: socket.socket, channel: str, rate: float) -> None:
        body = {"channel": channel, "body": {"text": "x" * 120}}
        self.link = link
        self.sent = self.answered = self.shed = 0
        self._line = json.dumps({"type": "message.send", "id": 1, "body": body}, separators=(",", ":")).encode() + b"\n"
        self._rate = rate
        self._begun_s = time.perf_counter()
        self._rest = b""

    def send(self) -> None:
        """What is due."""
        due = WINDOW - (self.sent - self.answered)
        if self._rate:
            due = min(due, int((time.perf_counter() - self._begun_s) * self._rate) - self.sent)
        if due > 0:
            self.link.sendall(self._line * due)
            self.sent += due

    def send_one_more(self) -> None:
        """Whoever reads is told by it what was left out before."""
        self.link.sendall(self._line)
        self.sent += 1

    def read(self) -> None:
        """The answers that are there."""
        try:
            data = self._rest + self.link.recv(1 << 18)
        except BlockingIOError:
            return
        whole, _, self._rest = data.rpartition(b"\n")
        self.answered += whole.count(b'{"type":"reply"')
        self.shed += whole.count(b'"dropped":true')
        if b'{"type":"error"' in whole:
            raise SystemExit(f"refused: {whole[:500].decode()}")


def greeted(path: str, hello: bytes) -> socket.socket:
    """A connection of an agent."""
    link = socket.socket(socket.AF_UNIX)
    link.connect(path)
    asked(link, hello)
    return link


def asked(link: socket.socket, line: bytes) -> None:
    """One request and its answer, perhaps with notices behind it."""
    link.sendall(line)
    answer = b""
    while not answer.endswith(b"\n"):
        answer += link.recv(65_536)
    if not answer.startswith(b'{"type":"reply"'):
        raise SystemExit(f"refused: {answer[:500].decode()}")


def main() -> int:
    """Flood until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("hellos", type=Path)
    parser.add_argument("channel")
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--senders", type=int, default=1)
    parser.add_argument("--followers", type=int, default=6)
    parser.add_argument("--slow", type=int, default=0)
    options = parser.parse_args()
    hellos = [line + b"\n" for line in options.hellos.read_bytes().splitlines()]
    subscribe = {"type": "feed.subscribe", "id": 2, "body": {"channels": [options.channel]}}
    followers = []
    for at in range(options.followers + options.slow):
        link = greeted(options.socket, hellos.pop())
        asked(link, json.dumps(subscribe).encode() + b"\n")
        link.setblocking(False)
        followers.append(Follower(link, is_slow=at >= options.followers))
    senders = [
        Sender(greeted(options.socket, hellos.pop()), options.channel, options.rate / options.senders)
        for _ in range(options.senders)
    ]
    found = flood(senders, followers)
    print(json.dumps(found))
    return 0 if found["wrong"] == 0 else 1


def flood(senders: list[Sender], followers: list[Follower]) -> dict[str, float]:
    """Send and read until standard input ends; then let everybody have what is left, and count."""
    ready = selectors.DefaultSelector()
    for sender in senders:
        sender.link.setblocking(True)
        ready.register(sender.link, selectors.EVENT_READ, sender)
    for follower in followers:
        if not follower.is_slow:
            ready.register(follower.link, selectors.EVENT_READ, follower)
    ready.register(sys.stdin, selectors.EVENT_READ, None)
    print("flooding", flush=True)
    begun_s, is_ending, slow_s = time.perf_counter(), False, 0.0
    while not is_ending:
        for sender in senders:
            sender.send()
        for key, _ in ready.select(TICK_S):
            is_ending = is_ending or key.data is None
            if key.data is not None:
                key.data.read()
        if time.perf_counter() - slow_s > SLOW_EVERY_S:
            slow_s = time.perf_counter()
            for follower in followers:
                if follower.is_slow:
                    follower.read()
    took_s = time.perf_counter() - begun_s
    delivered = sum(follower.got for follower in followers if not follower.is_slow)
    settle(ready, senders)
    senders[0].send_one_more()
    settle(ready, senders)
    sent = sum(sender.sent - sender.shed for sender in senders)
    reading = [follower for follower in followers if not follower.is_slow]
    return {
        "seconds": took_s,
        "sent_per_s": sent / took_s,
        "shed_per_s": sum(sender.shed for sender in senders) / took_s,
        "deliveries_per_s": delivered / took_s,
        "dropped": sum(follower.missed for follower in reading),
        "slow_got": sum(follower.got for follower in followers if follower.is_slow),
        "wrong": sum(follower.got + follower.missed != sent for follower in reading),
    }


def settle(ready: selectors.DefaultSelector, senders: list[Sender]) -> None:
    """Read until all is answered and nothing comes any more."""
    until_s = time.perf_counter() + SETTLE_S
    while time.perf_counter() < until_s or any(sender.sent > sender.answered for sender in senders):
        for key, _ in ready.select(TICK_S):
            if key.data is not None:
                key.data.read()


if __name__ == "__main__":
    sys.exit(main())
