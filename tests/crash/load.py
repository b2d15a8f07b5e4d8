"""The load: one process, one role, plain blocking sockets and json; run as `python -m tests.crash.load`.

    writer     bursts of posts and direct sends, most under an idempotency key; repeats what was cut off, or leaves it
    reader     follows two channels and its own inbox; leaves and comes back with its last cursor; is slow at times
    worker     takes, acks, at times leaves between the two; two processes of one agent
    historian  pages through history both ways, joins and leaves
    keeper     counts shared values up, each under the version that it read, most under an idempotency key; removes some
    builder    declares chains of tasks, and claims, notes, finishes and reopens one after the other, all under keys
    postie     one keyed direct message after another to `waiter`, each repeated until it is answered
    waiter     one `synapse wait` after another, some of them killed

Everything ends by files in the run's directory: `stop` ends who writes, `drain` the others once they have it all.

A process takes one of three ways to the hub: `direct` over its Unix socket, or through the proxy, `unix` or `ws`.
Behind the proxy a silent hub is nothing to complain of: the process gives up, and comes back over a new connection.
"""

import contextlib
import json
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.crash import websocket
from tests.crash.history import Frame, Recorder

CHANNELS = ("load:a", "load:b")
WORKER = "worker"
WAITER = "waiter"
VALUES = ("kept/1", "kept/2", "kept/3")
READERS = ("reader-1", "reader-2")
DIRECT, UNIX, WS = "direct", "unix", "ws"
ANSWER_S_MAX = 20.0
PATIENCE_S = 0.7
"""After so long, or so long after the wait it asked for, who is behind the proxy gives up."""
KEYS_PER_AGENT = 8_000
"""An agent may have 10 000 live keys; a writer goes on under another name before that."""


class Cut(Exception):
    """The connection ended."""


class Line:
    """One connection after another to the hub of a home, found as every client finds it."""

    way = DIRECT
    answer_s_max = ANSWER_S_MAX

    def __init__(self, home: Path, record: Recorder, agent: str) -> None:
        self.agent = agent
        self.hello: Frame = {"name": agent, "secret": f"{agent}:".ljust(40, "s"), "lasting": True}
        self.conn = 0
        self.on_bytes: Callable[[], None] | None = None
        """Called the instant something was heard, before it is even decoded."""
        self._home = home
        self._record = record
        self._socket: socket.socket | None = None
        self._rest = b""
        self._notices: list[Frame] = []
        self._pending: dict[int, None] = {}

    def open(self) -> None:
        """Connect and say hello, however long the hub is away."""
        while True:
            try:
                self._rest, self._notices = b"", []
                if not self._dial():
                    time.sleep(0.02)
                    continue
                self.conn += 1
                self._record.note("open", conn=self.conn, agent=self.agent, way=self.way)
                [hello] = self.burst([("hello", self.hello, None)])
                if hello is not None and not is_draining(hello):
                    if hello["type"] != "reply":
                        raise SystemExit(f"{self.agent}: hello was refused: {hello}")
                    return
            except OSError:
                pass
            self._drop()
            time.sleep(0.02)

    def _dial(self) -> bool:
        """Connect; False when nobody says where to. Raises OSError when nobody is there."""
        path = self._path()
        if path is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(self.answer_s_max)
            self._socket.connect(path)
        return path is not None

    def _pack(self, payload: bytes) -> bytes:
        return payload + b"\n"

    def _unpack(self, data: bytes) -> list[bytes]:
        """The whole payloads among what was heard so far; what is left is kept for the next time."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def _path(self) -> str | None:
        try:
            uris: list[str] = json.loads((self._home / "hub.json").read_bytes())["uris"]
        except OSError:
            return None
        return next(uri.removeprefix("unix:") for uri in uris if uri.startswith("unix:"))

    def leave(self) -> None:
        """Close from this side."""
        self._record.note("close", conn=self.conn)
        self._drop()

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def burst(self, requests: list[tuple[str, Frame, str | None]]) -> list[Frame | None]:
        """Write all requests at once and read their answers; None for what was cut off. Then the line is down."""
        numbers = []
        for type_, body, key in requests:
            numbers.append(self._record.invoke(self.conn, type_, key, body))
        answers: dict[int, Frame] = {}
        self._pending = dict.fromkeys(numbers)
        answer_s_max = self.answer_s_max + max(body.get("wait_ms", 0) for _, body, _ in requests) / 1000
        try:
            self._write(numbers, requests)
            while self._pending:
                for frame in self._read(answer_s_max):
                    number = frame["id"]
                    if number is None and frame["body"]["code"] in ("limit", "draining"):
                        raise Cut  # the hub has no room for one more connection just now, and says so before it closes
                    assert number in self._pending, f"an answer to nothing asked: {frame}"
                    del self._pending[number]
                    answers[number] = frame
                    self._record.note("ok" if frame["type"] == "reply" else "fail", op=number, frame=frame)
        except Cut:
            for number in self._pending:
                self._record.note("unknown", op=number)
            self._pending = {}
            self._drop()
        return [answers.get(number) for number in numbers]

    def ask(self, type_: str, body: Frame, key: str | None = None) -> Frame | None:
        """One request; None when it was cut off."""
        [answer] = self.burst([(type_, body, key)])
        return answer

    def _write(self, numbers: list[int], requests: list[tuple[str, Frame, str | None]]) -> None:
        assert self._socket is not None
        data = []
        for number, (type_, body, key) in zip(numbers, requests, strict=True):
            frame: Frame = {"type": type_, "id": number, "body": body}
            if key is not None:
                frame["idem_key"] = key
            data.append(self._pack(json.dumps(frame).encode()))
        try:
            self._socket.sendall(b"".join(data))
        except OSError:
            raise Cut from None

    def _read(self, wait_s: float) -> Iterator[Frame]:
        """The answers among the next frames; notices are recorded and kept for `notices`."""
        assert self._socket is not None
        if not select.select([self._socket], [], [], wait_s)[0]:
            if self._pending and self.way != DIRECT:
                raise Cut
            if self._pending:
                raise SystemExit(f"{self.agent}: the hub is silent: no answer in {wait_s} s")
            return
        try:
            data = self._socket.recv(1 << 16)
        except OSError:
            raise Cut from None
        if not data:
            raise Cut
        if self.on_bytes is not None:
            self.on_bytes()
        for line in self._unpack(data):
            frame: Frame = json.loads(line)
            if frame["type"] in ("reply", "error"):
                yield frame
            elif frame["type"] != "closing":
                self._record.note("notice", conn=self.conn, frame=frame)
                self._notices.append(frame)

    @property
    def place(self) -> int | None:
        """The last place in line that this connection was told of."""
        places = [int(frame["body"]["place"]) for frame in self._notices if frame["type"] == "claim.queued"]
        return places[-1] if places else None

    def notices(self, wait_s: float) -> list[Frame] | None:
        """What the hub said unasked, after waiting a while for more; None when it was cut and all is said."""
        try:
            if self._socket is not None:
                for frame in self._read(wait_s):
                    raise SystemExit(f"{self.agent}: an answer to no request: {frame}")
        except Cut:
            self._drop()
        said, self._notices = self._notices, []
        return said if said or self._socket is not None else None

    @property
    def is_up(self) -> bool:
        return self._socket is not None


class ProxiedLine(Line):
    """Through the proxy to the hub's Unix socket."""

    way = UNIX
    answer_s_max = PATIENCE_S

    def __init__(self, home: Path, run: Path, record: Recorder, agent: str) -> None:
        super().__init__(home, record, agent)
        self._proxy = run / "proxy.json"

    def _path(self) -> str:
        path: str = json.loads(self._proxy.read_bytes())["unix"]
        return path


class WebLine(ProxiedLine):
    """Through the proxy to the hub's port, as a WebSocket."""

    way = WS

    def __init__(self, home: Path, run: Path, record: Recorder, agent: str) -> None:
        super().__init__(home, run, record, agent)
        self._token = home / "token"

    def _dial(self) -> bool:
        address = ("127.0.0.1", json.loads(self._proxy.read_bytes())["tcp"])
        self._socket = socket.create_connection(address, timeout=PATIENCE_S)
        self._rest = websocket.shake_hands(self._socket, self._token.read_text(encoding="utf-8").strip())
        return True

    def _pack(self, payload: bytes) -> bytes:
        return websocket.masked(payload)

    def _unpack(self, data: bytes) -> list[bytes]:
        frames, self._rest = websocket.frames_in(self._rest + data)
        for opcode, payload in frames:
            if opcode == websocket.PING and self._socket is not None:
                with contextlib.suppress(OSError):  # whoever reads next finds the end
                    self._socket.sendall(websocket.masked(payload, websocket.PONG))
        return [payload for opcode, payload in frames if opcode == websocket.TEXT]


def line_by(way: str, home: Path, run: Path, record: Recorder, agent: str) -> Line:
    """A line that takes this way."""
    if way == DIRECT:
        return Line(home, record, agent)
    return (WebLine if way == WS else ProxiedLine)(home, run, record, agent)


def is_draining(answer: Frame) -> bool:
    """The hub was told to stop; another one comes."""
    return bool(answer["type"] == "error" and answer["error"]["code"] == "draining")


class Run:
    """Where and how one process runs. way: `direct`, or through the proxy, `unix` or `ws`."""

    def __init__(self, home: Path, run: Path, name: str, seed: int, way: str = DIRECT) -> None:
        self.home, self.run, self.name, self.way = home, run, name, way
        self.chance = random.Random(f"{seed}:{name}")
        self.record = Recorder(run / f"{name}.jsonl")

    def has(self, flag: str) -> bool:
        return (self.run / flag).exists()

    def line(self, agent: str) -> Line:
        return line_by(self.way, self.home, self.run, self.record, agent)


def write(run: Run) -> None:
    chance, serial, keys = run.chance, 0, 0
    line = run.line(run.name)
    line.open()
    while not run.has("stop"):
        burst = []
        for _ in range(chance.choice((1, 1, 2, 4, 8, 12))):
            serial += 1
            burst.append(_message(run, serial))
            if burst[-1][2] is not None and chance.random() < 0.05:
                burst.append(burst[-1])  # the same key twice in one turn
        keys += len(burst)
        cut = _unanswered(burst, line.burst(burst))
        while cut:
            line.open()
            # What is repeated is repeated before anything new, so that the order of sending stays.
            cut = [request for request in cut if request[2] is not None and chance.random() > 0.1]
            cut = _unanswered(cut, line.burst(cut)) if cut else []
        if not line.is_up:
            line.open()
        if burst[0][2] is not None and chance.random() < 0.02:
            type_, body, key = burst[0]
            line.ask(type_, {**body, "body": {"mark": f"{run.name}.{serial}.other"}}, key)
        if not line.is_up:
            line.open()
        if keys > KEYS_PER_AGENT:
            keys = 0
            line.leave()
            line = _same_record(line, run.line(f"{run.name}-{serial}"))
            line.open()
        time.sleep(chance.uniform(0.004, 0.04))


def _same_record(old: Line, new: Line) -> Line:
    new.conn = old.conn
    return new


def _message(run: Run, serial: int) -> tuple[str, Frame, str | None]:
    chance, mark = run.chance, f"{run.name}.{serial}"
    key = mark if chance.random() < 0.85 else None
    big = chance.random() < 0.12
    content: object = {"mark": mark, "pad": "x" * (chance.randrange(40_000) if big else chance.randrange(200))}
    body: Frame = {"body": content}
    kind = chance.random()
    if kind < 0.07:
        body["to"] = [WORKER]
    elif kind < 0.10:
        body["to"] = [WORKER, *READERS]
    elif kind < 0.11:
        body["to"], body["create"] = [f"ghost-{mark.replace('.', '-')}", READERS[0]], True
    else:
        body["channel"] = chance.choice(CHANNELS)
        if kind < 0.13:
            body["body"] = f"{mark} for @{READERS[0]} to see"
    return "message.send", body, key


_Request = tuple[str, Frame, str | None]
_Requests = list[_Request]


def _unanswered(burst: _Requests, answers: list[Frame | None]) -> _Requests:
    cut = [request for request, answer in zip(burst, answers, strict=True) if answer is None]
    return list({(key, json.dumps(body)): (type_, body, key) for type_, body, key in cut}.values())


def read(run: Run, channels: Sequence[str] = CHANNELS) -> None:
    chance = run.chance
    line = run.line(run.name)
    cursor: str | None = None
    is_slow = run.name == READERS[1]
    while True:
        line.open()
        follow: Frame = {"channels": list(channels), "inbox": True}
        if cursor is not None:
            follow["since"] = cursor
        subscribed = line.ask("feed.subscribe", follow)
        if subscribed is None or is_draining(subscribed):
            continue
        if subscribed["type"] != "reply":
            raise SystemExit(f"{run.name}: could not subscribe: {subscribed}")
        cursor = subscribed["body"]["from_cursor"]
        leave_at = time.monotonic() + chance.uniform(0.05, 3.0)
        is_live = False
        if is_slow and (line.conn == 1 or chance.random() < 0.5):
            time.sleep(2.0)  # long enough for its outbox to overflow, when the hub lives as long
        while (said := line.notices(0.1)) is not None:
            for frame in said:
                cursor = frame["body"]["cursor"]
                is_live = is_live or frame["type"] == "feed.live"
            if is_live and run.has("drain"):
                if _complete(run, line):
                    return
                break  # this connection was doomed before the calm: come back with the cursor
            if time.monotonic() > leave_at and not run.has("drain"):
                line.leave()
                break
            if is_slow and chance.random() < 0.02:
                time.sleep(chance.uniform(0.2, 2.0))


def _complete(run: Run, line: Line) -> bool:
    """The pong comes behind everything a live feed was told; then ack the inbox and go. Nothing is killed any more.
    False when the connection broke all the same."""
    line.answer_s_max = ANSWER_S_MAX
    pong = line.ask("ping", {})
    if pong is None or line.ask("inbox.ack", {"all": True}) is None:
        return False
    run.record.note("end", upto=pong["seq"])
    return True


def work(run: Run) -> None:
    chance, acks = run.chance, 0
    line = run.line(WORKER)
    line.open()
    while True:
        if not line.is_up:
            line.open()
        is_last = run.has("drain")
        taken = line.ask("inbox.take", {"wait_ms": 1_000 if is_last else 300})
        if taken is None or is_draining(taken):
            continue
        if taken["type"] == "error":
            if taken["error"]["code"] != "deadline":
                raise SystemExit(f"{run.name}: could not take: {taken}")
            if is_last:
                return
            continue
        if chance.random() < 0.08:
            line.leave()
            continue
        acks += 1
        key = f"{run.name}.ack.{acks}" if chance.random() < 0.5 and acks < KEYS_PER_AGENT // 2 else None
        body: Frame = {"ids": [taken["body"]["message"]["id"]]}
        while line.ask("inbox.ack", body, key) is None:
            line.open()
            if chance.random() < 0.4:
                break  # not said again: the message may come again


def browse(run: Run) -> None:
    chance, since = run.chance, dict.fromkeys(CHANNELS, "")
    line = run.line(run.name)
    line.open()
    joins = 0
    while not run.has("drain"):
        if not line.is_up:
            line.open()
        channel, limit = chance.choice(CHANNELS), chance.choice((1, 7, 50, 500))
        turn = chance.random()
        if turn < 0.3:
            joins += 1
            key = f"{run.name}.join.{joins}" if joins < KEYS_PER_AGENT else None
            request = (f"channel.{chance.choice(('join', 'leave'))}", {"channel": channel}, key)
            while line.ask(*request) is None and chance.random() < 0.8:
                line.open()
        elif turn < 0.7 and since[channel]:
            page = line.ask("history.read", {"channel": channel, "limit": limit, "since": since[channel]})
            if page is not None and page["type"] == "reply":
                since[channel] = page["body"]["next"] or page["body"]["cursor"]
        else:
            page = line.ask("history.read", {"channel": channel, "limit": limit})
            if page is not None and page["type"] == "reply" and page["body"]["previous"] is not None:
                before = page["body"]["previous"]
                since[channel] = since[channel] or page["body"]["cursor"]
                if line.is_up:
                    line.ask("history.read", {"channel": channel, "limit": limit, "before": before})
        time.sleep(chance.uniform(0.005, 0.08))


def keep(run: Run) -> None:
    chance, serial = run.chance, 0
    line = run.line(run.name)
    line.open()
    while not run.has("stop"):
        serial += 1
        name, mark = chance.choice(VALUES), f"{run.name}.{serial}"
        found = line.ask("value.get", {"key": name})
        if found is None or is_draining(found):
            line.leave()
            line.open()
            continue
        is_there = found["type"] == "reply"
        version, count = (found["body"]["version"], found["body"]["value"]["count"]) if is_there else (0, 0)
        if is_there and chance.random() < 0.05:
            request: _Request = ("value.delete", {"key": name, "if_version": version}, mark)
        else:
            request = (
                "value.put",
                {"key": name, "value": {"mark": mark, "count": count + 1}, "if_version": version},
                mark,
            )
        if serial > KEYS_PER_AGENT or chance.random() < 0.15:
            request = (*request[:2], None)
        while line.ask(*request) is None:
            line.open()
            if request[2] is None or chance.random() < 0.1:
                break
        if not line.is_up:
            line.open()
        time.sleep(chance.uniform(0.0, 0.05))


def build(run: Run) -> None:
    chance, serial, chains = run.chance, 0, 0
    line = run.line(run.name)
    line.open()

    def insist(type_: str, body: Frame) -> Frame:
        """Ask under a key of its own, again and again until it is answered."""
        nonlocal serial
        serial += 1
        answer: Frame | None = None
        while answer is None or is_draining(answer):
            if not line.is_up:
                line.open()
            answer = line.ask(type_, body, f"{run.name}.{serial}")
            if answer is not None and is_draining(answer):
                line.leave()
        if answer["type"] != "reply":
            raise SystemExit(f"{run.name}: {type_} {body} was refused: {answer}")
        reply: Frame = answer["body"]
        return reply

    def finish(task: str) -> None:
        epoch = insist("lease.claim", {"task": task, "ttl_ms": 600_000})["epoch"]
        if chance.random() < 0.3:
            insist("task.note", {"task": task, "text": f"{run.name}.{serial}", "epoch": epoch})
        insist("task.update", {"task": task, "status": "done", "epoch": epoch})
        if line.is_up and chance.random() < 0.3:
            line.ask("task.show", {"task": chance.choice(tasks)})

    while not run.has("stop"):
        if serial > KEYS_PER_AGENT:
            time.sleep(0.2)
            continue
        chains += 1
        tasks = [f"{run.name}.{chains}.{number}" for number in range(chance.randint(2, 5))]
        chain = [{"task": task, "depends_on": tasks[:number][-2:]} for number, task in enumerate(tasks)]
        insist("task.declare_all", {"tasks": chance.sample(chain, len(chain))})
        for task in tasks:
            finish(task)
            time.sleep(chance.uniform(0.0, 0.1))
        if chance.random() < 0.3:
            insist("task.update", {"task": tasks[0], "status": "open", "note": "again"})
            finish(tasks[0])
    line.leave()


def post(run: Run) -> None:
    line, serial = run.line(run.name), 0
    line.open()
    while not run.has("stop"):
        serial += 1
        mark = f"{run.name}.{serial}"
        body: Frame = {"to": [WAITER], "create": True, "body": {"mark": mark}}
        while line.ask("message.send", body, mark) is None:
            line.open()
        if not line.is_up:
            line.open()
        time.sleep(run.chance.uniform(0.02, 0.2))


def wait(run: Run) -> None:
    """Record each `synapse wait`: its exit code, negative when it was killed, and the message that it printed."""
    command = [sys.executable, "-m", "synapse", "wait", "--json", "--home", str(run.home), "--name", WAITER]
    while True:
        is_last = run.has("drain")
        waiting = subprocess.Popen([*command, f"--wait={3 if is_last else 1}"], stdout=subprocess.PIPE)
        try:
            may_live_s = run.chance.uniform(0.03, 0.2) if not is_last and run.chance.random() < 0.3 else None
            printed, _ = waiting.communicate(timeout=may_live_s)
        except subprocess.TimeoutExpired:
            waiting.kill()
            printed, _ = waiting.communicate()
        code = waiting.returncode
        message: Frame | None = json.loads(printed) if printed.endswith(b"}\n") else None
        is_message = message is not None and "id" in message
        run.record.note("waited", code=code, message=message if is_message else None)
        if is_last and code != 0:
            if code != 5:
                raise SystemExit(f"{run.name}: the last wait ended with {code}")
            return


ROLES: dict[str, Callable[[Run], None]] = {
    "writer": write,
    "reader": read,
    "worker": work,
    "historian": browse,
    "keeper": keep,
    "builder": build,
    "postie": post,
    "waiter": wait,
}


def main(home: str, run: str, name: str, seed: str, way: str) -> None:
    where = Run(Path(home), Path(run), name, int(seed), way)
    try:
        ROLES[name.partition("-")[0]](where)
    finally:
        where.record.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
