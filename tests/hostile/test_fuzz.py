"""Malformed frames and mutated real ones: every outcome is typed, nothing refused has an effect, nothing crashes.

`make prove` goes on for FUZZ_S (20) seconds from seed FUZZ_SEED (1).
"""

import asyncio
import contextlib
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
from tests.hostile.fuzz import GENEROUS, Fuzzer, Wrong, breaks_a_rule, made_frames, real_frames, stream_of
from tests.hub.conftest import bugs_on_loop

from synapse.core.kernel import REPEATABLE
from synapse.protocol import codec
from synapse.protocol.codec import BadFrame, decode_request
from synapse.protocol.commands import COMMANDS
from synapse.protocol.limits import Limits
from synapse.testing import MemoryHub

REAL: Final = real_frames(Path(__file__).resolve().parents[1] / "transcripts")
FRAMES: Final = [*REAL, *made_frames(REAL)]
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


def test_there_is_a_frame_of_every_command_and_a_key_with_every_one_that_takes_one() -> None:
    assert len(REAL) > 150
    found = []
    for frame in FRAMES:
        with contextlib.suppress(BadFrame):  # some dialogues show what is refused
            found.append(decode_request(frame, Limits()))
    assert {type(request.command) for request in found} == set(COMMANDS.values())
    assert {type(request.command) for request in found if request.idem_key} >= REPEATABLE


@pytest.mark.parametrize(("frame", "code"), MALFORMED, ids=lambda it: it[:40] if isinstance(it, bytes) else it)
def test_the_second_judge_agrees_about_what_is_malformed(frame: bytes, code: str) -> None:
    is_broken = breaks_a_rule(frame, Limits()) != ""
    assert is_broken == (code in ("malformed", "unknown_type"))


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


async def test_a_parser_that_lets_through_what_no_frame_may_say_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "_walk", lambda *_: None)
    async with MemoryHub(limits=GENEROUS) as hub:
        fuzzer = Fuzzer(hub, tmp_path)
        await fuzzer.send(stream_of([], is_web=True), random.Random(0), is_web=True)
        with pytest.raises(Wrong, match="it breaks a rule"):
            for number in range(1_000):
                await fuzzer.one(random.Random(f"4:{number}"), FRAMES)


@pytest.mark.prove
async def test_mutated_frames_for_as_long_as_asked(tmp_path: Path) -> None:
    seconds, seed = float(os.environ.get("FUZZ_S", "20")), int(os.environ.get("FUZZ_SEED", "1"))
    began, streams, ends = time.monotonic(), 0, Counter[int]()
    codes: Counter[str] = Counter()
    wrong = judged = 0
    try:
        while time.monotonic() < began + seconds:
            async with fuzzing(tmp_path) as fuzzer:
                for _ in range(RESTART_AFTER):
                    here = f"{seed}:{streams}"  # FUZZ_SEED and the stream's number name a failure
                    outcome = await fuzzer.one(random.Random(here), FRAMES)
                    streams += 1
                    ends[outcome.end] += 1
                    codes.update(outcome.codes)
                judged += fuzzer.refused_twice
    except AssertionError:
        wrong = 1
        print(f"stream {here} went wrong")
        raise
    finally:
        print(f"ends {dict(ends)}; codes {dict(codes)}")
        tell("hostile peers", "mutated streams", streams, seed=seed)
        tell("hostile peers", "different errors they met", len(codes), seed=seed)
        tell("hostile peers", "mutated streams that a second judge refuses too", judged, seed=seed)
        tell(
            "hostile peers",
            "streams with an untyped end or an effect",
            wrong,
            bound="= 0",
            is_kept=not wrong,
            seed=seed,
        )
    assert len(codes) >= 10
    assert judged > streams // 50
    assert {0, 1002, 1007, 400} <= ends.keys()
