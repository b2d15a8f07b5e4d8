"""The relay's form: what `ingest` prints, in lines that cost a reader less, and back to exactly the same.

A file is lines of JSON. The first is its header, an object. Then each line is an array that begins with

    0, 1, 2 …   a happening of that shape: the values of the fields that the shape does not fix, in its order
    "="         a new shape, numbered from 0: [field, coding] each, or [field, "=", value] for what it fixes
    "+"         new names, numbered from 0
    "raw"       a happening as it is
    "at"        nothing to tell up to here: how far behind the last position
    "lost"      two cursors: what happened between them is not in this relay
    "end"       this file is complete; the next one goes on

    c  cursor: how far behind the last one          t  milliseconds since the last time
    r  milliseconds after this line's time          q  how far before this line's cursor: an epoch, a version
    i  as q, of a message id                        n  a name by its number, or a text as it is
    N  a list of these                              v  the value as it is

Rule 1: what decodes must be what was encoded, to the letter and in its order, whatever it is. Rule 2: each file stands
for itself. On the fast path: standard library only.
"""

from synapse.errors import SynapseError
from synapse.lean import dumps, loads

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias, TypeGuard

    Json: TypeAlias = dict[str, object]
    Flags: TypeAlias = dict[str, list[str]]
    Field: TypeAlias = tuple[str, str, object]
    Shape: TypeAlias = tuple[Field, ...]

VERSION = 1
NAMES_MAX = 4_096
SHAPES_MAX = 512
ONCE_MAX = 16_384
NAME_CHARS_MAX = 200
HOW = (
    'a line [N, values] is a happening of shape N; ["=", fields] is the next shape, ["+", names] the next names; '
    "c: cursor, after the last; t: at_ms, after the last; r: ms after at_ms; q, i: before the cursor; n, N: number of "
    'a name; v: as it is; ["lost", from, to]: not in here'
)
"""For a reader that sees nothing but the file."""
TEXTS = frozenset({"body", "text", "subject", "title", "description", "note", "value", "data"})
"""Fields whose texts stay where they are, however often they come."""
FIXED = frozenset({"kind", "priority", "mode", "status", "previous", "reason", "type", "agent_kind", "resource_kind"})
"""Fields with few words: each is fixed in a shape."""
_NEAR = 10**9
_NEAR_MS = 10**11


class RelayBroken(SynapseError):
    """A relay file holds a line that is none; it says which. Exit 1."""


class Header:
    """The first line of a file. number: from 1, one more for each file. journal: whose cursors these are.

    began: the cursor at which the relay began; begins: this file. at_ms: its times go from here. ended: the cursor at
    which the file before ended, None for the first. of: the flags that say what is mirrored, and for whom; None in
    files of earlier writers.
    """

    __slots__ = ("at_ms", "began", "begins", "ended", "journal", "number", "of")

    def __init__(
        self, number: int, began: str, begins: str, at_ms: int, ended: str | None, of: "Flags | None" = None
    ) -> None:
        self.number = number
        self.journal = begins.partition(":")[0]
        self.began = began
        self.begins = begins
        self.at_ms = at_ms
        self.ended = ended
        self.of = of

    def text(self) -> str:
        """The line."""
        said: Json = {"relay": VERSION, "file": self.number, "began": self.began, "from": self.begins}
        of = {} if self.of is None else {"of": self.of}
        return dumps({**said, "at_ms": self.at_ms, "before": self.ended, **of, "how": HOW})


def header_of(line: str) -> Header:
    """The first line of a file. Raises `RelayBroken`."""
    found = _loads(line)
    if not isinstance(found, dict) or "relay" not in found:
        raise RelayBroken("it does not begin as a relay file")
    if found["relay"] != VERSION:
        raise RelayBroken(f"it is of version {found['relay']}, and this release reads version {VERSION}")
    number, began, begins = found.get("file"), found.get("began"), found.get("from")
    at_ms, ended, of = found.get("at_ms"), found.get("before"), found.get("of")
    if not (isinstance(number, int) and isinstance(at_ms, int) and isinstance(ended, str | None) and _is_of(of)):
        raise RelayBroken("its header is none")
    split(began)
    split(begins)
    return Header(number, str(began), str(begins), at_ms, ended, of)


def _is_of(value: object) -> "TypeGuard[Flags | None]":
    if not isinstance(value, dict):
        return value is None
    return all(isinstance(given, list) and all(isinstance(one, str) for one in given) for given in value.values())


def split(cursor: object) -> tuple[str, int]:
    """The journal and the seq of a cursor. Raises `RelayBroken` for what is none."""
    journal, _, digits = cursor.partition(":") if isinstance(cursor, str) else ("", "", "")
    if not _is_canonical(digits):
        raise RelayBroken(f"{cursor!a} is no cursor: journal_id:seq")
    return journal, int(digits)


def _is_canonical(digits: str) -> bool:
    """True for a number as `str` writes it."""
    return digits.isascii() and digits.isdecimal() and len(digits) <= 16 and (digits[0] != "0" or digits == "0")


def _loads(line: str) -> object:
    try:
        return loads(line)
    except (ValueError, RecursionError) as error:
        raise RelayBroken(f"it is no JSON: {error}") from error


class Reading:
    """What both sides know of a file at one line: where they are, its names, its shapes."""

    __slots__ = ("at_ms", "journal", "names", "seq", "shapes")

    def __init__(self, header: Header) -> None:
        self.journal = header.journal
        self.seq = split(header.begins)[1]
        self.at_ms = header.at_ms
        self.names: list[str] = []
        self.shapes: list[Shape] = []

    def pass_by(self, happening: "Json") -> None:
        """A happening came as it is: it moves the position, where it has one of this journal."""
        cursor = happening.get("cursor")
        journal, _, digits = cursor.partition(":") if isinstance(cursor, str) else ("", "", "")
        if journal == self.journal and _is_canonical(digits):
            self.seq = int(digits)


# Writing.


class Encoder:
    """Turns happenings into lines of one file, from its header on, or from where a `Decoder` stopped."""

    def __init__(self, at: Reading) -> None:
        self._at = at
        self._name_ids = {name: number for number, name in enumerate(at.names)}
        self._shape_ids = {dumps(shape): number for number, shape in enumerate(at.shapes)}
        self._once: set[str] = set()

    @property
    def at_ms(self) -> int:
        """The time of the last happening."""
        return self._at.at_ms

    def lines(self, happening: "Json") -> str:
        """The line of a happening, behind those that it needs; each with its newline."""
        before: list[str] = []
        shape: list[Field] = []
        values: list[object] = []
        at = self._at
        seq, at_ms = at.seq, at.at_ms
        for key, value in happening.items():
            coding = self._coding(key, value)
            shape.append((key, coding, value if coding == "=" else None))
            if coding != "=":
                values.append(self._coded(coding, value, before))
        name = dumps(shape)
        number = self._shape_ids.get(name)
        if number is None:
            if len(at.shapes) >= SHAPES_MAX:
                at.seq, at.at_ms = seq, at_ms
                at.pass_by(happening)
                return "".join(before) + dumps(["raw", happening]) + "\n"
            number = self._shape_ids[name] = len(at.shapes)
            at.shapes.append(tuple(shape))
            before.append(dumps(["=", [[*field] if field[1] == "=" else [*field[:2]] for field in shape]]) + "\n")
        return "".join(before) + dumps([number, *values]) + "\n"

    def at(self, seq: int) -> str:
        """The line that says that there is nothing more up to a position."""
        passed, self._at.seq = seq - self._at.seq, seq
        return dumps(["at", passed]) + "\n"

    def lost(self, begin: str, end: str) -> str:
        """The line that says that what happened between two cursors is not there."""
        self._at.seq = split(end)[1]
        return dumps(["lost", begin, end]) + "\n"

    def _coding(self, key: str, value: object) -> str:
        at = self._at
        if value is None or value is True or value is False or value in ([], {}, ""):
            return "="
        if type(value) is int:
            if key == "at_ms":
                return "t"
            if abs(at.seq - value) < _NEAR < value:
                return "q"
            return "r" if abs(value - at.at_ms) < _NEAR_MS < value else "v"
        if isinstance(value, str):
            return self._coding_of_text(key, value)
        is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
        return "N" if is_list and key not in TEXTS else "v"

    def _coding_of_text(self, key: str, value: str) -> str:
        journal, _, digits = value.partition(":")
        if key == "cursor" and journal == self._at.journal and _is_canonical(digits):
            return "c"
        if key in FIXED and len(value) <= NAME_CHARS_MAX:
            return "="
        if key in TEXTS or len(value) > NAME_CHARS_MAX:
            return "v"
        if value[0] == "m" and _is_canonical(value[1:]) and abs(self._at.seq - int(value[1:])) < _NEAR:
            return "i"
        return "n"

    def _coded(self, coding: str, value: object, before: list[str]) -> object:
        at = self._at
        if coding == "c":
            seq = split(value)[1]
            passed, at.seq = seq - at.seq, seq
            return passed
        if coding == "t":
            assert isinstance(value, int)
            passed, at.at_ms = value - at.at_ms, value
            return passed
        if coding == "r":
            assert isinstance(value, int)
            return value - at.at_ms
        if coding == "q":
            assert isinstance(value, int)
            return at.seq - value
        if coding == "i":
            assert isinstance(value, str)
            return at.seq - int(value[1:])
        if coding == "n":
            assert isinstance(value, str)
            return self._named(value, before)
        if coding == "N":
            assert isinstance(value, list)
            return [self._named(item, before) for item in value]
        return value

    def _named(self, text: str, before: list[str]) -> object:
        """The number of a name; the text itself when it comes for the first time, or would gain nothing."""
        number = self._name_ids.get(text)
        if number is not None:
            return number
        if text not in self._once or len(self._at.names) >= NAMES_MAX or not 2 < len(text) <= NAME_CHARS_MAX:
            if len(self._once) < ONCE_MAX:
                self._once.add(text)
            return text
        number = self._name_ids[text] = len(self._at.names)
        self._at.names.append(text)
        before.append(dumps(["+", text]) + "\n")
        return number


# Reading.


class Line:
    """What a line says. kind: `happening`, `lost` (both have `value`), `end`, or nothing for who reads."""

    __slots__ = ("kind", "value")

    def __init__(self, kind: str, value: "Json | None" = None) -> None:
        self.kind = kind
        self.value = value


SILENT = Line("")
END = Line("end")


class Decoder:
    """Turns the lines of one file back."""

    def __init__(self, header: Header) -> None:
        self.at = Reading(header)

    @property
    def position(self) -> str:
        """The cursor up to which the file tells everything."""
        return f"{self.at.journal}:{self.at.seq}"

    def read(self, text: str) -> Line:
        """One line behind the header. Raises `RelayBroken`."""
        found = _loads(text)
        if not isinstance(found, list) or not found:
            raise RelayBroken("it is no array")
        try:
            return self._line(found[0], found[1:])
        except (IndexError, TypeError, ValueError, KeyError) as error:
            raise RelayBroken(f"it does not fit what came before ({error})") from error

    def _line(self, first: object, rest: list[object]) -> Line:
        at = self.at
        if type(first) is int and first >= 0:
            return Line("happening", self._happening(at.shapes[first], rest))
        if first == "=":
            at.shapes.append(_shape(rest[0]))
            return SILENT
        if first == "+":
            at.names.extend(name for name in rest if isinstance(name, str))
            return SILENT
        if first == "raw":
            happening = rest[0]
            if not isinstance(happening, dict):
                raise RelayBroken("it is no happening")
            at.pass_by(happening)
            return Line("happening", happening)
        if first == "at":
            at.seq += _whole(rest[0])
            return SILENT
        if first == "lost":
            begin, end = split(rest[0]), split(rest[1])
            at.seq = end[1]
            return Line("lost", {"lost": {"from": f"{begin[0]}:{begin[1]}", "to": f"{end[0]}:{end[1]}"}})
        if first == "end":
            return END
        raise RelayBroken(f"it begins with {first!a}")

    def _happening(self, shape: "Shape", values: list[object]) -> "Json":
        found: Json = {}
        left = iter(values)
        for key, coding, fixed in shape:
            found[key] = fixed if coding == "=" else self._value(coding, next(left, None))
        if next(left, self) is not self or len(values) != sum(field[1] != "=" for field in shape):
            raise RelayBroken("it has another number of values than its shape")
        return found

    def _value(self, coding: str, value: object) -> object:
        at = self.at
        if coding == "v":
            return value
        if coding == "n":
            return self._name(value)
        if coding == "N":
            return [self._name(item) for item in _items(value)]
        number = _whole(value)
        if coding == "c":
            at.seq += number
            return f"{at.journal}:{at.seq}"
        if coding == "t":
            at.at_ms += number
            return at.at_ms
        return {"r": at.at_ms + number, "q": at.seq - number, "i": f"m{at.seq - number}"}[coding]

    def _name(self, value: object) -> str:
        if isinstance(value, str):
            return value
        number = _whole(value)
        if number < 0:
            raise RelayBroken("it names nothing")
        return self.at.names[number]


def _shape(fields: object) -> "Shape":
    found: list[Field] = []
    for field in _items(fields):
        name, coding, *fixed = _items(field)
        if not isinstance(name, str) or coding not in ("=", "c", "t", "r", "q", "i", "n", "N", "v"):
            raise RelayBroken("it is no shape")
        found.append((name, str(coding), fixed[0] if fixed else None))
    return tuple(found)


def _items(value: object) -> list[object]:
    if not isinstance(value, list):
        raise RelayBroken("it is no list")
    return value


def _whole(value: object) -> int:
    if type(value) is not int:
        raise RelayBroken("it is no whole number")
    return value
