"""The rule of `:(glob)` written down a second time, slow and plain, and that git agrees with it.

It shares nothing with `core/scopes.py`: names are matched by `re`, segments by trying every way, and two patterns
overlap when one path of a list is in both.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.conftest import require_tool

from synapse.core.scopes import normal_path
from synapse.errors import Rejected

Listing = Callable[[str], frozenset[str]]


def is_matched(pattern: str, path: str) -> bool:
    """True when git lists the file `path` for this normal pattern."""
    if not set(pattern) & set("*?") and (path == pattern or path.startswith(pattern + "/")):
        return True
    return _segments(tuple(pattern.split("/")), tuple(path.split("/")))


def matched(pattern: str, paths: tuple[str, ...]) -> frozenset[str]:
    """Those of `paths` that the pattern matches."""
    return frozenset(path for path in paths if is_matched(pattern, path))


def _segments(patterns: tuple[str, ...], names: tuple[str, ...]) -> bool:
    if not patterns:
        return not names
    first, rest = patterns[0], patterns[1:]
    if len(first) > 1 and set(first) == {"*"}:
        if not rest:
            return bool(names)
        return any(_segments(rest, names[skipped:]) for skipped in range(len(names) + 1))
    return bool(names) and _name(first, names[0]) and _segments(rest, names[1:])


@cache
def _name(pattern: str, name: str) -> bool:
    return _expression(pattern).fullmatch(name.encode()) is not None


@cache
def _expression(pattern: str) -> re.Pattern[bytes]:
    return re.compile(as_expression(pattern).encode(), re.DOTALL)


def as_expression(pattern: str) -> str:
    """One segment as a regular expression."""
    found = ""
    for piece in re.findall(r"\[[!^]?\]?[^]]*\]|\*+|.", pattern, re.DOTALL):
        if piece[0] == "[" and len(piece) > 1:
            negated = piece[1] in "!^"
            members = re.sub(r"([\[\]^\\&~|])", r"\\\1", piece[1 + negated : -1])
            found += ("[^/" if negated else "(?!/)[") + _dashes(members) + "]"
        else:
            found += {"*": "[^/]*", "?": "[^/]"}.get(piece[0], re.escape(piece))
    return found


def _dashes(members: str) -> str:
    """A dash that makes no range is escaped: first, last, or after a range."""
    return re.sub(r"(\\?.)-(\\?.)|-", lambda found: found[0] if found[1] else r"\-", members)


def all_paths(alphabet: str, chars_max: int) -> tuple[str, ...]:
    """Every path over these names' characters up to a length."""
    return tuple(
        path
        for length in range(1, chars_max + 1)
        for path in map("".join, product(alphabet + "/", repeat=length))
        if path[0] != "/" and path[-1] != "/" and "//" not in path
    )


ODD = """
    src/a.py src/b/c.py src.py src/core/x/y.py a.b/c-d a/.b .a/b a/A B/b A/b ab/ab/ab a/b/a/b/a é aé a/é/b ß ä/b
    a]b a^b/c a-b a!b [ab] [ab]/a a/[b]/a [!a] [!a]/b/a b]/a [ab [ab/a [[]a]/b a/[ab]/[b]/a {a,b}/a :a/b ~ ~a a~
"""
FILES = (*all_paths("ab", 4), *ODD.split())
"""No name has `*` or `?`: those are matched here and spelt in git (see core/scopes.py)."""


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Listing:
    """What `git ls-files` lists; a file and a folder of one name are put in two indexes."""
    require_tool("git", "git")
    repository = tmp_path_factory.mktemp("scopes")

    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str, given: str = "", index: str = "index") -> str:
        return subprocess.run(
            ["git", "-c", "init.defaultBranch=main", "-c", "core.ignoreCase=false", *arguments],
            cwd=repository,
            env={**clean, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_INDEX_FILE": str(repository / ".git" / index)},
            input=given,
            capture_output=True,
            check=True,
            encoding="utf-8",
        ).stdout

    git("init", "--quiet")
    blob = git("hash-object", "-w", "--stdin").strip()
    groups = list(_without_conflicts(FILES))
    indexes = [f"index-{n}" for n in range(len(groups))]
    for index, files in zip(indexes, groups, strict=True):
        rows = "".join(f"100644 {blob} 0\t{file}\0" for file in files)
        git("update-index", "-z", "--index-info", given=rows, index=index)

    @cache
    def listing(pattern: str) -> frozenset[str]:
        listings = (git("ls-files", "-z", "--", f":(glob){pattern}", index=index) for index in indexes)
        return frozenset(file for listing in listings for file in listing.split("\0")[:-1])

    assert listing("**") == set(FILES), "git holds the files it is asked about"
    return listing


def _without_conflicts(files: tuple[str, ...]) -> Iterator[list[str]]:
    """The files in groups in which none lies below another."""
    left = sorted(set(files), key=lambda file: (file.count("/"), file))
    while left:
        above = {"/".join(parts[:n]) for parts in (file.split("/") for file in left) for n in range(1, len(parts))}
        yield [file for file in left if file not in above]
        left = [file for file in left if file in above]


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Patterns as peers may write them, most of them lawful."""
    piece = st.sampled_from(
        [
            *"aabb*?./-]!^é",
            "[ab]",
            "[!a]",
            "[^b]",
            "[a-b]",
            "[]a]",
            "[!]a]",
            "[a-]",
            "[-a]",
            "[+-~]",
            "[[]",
            "[ab",
            "**",
        ]
    )
    segment = st.sampled_from(["**", "**", "*", "a", "b", "src"]) | st.lists(piece, min_size=1, max_size=4).map("".join)
    return "/".join(draw(st.lists(segment, min_size=1, max_size=4)))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts())
def test_git_lists_what_the_oracle_matches(listed: Listing, text: str) -> None:
    try:
        pattern = normal_path(text)
    except Rejected:
        return
    assert matched(pattern, FILES) == listed(pattern)
    if not text.endswith(("/", "/.")):
        assert listed(text) == listed(pattern), "the normal form lists the same files"


@pytest.mark.parametrize(
    "pattern", ["a", "a/b", "*", "**", "***", "**/b", "a/**", "a/***/b", "[ab]", "[!a]/b", "a/[ab]", "?*", "**/**"]
)
def test_git_and_the_oracle_agree_on_the_plain_cases(listed: Listing, pattern: str) -> None:
    assert matched(pattern, FILES) == listed(pattern)
    assert listed(pattern), "some file shows it"


def test_git_reads_stars_that_end_a_name_in_two_ways(listed: Listing) -> None:
    assert "ab/ab/ab" in listed("a**"), "after plain text they cross '/'"
    assert "ab/ab/ab" not in listed("[a]**"), "after a wildcard they do not"


@pytest.mark.parametrize("pattern", ["sr*/", "*/", "src/**/", "**/a/", "[a", "a/[ab", "[]"])
def test_git_lists_no_file_for_what_is_refused_as_useless(listed: Listing, pattern: str) -> None:
    assert not {file for file in listed(pattern) if file != pattern and not file.startswith(pattern + "/")}
    with pytest.raises(Rejected):
        normal_path(pattern)
