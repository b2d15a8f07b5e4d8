"""`completions`: scripts for bash, zsh and fish, from the table of verbs. Static: completing starts no process."""

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.options import FLAG, SWITCH, WAIT, Option, UsageError
from synapse.faces.cli.verbs import COMMON, VERBS

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterator

SHELLS = ("bash", "zsh", "fish")

_BASH = """\
# bash completion of synapse: synapse completions bash > ~/.local/share/bash-completion/completions/synapse
_synapse() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} first= second= word at
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${{COMP_WORDS[at]}}
        case $word in
            --) COMPREPLY=(); return ;;
            {with_value}) ((at++)) ;;
            -*) ;;
            *) if [[ -z $first ]]; then first=$word; elif [[ -z $second ]]; then second=$word; fi ;;
        esac
    done
    local words="{common}"
    case "$first $second" in
{cases}
    esac
    COMPREPLY=()
    for word in $words; do
        if [[ $word == "$current"* && ($current == -* || $word != -*) ]]; then COMPREPLY+=("$word"); fi
    done
}}
complete -o default -F _synapse synapse
"""

_ZSH = """\
#compdef synapse
# zsh completion of synapse: synapse completions zsh > "${{fpath[1]}}/_synapse"
_synapse() {{
    local first= second= word at
    for ((at = 2; at < CURRENT; at++)); do
        word=$words[at]
        case $word in
            --) _normal; return ;;
            {with_value}) ((at++)) ;;
            -*) ;;
            *) if [[ -z $first ]]; then first=$word; elif [[ -z $second ]]; then second=$word; fi ;;
        esac
    done
    local -a found
    found=({common})
    case "$first $second" in
{cases}
    esac
    if [[ $words[CURRENT] != -* ]]; then found=(${{found:#--*}}); fi
    compadd -a found
    if (( $#found == 0 )) && [[ -n $first ]]; then _files; fi
}}
_synapse "$@"
"""


def completions(call: Call) -> int:
    """Print the script for one shell."""
    shell = call.parsed.arguments[0]
    if shell not in SHELLS:
        raise UsageError(f"{shell!a} is no shell that is known here: {', '.join(SHELLS)}")
    text = script(shell)
    call.show({"shell": shell, "text": text, "cursor": None}, text.rstrip("\n"))
    return EXIT_OK


def script(shell: str) -> str:
    """The whole script. shell: one of `SHELLS`."""
    if shell == "fish":
        return "\n".join(_fish()) + "\n"
    options = [*COMMON.values(), *(option for verb in VERBS.values() for option in verb.options)]
    with_value = sorted({f"--{option.name}" for option in options if _takes_word(option)})
    common = " ".join(f"--{name}" for name in COMMON)
    template, variable, quote = (_BASH, "words", '"') if shell == "bash" else (_ZSH, "found", "")
    cases = []
    for pattern, words in _cases():
        more = f'"$words {words}"' if quote else f"($found {words})"
        cases.append(f'        "{pattern[0]}"{pattern[1]}) {variable}={more} ;;')
    return template.format(with_value="|".join(with_value), common=common, cases="\n".join(cases))


def _takes_word(option: Option) -> bool:
    return option.kind not in (FLAG, WAIT, SWITCH)


def _cases() -> "Iterator[tuple[tuple[str, str], str]]":
    """What may come behind the first two words: a shell pattern in two parts, and words."""
    groups: dict[str, list[str]] = {}
    for name in VERBS:
        first, _, second = name.partition(" ")
        groups.setdefault(first, []).append(second)
    yield (" ", ""), " ".join(groups)
    for first, seconds in groups.items():
        if seconds != [""]:
            yield (f"{first} ", ""), " ".join(second for second in seconds if second)
    for name, verb in VERBS.items():
        if verb.options:
            words = " ".join(f"--{option.name}" for option in verb.options)
            yield ((name, "") if " " in name else (f"{name} ", "*")), words


def _fish() -> "Iterator[str]":
    yield "# fish completion of synapse: synapse completions fish > ~/.config/fish/completions/synapse.fish"
    yield "complete -c synapse -f"
    for option in COMMON.values():
        yield f"complete -c synapse -l {option.name}{' -r' if _takes_word(option) else ''} -d {_quoted(option.doc)}"
    for name, verb in VERBS.items():
        first, _, second = name.partition(" ")
        if second:
            yield f"complete -c synapse -n __fish_use_subcommand -a {first}"
            condition = f"__fish_seen_subcommand_from {first}; and not __fish_seen_subcommand_from {_seconds(first)}"
            yield f"complete -c synapse -n {_quoted(condition)} -a {second} -d {_quoted(verb.doc)}"
        else:
            yield f"complete -c synapse -n __fish_use_subcommand -a {first} -d {_quoted(verb.doc)}"
        condition = f"__fish_seen_subcommand_from {first}"
        condition += f"; and __fish_seen_subcommand_from {second}" if second else ""
        for option in verb.options:
            value = " -r -F" if _takes_word(option) else ""
            yield f"complete -c synapse -n {_quoted(condition)} -l {option.name}{value} -d {_quoted(option.doc)}"


def _seconds(first: str) -> str:
    return " ".join(name.partition(" ")[2] for name in VERBS if name.startswith(f"{first} "))


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
