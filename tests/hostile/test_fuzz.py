"""Malformed frames and mutated real ones: every outcome is typed, nothing refused has an effect, nothing crashes.

`make prove` goes on for FUZZ_S (60) seconds from seed FUZZ_SEED (1).
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.figures import tell
from tests.hostile import fuzz
from tests.hostile.fuzz import GENEROUS, Fuzzer, Wrong, real_frames, stream_of
from tests.hub.conftest import bugs_on_loop

from synapse.testing import MemoryHub

FRAMES: Final = real_frames(Path(__file__).resolve().parents[1] / "transcripts")
RESTART_AFTER: Final = 300
"""Streams that one journal takes: comparing digests costs as much as the state is large."""
MALFORMED: Final = (
    (b"nonsense", "malformed"),
    (b"[]", "malformed"),
    (b"null", "malformed"),
    (b'{"type":"ping","id":1', "malformed"),
    (b'{"type":"ping","id":1}{"type":"ping","id":2}', "malformed"),
    (b'{"type":"ping"}', "malformed"),
    (b'{"type":"ping","id":true}', "malformed"),
    (b'{"type":"ping","id":1e999}', "malformed"),
    (b'{"type":"ping","id":9007199254740993}', "malformed"),
    (b'{"type":"ping","id":"\\u0000"}', "malformed"),
    (b'{"type":"no.such","id":1}', "unknown_type"),
    (b'{"type":"ping","id":1,"body":{"x":1}}', "bad_request"),
    (b'{"type":"message.send","id":1,"body":{"channel":"main:general","body":NaN}}', "malformed"),
    (b'{"type":"message.send","id":1,"body":{"channel":"main:general","body":-Infinity}}', "malformed"),
    (b'{"type":"message.send","id":1,"body":{"channel":"main:general","body":"\\ud800"}}', "malformed"),
    (
        b'{"type":"message.send","id":1,"body":{"channel":"main:general","body":%b}}' % (b"[" * 99 + b"]" * 99),
        "malformed",
    ),
    (b'{"type":"message.send","id":1,"body":{"channel":"Main:General","body":1}}', "bad_name"),
    (b'{"type":"message.send","id":1,"body":{"channel":"main:general","body":"%b"}}' % (b"x" * 200_000), "too_large"),
    (b'{"type":"lease.claim","id":1,"body":{"task":"T","worktree":"w","paths":["../x"]}}', "bad_scope"),
    (b'{"type":"hello","id":1,"body":{"name":"fuzz","secret":"other"}}', "already_greeted"),
    (b'{"type":"feed.subscribe","id":1,"body":{"channels":["main:general"],"since":"x"}}', "bad_request"),
)


@asynccontextmanager
async def fuzzing(tmp_path: Path) -> AsyncIterator[Fuzzer]:
    """A hub that knows its fuzzer; at the end no callback has raised, and its journal gives its state."""
    bugs = bugs_on_loop()
    async with MemoryHub(limits=GENEROUS) as hub:
        fuzzer = Fuzzer(hub, tmp_path)
        assert await fuzzer.send(stream_of([], is_web=True), random.Random(0), is_web=True) == ((), 0, 0)
        yield fuzzer
        assert bugs == []
        assert hub.failure is None
        assert hub.replayed_digest() == fuzzer.digest()


@pytest.mark.bad_input("BI-09", "BI-10", "BI-11", "BI-12", "BI-14")
@pytest.mark.parametrize("is_web", [True, False], ids=["web", "line"])
async def test_each_malformed_frame_is_refused_with_its_code_and_changes_nothing(tmp_path: Path, is_web: bool) -> None:
    async with fuzzing(tmp_path) as fuzzer:
        before, chance = fuzzer.digest(), random.Random(1)
        for frame, code in MALFORMED:
            told = await fuzzer.send(stream_of([frame], is_web=is_web), chance, is_web=is_web)
            assert told == ((code,), 0, 0), frame[:100]
        assert fuzzer.digest() == before


def test_the_dialogues_give_frames_of_most_commands() -> None:
    assert len(FRAMES) > 150
    assert len({frame.partition(b'"id"')[0] for frame in FRAMES}) > 30


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_mutated_frames_have_typed_outcomes_and_no_effect_when_refused(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    async def check_streams() -> None:
        chance = random.Random(seed)
        async with fuzzing(tmp_path_factory.mktemp("fuzz")) as fuzzer:
            for _ in range(15):
                await fuzzer.one(chance, FRAMES)

    asyncio.run(check_streams())


async def test_a_hub_that_lies_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = stream_of([b"nonsense"], is_web=False)
    async with MemoryHub(limits=GENEROUS) as hub:
        fuzzer = Fuzzer(hub, tmp_path)
        await fuzzer.send(stream_of([], is_web=False), random.Random(0), is_web=False)
        refuse = hub.turns.refuse

        def refuse_and_count(*arguments: object) -> None:
            hub.state.messages += 1
            refuse(*arguments)  # type: ignore[arg-type]  # as it was called

        monkeypatch.setattr(hub.turns, "refuse", refuse_and_count)
        chance = random.Random(3)
        with pytest.raises(Wrong, match="the state is another"):
            for _ in range(50):
                await fuzzer.one(chance, FRAMES)
        monkeypatch.setattr(fuzz, "ERRORS", {"bad_request": (3, "the only one")})
        with pytest.raises(Wrong, match="an error that does not exist"):
            await fuzzer.send(frame, chance, is_web=False)


@pytest.mark.prove
async def test_mutated_frames_for_as_long_as_asked(tmp_path: Path) -> None:
    seconds, seed = float(os.environ.get("FUZZ_S", "60")), int(os.environ.get("FUZZ_SEED", "1"))
    began, streams, ends = time.monotonic(), 0, Counter[int]()
    codes: Counter[str] = Counter()
    wrong = 0
    try:
        while time.monotonic() < began + seconds:
            async with fuzzing(tmp_path) as fuzzer:
                for _ in range(RESTART_AFTER):
                    here = f"{seed}:{streams}"  # FUZZ_SEED and the stream's number name a failure
                    outcome = await fuzzer.one(random.Random(here), FRAMES)
                    streams += 1
                    ends[outcome.end] += 1
                    codes.update(outcome.codes)
    except AssertionError:
        wrong = 1
        print(f"stream {here} went wrong")
        raise
    finally:
        print(f"ends {dict(ends)}; codes {dict(codes)}")
        tell("hostile peers", "mutated streams", streams, seed=seed)
        tell("hostile peers", "different errors they met", len(codes), seed=seed)
        tell(
            "hostile peers",
            "streams with an untyped end or an effect",
            wrong,
            bound="= 0",
            is_kept=not wrong,
            seed=seed,
        )
    assert len(codes) >= 10
    assert {0, 1002, 1007, 400} <= ends.keys()
