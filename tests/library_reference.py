"""docs/reference/library.md, from docstrings and types: `python -m tests.library_reference` writes it.

What is in `synapse.__all__` is on it, with all public methods; and what those give and raise.
"""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Final

import msgspec

import synapse
from synapse import errors, testing
from synapse.client import blocking, calls, client, files, leases, secrets, subscriptions
from synapse.client.trace import traced
from synapse.home import HomeRefused
from synapse.protocol import notices, replies

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "reference" / "library.md"
COMMAND: Final = "python -m tests.library_reference"
WIDTH: Final = 112
OF_THE_HUB: Final = ("frame", "write", "buffered", "hold_reading", "close", "abort")
"""The side of a `MemoryPeer` that the hub uses."""
INTRODUCTION: Final = f"""\
# The Python library

Every public name: its signature, its types, its docstring. How they belong together is told in
[The Python client](client.md). This page is generated: `{COMMAND}` writes it, and a test fails
when it is not what the source says.

All times given are seconds and all times told are milliseconds, in names that end in `_ms`; `_at_ms` is Unix time.
Durations, lengths and counts have bounds that the hub tells in `client.welcome.limits`.
"""

INNER: Final = (subscriptions.Feed, subscriptions.ResumingFeed)
FEEDS: Final[tuple[type, ...]] = tuple(
    kind
    for kind in vars(subscriptions).values()
    if isinstance(kind, type) and issubclass(kind, subscriptions.Feed) and kind not in INNER
)
FUNCTIONS: Final = (client.body_of, client.body_as, client.data_of, client.value_of, client.digest_text, traced)
ERRORS: Final = (
    errors.SynapseError,
    errors.Rejected,
    errors.PeerError,
    errors.Disconnected,
    errors.LeaseLost,
    errors.HubUnreachable,
    calls.RequestTimeout,
    calls.OutcomeUnknown,
    files.FileRefused,
    HomeRefused,
    secrets.SecretRefused,
)
KIT: Final = (testing.MemoryHub, testing.MemoryPeer, testing.ManualClock)


def page() -> str:
    """The whole page."""
    return "\n".join(lines()) + "\n"


def lines() -> Iterator[str]:
    """The page, line by line."""
    yield INTRODUCTION
    yield "## What `synapse` has"
    yield ""
    for name in sorted(set(synapse.__all__) - {"__version__"}, key=str.lower):
        yield f"- [`synapse.{name}`](#{anchor(name)}): {first_sentence(getattr(synapse, name))}"
    yield ""
    yield "## The client"
    yield from class_of(client.Client)
    yield from class_of(client.Card)
    yield from class_of(leases.Terms)
    yield from class_of(leases.HeldLease)
    yield from class_of(client.Wiring)
    for other in others():
        yield from class_of(other)
    yield "## Feeds"
    for feed in (*FEEDS, subscriptions.PresenceUpdate):
        yield from class_of(feed)
    yield "## Without asyncio"
    yield from function(blocking.connect, "connect")
    yield from class_of(blocking.BlockingClient)
    yield from class_of(blocking.BlockingLease)
    yield from class_of(blocking.BlockingFeed)
    yield "## Functions"
    for found in FUNCTIONS:
        yield from function(found, found.__name__)
    yield "## Errors"
    yield ""
    yield "```text"
    yield from tree(errors.SynapseError, ERRORS, 0)
    yield "```"
    for error in ERRORS:
        yield from class_of(error)
    yield "## What the hub says unasked"
    for name, notice in sorted(notices.NOTICES.items()):
        yield from struct_of(notice, f"{name}: {notice.__name__}")
    yield "## What it answers"
    for reply in answers():
        yield from struct_of(reply)
    yield "## For tests: `synapse.testing`"
    yield ""
    yield from paragraphs(inspect.getdoc(testing) or "")
    for part in KIT:
        yield from class_of(part)


def others() -> list[type]:
    """Classes among the public names of `synapse` that have no place of their own on the page."""
    placed = (client.Client, client.Card, client.Terms, client.Wiring, *ERRORS)
    public = [getattr(synapse, name) for name in sorted(synapse.__all__)]
    return [found for found in public if isinstance(found, type) and found not in placed]


def answers() -> list[type[msgspec.Struct]]:
    """The replies of the protocol, and the structs in their fields, by name."""
    found: dict[str, type[msgspec.Struct]] = {}
    waiting: list[object] = list(replies.REPLY_TO.values())
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            if kind in notices.NOTICES.values() or kind in others():
                continue
            if kind.__name__ not in found:
                found[kind.__name__] = kind
                waiting += [field.type for field in msgspec.structs.fields(kind)]
        else:
            waiting += getattr(kind, "__args__", ())
    return [found[name] for name in sorted(found)]


def anchor(title: str) -> str:
    """The anchor of a heading that is one name."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def first_sentence(thing: object) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s", text, maxsplit=1)[0].rstrip(":") if text else ""


def paragraphs(doc: str) -> Iterator[str]:
    """A docstring as Markdown; what it indents is code."""
    code: list[str] = []
    for line in [*doc.split("\n"), ""]:
        if line.startswith("    ") or (code and not line):
            code.append(line[4:])
            continue
        if code:
            yield from ("```text", *"\n".join(code).rstrip("\n").split("\n"), "```", "")
            code = []
        yield line
    if code:
        yield from ("```text", *"\n".join(code).rstrip("\n").split("\n"), "```", "")


def class_of(kind: type) -> Iterator[str]:
    """A class: how it is made, what it says of itself, its properties and methods."""
    if issubclass(kind, msgspec.Struct):
        yield from struct_of(kind)
        return
    yield ""
    yield f"### `{kind.__name__}`"
    yield ""
    init = vars(kind).get("__init__")
    if isinstance(init, FunctionType) and is_made_by_hand(kind):
        yield from signature(kind.__name__, init)
    yield from paragraphs(inspect.getdoc(kind) or "")
    if isinstance(init, FunctionType) and init.__doc__ and is_made_by_hand(kind):
        yield from paragraphs(inspect.getdoc(init) or "")
    if issubclass(kind, subscriptions.ResumingFeed):
        yield from paragraphs(inspect.getdoc(subscriptions.ResumingFeed) or "")
    for name in ("__aenter__", "__anext__") if issubclass(kind, subscriptions.Feed) else ():
        yield f"{'Entering' if name == '__aenter__' else 'Iterating'}: {inspect.getdoc(getattr(kind, name))}"
        yield ""
    same = [name for name, member in members(kind) if hasattr(member, "__wrapped__")]
    if same:
        yield f"As those of `Client`, but each blocks until it is answered, and is iterated plainly: {listed(same)}."
        yield ""
    for name, member in members(kind):
        if name in same:
            continue
        if isinstance(member, property):
            assert member.fget is not None
            yield f"#### `{kind.__name__}.{name}`"
            yield ""
            yield f"Attribute, `{type_of(inspect.signature(member.fget).return_annotation)}`."
            yield ""
            yield from paragraphs(inspect.getdoc(member) or "")
        else:
            yield f"#### `{kind.__name__}.{name}()`"
            yield ""
            yield from signature(name, member)
            yield from paragraphs(inspect.getdoc(member) or "")


def listed(names: list[str]) -> str:
    """Names in a sentence."""
    return ", ".join(f"`{name}`" for name in names)


def is_made_by_hand(kind: type) -> bool:
    """False for what only the client makes."""
    return not issubclass(
        kind,
        leases.HeldLease
        | subscriptions.Feed
        | blocking.BlockingClient
        | blocking.BlockingLease
        | blocking.BlockingFeed
        | testing.MemoryPeer,
    )


def members(kind: type) -> Iterator[tuple[str, FunctionType | property]]:
    """Public methods and properties, of the class and of its parts, in the order in which they stand."""
    seen: set[str] = set()
    for part in (kind, *kind.__mro__[1:]):
        if not part.__module__.startswith("synapse."):
            continue
        for name, member in vars(part).items():
            if name.startswith("_") or name in seen or not isinstance(member, FunctionType | property):
                continue
            seen.add(name)
            if issubclass(kind, subscriptions.Feed) or (kind is testing.MemoryPeer and name in OF_THE_HUB):
                continue
            if part is kind or part.__module__.startswith("synapse.client"):
                yield name, member


def function(found: object, name: str) -> Iterator[str]:
    """A function."""
    assert isinstance(found, FunctionType)
    yield ""
    yield f"### `{name}`"
    yield ""
    yield from signature(name, found)
    yield from paragraphs(inspect.getdoc(found) or "")


def signature(name: str, found: FunctionType) -> Iterator[str]:
    """A signature as it is written, on several lines when it is long."""
    plain = inspect.unwrap(found)
    assert isinstance(plain, FunctionType)
    parameters = list(inspect.signature(plain).parameters.values())
    if parameters and parameters[0].name in ("self", "_self"):
        parameters = parameters[1:]
    shown: list[str] = []
    for index, parameter in enumerate(parameters):
        is_keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
        had_star = any(p.kind in (p.VAR_POSITIONAL, p.KEYWORD_ONLY) for p in parameters[:index])
        if is_keyword and not had_star:
            shown.append("*")
        shown.append(argument(parameter))
    result = "" if name[:1].isupper() else f" -> {type_of(inspect.signature(plain).return_annotation)}"
    start = "async def " if inspect.iscoroutinefunction(found) else "" if name[:1].isupper() else "def "
    line = f"{start}{name}({', '.join(shown)}){result}"
    yield "```text"
    if len(line) <= WIDTH:
        yield line
    else:
        yield f"{start}{name}("
        yield from (f"    {one}," for one in shown)
        yield f"){result}"
    yield "```"
    yield ""


def argument(parameter: inspect.Parameter) -> str:
    """One parameter with its type and default."""
    stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
    default = "" if parameter.default is parameter.empty else f" = {written(parameter.default)}"
    kind = "" if parameter.annotation is parameter.empty else f": {type_of(parameter.annotation)}"
    return f"{stars}{parameter.name}{kind}{default}"


def written(value: object) -> str:
    """A default as the source has it."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def type_of(annotation: object) -> str:
    """A type as one writes it, without the modules it is from."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z_])", "", text)
    return text.replace("'", '"').replace("NoneType", "None").replace("~", "")


def struct_of(kind: type[msgspec.Struct], title: str = "") -> Iterator[str]:
    """A struct: what it says of itself, and its fields."""
    yield ""
    yield f"### `{title or kind.__name__}`"
    yield ""
    yield from paragraphs(inspect.getdoc(kind) or "")
    fields = msgspec.structs.fields(kind)
    if not fields:
        return
    yield "| field | type |"
    yield "|---|---|"
    for field in fields:
        shown = type_of(field.type).replace("| UnsetType", "or absent").replace("|", "\\|")
        yield f"| `{field.name}` | `{shown}` |"
    yield ""


def tree(kind: type, kinds: tuple[type, ...], depth: int) -> Iterator[str]:
    """The errors as a tree of their classes."""
    yield "    " * depth + kind.__name__
    for other in kinds:
        if kind in other.__bases__:
            yield from tree(other, kinds, depth + 1)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
