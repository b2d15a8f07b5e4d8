"""What `--help` says, from the table of verbs."""

from synapse.faces.cli.options import Option, Verb
from synapse.faces.cli.verbs import COMMON, VERBS

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterator


def overview(group: str = "") -> str:
    """All verbs, or those of one group."""
    verbs = [verb for verb in VERBS.values() if not group or verb.name.startswith(f"{group} ")]
    lines = [f"usage: synapse {group + ' ' if group else ''}VERB [OPTION …] [ARGUMENT …]", ""]
    width = max(len(_call(verb)) for verb in verbs)
    lines += [f"  {_call(verb).ljust(width)}  {verb.doc}" for verb in verbs]
    lines += ["", "options of every verb, before it or behind it:", *_options(tuple(COMMON.values()))]
    lines += [
        "",
        "synapse VERB --help says more. Two terminals: synapse listen, synapse send hello; after synapse hub.",
    ]
    return "\n".join(lines)


def usage(verb: Verb) -> str:
    """One verb with its options."""
    lines = [f"usage: synapse {_call(verb)}{' [OPTION …]' if verb.options else ''}", "", verb.doc]
    if verb.options:
        lines += ["", *_options(verb.options)]
    return "\n".join([*lines, "", "options of every verb:", *_options(tuple(COMMON.values()))])


def _call(verb: Verb) -> str:
    return f"{verb.name} {verb.arguments}".rstrip()


def _options(options: tuple[Option, ...]) -> list[str]:
    width = max(len(option.shown) for option in options)
    return [f"  {option.shown.ljust(width)}  {option.doc}" for option in options]


def reference_lines() -> "Iterator[str]":
    """The tables of docs/reference/cli.md, generated."""
    yield "## Options of every verb"
    yield ""
    yield from _option_rows(tuple(COMMON.values()))
    yield ""
    yield "## Verbs"
    for verb in VERBS.values():
        yield ""
        yield f"### `synapse {_call(verb)}`"
        yield ""
        yield verb.doc
        if verb.options:
            yield ""
            yield from _option_rows(verb.options)


def _option_rows(options: tuple[Option, ...]) -> "Iterator[str]":
    yield "| option | meaning |"
    yield "|---|---|"
    for option in options:
        yield f"| `{option.shown}` | {option.doc} |"
