"""docs/reference/roles.md, from the table of roles and the verbs' code: `python -m tests.roles_reference` writes it.

What a verb sends is read from its code: the function that carries it out, and every function of the command line that
this one names, directly or through others. Its role is that of these commands; from the least to the highest, where
they differ.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from synapse.faces.cli.verbs import VERBS
from synapse.protocol.commands import COMMANDS
from synapse.protocol.roles import ROLE_OF, reference_lines
from synapse.protocol.terms import ROLES

ROOT: Final = Path(__file__).resolve().parent.parent
CLI: Final = ROOT / "src" / "synapse" / "faces" / "cli"
PAGE: Final = ROOT / "docs" / "reference" / "roles.md"
BEGIN, END = "<!-- generated: -->\n", "\n<!-- end -->"
_UNSAID: Final = frozenset({"hello", "hub.identify", "ping"})
"""What every verb sends, or words that also mean something else."""
_ALWAYS: Final = {"token create": "admin"}
"""What a verb needs whatever its options are, though it also asks for something that needs less."""
Names = dict[str, tuple[str, str]]


@cache
def _module(name: str) -> tuple[dict[str, ast.AST], Names]:
    """The functions, classes and constants of a module of the command line; and what it takes from the others."""
    tree = ast.parse((CLI / f"{name}.py").read_text(encoding="utf-8"))
    there: dict[str, ast.AST] = {}
    taken: Names = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            there[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            there.update({target.id: node for target in targets if isinstance(target, ast.Name)})
    for imported in ast.walk(tree):
        if isinstance(imported, ast.ImportFrom) and (imported.module or "").startswith("synapse.faces.cli."):
            module = (imported.module or "").rpartition(".")[2]
            taken.update({item.asname or item.name: (module, item.name) for item in imported.names})
    return there, taken


def sent_by(module: str, function: str) -> frozenset[str]:
    """The commands named by a function of the command line, and by what it names."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    left = [(module, function)]
    while left:
        place = left.pop()
        there, taken = _module(place[0])
        if place in seen or place[1] not in there:
            continue
        seen.add(place)
        for node in ast.walk(there[place[1]]):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in COMMANDS:
                found.add(node.value)
            elif isinstance(node, ast.Name):
                left.append(taken.get(node.id, (place[0], node.id)))
    return frozenset(found - _UNSAID)


def verb_rows() -> Iterator[str]:
    """A row for each verb that says something to the hub."""
    yield "| verb | sends | role |"
    yield "|---|---|---|"
    for verb in VERBS.values():
        sent = sorted(sent_by(verb.module, verb.name.replace(" ", "_")), key=list(COMMANDS).index)
        if not sent:
            continue
        roles = sorted({ROLE_OF[kind][0] for kind in sent}, key=ROLES.index)
        role = _ALWAYS.get(verb.name) or (roles[0] if len(roles) == 1 else f"{roles[0]} to {roles[-1]}")
        yield f"| `{verb.name}` | {', '.join(f'`{kind}`' for kind in sent)} | {role} |"


def lines() -> list[str]:
    """The generated part of the page."""
    return [*reference_lines(), "", "## What the verbs send", "", *verb_rows()]


def generated(text: str) -> str:
    """The generated part of a page as it is written."""
    return text.split(BEGIN, 1)[1].split(END, 1)[0]


def written(text: str) -> str:
    """The page with its generated part made anew."""
    head, rest = text.split(BEGIN, 1)
    return head + BEGIN + "\n".join(lines()) + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
