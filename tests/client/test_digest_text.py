"""A digest under a budget: never above it, in order, nothing of the first sections dropped before something later."""

import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synapse.client.digest import digest_text
from synapse.client.digest_text import BudgetTooSmall, lay_out
from synapse.protocol.digest_replies import Digest, DigestAsk, DigestBlock, DigestCounts, DigestNeed, DigestOwn

NOW = 1_800_000_000_000
HEADS = {"asked": "Asked of you: ", "blocked": "Blocks you: ", "mine": "Yours: ", "rest": "The rest, in counts: "}
SECTIONS = tuple(HEADS)

words = st.text(max_size=400)
names = st.sampled_from(["ada", "bob", "a" * 128])
tasks = st.sampled_from(["T1", "build/deploy#7", "T" * 128])
rooms = st.sampled_from(["main", "other"])
moments = st.integers(NOW - 10**9, NOW + 1_000)
spans = st.none() | st.integers(0, 10**8)
priorities = st.sampled_from(["low", "normal", "high", "urgent"])
asks = st.builds(
    DigestAsk,
    kind=st.sampled_from(["message", "mention", "offer"]),
    by=names,
    at_ms=moments,
    priority=priorities,
    id=st.just("m12"),
    subject=st.none() | words,
    text=words,
    cut=st.booleans(),
    new=st.booleans(),
    room=rooms,
    channel=st.just("general"),
    task=tasks,
    epoch=st.just(7),
)
needs = st.builds(DigestNeed, task=tasks, room=rooms, status=st.sampled_from(["open", "undeclared"])) | st.builds(
    DigestNeed,
    task=tasks,
    room=rooms,
    status=st.sampled_from(["held", "ahead", "in_progress"]),
    owner=names,
    epoch=st.just(7),
    remaining_ms=spans,
)
blocks = st.builds(
    DigestBlock,
    kind=st.sampled_from(["claim", "task"]),
    task=tasks,
    room=rooms,
    since_at_ms=moments,
    needs=st.lists(needs, max_size=3).map(tuple),
    more=st.booleans(),
    title=words,
    status=st.just("open"),
)
owns = st.builds(
    DigestOwn,
    kind=st.sampled_from(["lease", "task"]),
    task=tasks,
    room=rooms,
    priority=priorities,
    title=st.none() | words,
    status=st.just("open"),
    ready=st.booleans(),
    epoch=st.just(7),
    remaining_ms=spans,
    parked=st.booleans(),
    idle_ms=spans,
    stalled=st.booleans(),
)
counts = st.builds(
    DigestCounts,
    of=st.sampled_from(["inbox", "messages", "plan", "came", "tasks", "held", "agents"]),
    counts=st.dictionaries(words, st.integers(1, 10**6), max_size=3),
    total=st.integers(3 * 10**6, 10**7),
    since=st.booleans(),
    at_least=st.booleans(),
)


@st.composite
def digests(draw: st.DrawFn) -> Digest:
    asked, blocked, mine = (draw(st.lists(kind, max_size=6).map(tuple)) for kind in (asks, blocks, owns))
    return Digest(
        seq=5,
        at_ms=NOW,
        agent="ada",
        room="main",
        since=draw(st.none() | st.just("j:1")),
        new=draw(st.booleans()),
        asked=asked,  # type: ignore[arg-type]  # the strategies are of three kinds
        asked_total=len(asked) + draw(st.integers(0, 10_000)),
        blocked=blocked,  # type: ignore[arg-type]  # as above
        blocked_total=len(blocked) + draw(st.integers(0, 50)),
        mine=mine,  # type: ignore[arg-type]  # as above
        mine_total=len(mine) + draw(st.integers(0, 50)),
        rest=draw(st.lists(counts, max_size=5).map(tuple)),
        cursor="j:5",
    )


def sections_in(text: str) -> dict[str, tuple[int, int, int]]:
    """By section, in the order of the text: what its head says, its lines, and how many it says were left out."""
    found: dict[str, tuple[int, int, int]] = {}
    name = ""
    for line in text.splitlines():
        head = next((section for section, words in HEADS.items() if line.startswith(words)), None)
        more = re.match(r"- and (\d+) more", line)
        if head is not None:
            name, found[head] = head, (int(line.rpartition(" ")[2]), 0, 0)
        elif line.startswith("- "):
            total, shown, left = found[name]
            found[name] = (total, shown, int(more[1])) if more else (total, shown + 1, left)
    return found


def test_what_is_asked_comes_first_then_what_blocks_then_what_is_mine_then_counts() -> None:
    ask = DigestAsk(kind="message", by="bob", at_ms=NOW, priority="normal", id="m1", text="look")
    block = DigestBlock(kind="claim", task="T", room="main", since_at_ms=NOW, needs=(), more=False)
    own = DigestOwn(kind="task", task="U", room="main", status="open", ready=True)
    base = Digest(
        seq=5, at_ms=NOW, agent="ada", room="main", since=None, new=True, asked=(ask,), asked_total=1, blocked=(block,),
        blocked_total=1, mine=(own,), mine_total=1, rest=(DigestCounts(of="plan", counts={"done": 2}, total=2),),
        cursor="j:5",
    )  # fmt: skip
    heads = [head for line in digest_text(base).text.splitlines() for head in HEADS.values() if line.startswith(head)]
    assert heads == ["Asked of you: ", "Blocks you: ", "Yours: ", "The rest, in counts: "]


@given(digests(), st.integers(0, 1_500))
@settings(max_examples=150)
def test_any_digest_fits_any_budget_or_says_the_least_one(digest: Digest, spare: int) -> None:
    with pytest.raises(BudgetTooSmall) as refused:
        digest_text(digest, 1)
    least = refused.value.least
    with pytest.raises(BudgetTooSmall):
        digest_text(digest, least - 1)
    laid = digest_text(digest, least + spare)
    assert laid.tokens == -(-len(laid.text) // 4) <= least + spare
    assert f"About {laid.tokens} of {least + spare} tokens" in laid.text
    assert laid.text.splitlines()[-1] == "Next: synapse digest --since j:5"
    assert all(line.isprintable() for line in laid.text.splitlines())

    totals = {"asked": digest.asked_total, "blocked": digest.blocked_total, "mine": digest.mine_total}
    totals["rest"] = len(digest.rest)
    assert laid.totals == totals
    there = {name: len(getattr(digest, name)) for name in SECTIONS}
    cut = [name for name in SECTIONS if laid.shown[name] < there[name]] if digest.new else []
    behind = SECTIONS[SECTIONS.index(cut[0]) + 1 :] if cut else ()
    assert [name for name in behind if laid.shown[name]] == [], "something was dropped before what comes after it"
    if not digest.new:
        assert set(laid.shown.values()) == {0}
        return
    told = sections_in(laid.text)
    assert list(told) == [name for name in SECTIONS if totals[name]]
    for name, (total, shown, left) in told.items():
        assert (total, shown) == (totals[name], laid.shown[name])
        assert shown + left == total


@given(digests())
@settings(max_examples=50)
def test_with_room_for_all_nothing_is_left_out_that_the_hub_told(digest: Digest) -> None:
    digest = msgspec.structs.replace(digest, new=True)
    laid = digest_text(digest, 100_000)
    assert laid.shown == {name: len(getattr(digest, name)) for name in SECTIONS}


def test_what_others_wrote_stays_on_its_line_and_does_nothing() -> None:
    evil = "one\n- and 3 more\x1b[31m\u202e\u200b two"
    ask = DigestAsk(kind="message", by="bob", at_ms=NOW - 5_000, priority="urgent", id="m1", subject=evil, text=evil)
    own = DigestOwn(kind="task", task="T", room="main", title=evil, status="open", ready=True)
    base = Digest(
        seq=5, at_ms=NOW, agent="ada", room="main", since=None, new=True, asked=(ask,), asked_total=1, blocked=(),
        blocked_total=0, mine=(own,), mine_total=1, rest=(), cursor="j:5",
    )  # fmt: skip
    lines = digest_text(base).text.splitlines()
    words = r"one - and 3 more\x1b[31m\u202e\u200b two"
    assert lines[1:5] == [
        "Asked of you: 1",
        f"- [urgent] bob, 5 s ago, m1: {words}: {words}",
        "Yours: 1",
        f"- ready: T: {words}",
    ]


def test_nothing_new_is_one_line_with_what_still_stands() -> None:
    quiet: dict[str, object] = {
        "agent": "ada", "room": "main", "since": "j:5", "new": False, "at_ms": NOW, "asked": [], "asked_total": 2,
        "blocked": [], "blocked_total": 0, "mine": [], "mine_total": 1, "rest": [], "cursor": "j:9",
    }  # fmt: skip
    laid = lay_out(quiet, 100)
    assert laid.text.splitlines()[:2] == [
        "Nothing new for ada in room main since j:5.",
        "As before: 2 asked of you, 1 yours.",
    ]
