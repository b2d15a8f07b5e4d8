"""What a decision about two scopes costs, and what a scope costs among ten thousand others. No process, no socket.

Decisions are measured cold: both patterns are compiled anew each time, as for two claims that nobody has seen before.
The worst pair is looked for by Hypothesis, which is told to make the steps as many as it can: lines of the module that
are run, the same on every machine and in every run. Those of most steps, and those that people thought of, are timed.

    python -m benchmarks.scopes [SEED ...]     search with these seeds, ten times as long
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from types import FrameType
from typing import Any, TypeAlias

from hypothesis import HealthCheck, Phase, given, reject, seed, settings, target
from hypothesis import strategies as st

from synapse.core.scope_index import ScopeIndex
from synapse.core.scopes import compile_pattern, normal_path, overlaps
from synapse.errors import Rejected

TYPICAL = (
    ("src/parser.py", "src/lexer.py"),
    ("src/parser/**", "src/lexer/**"),
    ("src/**", "src/core/scopes.py"),
    ("**/*.py", "src/core/scopes.py"),
    ("src/**/*.py", "src/core/**"),
    ("src/**/test_*.py", "src/core/tests/*_scopes.py"),
    ("src/*/tests/**", "src/core/**/conftest.py"),
    ("packages/[a-m]*/src/**", "packages/web-ui/src/components/*.tsx"),
    ("**/x_1", "**/x_2"),
    ("docs/**/*.md", "docs/how-to/??-*.md"),
)
LETTERS = "".join(map(chr, range(ord("0"), ord("~")))).replace("[", "").replace("\\", "").replace("?", "")
HAN = "".join(map(chr, range(0x4E00, 0x4E00 + 489)))
LATIN = "".join(map(chr, range(0xA1, 0xA1 + 489)))
KNOWN_COSTLY = (
    ("*" + "é" * 500 + "*", "*" + "é" * 500 + "b*"),
    ("*" + "ΐ" * 254 + "*", "*" + "ΐ" * 254 + "b*"),
    ("*" + "힣" * 169 + "*", "*" + "힣" * 169 + "b*"),
    ("*" + "ﬃ" * 509 + "*", "*" + "ﬃ" * 509 + "b*"),
    ("*" + "a/" * 250 + "*", "*" + "a/" * 250 + "b*"),
    ("**/" * 7 + "?*" + "a/b" * 150 + "*", "**/" * 7 + "*" + "a/b" * 150 + "c*"),
    ("[!b]*" * 7 + "a" * 470 + "*", "[!c]*" * 7 + "a" * 470 + "b*"),
    ("[!a]" * 8 + "ΐ" * 250, "[!a]" * 8 + "ΐ" * 250 + "/*"),
    ("[!a]" * 8 + "ﬃ" * 400 + "[b]", "[!a]" * 8 + "ﬃ" * 400 + "[c]"),
    ("[!a][!b]" + "ﬃ" * 489 + "[a]", "[!a][!b]" + "ﬃ" * 489 + "[b]"),
    ("[!a][!b]" + "ﬃ" * 500 + "[!a]", "**/[!a]*" + "ﬃ" * 500 + "b"),
    ("[!a][!b]" + HAN + "[a]", "[!a][!b]" + HAN + "[b]"),
    ("[!a][!b]" + HAN + "[a]", "**/[!a]*" + HAN + "[b]"),
    ("[!a][!b]" + LATIN + "[a]", "[!a][!b]" + LATIN + "[b]"),
    ("[!a][!b]" + LETTERS * 6 + "[a]", "[!a][!b]" + LETTERS * 6 + "[b]"),
    ("[!a][!b]" + LETTERS * 6 + "[a]", "**/*" + LETTERS * 6 + "b"),
)
"""Where the search begins."""
SEARCHES = 1500
TIMED = 30
"""So many pairs are timed, those of most steps."""
MODULE = overlaps.__code__.co_filename
LEASES = 10_000
FAMILIES = {"shared prefix": "src/mod_{}/**", "no shared prefix": "**/x_{}", "around a star": "pre_*_{}"}


_Question: TypeAlias = tuple[str, str, bool]
"""Two normal paths, and whether they are compared folded."""


@dataclass(slots=True)
class Decisions:
    """Microseconds of one decision. typical_us: the slowest of TYPICAL. worst: what the search found."""

    typical_us: float = 0.0
    worst_us: float = 0.0
    worst: tuple[str, str] = ("", "")
    folded: bool = False


@dataclass(slots=True)
class Claims:
    """Microseconds of asking, filing and taking out one scope, by family: among no other scope and among LEASES."""

    alone_us: dict[str, float] = field(default_factory=dict)
    among_us: dict[str, float] = field(default_factory=dict)


def measure() -> Decisions:
    """Time typical decisions and search for the worst one."""
    found = Decisions()
    found.typical_us = max(median(_decision_us(a, b, folded=False) for _ in range(50)) for a, b in TYPICAL)
    _time_worst(found, _search(1, SEARCHES))
    return found


def measure_index() -> Claims:
    """Time a scope that overlaps none of the others."""
    claims = Claims()
    for name, text in FAMILIES.items():
        claims.alone_us[name] = _claim_us(text, 0)
        claims.among_us[name] = _claim_us(text, LEASES)
    return claims


def _search(number: int, searches: int) -> list[_Question]:
    """The questions of most steps, most first; the same for the same number."""
    units = [*"abé*?", "ΐ", "힣", "ﬃ", "a/", "b/", "ab", "**/", "*/", "*a", "?a", "[!a]", "[a-c]b", "*a/", "[!b]*/"]
    piece = st.tuples(
        st.sampled_from([*units, LETTERS, HAN[:64], LATIN[:64]]), st.integers(1, 9).map(lambda power: 2**power)
    )
    text = st.lists(piece, min_size=1, max_size=8).map(lambda pieces: _longest([unit * n for unit, n in pieces]))
    like = st.tuples(text, st.sampled_from(["", "*", "**/", "?", "a"]), st.sampled_from(["", "b", "*", "/**", "*b"]))
    pairs = st.tuples(text, text) | like.map(lambda made: (made[0] + "b", made[1] + made[0] + made[2]))
    found: dict[_Question, int] = {}

    def consider(a: str, b: str, *, folded: bool) -> int:
        question = (normal_path(a), normal_path(b), folded)
        found[question] = steps(question[0], question[1], folded=folded)
        return found[question]

    for a, b in KNOWN_COSTLY:
        consider(a, b, folded=True)

    @seed(number)
    @settings(
        max_examples=searches,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.target),
        suppress_health_check=list(HealthCheck),
    )
    @given(pair=pairs, folded=st.booleans())
    def climb(pair: tuple[str, str], folded: bool) -> None:
        try:
            target(consider(*pair, folded=folded))
        except Rejected:
            reject()

    climb()
    return sorted(found, key=found.__getitem__, reverse=True)


def _time_worst(found: Decisions, questions: list[_Question]) -> None:
    """Time the first questions and those known to be costly; the median of the slowest counts."""
    known = [(normal_path(a), normal_path(b), True) for a, b in KNOWN_COSTLY]
    timed = [
        (min(_decision_us(a, b, folded=folded) for _ in range(5)), a, b, folded)
        for a, b, folded in [*known, *questions[:TIMED]]
    ]
    _, a, b, folded = max(timed)
    found.worst, found.folded = (a, b), folded
    found.worst_us = median(_decision_us(a, b, folded=folded) for _ in range(50))


def steps(a: str, b: str, *, folded: bool) -> int:
    """The lines of the module that one decision runs; patterns compiled anew."""
    found = 0

    def count(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal found
        if frame.f_code.co_filename != MODULE:
            return None
        found += event == "line"
        return count

    compile_pattern.cache_clear()
    before = sys.gettrace()
    sys.settrace(count)
    try:
        overlaps(compile_pattern(a, folded=folded), compile_pattern(b, folded=folded))
    finally:
        sys.settrace(before)
    return found


def _longest(pieces: list[str]) -> str:
    """As much of the pieces as the limits allow."""
    text = ""
    for piece in pieces:
        while piece and not _is_lawful(text + piece + "b"):
            piece = piece[: len(piece) // 2]
        text += piece
    return text


def _is_lawful(text: str) -> bool:
    try:
        return bool(normal_path(text, chars_max=509, wildcards_max=14))
    except Rejected:
        return False


def _decision_us(a: str, b: str, *, folded: bool) -> float:
    compile_pattern.cache_clear()
    started = time.process_time_ns()
    overlaps(compile_pattern(a, folded=folded), compile_pattern(b, folded=folded))
    return (time.process_time_ns() - started) / 1e3


def _claim_us(family: str, leases: int) -> float:
    index = ScopeIndex()
    for key in range(leases):
        index.add(key, "tree", [compile_pattern(normal_path(family.format(key)))])
    mine = [compile_pattern(normal_path(family.format("mine")))]

    def claim() -> None:
        assert next(index.overlapping("tree", mine), None) is None
        index.add(-1, "tree", mine)
        index.remove(-1)

    return _median_us(claim)


def _median_us(work: Callable[[], None], batches: int = 30, size: int = 200) -> float:
    """The median over batches of what one call costs."""
    times = []
    for _ in range(batches):
        started = time.perf_counter()
        for _ in range(size):
            work()
        times.append((time.perf_counter() - started) / size * 1e6)
    return median(times)


def main() -> None:
    """Print the figures."""
    for number in map(int, sys.argv[1:]):
        found = Decisions()
        questions = _search(number, 10 * SEARCHES)
        _time_worst(found, questions)
        a, b, folded = questions[0]
        print(f"seed {number}: {steps(a, b, folded=folded):,} steps at most, worst {found.worst_us:.0f} us")
        print(f"  {found.worst[0]!r}\n  {found.worst[1]!r}\n  folded: {found.folded}")
    if sys.argv[1:]:
        return
    decisions, claims = measure(), measure_index()
    print(f"typical decision: {decisions.typical_us:.1f} us; worst: {decisions.worst_us:.0f} us")
    print(f"  {decisions.worst[0]!r}\n  {decisions.worst[1]!r}\n  folded: {decisions.folded}")
    for name, alone_us in claims.alone_us.items():
        print(f"claim, {name}: {claims.among_us[name]:.1f} us among {LEASES:,} leases, {alone_us:.1f} us alone")


if __name__ == "__main__":
    main()
