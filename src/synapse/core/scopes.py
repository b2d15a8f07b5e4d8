"""Scopes: patterns of paths below a worktree's root, and whether two of them can name the same file.

A pattern means what `git ls-files ':(glob)PATTERN'` lists, byte for byte (checked against git in the tests):

    * ? [a-z] [!a-z] [^a-z]  never match `/`; `?` and a class match one byte of UTF-8, so that `é` needs `??`
    **/ and /**/             as whole segments: any number of segments, also none: `**/x` has `x`, `a/**/b` has `a/b`
    /**                      at the end: everything below, not the directory's own name; `**` alone: everything
    a**b                     stars beside other characters are one `*`
    src                      without wildcards: that path and everything below it
    src/*                    with `*` or `?`: files whose whole path matches, nothing below a directory that does
    app/[id]                 with classes only: also the path so spelt and all below it, as git first compares the text;
                             git does that for `*` and `?` too, but here a name with those is matched, not spelt

Refused and never read in another way: what leaves the worktree, what git cannot match (a class left open, `sr*/`),
what git reads in two ways (`a**`), and what it reads as nobody means it (non-ASCII and `[:alpha:]` inside a class).

Folding: where one of two patterns is of a file system that ignores case, both are compared folded (full case folding
of each character, decomposed). Folding never loses an overlap; it may report one that no file system has (`ß` and
`ss`), and a `?` or `[!x]` beside another or a star then stands for any text, because letters change their length.

Overlap is exact. A pattern is a chain of states; the states of one that are possible after each token of the other
are the bits of one integer, so a decision costs a few operations on integers for each token of the shorter one.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from synapse.errors import Rejected
from synapse.protocol.names import clipped, shown

PATH_CHARS_MAX: Final = 512
PATH_WILDCARDS_MAX: Final = 16
FOLDED_BYTES_PER_CHAR: Final = 3
"""A path may have this many times its most characters in bytes, when folded; some letters grow to nine."""

_ANY: Final = (1 << 256) - 2 - (1 << ord("/"))
"""The class of `?`. A class is the set of its bytes, as the bits of an integer."""

_STAR: Final = -1  # any bytes but `/`
_DEEP: Final = -2  # `**/`: any number of whole segments, each with its `/`
_BELOW: Final = -3  # the end of a spelt path: the end, or `/` and on to _TAIL
_TAIL: Final = -4  # whatever comes, to the end

_SLASH: Final = "/"
_ASCII: Final = (1 << 128) - 1
_CAPITALS: Final = (1 << ord("Z") + 1) - (1 << ord("A"))

_Part: TypeAlias = str | int
"""A run of literal text, a class, or one of the tokens above."""


def normal_path(
    text: str,
    *,
    chars_max: int = PATH_CHARS_MAX,
    wildcards_max: int = PATH_WILDCARDS_MAX,
) -> str:
    """The normal form of a pattern: NFC, without `./`, `//` and the trailing slash of a directory.

    Raises `Rejected(bad_scope)`.
    """
    path = _plain(text, chars_max)
    parts = _parts(path, text)
    if len(parts) > wildcards_max and (wildcards := sum(isinstance(part, int) for part in parts)) > wildcards_max:
        facts = {"wildcards": wildcards, "path_wildcards_max": wildcards_max}
        raise _refused(text, f"has {wildcards} wildcards, at most {wildcards_max}: name a directory above them", facts)
    if text.endswith(("/", "/.")) and ("*" in path or "?" in path):
        below = path if path.endswith("/**") or path == "**" else f"{path}/**"
        raise _refused(text, f"ends in '/' after a wildcard, which matches no file: write {shown(below)}")
    return path


def normal_file(text: str, *, chars_max: int = PATH_CHARS_MAX) -> str:
    """The normal form of the path of one file, in which `*`, `?` and `[` are ordinary characters.

    Raises `Rejected(bad_scope)`.
    """
    return _plain(text, chars_max)


def _plain(text: str, chars_max: int) -> str:
    """What patterns and files have in common: a relative path that stays inside."""
    if len(text) > chars_max:
        raise _too_long(text, len(text), chars_max)
    if not text.isascii() or not text.isprintable():
        for char in text:
            if unicodedata.category(char) in ("Cc", "Cs"):
                raise _refused(
                    text, f"holds U+{ord(char):04X}: control characters and surrogates are no part of a path"
                )
        text = unicodedata.normalize("NFC", text)
        if len(text) > chars_max:
            raise _too_long(text, len(text), chars_max)
        size, most = len(fold(text).encode()), chars_max * FOLDED_BYTES_PER_CHAR
        if size > most:
            facts = {"folded_bytes": size, "folded_bytes_max": most}
            raise _refused(text, f"has {size} bytes when folded, at most {most}: name a directory above it", facts)
    if _is_plain(text):
        return text
    if "\\" in text:
        raise _refused(text, r"holds a backslash: separate with '/', and spell a wildcard as a class, '[*]' for '*'")
    if text.startswith("/"):
        raise _refused(text, "is absolute: name it relative to the root of the worktree")
    segments = [segment for segment in text.split("/") if segment not in ("", ".")]
    if ".." in segments:
        raise _refused(text, "holds '..': name it relative to the root of the worktree")
    if not segments:
        raise _refused(text, "names no path: ask for the whole worktree in so many words (whole_worktree)")
    first = segments[0]
    if first[0] == "~":
        raise _refused(text, "begins with '~', which nobody expands: name it relative to the root of the worktree")
    if first[1:2] == ":" and first[0].isascii() and first[0].isalpha():
        raise _refused(text, "begins with a drive letter: name it relative to the root of the worktree")
    if first[0] == ":":
        raise _refused(text, "begins with ':': write the pattern alone, without git's pathspec magic")
    return "/".join(segments)


def _is_plain(text: str) -> bool:
    """True when a cheap look shows that the text is a normal path already; False says nothing yet."""
    return bool(text) and not (
        text[0] in "./~:" or text[1:2] == ":" or text[-1] == _SLASH or "/." in text or "//" in text or "\\" in text
    )


def _refused(text: str, why: str, facts: Mapping[str, object] | None = None) -> Rejected:
    return Rejected("bad_scope", f"the path {shown(text)} {why}", {"path": clipped(text), **(facts or {})})


def _too_long(text: str, chars: int, chars_max: int) -> Rejected:
    facts = {"chars": chars, "path_chars_max": chars_max}
    return _refused(text, f"has {chars} characters, at most {chars_max}: name a directory above it", facts)


# from text to parts


_WILD: Final = re.compile(r"\*+|\?|\[")


def _parts(path: str, text: str) -> list[_Part]:
    """A normal path as literal runs, classes, stars and `**/`; `text` is what the peer wrote, for refusals."""
    plain = path[:-2] if path.endswith("/**") else path
    if not ("*" in plain or "?" in plain or "[" in plain):  # nearly all that people claim
        return [plain] if plain is path else [plain, _TAIL]
    parts: list[_Part] = []
    done, size = 0, len(path)
    while done < size and (found := _WILD.search(path, done)) is not None:
        start, end = found.span()
        if start > done:
            parts.append(path[done:start])
        done = end
        char = path[start]
        if char == "*":
            part = _STAR if end - start == 1 else _stars(path, start, end, text, parts)
            done += part == _DEEP
        elif char == "?":
            part = _ANY
        else:
            part, done = _class(path, end, text)
        parts.append(part)
    if done < size:
        parts.append(path[done:])
    return parts


def _stars(path: str, start: int, end: int, text: str, before: Sequence[_Part]) -> int:
    """What two stars or more are: a whole segment, or one star among others."""
    if end < len(path) and path[end] != _SLASH:
        return _STAR
    if start == 0 or path[start - 1] == _SLASH:
        return _TAIL if end == len(path) else _DEEP
    if len(before) == 1 and isinstance(before[0], str):
        stars = shown(path[path.rfind(_SLASH, 0, start) + 1 : start] + "*")
        raise _refused(text, f"ends a name in '**', which git reads in two ways: write {stars}, or '/**' after it")
    return _STAR


def _class(path: str, at: int, text: str) -> tuple[int, int]:
    """The class whose `[` stands just before `at`: its bytes, and where it ends."""
    start = at - 1
    negated = path[at : at + 1] in ("!", "^")
    at += negated
    segment_end = path.find(_SLASH, start)
    if segment_end < 0:
        segment_end = len(path)
    close = path.find("]", at + 1, segment_end)  # a `]` that comes first is a member
    if close < 0:
        clue = "it has no ']', and none holds '/'; a '[' of a name is written '[[]'"
        raise _refused(text, f"leaves the class {shown(path[start:segment_end])} open: {clue}")
    body, written = path[at:close], shown(path[start : close + 1])
    if not body.isascii():
        raise _refused(text, f"has other than ASCII in {written}, where git compares single bytes: write '*' for it")
    if "[:" in body:
        raise _refused(text, f"names a class of characters in {written}: write them out, such as [A-Za-z]")
    found = low = at = 0
    while at < len(body):
        if body[at] == "-" and low and at + 1 < len(body):
            high = ord(body[at + 1])
            if high < low:
                raise _refused(text, f"has a range that runs backwards in {written}: put the lower end first")
            found |= (2 << high) - (1 << low)
            low = 0
            at += 2
        else:
            low = ord(body[at])
            found |= 1 << low
            at += 1
    return (_ANY & ~found if negated else _ANY & found), close + 1


# folding


def fold(text: str) -> str:
    """Each character by itself: case folded in full and decomposed. No `/` comes or goes."""
    if text.isascii():
        return text.lower()
    folded = text.casefold()
    if unicodedata.is_normalized("NFD", folded):
        return folded
    # a NUL, which no path holds, keeps marks from changing places with those of the character before
    return unicodedata.normalize("NFD", "\0".join(text).casefold()).replace("\0", "")


def _folded(parts: Iterable[_Part]) -> list[_Part]:
    """Parts that match at least the folded form of each path that `parts` match."""
    folded: list[_Part] = []
    loose: list[int] = []  # neighbours that together may match a letter of several bytes
    for part in (*parts, ""):
        if isinstance(part, int) and (part == _STAR or part > _ASCII):
            loose.append(part)
            continue
        if len(loose) > 1:
            loose = [_ANY, _STAR] if any(part > 0 for part in loose) else [_STAR]
        folded += [part if part < 0 else _lowered(part) for part in loose]
        loose = []
        folded.append(fold(part) if isinstance(part, str) else part if part < 0 else _lowered(part))
    return folded[:-1]


def _lowered(bytes_: int) -> int:
    """A class and the small letters of its capitals."""
    return bytes_ | (bytes_ & _CAPITALS) << 32


# patterns


class Pattern:
    """One compiled pattern. path: its normal form. folded: its file system ignores case.

    prefix, suffix: text that the folded form of all it matches begins and ends with, a filter for `ScopeIndex`.
    spelt: for a pattern with classes only, the same text taken as it is spelt, which it covers too.
    """

    __slots__ = ("_exact", "_loose", "_parts", "folded", "is_literal", "path", "prefix", "spelt", "suffix")

    def __init__(self, path: str, parts: Sequence[_Part], *, folded: bool) -> None:
        self.path = path
        self.folded = folded
        self._parts = parts
        first, last = parts[0], parts[-1]
        self.is_literal = len(parts) == 1 and isinstance(first, str)
        covers_below = self.is_literal or not ("*" in path or "?" in path)
        self.spelt = Pattern(path, (path,), folded=folded) if covers_below and not self.is_literal else None
        self.prefix = _octets(fold(first)) if isinstance(first, str) else ""
        self.suffix = _octets(fold(last)) if isinstance(last, str) and not covers_below else ""
        self._exact: _Chain | None = None
        self._loose: _Chain | None = None

    def __repr__(self) -> str:
        return f"Pattern({self.path!r}, folded={self.folded})"

    def chain(self, *, folded: bool) -> "_Chain":
        """Its states, made when first asked for."""
        found = self._loose if folded else self._exact
        if found is None:
            if self.is_literal:
                found = _Chain([self.prefix if folded else _octets(self.path), _BELOW, _TAIL])
            else:
                found = _Chain(_joined(_folded(self._parts) if folded else self._parts))
            if folded:
                self._loose = found
            else:
                self._exact = found
        return found


@lru_cache(maxsize=16_384)
def compile_pattern(path: str, *, folded: bool = False) -> Pattern:
    """The pattern of a normal path; the same object again while it is remembered."""
    return Pattern(path, _parts(path, path), folded=folded)


def overlaps(a: Pattern, b: Pattern) -> bool:
    """True if and only if some path matches both; compared folded when either is."""
    ours, theirs = a.prefix, b.prefix
    if not (ours.startswith(theirs) or theirs.startswith(ours)):
        return False
    ours, theirs = a.suffix, b.suffix
    if not (ours.endswith(theirs) or theirs.endswith(ours)):
        return False
    folded = a.folded or b.folded
    if a.is_literal and b.is_literal:
        ours, theirs = (a.prefix, b.prefix) if folded else (a.path, b.path)
        return ours == theirs or ours.startswith(theirs + "/") or theirs.startswith(ours + "/")
    return (
        _meet(a.chain(folded=folded), b.chain(folded=folded))
        or (a.spelt is not None and overlaps(a.spelt, b))
        or (b.spelt is not None and overlaps(a, b.spelt))
    )


def covers(pattern: Pattern, path: str) -> bool:
    """True when the pattern matches this file; `path` is normal (`normal_file`) and every character of it ordinary."""
    seen = fold(path) if pattern.folded else path
    literal = pattern if pattern.is_literal else pattern.spelt
    if literal is not None:
        text = fold(literal.path) if pattern.folded else literal.path
        if seen == text or seen.startswith(text + "/"):
            return True
    return not pattern.is_literal and _reaches_end(pattern.chain(folded=pattern.folded), (_octets(seen),), 0)


def _octets(text: str) -> str:
    """A character for each byte of UTF-8."""
    return text if text.isascii() else text.encode().decode("latin-1")


def _joined(parts: Iterable[_Part]) -> list[_Part]:
    """Parts with a character for each byte, and no `**/` before another or before the `/**` at the end."""
    joined: list[_Part] = []
    for part in parts:
        if isinstance(part, str):
            joined.append(_octets(part))
        elif part in (_DEEP, _TAIL) and joined and joined[-1] == _DEEP:
            joined[-1] = part
        else:
            joined.append(part)
    return joined


# the machine


class _Steps(dict[str, int]):
    """Which states of a chain go on to the next with a byte; found when first asked for."""

    __slots__ = ("_backwards", "_classes", "_planes", "_text")

    def __init__(self, text: str, classes: Mapping[int, int]) -> None:
        """text: a byte for each state, a NUL for those with a class. classes: the states of each class."""
        super().__init__()
        self._text = text
        self._classes = classes
        self._backwards = b""
        self._planes: list[tuple[int, int]] = []

    def __missing__(self, byte: str) -> int:
        text = self._text
        code = ord(byte)
        if len(text) > _LONG:
            found = self._sliced(code) if len(self) > _MANY else self._where(_table(1 << code))
        else:
            found = 0
            at = text.find(byte)
            while at >= 0:
                found |= 1 << at
                at = text.find(byte, at + 1)
        for members, bits in self._classes.items():
            if members >> code & 1:
                found |= bits
        self[byte] = found
        return found

    def some_of(self, members: int) -> int:
        """The states that go on with some byte of a class."""
        found = self._where(_table(members))
        for others, bits in self._classes.items():
            if members & others:
                found |= bits
        return found

    def _where(self, table: bytes) -> int:
        """The states whose byte is a `1` in this table: each becomes a binary digit, and they are read in one go."""
        if not self._backwards:
            self._backwards = self._text.encode("latin-1")[::-1]
        return int(self._backwards.translate(table) or b"0", 2)

    def _sliced(self, code: int) -> int:
        """The states with this byte, where many are asked for: those that agree with it in each of its bits."""
        if not self._planes:
            everywhere = (1 << len(self._text)) - 1
            self._planes = [(everywhere ^ ones, ones) for ones in map(self._where, _WITH_BIT)]
        found = -1
        for plane in self._planes:
            found &= plane[code & 1]
            code >>= 1
        return found


def _table(members: int) -> bytes:
    """A `1` for each byte of a class, a `0` for the others."""
    return f"{members:0256b}".encode()[::-1]


_LONG: Final = 64
"""In a text of up to so many bytes, places are found one after the other."""
_MANY: Final = 5
"""From so many bytes on, those with a bit are found first, for each of the eight bits."""
_WITH_BIT: Final = [_table(sum(1 << code for code in range(256) if code >> bit & 1)) for bit in range(8)]


class _Chain:
    """The states of a pattern: state `i` stands before the byte or class number `i`, the last one after the final one.

    Each integer holds a bit for each state. steps: which go on to the next with a byte. named: which do with some byte
    but `/`. stars: which stay with any such byte. deep: which stay for whole segments. starts: which a `/` leads to.
    tail: which take whatever comes. accepting: which may be the last.
    """

    __slots__ = (
        "accepting",
        "deep",
        "has_stars",
        "is_ready",
        "literal",
        "named",
        "parts",
        "size",
        "stars",
        "starts",
        "steps",
        "tail",
    )

    def __init__(self, parts: list[_Part]) -> None:
        self.parts = parts
        first = parts[0]
        self.literal = first if isinstance(first, str) else ""
        self.size = sum([len(part) if isinstance(part, str) else 1 for part in parts])
        self.has_stars = _STAR in parts
        self.is_ready = False

    def get_ready(self) -> None:
        """Build the bits, which a chain needs only when it is the one that stands still."""
        self.is_ready = True
        text = ""
        classes: dict[int, int] = {}
        stars = deep = below = tail = 0
        for part in self.parts:
            if isinstance(part, str):
                text += part
                continue
            bit = 1 << len(text)
            if part >= 0:
                classes[part] = classes.get(part, 0) | bit
                text += "\0"
            elif part == _STAR:
                stars |= bit
            elif part == _DEEP:
                deep |= bit
            elif part == _BELOW:
                below = bit
                text += _SLASH
            else:
                tail = bit
        end = 1 << len(text)
        self.steps = steps = _Steps(text, classes)
        slashes = steps[_SLASH]
        self.named = end - 1 ^ slashes
        self.starts = slashes << 1 | tail
        self.accepting = below or end
        self.stars, self.deep, self.tail = stars, deep, tail


def _meet(a: _Chain, b: _Chain) -> bool:
    """True when some path leads to the end of both."""
    ours, theirs = a.literal, b.literal
    if not (ours.startswith(theirs) or theirs.startswith(ours)):
        return False
    start = min(len(ours), len(theirs))
    # what it costs to walk one of them, and for the other to get ready; each byte costs more where there are stars
    cost_of_a = a.size * (2 + b.has_stars) + (0 if b.is_ready else b.size)
    cost_of_b = b.size * (2 + a.has_stars) + (0 if a.is_ready else a.size)
    return _reaches_end(b, a.parts, start) if cost_of_a < cost_of_b else _reaches_end(a, b.parts, start)


def _reaches_end(chain: _Chain, parts: Sequence[_Part], start: int) -> bool:
    """True when some path matches both; they are alike before `start`, which is in the first part.

    `here` holds the states of the chain that are possible before the next byte; `inside` those of its `**/` that are
    in the middle of a segment. Nothing leads backwards, so each byte is looked at once: a star adds every state up to
    the next `/`, `**/` every later state that a `/` leads to. That a star may be nothing makes no path with an empty
    name count: where one does, the star may as well be something. Every state of either leads to its end, so what
    takes whatever comes decides.
    """
    if not chain.is_ready:
        chain.get_ready()
    steps, deep, stars, tail, named = chain.steps, chain.deep, chain.stars, chain.tail, chain.named
    here, inside = 1 << start, 0
    for part in parts:
        if here & tail:
            return True
        if isinstance(part, str):
            names = (part[start:] if start else part).split(_SLASH)
            start = 0
            for number, name in enumerate(names):
                if number:
                    here = (here & steps[_SLASH]) << 1 | inside
                    inside = 0
                    if here & tail:
                        return True
                if name:
                    inside |= here & deep
                    here = _after(here, map(steps.__getitem__, name), stars)
                if not (here or inside):
                    return False
        elif part >= 0:
            inside |= here & deep
            here = (here & (named if part == _ANY else steps.some_of(part))) << 1 | here & stars
        elif part == _STAR:
            inside |= here & deep
            here |= ((here & named) + named) ^ named  # the carry runs through each block of named states
        elif part == _DEEP:
            assert not inside, "both stand at the start of a segment"
            here |= chain.starts & -((here & -here) << 1)
        elif part == _BELOW:
            return bool(inside or here & (chain.accepting | steps[_SLASH]))
        else:
            return True
        if not (here or inside):
            return False
    return bool(here & (chain.accepting | tail))


def _after(here: int, name: Iterable[int], stars: int) -> int:
    """The states after the bytes of a name; each comes as the states that go on with it."""
    if stars:
        for bits in name:
            here = (here & bits) << 1 | here & stars
    else:
        for bits in name:
            here = (here & bits) << 1
            if not here:
                break
    return here
