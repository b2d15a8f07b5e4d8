"""What `--help` says, from the table of verbs."""

from synapse.faces.cli.options import Option, Verb
from synapse.faces.cli.verbs import COMMON, VERBS


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
