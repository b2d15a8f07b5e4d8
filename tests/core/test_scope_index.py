"""The index finds exactly the scopes that overlap, and looks at few of the others."""

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from synapse.core import scope_index
from synapse.core.scope_index import ScopeIndex
from synapse.core.scopes import Pattern, compile_pattern, normal_path, overlaps

TREES = st.sampled_from(["desk:/a", "desk:/b"])
SOME = """
    a b ab a/b a/b/c ab/c A/a B/é É ß SS a/ß [ab] [ab]/c a/[bc] [A-B]
    ** * a/** a/b/** A/** ab/** */b **/b **/ab **/x_1 **/x_2 **/b/** a/**/b a/**/ab *b a* a*b A*B a*ab
    a/*.py a/*.js a/x*.py b/*.py **/*.py *.py a/b*.py ?b a? ?/? **/?b a/*/c pre_*_1 pre_*_2 pre_1*_1 ß* *ß **/é É/**
"""
TEXTS = st.sampled_from(SOME.split())
PATTERNS = st.lists(
    st.builds(lambda text, folded: compile_pattern(normal_path(text), folded=folded), TEXTS, st.booleans()),
    min_size=1,
    max_size=3,
)


class ScopesComeAndGo(RuleBasedStateMachine):
    """The index beside a plain table that is searched in full."""

    def __init__(self) -> None:
        super().__init__()
        self.index = ScopeIndex()
        self.table: dict[int, tuple[str, list[Pattern], bool]] = {}
        self.keys = 0

    @rule(worktree=TREES, patterns=PATTERNS, whole=st.sampled_from([False, False, False, True]))
    def add(self, worktree: str, patterns: list[Pattern], whole: bool) -> None:
        self.keys += 1
        self.index.add(self.keys, worktree, patterns, whole=whole)
        self.table[self.keys] = (worktree, patterns, whole)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.table:
            key = data.draw(st.sampled_from(sorted(self.table)))
            self.index.remove(key)
            del self.table[key]

    @rule(worktree=TREES, patterns=PATTERNS, whole=st.sampled_from([False, False, False, True]))
    def ask(self, worktree: str, patterns: list[Pattern], whole: bool) -> None:
        found = list(self.index.overlapping(worktree, patterns, whole=whole))
        assert len(found) == len(set(found)), "each key once"
        if self.index.is_clear(worktree, () if whole else patterns):
            assert not found, "a first look overlooks nothing"
        assert set(found) == {
            key
            for key, (there, others, all_of_it) in self.table.items()
            if there == worktree
            and (whole or all_of_it or any(overlaps(mine, other) for mine in patterns for other in others))
        }

    @invariant()
    def it_holds_what_was_filed(self) -> None:
        assert len(self.index) == len(self.table)
        assert all(key in self.index for key in self.table)

    def teardown(self) -> None:
        for key in self.table:
            self.index.remove(key)
        assert len(self.index) == 0
        assert not self.index._worktrees, "nothing is left of a worktree without scopes"


TestScopesComeAndGo = ScopesComeAndGo.TestCase
TestScopesComeAndGo.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@settings(max_examples=200, deadline=None)
@given(held=st.lists(PATTERNS, max_size=25), mine=PATTERNS)
def test_the_index_finds_what_looking_at_each_scope_finds(held: list[list[Pattern]], mine: list[Pattern]) -> None:
    index = ScopeIndex()
    for key, patterns in enumerate(held):
        index.add(key, "tree", patterns)
    expected = {key for key, patterns in enumerate(held) if any(overlaps(a, b) for a in mine for b in patterns)}
    assert set(index.overlapping("tree", mine)) == expected


def filed(*texts: str) -> ScopeIndex:
    """An index with one scope for each text, keys from 0."""
    index = ScopeIndex()
    for key, text in enumerate(texts):
        index.add(key, "tree", [compile_pattern(normal_path(text))])
    return index


def found(index: ScopeIndex, text: str, worktree: str = "tree") -> list[int]:
    return sorted(index.overlapping(worktree, [compile_pattern(normal_path(text))]))


def test_worktrees_never_contend() -> None:
    index = filed("src/**")
    assert found(index, "src/a") == [0]
    assert found(index, "src/a", worktree="other") == []
    assert list(index.overlapping("other", (), whole=True)) == []


def test_the_whole_worktree_overlaps_each_scope_of_it() -> None:
    index = filed("a", "b/**", "**/c")
    assert sorted(index.overlapping("tree", (), whole=True)) == [0, 1, 2]
    index.add(7, "tree", (), whole=True)
    index.add(8, "other", (), whole=True)
    assert found(index, "d") == [2, 7]
    assert sorted(index.overlapping("tree", (), whole=True)) == [0, 1, 2, 7]
    index.remove(7)
    assert 7 not in index
    assert found(index, "d/*.py") == []


def test_asking_for_no_path_finds_nobody() -> None:
    index = filed("a", "**")
    index.add(2, "tree", (), whole=True)
    assert list(index.overlapping("tree", ())) == []


def test_a_scope_with_the_same_pattern_twice_is_filed_once() -> None:
    index = ScopeIndex()
    pattern = compile_pattern("a/**")
    index.add(1, "tree", [pattern, pattern])
    assert list(index.overlapping("tree", [pattern, pattern])) == [1]
    index.remove(1)
    assert list(index.overlapping("tree", [pattern])) == []


def test_what_was_taken_out_leaves_nothing_behind() -> None:
    index = filed("**", *(f"{text}{n}" for text in ("src/", "**/", "a*") for n in range(20)), "a*b", "**/x/**")
    for key in range(1, len(index)):
        index.remove(key)
    tree = index._worktrees["tree"]
    for side in (tree.by_prefix, tree.by_suffix, tree.both_by_prefix, tree.both_by_suffix):
        assert (side.texts, side.entries, side.lengths) == ([], {}, {})
    assert len(tree.loose) == 1


def test_case_is_ignored_where_one_side_ignores_it() -> None:
    index = ScopeIndex()
    index.add(1, "tree", [compile_pattern("Src/**", folded=True)])
    index.add(2, "tree", [compile_pattern("SRC/**")])
    assert found(index, "src/a") == [1]
    assert sorted(index.overlapping("tree", [compile_pattern("src/a", folded=True)])) == [1, 2]


def is_clear(index: ScopeIndex, text: str, worktree: str = "tree") -> bool:
    return index.is_clear(worktree, [compile_pattern(normal_path(text))])


def test_a_first_look_is_enough_where_no_text_begins_another() -> None:
    index = filed(*(f"src/mod_{n}/**" for n in range(1000)))
    assert is_clear(index, "src/mod_x/**")
    assert is_clear(index, "docs")
    assert not is_clear(index, "src/mod_7/a.py")
    assert not is_clear(index, "src/*.py")
    assert not is_clear(index, "**/x")
    assert is_clear(index, "src/mod_7/**", worktree="other")
    assert not index.is_clear("tree", ()), "the whole worktree"


@pytest.mark.parametrize("held", ["**/x", "**/y/**", "src/a*.py"])
def test_a_first_look_says_nothing_where_a_name_may_lie_anywhere(held: str) -> None:
    assert not is_clear(filed("docs/**", held), "src/a/x")


def test_a_first_look_sees_a_whole_worktree() -> None:
    index = ScopeIndex()
    index.add(1, "tree", (), whole=True)
    assert not is_clear(index, "src/**")
    assert is_clear(index, "src/**", worktree="other")


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[Pattern]:
    """The patterns that the index has decided about."""
    seen: list[Pattern] = []

    def watched(a: Pattern, b: Pattern) -> bool:
        seen.append(b)
        return overlaps(a, b)

    monkeypatch.setattr(scope_index, "overlaps", watched)
    return seen


LARGE = {
    "a shared prefix": ("src/mod_{}/**", "src/mod_x/**"),
    "files in one folder": ("src/mod_{}.py", "src/mod_x.py"),
    "no shared prefix": ("**/x_{}", "**/x_y"),
    "a name around a star": ("pre_*_{}", "pre_*_x"),
    "a number before a star": ("src/{}_*.py", "src/x_*.py"),
}


@pytest.mark.parametrize("held", LARGE)
@pytest.mark.parametrize("asked", LARGE)
def test_among_a_thousand_scopes_few_are_looked_at(held: str, asked: str, looked_at: list[Pattern]) -> None:
    text, mine = LARGE[held][0], LARGE[asked][1]
    index = filed(*(text.format(n) for n in range(1000)))
    pattern = compile_pattern(normal_path(mine))
    hits = list(islice(index.overlapping("tree", [pattern]), 1))
    assert len(looked_at) <= 3
    naive = (key for key in range(1000) if overlaps(pattern, compile_pattern(normal_path(text.format(key)))))
    assert bool(hits) == any(True for _ in naive)


def test_the_side_with_fewer_entries_is_taken_even_when_its_texts_are_many(looked_at: list[Pattern]) -> None:
    index = filed(*(f"{folder}/*_{n}.py" for folder in ("src", "tests") for n in range(200)))
    assert found(index, "*/x*_7.py") == [7, 207]
    assert found(index, "src/x*_7.py") == [7]
    assert len(looked_at) <= 8


def test_whoever_needs_one_answer_gets_it_without_the_others(looked_at: list[Pattern]) -> None:
    index = filed(*(f"src/{n}" for n in range(100)))
    assert next(index.overlapping("tree", [compile_pattern("src")])) in range(100)
    assert len(looked_at) == 1
