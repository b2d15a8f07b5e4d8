"""Clients that ask a hub for everything it writes down: posts, messages to agents and to a role, claims, checkpoints,
releases, acks, tasks, values, questions and their answers, work sessions, lanes, private rooms, resources, tokens.

Each request that changes something carries a text that comes nowhere else, so that its event can be told from all
others. What was answered is read from the trace of the hub, not from here.
"""

import hashlib
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

Frame: TypeAlias = dict[str, Any]  # JSON as it is on the wire
AGENTS: Final = ("ada", "bob", "cay")
PATIENCE_S: Final = 20.0
ROLE: Final = "crew"
OPERATOR: Final = "operator"
"""Who answers questions and makes tokens."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked. agents: how many; bursts: of each; burst_max: requests at once; pad_chars: of a message, at
    most."""

    bursts: int
    agents: int = len(AGENTS)
    burst_max: int = 6
    pad_chars: int = 80


class Gone(Exception):
    """The hub went away."""


class Client:
    """An agent, or the operator, at work. run: makes its texts unlike those of other runs."""

    def __init__(self, home: Path, name: str, run: str, load: "Load") -> None:
        self._name, self._run, self._load = name, run, load
        self._chance = random.Random(f"{run}:{name}")
        self._asked = 0
        self._leases: dict[str, int] = {}
        self._session: str | None = None
        self._helper = None if name == OPERATOR else Client(home, OPERATOR, f"{run}-{name}", load)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect(str(home / "hub.sock"))
        self._file = self._socket.makefile("rb")
        secret = f"{name}: a secret of thirty-two characters, or more"
        who: Frame = {"operator": True} if name == OPERATOR else {"name": name, "secret": secret, "lasting": True}
        self.burst([("hello", who)])

    def close(self) -> None:
        """Close the connection."""
        if self._helper is not None:
            self._helper.close()
        self._file.close()
        self._socket.close()

    def burst(self, requests: list[tuple[str, Frame]]) -> list[Frame]:
        """Write the requests at once and read their answers. Raises `Gone`."""
        lines, pending = b"", {}
        for kind, body in requests:
            self._asked += 1
            pending[self._asked] = kind
            request = {"type": kind, "id": self._asked, "body": body}
            if kind == "message.send" and self._chance.random() < 0.3:
                request["idem_key"] = f"{self._run}.{self._asked}"
            lines += json.dumps(request).encode() + b"\n"
        answers = []
        try:
            self._socket.sendall(lines)
            while pending:
                line = self._file.readline()
                if not line.endswith(b"\n"):
                    raise Gone
                frame = json.loads(line)
                if pending.pop(frame.get("id"), None) is not None:
                    answers.append(frame)
        except OSError as error:
            raise Gone from error
        return answers

    def work(self, stop: threading.Event) -> None:
        """Ask until all is asked, or until told to stop. Raises `Gone`."""
        self.burst(
            [
                ("role.join", {"role": ROLE}),
                ("feed.subscribe", {"channels": ["main:general"], "inbox": True, "leases": True}),
            ]
        )
        for _ in range(self._load.bursts):
            if stop.is_set():
                return
            asked = [self._something() for _ in range(self._chance.randint(1, self._load.burst_max))]
            for frame in self.burst(asked):
                self._hear(frame)

    def _text(self) -> str:
        return f"{self._run}-{self._name}-{self._chance.getrandbits(64):x}"

    def _something(self) -> tuple[str, Frame]:
        dice = self._chance.random()
        if dice < 0.22:
            return "message.send", {"target": "main:general", "body": self._message()}
        if dice < 0.38:
            return "message.send", {"to": [self._chance.choice(AGENTS)], "body": self._message()}
        if dice < 0.5:
            return "inbox.take", {}
        if dice < 0.72:
            return self._chance.choice(_OTHERS)(self)
        if dice < 0.86 or not self._leases:
            return "lease.claim", {"task": self._text(), "ttl_ms": self._chance.choice((5_000, 600_000))}
        task = self._chance.choice(sorted(self._leases))
        if dice < 0.92:
            return "lease.checkpoint", {"task": task, "epoch": self._leases[task], "data": {"mark": self._text()}}
        return "lease.release", {"task": task, "epoch": self._leases.pop(task)}

    def _to_role(self) -> tuple[str, Frame]:
        return "message.send", {"target": f"role:{ROLE}", "body": self._message()}

    def _value(self) -> tuple[str, Frame]:
        return "value.put", {"key": self._chance.choice(("a", "b", "c")), "value": {"mark": self._text()}}

    def _task(self) -> tuple[str, Frame]:
        return "task.declare", {"task": self._text()}

    def _question(self) -> tuple[str, Frame]:
        return "question.ask", {"title": self._text()}

    def _room(self) -> tuple[str, Frame]:
        return "room.create", {"room": self._text(), "private": True}

    def _resource(self) -> tuple[str, Frame]:
        return "resource.offer", {"resource": self._text(), "kind": "tool", "capacity": 2}

    def _run_of_work(self) -> tuple[str, Frame]:
        if self._session is None:
            return "session.start", {"display_name": self._text()}
        if self._chance.random() < 0.4:
            to = self._chance.choice([name for name in AGENTS if name != self._name])
            return "lane.offer", {"to": to, "session": self._session, "context": {"mark": self._text()}}
        return "session.checkpoint", {"session": self._session, "data": {"mark": self._text()}}

    def _message(self) -> Frame:
        length = int(self._load.pad_chars * self._chance.random())
        return {"mark": self._text(), "pad": f"{self._chance.getrandbits(4 * length + 4):x}"[:length]}

    def _hear(self, frame: Frame) -> None:
        body = frame.get("body") or {}
        if frame["type"] != "reply":
            return
        if body.get("outcome") == "granted":
            self._leases[body["task"]] = body["epoch"]
        elif "lends" in body:
            self.burst([("inbox.ack", {"ids": [body["message"]["id"]]})])
        elif "asker" in body:
            self._operate("question.answer", {"id": body["id"], "answer": self._text()})
            digest = hashlib.sha256(self._text().encode()).hexdigest()
            self._operate("token.create", {"hash": digest, "role": "human"})
        elif "todos" in body:
            self._session = body["session"]

    def _operate(self, type_: str, body: Frame) -> None:
        """Ask it as the operator."""
        assert self._helper is not None, "the operator asks nothing that needs one"
        self._helper.burst([(type_, body)])


_OTHERS: Final[tuple[Callable[[Client], tuple[str, Frame]], ...]] = (
    Client._to_role,
    Client._value,
    Client._task,
    Client._question,
    Client._room,
    Client._resource,
    Client._run_of_work,
    Client._run_of_work,
)


@contextmanager
def load_on(home: Path, run: str, load: Load) -> Iterator[list[threading.Thread]]:
    """All agents at work, each in a thread. When the block ends they stop, unless they are done or the hub is gone."""
    stop = threading.Event()

    def work(name: str) -> None:
        with suppress(Gone, OSError):
            client = Client(home, name, run, load)
            try:
                client.work(stop)
            finally:
                client.close()

    threads = [threading.Thread(target=work, args=(name,)) for name in AGENTS[: load.agents]]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
