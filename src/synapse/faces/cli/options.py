"""Arguments to options: a small parser over a static table, because argparse costs more than a whole call may.

Common flags stand before or after the verb. `--name value` and `--name=value` are the same; `--wait` takes a value only
as `--wait=S`, and a switch the next word if that is no option: only verbs without arguments have switches. `--` ends
options, `-` alone is an argument, and so is what has a blank before any `=`. Behind the `--` of a verb that runs a
command stands that command, as it is.
"""

from synapse.errors import SynapseError

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FLAG = "flag"  # no value; True
TEXT = "text"  # one value, the last one wins
MANY = "many"  # a value each time
NUMBER = "number"  # a whole number from 1
SECONDS = "seconds"  # a duration: 90, 15m, 8h
WAIT = "wait"  # `--wait`: no end; `--wait=S`: a duration
SWITCH = "switch"  # `--flag` is yes; `--flag=no`, `--flag no`
_WITH_VALUE = (TEXT, MANY, NUMBER, SECONDS)

NO_END = float("inf")
NUMBER_MAX = 2**53 - 1
"""The largest whole number that JSON keeps exact; an epoch may come near it."""
ANY_SPAN = "from 0 to 366d"
"""What a duration may be; of some options the hub takes less."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class UsageError(SynapseError):
    """The command line is not understood. One line that names the nearest known word; exit 2."""


class Option:
    """One option. name: without its dashes. metavar: how its value is shown. key: its name in `Parsed.options`. bounds:
    of a duration, in words, for who gives one that is none."""

    __slots__ = ("bounds", "doc", "key", "kind", "metavar", "name")

    def __init__(self, name: str, kind: str, metavar: str, doc: str, *, bounds: str = ANY_SPAN) -> None:
        self.bounds = bounds
        self.name = name
        self.kind = kind
        self.metavar = metavar
        self.doc = doc
        self.key = name.replace("-", "_")

    @property
    def shown(self) -> str:
        """As `--help` and the reference write it."""
        match self.kind:
            case "flag":
                return f"--{self.name}"
            case "wait" | "switch":
                return f"--{self.name}[={self.metavar}]"
            case _:
                return f"--{self.name} {self.metavar}"


class Verb:
    """One verb: its arguments as shown, how many there may be, its own options, and one sentence.

    module: the module of this room that carries it out, in a function named like the verb. has_command: it runs what
    stands behind `--`.
    """

    __slots__ = ("arguments", "doc", "has_command", "least", "module", "most", "name", "options")

    def __init__(
        self,
        name: str,
        module: str,
        arguments: str,
        count: tuple[int, int],
        doc: str,
        *options: Option,
        has_command: bool = False,
    ) -> None:
        self.has_command = has_command
        self.name = name
        self.module = module
        self.arguments = arguments
        self.least, self.most = count
        self.doc = doc
        self.options = options


class Parsed:
    """A command line that was understood. verb: None when only `--help` or `--version` was asked for. command: what
    stands behind `--`, of a verb that runs one."""

    __slots__ = ("arguments", "command", "options", "verb")

    def __init__(self, verb: Verb | None, options: "dict[str, object]", arguments: list[str]) -> None:
        self.verb = verb
        self.options = options
        self.arguments = arguments
        self.command: list[str] = []

    def text(self, key: str) -> str | None:
        """The value of a TEXT option, or None."""
        value = self.options.get(key)
        return value if isinstance(value, str) else None

    def texts(self, key: str) -> list[str]:
        """The values of a MANY option."""
        value = self.options.get(key)
        return value if isinstance(value, list) else []

    def seconds(self, key: str) -> float | None:
        """The value of a SECONDS or WAIT option, or None."""
        value = self.options.get(key)
        return value if isinstance(value, float) else None

    def number(self, key: str, default: int) -> int:
        """The value of a NUMBER option."""
        value = self.options.get(key)
        return value if isinstance(value, int) else default

    def whole(self, key: str) -> int | None:
        """The value of a NUMBER option, or None."""
        value = self.options.get(key)
        return value if isinstance(value, int) else None

    def has(self, key: str) -> bool:
        """True when the option was given."""
        return key in self.options


def parse(arguments: "Iterable[str]", verbs: "Mapping[str, Verb]", common: "Mapping[str, Option]") -> Parsed:
    """Find the verb (one or two words of `verbs`), its options and arguments. Raises `UsageError`.

    A `--help` or `--version` anywhere before `--` is enough; then nothing else has to be right.
    """
    words = list(arguments)
    options: dict[str, object] = {}
    found: list[str] = []
    command: list[str] = []
    verb: Verb | None = None
    group = ""
    at = 0
    is_asking = not {"--help", "-h", "--version"}.isdisjoint(words[: words.index("--")] if "--" in words else words)
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--" and verb is not None and verb.has_command:
            command = words[at:]
            break
        if word == "--":
            for rest in words[at:]:
                verb, group = _positional(rest, verb, group, found, verbs)
            break
        if not _is_option(word):
            verb, group = _positional(word, verb, group, found, verbs)
            continue
        if is_asking:
            options["help" if word in ("--help", "-h") else word.lstrip("-")] = True
            at += _has_value_behind(word, words[at:], verb, common)
            continue
        option, value = _split(word, verb, common)
        if value is None and option.kind in _WITH_VALUE:
            if at == len(words) or words[at].startswith("--"):
                raise UsageError(f"{option.shown} needs a value")
            value = words[at]
            at += 1
        elif value is None and option.kind == SWITCH and at < len(words) and not _is_option(words[at]):
            value = words[at]
            at += 1
        _put(options, option, value)
    if is_asking:
        return Parsed(verb, options, [group] if group and verb is None else [])
    if verb is None:
        raise _no_verb(group, verbs)
    if not verb.least <= len(found) <= verb.most:
        raise _wrong_count(verb, found, is_wait_given=NO_END in options.values())
    for text in found:
        _require_utf8(text, "an argument")
    parsed = Parsed(verb, options, found)
    parsed.command = command
    return parsed


def _has_value_behind(word: str, rest: list[str], verb: Verb | None, common: "Mapping[str, Option]") -> bool:
    """True when the next word belongs to this one, as far as this one is an option that is known."""
    try:
        option, value = _split(word, verb, common)
    except UsageError:
        return False
    return value is None and option.kind in _WITH_VALUE and bool(rest) and not _is_option(rest[0])


def _is_option(word: str) -> bool:
    if not word.startswith("-") or word == "-":
        return False
    name = word.partition("=")[0]
    return not any(char.isspace() for char in name)


def _positional(
    word: str, verb: Verb | None, group: str, found: list[str], verbs: "Mapping[str, Verb]"
) -> tuple[Verb | None, str]:
    """Take one word that is no option: a verb's first or second word, or an argument."""
    if verb is not None and not found and f"{verb.name} {word}" in verbs:
        return verbs[f"{verb.name} {word}"], group
    if verb is not None:
        found.append(word)
        return verb, group
    name = f"{group} {word}" if group else word
    if name in verbs:
        return verbs[name], ""
    if not group and any(known.startswith(f"{word} ") for known in verbs):
        return None, word
    near = _nearest(name, [*verbs, *{known.split()[0] for known in verbs}])
    raise UsageError(f"there is no verb {name!a}{near}; synapse --help lists them")


def _split(word: str, verb: Verb | None, common: "Mapping[str, Option]") -> tuple[Option, str | None]:
    """The option a word names, and the value behind its `=`."""
    name, equals, value = word.partition("=")
    own = verb.options if verb is not None else ()
    if name.startswith("--"):
        for option in own:
            if option.name == name[2:]:
                return option, value if equals else None
        if name[2:] in common:
            return common[name[2:]], value if equals else None
    near = _nearest(name, [f"--{option.name}" for option in (*own, *common.values())])
    where = f"synapse {verb.name} has no" if verb is not None else "before the verb there is no"
    raise UsageError(f"{where} option {name!a}{near} (a text that begins with - goes behind --)")


def _put(options: dict[str, object], option: Option, value: str | None) -> None:
    """Check a value and keep it."""
    if value is not None:
        _require_utf8(value, f"the value of --{option.name}")
    match option.kind, value:
        case ("flag", None):
            options[option.key] = True
        case ("flag", _):
            raise UsageError(f"--{option.name} takes no value")
        case ("wait", None):
            options[option.key] = NO_END
        case ("switch", None):
            options[option.key] = "yes"
        case ("many", str()):
            kept = options.setdefault(option.key, [])
            assert isinstance(kept, list)
            kept.append(value)
        case ("number", str()):
            options[option.key] = whole_number(value, f"--{option.name}")
        case ("seconds" | "wait", str()):
            options[option.key] = duration(value, f"--{option.name}", option.bounds)
        case _:
            options[option.key] = value


def whole_number(text: str, place: str, least: int = 1) -> int:
    """A whole number that JSON keeps exact. Raises `UsageError` that names `place`."""
    if not text.isascii() or not text.isdecimal() or len(text) > 16 or not least <= int(text) <= NUMBER_MAX:
        raise UsageError(f"{place} takes a whole number from {least}, not {text!a}")
    return int(text)


def required(text: str, key: str) -> str:
    """The value of an option that cannot be empty. Raises `UsageError`."""
    if not text:
        raise UsageError(f"--{key.replace('_', '-')} needs a value: is a variable not set?")
    return text


def duration(text: str, place: str, bounds: str = ANY_SPAN) -> float:
    """Seconds of `90`, `1.5`, `15m`, `8h`, `2d`, `500ms`. Raises `UsageError` that names `place` and the bounds."""
    unit = text.lstrip("0123456789.")
    digits = text[: len(text) - len(unit)]
    if (unit in _UNITS or not unit) and text.isascii() and digits.count(".") <= 1 and digits.strip("."):
        seconds = float(digits) * _UNITS.get(unit, 1.0)
        if seconds <= 366 * 86400:
            return seconds
    raise UsageError(f"{place} takes a duration such as 90, 15m or 8h, {bounds}, not {text!a}")


def _require_utf8(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} is not UTF-8: {text!a}") from None


def _no_verb(group: str, verbs: "Mapping[str, Verb]") -> UsageError:
    if group:
        known = [name.split()[1] for name in verbs if name.startswith(f"{group} ")]
        return UsageError(f"synapse {group} what? {', '.join(known)}")
    return UsageError("which verb? synapse --help lists them")


def _wrong_count(verb: Verb, found: list[str], *, is_wait_given: bool) -> UsageError:
    wanted = f"synapse {verb.name} {verb.arguments}".rstrip()
    if len(found) < verb.least:
        return UsageError(f"something is missing: {wanted}")
    surplus = found[verb.most]
    if is_wait_given:
        how = f"--wait takes its value as --wait={surplus}"
        return UsageError(f"{surplus!a} is one argument too many: {wanted} ({how})")
    hint = " (put a text with blanks in quotes)" if "TEXT" in verb.arguments else ""
    return UsageError(f"{surplus!a} is one argument too many: {wanted}{hint}")


def _nearest(word: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(word, known, 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""
