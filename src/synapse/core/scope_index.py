"""Which live scopes overlap a new one, without looking at each of them.

A pattern is filed by the plain text all its paths begin with (`src/mod_1/` of `src/mod_1/**`) and the plain text they
end with (`.py` of `**/*.py`), both folded, so that what the filter lets pass is never too little. Candidates are those
whose text begins mine or is begun by mine; each is then decided exactly. Patterns with neither (`**/x/**`) are always
candidates, and a new pattern with neither is compared with all.
"""

from bisect import bisect_left, insort
from collections.abc import Container, Iterator, Sequence
from typing import Final, TypeAlias

from synapse.core.scopes import Pattern, overlaps

_BEYOND: Final = "\u0100"
"""Sorts after every text: a text is a character for each byte."""

_Entry: TypeAlias = tuple[int, Pattern]


class ScopeIndex:
    """The scopes of live leases by worktree. Keys are the callers' and unique."""

    __slots__ = ("_scopes", "_worktrees")

    def __init__(self) -> None:
        self._worktrees: dict[str, _Worktree] = {}
        self._scopes: dict[int, tuple[str, tuple[_Entry, ...]]] = {}

    def __len__(self) -> int:
        return len(self._scopes)

    def __contains__(self, key: int) -> bool:
        return key in self._scopes

    def add(self, key: int, worktree: str, patterns: Sequence[Pattern], *, whole: bool = False) -> None:
        """File a scope: these patterns, or the whole worktree. The key must be new."""
        assert key not in self._scopes, "a key has one scope"
        assert whole or patterns, "a scope without paths contends with nobody"
        if whole:
            entries: tuple[_Entry, ...] = ()
        elif len(patterns) == 1:
            entries = ((key, patterns[0]),)
        else:
            entries = tuple([(key, pattern) for pattern in dict.fromkeys(patterns)])
        self._scopes[key] = (worktree, entries)
        tree = self._worktrees.get(worktree)
        if tree is None:
            tree = self._worktrees[worktree] = _Worktree()
        tree.keys[key] = None
        if whole:
            tree.whole[key] = None
        for entry in entries:
            tree.file(entry)

    def remove(self, key: int) -> None:
        """Take a scope out. The key must be there."""
        worktree, entries = self._scopes.pop(key)
        tree = self._worktrees[worktree]
        for entry in entries:
            tree.unfile(entry)
        if not entries:
            del tree.whole[key]
        del tree.keys[key]
        if not tree.keys:
            del self._worktrees[worktree]

    def is_clear(self, worktree: str, patterns: Sequence[Pattern]) -> bool:
        """True when a cheap look shows that nothing overlaps; False says nothing yet: ask `overlapping`. patterns: none
        for the whole worktree."""
        tree = self._worktrees.get(worktree)
        if tree is None:
            return True
        if not patterns or tree.whole or tree.loose:
            return False
        for pattern in patterns:
            if (
                not tree.by_prefix.is_clear(pattern.prefix)
                or (tree.by_suffix.texts and not tree.by_suffix.is_clear(pattern.suffix[::-1]))
                or (tree.both_by_prefix.texts and not tree.both_by_prefix.is_clear(pattern.prefix))
            ):
                return False
        return True

    def overlapping(
        self, worktree: str, patterns: Sequence[Pattern], *, whole: bool = False, but: Container[int] = ()
    ) -> Iterator[int]:
        """Keys whose scope overlaps this one, each once, and none in `but`: whole worktrees first, then as found.

        Lazy: whoever needs one takes one. The index must not change until the iterator is done or dropped. The order
        depends on what was filed before, so it is not the same after a restart: what is journalled must not follow it.
        """
        tree = self._worktrees.get(worktree)
        if tree is None:
            return
        if whole:
            yield from (key for key in tree.keys if key not in but)
            return
        if not patterns:
            return
        yield from (key for key in tree.whole if key not in but)
        found: set[int] = set()
        for pattern in patterns:
            for key, other in tree.candidates(pattern):
                if key not in found and key not in but and overlaps(pattern, other):
                    found.add(key)
                    yield key


class _Worktree:
    """The scopes of one worktree, in four groups by which of the two texts their patterns have."""

    __slots__ = ("both_by_prefix", "both_by_suffix", "by_prefix", "by_suffix", "keys", "loose", "whole")

    def __init__(self) -> None:
        self.keys: dict[int, None] = {}
        self.whole: dict[int, None] = {}
        self.loose: dict[_Entry, None] = {}
        self.by_prefix = _Texts()
        self.by_suffix = _Texts()
        self.both_by_prefix = _Texts()
        self.both_by_suffix = _Texts()

    def file(self, entry: _Entry) -> None:
        """Put a pattern into its group."""
        prefix, suffix = entry[1].prefix, entry[1].suffix
        if prefix and suffix:
            self.both_by_prefix.add(prefix, entry)
            self.both_by_suffix.add(suffix[::-1], entry)
        elif prefix:
            self.by_prefix.add(prefix, entry)
        elif suffix:
            self.by_suffix.add(suffix[::-1], entry)
        else:
            self.loose[entry] = None

    def unfile(self, entry: _Entry) -> None:
        """Take a pattern out of its group."""
        prefix, suffix = entry[1].prefix, entry[1].suffix
        if prefix and suffix:
            self.both_by_prefix.remove(prefix, entry)
            self.both_by_suffix.remove(suffix[::-1], entry)
        elif prefix:
            self.by_prefix.remove(prefix, entry)
        elif suffix:
            self.by_suffix.remove(suffix[::-1], entry)
        else:
            del self.loose[entry]

    def candidates(self, pattern: Pattern) -> Iterator[_Entry]:
        """Every entry that may overlap, and some that do not."""
        prefix, suffix = pattern.prefix, pattern.suffix[::-1]
        yield from self.loose
        if self.by_prefix.texts:
            yield from self.by_prefix.near(prefix)
        if self.by_suffix.texts:
            yield from self.by_suffix.near(suffix)
        if self.both_by_prefix.texts:
            few, many = self.both_by_prefix, self.both_by_suffix
            ours, theirs = prefix, suffix
            if few.spread(ours) > many.spread(theirs):
                few, many, ours, theirs = many, few, theirs, ours
            if many.count(theirs, most := few.count(ours)) < most:
                few, ours = many, theirs
            yield from few.near(ours)


class _Texts:
    """Entries by a text, found by a text that begins theirs or is begun by it."""

    __slots__ = ("entries", "lengths", "texts")

    def __init__(self) -> None:
        self.texts: list[str] = []  # sorted
        self.entries: dict[str, dict[_Entry, None]] = {}
        self.lengths: dict[int, int] = {}  # how many texts have this length

    def add(self, text: str, entry: _Entry) -> None:
        """File an entry."""
        held = self.entries.get(text)
        if held is not None:
            held[entry] = None
            return
        self.entries[text] = {entry: None}
        insort(self.texts, text)
        length = len(text)
        self.lengths[length] = self.lengths.get(length, 0) + 1

    def remove(self, text: str, entry: _Entry) -> None:
        """Take an entry out."""
        held = self.entries[text]
        del held[entry]
        if held:
            return
        del self.entries[text]
        del self.texts[bisect_left(self.texts, text)]
        length = len(text)
        left = self.lengths[length] - 1
        if left:
            self.lengths[length] = left
        else:
            del self.lengths[length]

    def near(self, text: str) -> Iterator[_Entry]:
        """Entries whose text begins this one, then those whose text this one begins."""
        for held in self._held(text):
            yield from held

    def is_clear(self, text: str) -> bool:
        """True when nothing is `near`."""
        texts = self.texts
        at = bisect_left(texts, text)
        if at < len(texts) and texts[at].startswith(text):
            return False
        entries, size = self.entries, len(text)
        for length in self.lengths:  # noqa: SIM110 - `all` costs a generator
            if length < size and text[:length] in entries:
                return False
        return True

    def spread(self, text: str) -> int:
        """How many texts begin with this one; cheap, and never more than `count`."""
        return bisect_left(self.texts, text + _BEYOND) - bisect_left(self.texts, text)

    def count(self, text: str, most: int | None = None) -> int:
        """How many entries are near; the count ends once it is past `most`."""
        found = 0
        for held in self._held(text):
            found += len(held)
            if most is not None and found > most:
                break
        return found

    def _held(self, text: str) -> Iterator[dict[_Entry, None]]:
        entries, texts, size = self.entries, self.texts, len(text)
        for length in self.lengths:
            if length < size and (held := entries.get(text[:length])) is not None:
                yield held
        for at in range(bisect_left(texts, text), len(texts)):
            if not texts[at].startswith(text):
                return
            yield entries[texts[at]]
