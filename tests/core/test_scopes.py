"""Scopes: what a pattern is, what it covers, and that overlap is exact."""

import unicodedata
from functools import cache
from typing import Any

import pytest
from benchmarks.scopes import steps
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests.core.test_scopes_oracle import all_paths, as_expression, is_matched, matched

from synapse.core.scopes import (
    FOLDED_BYTES_PER_CHAR,
    PATH_CHARS_MAX,
    PATH_WILDCARDS_MAX,
    Pattern,
    compile_pattern,
    covers,
    fold,
    normal_file,
    normal_path,
    overlaps,
)
from synapse.errors import Rejected

PATHS, SHORT = all_paths("abz", 6), all_paths("abz", 5)
"""`z` stands for every character that no pattern names."""


def pattern(text: str, *, folded: bool = False) -> Pattern:
    return compile_pattern(normal_path(text), folded=folded)


def meet(a: str, b: str) -> bool:
    """Whether two texts overlap, asked both ways and of patterns that nobody has used yet."""
    found = overlaps(pattern(a), pattern(b))
    compile_pattern.cache_clear()
    assert overlaps(pattern(b), pattern(a)) == found, "overlap has no direction"
    return found


def refusal(text: str, chars_max: int = PATH_CHARS_MAX, wildcards_max: int = PATH_WILDCARDS_MAX) -> Rejected:
    with pytest.raises(Rejected) as refused:
        normal_path(text, chars_max=chars_max, wildcards_max=wildcards_max)
    assert refused.value.code == "bad_scope"
    assert "path" in refused.value.facts
    return refused.value


# normal form


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("src", "src"),
        ("./src", "src"),
        ("src/", "src"),
        ("src//a.py", "src/a.py"),
        (".//src/./a.py/.", "src/a.py"),
        ("././src///", "src"),
        ("src/**", "src/**"),
        ("./**/*.py", "**/*.py"),
        ("**.py", "**.py"),
        ("app/[id]/", "app/[id]"),
        ("e\u0301/a\u030a", "\u00e9/\u00e5"),
        ("\u212bngstrom", "\u00c5ngstrom"),
        ("a b/ c", "a b/ c"),
        ("...", "..."),
        ("a..b/.c", "a..b/.c"),
        ("a~/b:c", "a~/b:c"),
        ("ab:c", "ab:c"),
        ("{a,b}", "{a,b}"),
        ("*a**", "*a**"),
        ("[a]b**/c", "[a]b**/c"),
        ("src/.", "src"),
        ("日本/*", "日本/*"),
    ],
)
def test_a_path_has_one_normal_form(text: str, normal: str) -> None:
    assert normal_path(text) == normal
    assert normal_path(normal) == normal


REFUSED = [
    ("", "names no path", "whole_worktree"),
    (".", "names no path", "whole_worktree"),
    ("./", "names no path", "whole_worktree"),
    (".//./", "names no path", "whole_worktree"),
    ("..", "holds '..'", "relative to the root"),
    ("src/../a", "holds '..'", "relative to the root"),
    ("../**", "holds '..'", "relative to the root"),
    ("a/..", "holds '..'", "relative to the root"),
    ("a/../", "holds '..'", "relative to the root"),
    ("/", "absolute", "relative to the root"),
    ("/etc/passwd", "absolute", "relative to the root"),
    ("//x", "absolute", "relative to the root"),
    ("src\\a.py", "backslash", "'/'"),
    ("a\\*", "backslash", "'[*]'"),
    ("C:\\x", "backslash", "'/'"),
    ("C:/x", "drive letter", "relative to the root"),
    ("./c:x", "drive letter", "relative to the root"),
    ("~", "'~'", "relative to the root"),
    ("~/x", "'~'", "relative to the root"),
    ("./~ada/x", "'~'", "relative to the root"),
    (":(exclude)src", "':'", "the pattern alone"),
    (":!src", "':'", "the pattern alone"),
    ("a\0b", "U+0000", "no part of a path"),
    ("a\nb", "U+000A", "no part of a path"),
    ("a\x1b[31m", "U+001B", "no part of a path"),
    ("a\x7f", "U+007F", "no part of a path"),
    ("a\x85", "U+0085", "no part of a path"),
    ("a\ud800", "U+D800", "no part of a path"),
    ("[ab", "class '[ab' open", "'[[]'"),
    ("src/[", "class '[' open", "'[[]'"),
    ("[]", "class '[]' open", "'[[]'"),
    ("[!]", "class '[!]' open", "'[[]'"),
    ("[!", "class '[!' open", "'[[]'"),
    ("[a/b]", "class '[a' open", "none holds '/'"),
    ("[b-a]", "backwards in '[b-a]'", "lower end first"),
    ("[a-é]", "other than ASCII", "'*'"),
    ("[é]", "other than ASCII", "'*'"),
    ("[[:alpha:]]", "names a class of characters", "[A-Za-z]"),
    ("[![:x]", "names a class of characters", "[A-Za-z]"),
    ("sr*/", "after a wildcard", "'sr*/**'"),
    ("*/", "after a wildcard", "'*/**'"),
    ("?/lib/", "after a wildcard", "'?/lib/**'"),
    ("src/**/", "after a wildcard", "'src/**'"),
    ("**/", "after a wildcard", "'**'"),
    ("**/.", "after a wildcard", "'**'"),
    ("a*/././/", "after a wildcard", "'a*/**'"),
    ("ab**", "two ways", "'ab*'"),
    ("src/ab**", "two ways", "'ab*'"),
    ("a***/b", "two ways", "'a*'"),
    ("a" * (PATH_CHARS_MAX + 1), f"{PATH_CHARS_MAX + 1} characters, at most {PATH_CHARS_MAX}", "directory above"),
    ("./" * PATH_CHARS_MAX + "a", f"{2 * PATH_CHARS_MAX + 1} characters", "directory above"),
    ("힣" * 300, f"2700 bytes when folded, at most {PATH_CHARS_MAX * FOLDED_BYTES_PER_CHAR}", "directory above"),
    ("?" * (PATH_WILDCARDS_MAX + 1), f"{PATH_WILDCARDS_MAX + 1} wildcards, at most {PATH_WILDCARDS_MAX}", "directory"),
]


@pytest.mark.parametrize(("text", "rule", "way_out"), REFUSED)
def test_what_is_outside_the_grammar_is_refused_with_the_rule_and_the_way_out(
    text: str, rule: str, way_out: str
) -> None:
    refused = refusal(text)
    assert rule in refused.detail
    assert way_out in refused.detail
    assert ascii(text[:70])[1:-1] in refused.detail, "the value is named"
    assert refused.detail.isprintable() and refused.detail.isascii()


def test_a_path_as_long_as_the_limit_is_taken() -> None:
    assert len(normal_path("a" * PATH_CHARS_MAX)) == PATH_CHARS_MAX
    assert normal_path("日" * PATH_CHARS_MAX) == "日" * PATH_CHARS_MAX


def test_the_limits_are_those_that_are_given() -> None:
    assert refusal("abcd", chars_max=3).facts == {"path": "abcd", "chars": 4, "path_chars_max": 3}
    assert refusal("*/?", wildcards_max=1).facts == {"path": "*/?", "wildcards": 2, "path_wildcards_max": 1}


def test_normalising_that_makes_a_path_longer_counts() -> None:
    assert refusal("\u0958" * 3, chars_max=5).facts["chars"] == 6


@pytest.mark.parametrize(("text", "count"), [("**/a/**", 2), ("*", 1), ("a***b", 1), ("?[ab]*", 3), ("[[][*]", 2)])
def test_each_run_of_stars_each_question_mark_and_each_class_is_one_wildcard(text: str, count: int) -> None:
    assert normal_path(text, wildcards_max=count) == text
    assert refusal(text, wildcards_max=count - 1).facts["wildcards"] == count


@pytest.mark.parametrize("text", ["a*b?", "app/[id]/page.tsx", "[", "a**", "*/x", "[é]"])
def test_in_the_path_of_a_file_wildcards_are_ordinary(text: str) -> None:
    assert normal_file(f"./{text}") == text


@pytest.mark.parametrize("text", ["", ".", "..", "a/../b", "/a", "a\\b", "C:/x", "~/x", "a\0", "\udfff", "a" * 513])
def test_the_path_of_a_file_is_refused_as_patterns_are(text: str) -> None:
    with pytest.raises(Rejected, match="bad_scope"):
        normal_file(text)


@given(text=st.text(max_size=12) | st.text(alphabet="ab./*?[]-!^~:\\é\0", max_size=12))
def test_a_normal_form_is_its_own_normal_form(text: str) -> None:
    try:
        normal = normal_path(text)
    except Rejected as refused:
        assert refused.code == "bad_scope"
        return
    assert normal_path(normal) == normal
    compile_pattern(normal).chain(folded=True)


# what is covered


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("src", "src src/a src/a/b", "srcx sr a/src Src"),
        ("src/a.py", "src/a.py src/a.py/x", "src/aXpy src"),
        ("src/*", "src/a src/.a", "src/a/b src"),
        ("*", "a é", "a/b"),
        ("**", "a a/b", ""),
        ("src/**", "src/a src/a/b", "src srcx/a"),
        ("**/x", "x a/x a/b/x", "ax a/ax x/a"),
        ("a/**/b", "a/b a/x/b a/x/y/b", "ab a/xb a/x/bb"),
        ("a/**/**/b", "a/b a/x/b a/x/y/b", "a"),
        ("*/**", "a/b a/b/c", "a"),
        ("**/*", "a a/b/c", ""),
        ("**.py", "a.py .py", "a/b.py"),
        ("src/a**b", "src/ab src/axxb", "src/a/b"),
        ("a?c", "abc a?c", "ac a/c aéc"),
        ("a??c", "aéc abbc", "abc"),
        ("[a-c]x", "ax bx cx", "dx x -x"),
        ("[!a-c]x", "dx -x", "ax x /x"),
        ("[^a]", "b ] ^", "a é"),
        ("[]-]", "] -", "a"),
        ("[!]a]", "b [", "a ]"),
        ("[a-]", "a -", "b"),
        ("[--0]", "- . 0", "/ 1"),
        ("[a-c-e]", "b - e", "d"),
        ("[*?]", "* ?", "a"),
        ("app/[id]/page", "app/i/page app/[id]/page app/[id]/page/x", "app/x/page app/i/page/x"),
        ("app/[id]/*", "app/i/x", "app/[id]/x"),
    ],
)
def test_a_pattern_covers_what_git_would_list(text: str, inside: str, outside: str) -> None:
    for path in inside.split():
        assert covers(pattern(text), path), path
    for path in outside.split():
        assert not covers(pattern(text), path), path


PIECES = st.sampled_from(["a", "b", "a", "b", "*", "?", "[ab]", "[!a]", "**"])
SMALL = (
    st.lists(st.lists(PIECES, min_size=1, max_size=2).map("".join), min_size=1, max_size=3)
    .map("/".join)
    .filter(lambda text: consumed(text) <= 3)
)


def consumed(text: str) -> int:
    """How many characters a pattern takes at least; with three and three a path of six shows every overlap."""
    names = [name.replace("[ab]", "b").replace("[!a]", "b") for name in text.split("/")]
    shortest = [1 if name == "*" else len(name.replace("*", "")) for name in names if name != "**"]
    below = 2 if names[-1] == "**" else not set(text) & set("*?[")
    return sum(shortest) + max(len(shortest) - 1, 0) + below


def spelt(text: str) -> tuple[str, ...]:
    """The file or folder whose name is the pattern itself, and what may lie in it."""
    return (text, *(f"{text}/{path}" for path in SHORT)) if "[" in text else ()


@cache
def listed(text: str) -> frozenset[str]:
    """What a normal pattern matches of PATHS."""
    return matched(text, PATHS)


def lawful(text: str) -> str:
    try:
        return normal_path(text)
    except Rejected:
        assume(False)
        raise


@settings(max_examples=300, deadline=None)
@given(texts=st.tuples(SMALL, SMALL))
@example(texts=("a/**/b", "a/b"))
@example(texts=("**/a", "**/b"))
@example(texts=("*/a", "**/[!a]"))
@example(texts=("[ab]", "**/a/**"))
def test_overlap_is_what_trying_every_path_says(texts: tuple[str, str]) -> None:
    a, b = map(lawful, texts)
    also = spelt(a) + spelt(b)
    shared = listed(a) & listed(b) or matched(a, also) & matched(b, also)
    found = meet(a, b)
    assert found or not shared, f"missed: {min(shared, key=len)}"
    assert shared or not found, "no path of that length shows it"


@settings(max_examples=300, deadline=None)
@given(text=SMALL, path=st.sampled_from(PATHS))
def test_a_file_is_covered_where_the_oracle_says_so(text: str, path: str) -> None:
    found = covers(compile_pattern(lawful(text)), path)
    assert found == is_matched(text, path)
    if found:
        assert meet(text, path), "a covered file overlaps when it is claimed"


@st.composite
def long_names_and_patterns(draw: st.DrawFn) -> tuple[str, str]:
    """A path of many different bytes, and a pattern that was made from it or from one that differs in a character."""
    path = "x" + draw(st.text("abcdefghijklmno./é日", min_size=70, max_size=140)).replace("/", "y/y") + "x"
    at = draw(st.integers(1, len(path) - 2))
    near = path[:at] + draw(st.sampled_from(["", "a", "é", "z", path[at]])) + path[at + 1 :]
    text = near
    for _ in range(draw(st.integers(1, 6))):
        at, size = draw(st.integers(1, len(text) - 2)), draw(st.integers(0, 3))
        wild = draw(st.sampled_from(["*", "?", "[!a]", "[a-f]", "[a-f]*", "?*"]))
        text = text[:at] + wild + text[at + size :]
    return path, text


@settings(max_examples=300, deadline=None)
@given(made=long_names_and_patterns())
def test_long_names_of_many_letters_are_covered_where_the_oracle_says_so(made: tuple[str, str]) -> None:
    path, text = made
    path, text = normal_file(path), lawful(text)
    found = covers(compile_pattern(text), path)
    assert found == is_matched(text, path)
    if found:
        assert meet(text, path)


def test_overlap_with_a_plain_path_is_covering_it_or_something_below() -> None:
    for text in ("a", "a/b", "*", "**", "a/*", "**/b", "[ab]", "a/**", "?/a", "*a*"):
        for path in all_paths("ab", 3):
            below = [path, *(f"{path}/{more}" for more in all_paths("ab", 3))]
            assert meet(text, path) == any(covers(pattern(text), one) for one in below), (text, path)


WIDE_PIECES = st.sampled_from(
    [*"abcxyz._-", "src", "test", "main", ".py", "*", "*", "?", "[a-m]", "[!a-c]", "[xyz]", "[^_]", "[-.]", "[0-9]"]
)
WIDE = (
    st.lists(
        st.sampled_from(["**", "**", "*", "src", "core"]) | st.lists(WIDE_PIECES, min_size=1, max_size=5).map("".join),
        min_size=1,
        max_size=5,
    )
    .map("/".join)
    .filter(lambda text: "*" in text or "?" in text or "[" not in text)
)
"""Longer patterns; those with classes only are left out, because a machine for names has no spelling of its own."""


def expression(text: str) -> str:
    """A whole pattern as a regular expression over paths."""
    segments = text.split("/")
    if not set(text) & set("*?["):
        return as_expression(text) + "(/.+)?"
    segments = ["**" if len(name) > 1 and not name.strip("*") else name for name in segments]
    found = ""
    for segment in segments[:-1]:
        found += "([^/]+/)*" if segment == "**" else ("[^/]+" if segment == "*" else as_expression(segment)) + "/"
    return found + {"**": ".+", "*": "[^/]+"}.get(segments[-1], as_expression(segments[-1]))


def disjoint(a: str, b: str) -> bool:
    """What `interegular` says of two patterns."""
    interegular: Any = pytest.importorskip("interegular", reason="interegular is not installed (dev group)")
    comparator = interegular.Comparator.from_regexes({side: expression(text) for side, text in enumerate((a, b))})
    return bool(comparator.isdisjoint(0, 1))


@settings(max_examples=150, deadline=None)
@given(a=WIDE, b=WIDE)
@example(a="src/**/test_*.py", b="src/*/[a-m]*/test_?.py")
def test_overlap_is_what_interegular_says(a: str, b: str) -> None:
    a, b = lawful(a), lawful(b)
    assert meet(a, b) != disjoint(a, b)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), a=WIDE)
def test_near_patterns_too_overlap_as_interegular_says(data: st.DataObject, a: str) -> None:
    """Two random patterns rarely meet; one that was changed a little often does."""
    a = lawful(a)
    segments = a.split("/")
    at = data.draw(st.integers(0, len(segments) - 1))
    other = data.draw(st.sampled_from(["**", "*", "src", "*a", "?*", "[!a]*", "src/**", "**/*"]))
    b = lawful("/".join([*segments[:at], other, *segments[at + data.draw(st.integers(0, 1)) :]]))
    assume("*" in b or "?" in b or "[" not in b)
    assert meet(a, b) != disjoint(a, b)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("src/**", "src", True),
        ("src/**", "srcx", False),
        ("src", "src/a.py", True),
        ("src", "srcx", False),
        ("src/*", "src/*/x", False),
        ("src/*.py", "src/*.js", False),
        ("**/x_1", "**/x_2", False),
        ("**/x_1/**", "src/**", True),
        ("a/*/b", "a/**/c", False),
        ("a*c", "ab*", True),
        ("[a-c]", "[c-e]", True),
        ("[ab]", "[cd]", False),
        ("[!a]", "[!b]", True),
        ("[!a]", "a", False),
        ("*a*b*", "*b*a*", True),
        ("*é", "é*", True),
        ("?", "é", False),
        ("??", "é", True),
        ("[id]", "[id]/page", True),
        ("[id]/page", "[slug]/page", False),
        ("[id]", "[id]", True),
        ("app/[id]", "app/[[]*", True),
        ("app/[id]/x", "app/[[]*/x", True),
        ("Src", "src", False),
        ("**/conftest.py", "src/a.py", True),
    ],
)
def test_overlaps_that_people_meet(a: str, b: str, expected: bool) -> None:
    assert meet(a, b) is expected


# folding


def test_case_matters_until_one_side_says_it_does_not() -> None:
    for a, b in (("Src/*.py", "src/A.PY"), ("README", "readme/x"), ("[A-C]x", "bX"), ("[!b]x", "bx"), ("aÉ*", "aé*")):
        upper, lower, mac = pattern(a), pattern(b), pattern(a, folded=True)
        assert not overlaps(upper, lower)
        assert overlaps(mac, lower) == overlaps(lower, mac) is True
    assert covers(pattern("Src/*.PY", folded=True), "sRC/a.py")
    assert covers(pattern("Straße", folded=True), "STRASSE/x")
    assert not covers(pattern("Src"), "src")


@pytest.mark.parametrize("other", ["STRASSE", "straße", "Strasse/x", "stra*", "*SSE"])
def test_letters_that_grow_when_folded_are_not_missed(other: str) -> None:
    assert overlaps(pattern("Straße", folded=True), pattern(other))
    assert overlaps(pattern("Straße"), pattern(other, folded=True))


def test_wildcards_that_may_match_one_letter_of_several_bytes_stand_for_any_text_when_folded() -> None:
    assert overlaps(pattern("a??", folded=True), pattern("ass"))
    assert overlaps(pattern("a??", folded=True), pattern("as"))
    assert not overlaps(pattern("a?", folded=True), pattern("ass"))
    assert not overlaps(pattern("a[0-9][0-9]", folded=True), pattern("a1"))


def test_no_folded_character_holds_a_separator_or_a_wildcard() -> None:
    special = set("/*?[\\")
    for code in range(0x80, 0x110000):
        if not 0xD800 <= code < 0xE000:
            assert not special & set(fold(chr(code))), hex(code)


LETTERS = "aAbBzZsS19._ßẞſéÉİıKǰΐΣςﬁ\u0301\u0323"


@st.composite
def names_and_patterns(draw: st.DrawFn) -> tuple[str, str]:
    """A path, and a pattern that was made from it."""
    path = unicodedata.normalize("NFC", "/".join(draw(st.lists(st.text(LETTERS, min_size=1, max_size=5), max_size=3))))
    return path, generalised(draw, path)


def generalised(draw: st.DrawFn, path: str) -> str:
    """The path with some of its characters made wildcards that match them."""
    text = ""
    for char in path:
        size = len(char.encode())
        ways = ["", "*", "?" * size, "[!9]" * size, "?*" * (size == 1), f"[{char}]" * char.isascii()]
        text += char if char == "/" else (draw(st.sampled_from([char, char, *ways])) or char)
    return text


@given(text=st.text(LETTERS, max_size=8))
@example("é\u0301\u0323")
def test_each_character_is_folded_by_itself(text: str) -> None:
    """Marks stay in the order in which they are written, so that a part of a text folds to a part of its fold."""
    assert fold(text) == "".join(unicodedata.normalize("NFD", char.casefold()) for char in text)


@settings(max_examples=400, deadline=None)
@given(made=names_and_patterns(), data=st.data())
def test_folding_never_loses_an_overlap(made: tuple[str, str], data: st.DataObject) -> None:
    path, text = made
    change = data.draw(st.sampled_from([str.upper, str.lower, str.swapcase, str.casefold, str.title]))
    twin = unicodedata.normalize("NFC", change(path))
    assume(fold(twin) == fold(path))
    a, b = lawful(text), lawful(data.draw(st.composite(lambda draw: generalised(draw, twin))()))
    assume(covers(compile_pattern(a), path) and covers(compile_pattern(b), twin))
    assert overlaps(compile_pattern(a, folded=True), compile_pattern(b))
    assert overlaps(compile_pattern(a), compile_pattern(b, folded=True))
    assert covers(compile_pattern(a, folded=True), twin)


@settings(max_examples=200, deadline=None)
@given(a=SMALL, b=SMALL)
def test_folded_overlap_is_never_narrower(a: str, b: str) -> None:
    a, b = lawful(a), lawful(b)
    upper = compile_pattern(lawful(a.upper()), folded=True)
    if meet(a, b):
        assert overlaps(upper, compile_pattern(b))


# what it costs


LONG = {  # the text, and at most how many steps for each byte of it
    "three bytes, all different": ("".join(map(chr, range(0x4E00, 0x4E00 + 489))), 14),
    "three letters when folded": ("ﬃ" * 489, 14),
    "five bytes when folded, all different": ("".join(map(chr, range(0xAC10, 0xAC10 + 165))), 14),
    "many folders": ("a/" * 244, 26),
}


@pytest.mark.parametrize(("text", "most"), LONG.values(), ids=LONG.keys())
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("[!a][!b]{}[a]", "[!a][!b]{}[b]"),
        ("[!a][!b]{}[a]", "**/[!a]*{}[b]"),
        ("[!a]*{}c*", "*[!a]{}b*"),
        ("**/?*{}c*", "**/*{}b*"),
        ("*/**/{}[!b]", "**/{}b"),
    ],
)
@pytest.mark.parametrize("folded", [True, False])
def test_a_decision_takes_a_few_steps_for_each_byte_however_the_patterns_are_made(
    text: str, most: int, a: str, b: str, folded: bool
) -> None:
    a, b = normal_path(a.format(text)), normal_path(b.format(text))
    size = max(len((fold(one) if folded else one).encode()) for one in (a, b))
    assert steps(a, b, folded=folded) <= most * size
