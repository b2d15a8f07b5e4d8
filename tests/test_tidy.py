"""The house rules, read from the tree itself.

Each check is a function from one source to its findings: lines and complaints. Every check is shown to fail on a
planted fault. Where a rule has exceptions, they are listed by name at the top of this file.
"""

import ast
import io
import json
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import pytest

ROOT = Path(__file__).resolve().parent.parent

# room → the rooms it may import
ARROWS: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "lean": frozenset(),
    # what the hub writes and the fast path reads; neither may import the other
    "home": frozenset({"errors", "lean"}),
    "protocol": frozenset({"errors"}),
    "core": frozenset({"errors", "protocol"}),
    "journal": frozenset({"errors", "protocol", "core", "package"}),
    "hub": frozenset({"errors", "home", "protocol", "core", "journal", "package"}),
    "client": frozenset({"errors", "lean", "home", "protocol", "package"}),
    "faces": frozenset({"errors", "lean", "home", "protocol", "client", "package"}),
    "testing": frozenset(
        {"errors", "lean", "home", "protocol", "core", "journal", "hub", "client", "faces", "package"}
    ),
    "package": frozenset({"errors", "client"}),
}
# the two verbs that reach further than other faces
LONG_ARROWS = {
    "src/synapse/faces/cli/hub.py": frozenset({"hub", "journal"}),
    "src/synapse/faces/cli/journal.py": frozenset({"hub", "journal"}),
}

CLOCKS = frozenset({"time", "datetime", "sched"})
CHANCE = frozenset({"random", "secrets", "uuid"})
WORLD = frozenset(
    {"asyncio", "logging", "os", "pathlib", "signal", "socket", "sqlite3", "subprocess", "tempfile", "threading"}
)
FORBIDDEN_BY_ROOM = {"core": CLOCKS | CHANCE | WORLD, "protocol": CLOCKS | CHANCE | WORLD, "journal": CLOCKS | CHANCE}
# library → the only places that may import it
ONLY_IN = {
    "sqlite3": ("src/synapse/journal/*",),
    "asyncio": (
        "src/synapse/hub/*",
        "src/synapse/client/*",
        "src/synapse/testing.py",
        "src/synapse/faces/demo_counter.py",
        "src/synapse/faces/cli/supervisor.py",
    ),
}

# What every one-shot call imports, and what it must not pay for.
FAST_PATH = (
    "src/synapse/__init__.py",
    "src/synapse/__main__.py",
    "src/synapse/errors.py",
    "src/synapse/lean.py",
    "src/synapse/home.py",
    "src/synapse/protocol/__init__.py",
    "src/synapse/protocol/codes.py",
    "src/synapse/protocol/trace.py",
    "src/synapse/protocol/telemetry.py",
    "src/synapse/client/__init__.py",
    "src/synapse/client/home.py",
    "src/synapse/client/link.py",
    "src/synapse/client/secrets.py",
    "src/synapse/client/worktree.py",
    "src/synapse/faces/__init__.py",
    "src/synapse/faces/cli/__init__.py",
    "src/synapse/faces/cli/main.py",
    "src/synapse/faces/cli/options.py",
    "src/synapse/faces/cli/verbs.py",
    "src/synapse/faces/cli/token_verbs.py",
    "src/synapse/faces/cli/tokens.py",
    "src/synapse/faces/cli/guide.py",
    "src/synapse/faces/cli/call.py",
    "src/synapse/faces/cli/identity.py",
    "src/synapse/faces/cli/render.py",
    "src/synapse/faces/cli/send.py",
    "src/synapse/faces/cli/follow.py",
    "src/synapse/faces/cli/mail.py",
    "src/synapse/faces/cli/people.py",
    "src/synapse/faces/cli/places.py",
    "src/synapse/faces/cli/place_verbs.py",
    "src/synapse/faces/cli/telemetry.py",
    "src/synapse/faces/cli/health.py",
    "src/synapse/faces/cli/given.py",
    "src/synapse/faces/cli/terms.py",
    "src/synapse/faces/cli/waiting.py",
    "src/synapse/faces/cli/claims.py",
    "src/synapse/faces/cli/lock.py",
    "src/synapse/faces/cli/state.py",
    "src/synapse/faces/cli/why.py",
    "src/synapse/faces/cli/ingest.py",
    "src/synapse/faces/cli/observe_verbs.py",
    "src/synapse/faces/cli/relay.py",
    "src/synapse/faces/relay_files.py",
    "src/synapse/faces/relay_form.py",
    "src/synapse/faces/cli/pools.py",
    "src/synapse/faces/cli/resources.py",
    "src/synapse/faces/cli/roles.py",
    "src/synapse/faces/cli/manifest.py",
    "src/synapse/faces/cli/task.py",
    "src/synapse/faces/cli/question_verbs.py",
    "src/synapse/faces/cli/questions.py",
    "src/synapse/faces/cli/declare.py",
    "src/synapse/faces/cli/board.py",
    "src/synapse/faces/cli/session.py",
    "src/synapse/faces/cli/lane.py",
    "src/synapse/faces/cli/session_verbs.py",
    "src/synapse/faces/cli/signal_verbs.py",
    "src/synapse/faces/cli/plan_view.py",
    "src/synapse/client/chunks.py",
    "src/synapse/client/files.py",
    "src/synapse/faces/cli/files.py",
    "src/synapse/faces/cli/files_verbs.py",
    "src/synapse/faces/cli/held.py",
    "src/synapse/faces/cli/receive.py",
    "src/synapse/client/a2a.py",
    "src/synapse/client/plain.py",
    "src/synapse/client/digest_text.py",
    "src/synapse/faces/cli/digest.py",
    "src/synapse/faces/cli/dead.py",
    "src/synapse/faces/cli/delivery_verbs.py",
    "src/synapse/faces/cli/background.py",
)
SLOW = frozenset({"argparse", "asyncio", "h11", "msgspec", "websockets"})

# Outermost boundaries of tasks and processes; each such line also gives its reason in a comment.
BROAD_EXCEPT_ALLOWED: frozenset[str] = frozenset({"src/synapse/hub/threads.py", "benchmarks/client_run.py"})

# Structs of the hottest path that are made by place: a call with more than 15 names builds a dictionary first.
BY_PLACE = frozenset(
    {
        "src/synapse/protocol/replies.py: Lease",
        "src/synapse/protocol/replies.py: Sent",
        "src/synapse/protocol/plan_replies.py: TaskInfo",
    }
)

# Tests that mirror no one module of src, and what tests share. Patterns as in a shell.
UNMIRRORED = (
    "tests/crash/*",
    "tests/test_docs.py",
    "tests/test_readme.py",
    "tests/test_bad_input.py",
    "tests/test_deploy.py",
    "tests/test_packaging.py",
    "tests/test_documented_python.py",
    "tests/library_reference.py",
    "tests/roles_reference.py",
    "tests/test_library_reference.py",
    "tests/journal/homes.py",
    "tests/journal/traffic.py",
    "tests/faults/*",
    "tests/planted/*",
    "tests/core/lease_world.py",
    "tests/core/lease_model.py",
    "tests/core/test_lease_machine.py",
    "tests/hub/test_role_machine.py",
    "tests/test_tidy.py",
    "tests/test_transcripts.py",
    "tests/prove.py",
    "tests/test_prove.py",
    "tests/test_reliability.py",
    "tests/figures.py",
    "tests/simulation/*",
    "tests/power/*",
    "tests/hostile/*",
    "tests/lifecycle/*",
)

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 80
PARAMETERS_MAX = 10
# What users call by names of which each is one thing that a message may say: a struct between would only hide them.
MANY_PARAMETERS_ALLOWED = frozenset({"src/synapse/client/client.py: send"})

# Written in pieces, so that this file does not find itself.
LEFTOVERS = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX")) + r")\b")
REGISTRIES = ("pypi" + ".org", "files.python" + "hosted.org", "registry.npm" + "js.org", "deb.deb" + "ian.org")
PEOPLE_OF_EXAMPLES = "ada|alice|bob|me|synapse|user|you"
MACHINE_PATH = re.compile(
    rf"(?<![\w.~-])(?:{re.escape(str(ROOT))}\b|/root/\w|/(?:home|Users)/"
    rf"(?!(?:{PEOPLE_OF_EXAMPLES})\b)\w+)"
)
ESSENTIAL = frozenset({"util-linux"})
"""Packages that every Debian has."""
VAGUE_NAMES = frozenset({"util", "utils", "helper", "helpers", "misc", "manager", "managers"})

IGNORE_MARK = re.compile(r"#\s*(type:\s*ignore|noqa)\b(\s*\[[\w\s,-]+\]|:\s*[A-Z]+[0-9]+(?:[\s,]+[A-Z]+[0-9]+)*)?")
BLANKET_MARK = re.compile(r"#\s*(?:ruff:\s*noqa|flake8:\s*noqa|mypy:\s*ignore-errors)")
WORDS = re.compile(r"[A-Za-z]{2,}")
DOTTED = re.compile(r"synapse(?:\.[A-Za-z_]\w*)+")
ASSERTING_CALL = re.compile(r"_*(?:raises|warns|fail|check|assert|verify|expect|run_state_machine)")
STRUCT_KEYWORDS = frozenset(
    {"tag", "tag_field", "frozen", "kw_only", "array_like", "omit_defaults", "forbid_unknown_fields"}
)

FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its path from the root, its text and, for Python, its tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str | None:
        """The room of the house a file of src belongs to; None outside src."""
        parts = PurePosixPath(self.path).parts
        if parts[:2] != ("src", "synapse") or not self.path.endswith(".py"):
            return None
        name = parts[2].removesuffix(".py")
        return {"__init__": "package", "__main__": "faces"}.get(name, name)


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name, dotted in full. eager: it runs with the module, not later and not for types only."""

    target: str
    line: int
    eager: bool


Finding: TypeAlias = tuple[int, str]  # line and complaint
Check: TypeAlias = Callable[[Source], Iterator[Finding]]


# reading the tree


def source_of(path: str, text: str) -> Source:
    """Parse a file; what is not Python, or does not parse, gets an empty tree."""
    try:
        tree = ast.parse(text) if path.endswith(".py") else ast.Module([], [])
    except SyntaxError:
        tree = ast.Module([], [])
    return Source(path, text, tree)


def listed_paths() -> list[str]:
    """What git tracks or would track; without git, every file outside of hidden and generated folders."""
    try:
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        listing = ""
    paths = sorted({path for path in listing.split("\0") if path})
    return paths or walked_paths(ROOT)


def walked_paths(root: Path) -> list[str]:
    """Every file below root, but for hidden folders (`.ci` is ours) and generated ones."""
    generated = {"__pycache__", "build", "dist"}
    paths = []
    for folder, folders, files in os.walk(root):
        folders[:] = [
            f for f in folders if f == ".ci" or not (f.startswith(".") or f in generated or f.endswith(".egg-info"))
        ]
        paths += [(Path(folder) / file).relative_to(root).as_posix() for file in files]
    return sorted(paths)


@cache
def sources() -> tuple[Source, ...]:
    """Every text file of the repository."""
    found = []
    for path in listed_paths():
        try:
            found.append(source_of(path, (ROOT / path).read_text(encoding="utf-8")))
        except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
            continue  # deleted but not yet committed, a submodule, or a binary file such as a frozen journal
    return tuple(found)


def imports_of(source: Source) -> Iterator[Import]:
    """Every import, wherever it stands, and every string that names a module of ours (lazy tables, import_module)."""

    def visit(node: ast.AST, *, eager: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute_module(source.path, node)
            yield from (Import(f"{module}.{alias.name}", node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and DOTTED.fullmatch(node.value):
            yield Import(node.value, node.lineno, eager=False)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                yield from visit(statement, eager=False)
            for statement in node.orelse:
                yield from visit(statement, eager=eager)
            return
        inside = eager and not isinstance(node, FunctionNode | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, eager=inside)

    return visit(source.tree, eager=True)


def absolute_module(path: str, node: ast.ImportFrom) -> str:
    """The dotted module of a `from` import, with leading dots resolved."""
    if node.level == 0:
        return node.module or ""
    package = PurePosixPath(path).parent.parts[1:]
    base = package[: len(package) - node.level + 1]
    return ".".join((*base, node.module) if node.module else base)


def room_of(target: str) -> str | None:
    """The room an imported name lives in; None when it is not ours."""
    parts = target.split(".")
    if parts[0] != "synapse":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ARROWS else "package"


def comments_of(source: Source) -> Iterator[tuple[int, str]]:
    """Line and text of each comment of a Python file."""
    try:
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    except (tokenize.TokenError, SyntaxError):
        return  # the check that every file parses says so


def functions_of(tree: ast.AST) -> Iterator[FunctionNode]:
    """Every function and method, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, FunctionNode))


def last_name(node: ast.expr) -> str:
    """The last part of a dotted name, '' when the expression is no name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


# the checks


def python_parses(source: Source) -> Iterator[Finding]:
    if source.path.endswith(".py"):
        try:
            ast.parse(source.text)
        except SyntaxError as error:
            yield error.lineno or 1, error.msg


def imports_point_one_way(source: Source) -> Iterator[Finding]:
    room = source.room
    if room is None:
        return
    if room not in ARROWS:
        yield 1, f"no room {room!r} in the house; the rooms are {', '.join(ARROWS)}"
        return
    allowed = ARROWS[room] | LONG_ARROWS.get(source.path, frozenset()) | {room}
    for found in imports_of(source):
        target = room_of(found.target)
        if target is not None and target not in allowed:
            yield found.line, f"{room} may not import {found.target}; it may import {', '.join(sorted(allowed))}"


def package_imports_lazily(source: Source) -> Iterator[Finding]:
    if source.path == "src/synapse/__init__.py":
        for found in imports_of(source):
            if found.eager and room_of(found.target) is not None:
                yield found.line, f"imports {found.target} at once; do it in __getattr__"


def rooms_stay_pure(source: Source) -> Iterator[Finding]:
    forbidden = FORBIDDEN_BY_ROOM.get(source.room or "", frozenset())
    for found in imports_of(source):
        if found.target.split(".")[0] in forbidden:
            yield found.line, f"{source.room} may not import {found.target}; let the value come in as an argument"


def libraries_stay_in_their_rooms(source: Source) -> Iterator[Finding]:
    if source.room is None:
        return
    for found in imports_of(source):
        places = ONLY_IN.get(found.target.split(".")[0])
        if places is not None and not any(fnmatch(source.path, place) for place in places):
            yield found.line, f"{found.target} may be imported only in {', '.join(places)}"


def fast_path_is_light(source: Source) -> Iterator[Finding]:
    if source.path not in FAST_PATH:
        return
    for found in imports_of(source):
        if not found.eager:
            continue
        if found.target.split(".")[0] in SLOW:
            yield found.line, f"{found.target} is slow to import; import it inside the function that needs it"
        elif room_of(found.target) is not None and not any(path in FAST_PATH for path in files_of(found.target)):
            yield found.line, f"{found.target} is not on the fast path; import it inside a function, or list it"


def files_of(target: str) -> list[str]:
    """Where an imported name may live: a module, a package, or a name in the module or package above it."""
    paths = []
    for dotted in (target, target.rpartition(".")[0]):
        stem = "src/" + dotted.replace(".", "/")
        paths += [f"{stem}.py", f"{stem}/__init__.py"]
    is_module = any((ROOT / path).exists() for path in paths[:2])
    return paths[:2] if is_module else paths


def broad_excepts_are_listed(source: Source) -> Iterator[Finding]:
    lines = source.text.splitlines()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = [node.type] if not isinstance(node.type, ast.Tuple) else node.type.elts
        elif isinstance(node, ast.Call) and last_name(node.func) == "suppress":
            caught = list(node.args)
        else:
            continue
        if not any(name is None or last_name(name) in {"Exception", "BaseException"} for name in caught):
            continue
        if source.path not in BROAD_EXCEPT_ALLOWED:
            yield (
                node.lineno,
                "name the exceptions; an outermost boundary goes on BROAD_EXCEPT_ALLOWED in test_tidy.py",
            )
        elif not has_reason(lines[node.lineno - 1].partition("#")[1:]):
            yield node.lineno, "say on this line, in a comment, why everything is caught here"


def has_reason(comment: Iterable[str]) -> bool:
    """True when a comment holds at least two words besides its ignore marks."""
    return len(WORDS.findall(IGNORE_MARK.sub("", "".join(comment)))) >= 2


def ignores_have_code_and_reason(source: Source) -> Iterator[Finding]:
    if not source.path.endswith(".py"):
        return
    for line, comment in comments_of(source):
        if BLANKET_MARK.search(comment):
            yield line, "ignores a whole file; ignore single lines"
        for mark in IGNORE_MARK.finditer(comment):
            if mark[2] is None:
                yield line, f"{mark[1]} without a code"
            elif not has_reason(comment):
                yield line, f"{mark[1]} without a reason; write `{mark[0]}  # why`"


def nothing_is_left_over(source: Source) -> Iterator[Finding]:
    for line, text in enumerate(source.text.splitlines(), start=1):
        if found := LEFTOVERS.search(text):
            yield line, f"{found[0]}: do it, or leave it out"


def everything_is_implemented(source: Source) -> Iterator[Finding]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            yield node.lineno, "NotImplementedError: implement it, or leave it out"


def files_are_short(source: Source) -> Iterator[Finding]:
    lines = len(source.text.splitlines())
    if source.room is not None and lines > FILE_LINES_MAX:
        yield FILE_LINES_MAX + 1, f"{lines} lines, at most {FILE_LINES_MAX}: make two modules of it"


def functions_are_short(source: Source) -> Iterator[Finding]:
    for node in functions_of(source.tree) if source.room is not None else ():
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield node.lineno, f"{node.name} has {lines} lines, at most {FUNCTION_LINES_MAX}"


def functions_take_few_parameters(source: Source) -> Iterator[Finding]:
    for node in functions_of(source.tree) if source.room is not None else ():
        arguments = node.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        count = sum(argument.arg not in {"self", "cls"} for argument in named)
        count += (arguments.vararg is not None) + (arguments.kwarg is not None)
        if count > PARAMETERS_MAX and f"{source.path}: {node.name}" not in MANY_PARAMETERS_ALLOWED:
            yield node.lineno, f"{node.name} has {count} parameters, at most {PARAMETERS_MAX}"


def public_names_have_docstrings(source: Source) -> Iterator[Finding]:
    if source.room is None:
        return
    if ast.get_docstring(source.tree) is None:
        yield 1, "the module has no docstring"
    for node in source.tree.body:
        if (
            isinstance(node, ast.ClassDef | FunctionNode)
            and not node.name.startswith("_")
            and ast.get_docstring(node) is None
        ):
            yield node.lineno, f"{node.name} has no docstring"


def names_say_what_is_inside(source: Source) -> Iterator[Finding]:
    for part in PurePosixPath(source.path).parts:
        for word in re.split(r"[._-]", part.lower()):
            if word in VAGUE_NAMES:
                yield 1, f"{word!r} says nothing; name the noun that lives here"


def no_registry_is_named(source: Source) -> Iterator[Finding]:
    for line, text in enumerate(source.text.splitlines(), start=1):
        for host in REGISTRIES:
            if host in text:
                yield line, f"names the registry host {host}; the user's own tools know theirs"


def no_machine_is_named(source: Source) -> Iterator[Finding]:
    for line, text in enumerate(source.text.splitlines(), start=1):
        if found := MACHINE_PATH.search(text):
            yield line, f"{found[0]} is a path of one machine; in examples, people are {PEOPLE_OF_EXAMPLES}"


def structs_are_frozen_and_named(source: Source) -> Iterator[Finding]:
    if source.room is None:
        return
    structs = {"Struct"}
    for node in ast.walk(source.tree):  # a base stands before its subclasses
        if not isinstance(node, ast.ClassDef):
            continue
        spelled = {
            word.arg: isinstance(word.value, ast.Constant) and word.value.value is True for word in node.keywords
        }
        if not STRUCT_KEYWORDS & spelled.keys() and not any(last_name(base) in structs for base in node.bases):
            continue
        structs.add(node.name)
        if not spelled.get("frozen"):
            yield node.lineno, f"{node.name} does not spell frozen=True"
        is_by_place = f"{source.path}: {node.name}" in BY_PLACE
        if not (spelled.get("kw_only") or spelled.get("array_like") or is_by_place):
            yield node.lineno, f"{node.name} spells neither kw_only=True nor array_like=True"


def each_test_mirrors_a_module(source: Source) -> Iterator[Finding]:
    path = PurePosixPath(source.path)
    if path.parts[0] != "tests" or path.suffix != ".py" or path.name in {"__init__.py", "conftest.py"}:
        return
    if any(fnmatch(source.path, pattern) for pattern in UNMIRRORED):
        return
    folder = ROOT / "src" / "synapse" / Path(*path.parts[1:-1])
    words = path.stem.split("_")
    stems = ["_".join(words[1:end]) for end in range(2, len(words) + 1)] if words[0] == "test" else []
    modules = [folder / f"{stem}.py" for stem in stems] + [folder / stem / "__init__.py" for stem in stems]
    if not any(module.exists() for module in modules) and not (folder.is_dir() and folder.name in stems):
        yield 1, "mirrors no module of src; name it test_MODULE.py or test_MODULE_ASPECT.py, or put it on UNMIRRORED"


def each_test_asserts_something(source: Source) -> Iterator[Finding]:
    if not re.search(r"^tests/(.*/)?test_\w+\.py$", source.path):
        return
    for function in functions_of(source.tree):
        if function.name.startswith("test_") and not any(is_assertion(node) for node in ast.walk(function)):
            yield function.lineno, f"{function.name} asserts nothing"


def is_assertion(node: ast.AST) -> bool:
    """True for an assert, and for a call whose name promises one."""
    return isinstance(node, ast.Assert) or (
        isinstance(node, ast.Call) and ASSERTING_CALL.match(last_name(node.func)) is not None
    )


def each_bad_request_names_its_path(source: Source) -> Iterator[Finding]:
    if not re.match(r"src/synapse/(core|hub|protocol)/", source.path):
        return
    for node in ast.walk(source.tree):
        if not (isinstance(node, ast.Call) and last_name(node.func) == "Rejected" and node.args):
            continue
        if "bad_request" not in {part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)}:
            continue
        facts = node.args[2] if len(node.args) > 2 else None
        keys = facts.keys if isinstance(facts, ast.Dict) else []
        if "path" not in {key.value for key in keys if isinstance(key, ast.Constant)}:
            yield node.lineno, "a bad_request without facts.path; make it with bad_request(why, path)"


CHECKS: tuple[Check, ...] = (
    python_parses,
    imports_point_one_way,
    package_imports_lazily,
    rooms_stay_pure,
    libraries_stay_in_their_rooms,
    fast_path_is_light,
    broad_excepts_are_listed,
    ignores_have_code_and_reason,
    nothing_is_left_over,
    everything_is_implemented,
    files_are_short,
    functions_are_short,
    functions_take_few_parameters,
    public_names_have_docstrings,
    names_say_what_is_inside,
    no_registry_is_named,
    no_machine_is_named,
    structs_are_frozen_and_named,
    each_test_mirrors_a_module,
    each_test_asserts_something,
    each_bad_request_names_its_path,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_repository_is_tidy(check: Check) -> None:
    findings = [f"{source.path}:{line}: {complaint}" for source in sources() for line, complaint in check(source)]
    assert not findings, "\n".join(["", *findings])


# every check can fail, and does not fail on what is right

CORE = "src/synapse/core/lease.py"
HUB = "src/synapse/hub/server.py"
MAIN = "src/synapse/faces/cli/main.py"
TEST = "tests/core/test_lease.py"
MANY = ", ".join(f"p{n}" for n in range(PARAMETERS_MAX + 1))

PLANTED: list[tuple[Check, str, str, int]] = [
    (python_parses, CORE, "def f(:\n", 1),
    (imports_point_one_way, "src/synapse/errors.py", "import synapse.protocol.codes\n", 1),
    (imports_point_one_way, CORE, "from synapse.journal import store\n", 1),
    (imports_point_one_way, CORE, "from synapse import hub\n", 1),
    (imports_point_one_way, CORE, "from ..hub import server\n", 1),
    (imports_point_one_way, CORE, "from .. import hub\n", 1),
    (imports_point_one_way, "src/synapse/core/__init__.py", "from ..hub import server\n", 1),
    (imports_point_one_way, CORE, "def f():\n    import synapse.hub.server\n", 2),
    (imports_point_one_way, CORE, "if TYPE_CHECKING:\n    from synapse.client.client import Client\n", 2),
    (imports_point_one_way, "src/synapse/faces/demo.py", "x = import_module('synapse.hub.server')\n", 1),
    (imports_point_one_way, "src/synapse/faces/mcp.py", "from synapse.journal.store import Store\n", 1),
    (imports_point_one_way, "src/synapse/client/client.py", "from synapse.core import events\n", 1),
    (imports_point_one_way, "src/synapse/journal/store.py", "from synapse.hub.server import Server\n", 1),
    (imports_point_one_way, HUB, "from synapse.testing import ManualClock\n", 1),
    (imports_point_one_way, "src/synapse/__init__.py", "def f():\n    import synapse.hub.server\n", 2),
    (imports_point_one_way, "src/synapse/attic/old.py", "x = 1\n", 1),
    (package_imports_lazily, "src/synapse/__init__.py", "from synapse.client.client import Client\n", 1),
    (rooms_stay_pure, CORE, "import time\n", 1),
    (rooms_stay_pure, CORE, "def f():\n    from os import path\n", 2),
    (rooms_stay_pure, "src/synapse/protocol/codec.py", "import uuid\n", 1),
    (rooms_stay_pure, "src/synapse/journal/store.py", "from datetime import datetime\n", 1),
    (libraries_stay_in_their_rooms, HUB, "import sqlite3\n", 1),
    (libraries_stay_in_their_rooms, "src/synapse/faces/demo.py", "def f():\n    import asyncio\n", 2),
    (fast_path_is_light, MAIN, "import argparse\n", 1),
    (fast_path_is_light, MAIN, "try:\n    import msgspec.json\nexcept ImportError:\n    pass\n", 2),
    (fast_path_is_light, MAIN, "from synapse.client.client import Client\n", 1),
    (
        fast_path_is_light,
        MAIN,
        "from synapse.protocol import codec\n",
        1,
    ),
    (
        broad_excepts_are_listed,
        HUB,
        "try:\n    f()\nexcept Exception:  # the outermost boundary of a task\n    pass\n",
        3,
    ),
    (broad_excepts_are_listed, HUB, "try:\n    f()\nexcept:\n    pass\n", 3),
    (broad_excepts_are_listed, HUB, "try:\n    f()\nexcept (ValueError, BaseException):\n    pass\n", 3),
    (broad_excepts_are_listed, HUB, "with contextlib.suppress(Exception):\n    f()\n", 1),
    (ignores_have_code_and_reason, CORE, "x = 1  # type: ignore\n", 1),
    (ignores_have_code_and_reason, CORE, "x = 1  # type: ignore[misc]\n", 1),
    (ignores_have_code_and_reason, CORE, "x = 1\ny = 1  # noqa\n", 2),
    (ignores_have_code_and_reason, CORE, "x = 1  # noqa: E501, F401\n", 1),
    (ignores_have_code_and_reason, TEST, "# ruff: noqa: because we can\n", 1),
    (nothing_is_left_over, "README.md", "fine\nTO" + "DO: write it\n", 2),
    (nothing_is_left_over, CORE, "# FIX" + "ME later\n", 1),
    (nothing_is_left_over, ".ci/run", "# X" + "XX\n", 1),
    (everything_is_implemented, CORE, "def f():\n    raise NotImplementedError('later')\n", 2),
    (files_are_short, CORE, "x = 1\n" * (FILE_LINES_MAX + 1), FILE_LINES_MAX + 1),
    (functions_are_short, CORE, "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX, 1),
    (functions_take_few_parameters, CORE, f"def f({MANY}): ...\n", 1),
    (functions_take_few_parameters, CORE, f"class C:\n    def f(self, *{MANY}): ...\n", 2),
    (public_names_have_docstrings, CORE, "x = 1\n", 1),
    (public_names_have_docstrings, CORE, '"""Doc."""\ndef f(): ...\n', 2),
    (public_names_have_docstrings, CORE, '"""Doc."""\nclass C: ...\n', 2),
    (names_say_what_is_inside, "src/synapse/core/" + "utils.py", "", 1),
    (names_say_what_is_inside, "tests/test_lease_" + "helper.py", "", 1),
    (no_registry_is_named, "README.md", "\nhttps://" + REGISTRIES[0] + "/simple\n", 2),
    (no_machine_is_named, "docs/how-to.md", f"cd {ROOT}/src\n", 1),
    (no_machine_is_named, "docs/how-to.md", "cat /ro" + "ot/notes\n", 1),
    (no_machine_is_named, "docs/how-to.md", "ls '/ho" + "me/jdoe42/x'\n", 1),
    (structs_are_frozen_and_named, CORE, "class A(msgspec.Struct, kw_only=True): ...\n", 1),
    (structs_are_frozen_and_named, CORE, "class A(Struct, frozen=True): ...\n", 1),
    (structs_are_frozen_and_named, CORE, "class A(Base, tag='a'): ...\n", 1),
    (structs_are_frozen_and_named, CORE, "class A(Struct, frozen=True, kw_only=True): ...\nclass B(A): ...\n", 2),
    (each_test_mirrors_a_module, "tests/core/test_no_such_module.py", "", 1),
    (each_test_mirrors_a_module, "tests/stray.py", "", 1),
    (each_test_asserts_something, TEST, "def test_nothing():\n    f()\n", 1),
    (each_bad_request_names_its_path, CORE, 'x = 1\nRejected("bad_request", "no")\n', 2),
    (each_bad_request_names_its_path, HUB, 'Rejected("bad_request", "no", facts)\n', 1),
    (each_bad_request_names_its_path, HUB, 'Rejected("a" if x else "bad_request", "no", {"id": 1})\n', 1),
    (each_test_asserts_something, TEST, "class TestX:\n    async def test_nothing(self):\n        await f()\n", 2),
]

LAWFUL: list[tuple[Check, str, str]] = [
    (imports_point_one_way, CORE, "import msgspec\nfrom synapse.errors import Rejected\nfrom . import events\n"),
    (imports_point_one_way, "src/synapse/faces/cli/hub.py", "from synapse.hub.server import serve\n"),
    (imports_point_one_way, "src/synapse/testing.py", "import synapse.hub.server, synapse.core.kernel\n"),
    (imports_point_one_way, "src/synapse/client/client.py", "from synapse import __version__\n"),
    (
        package_imports_lazily,
        "src/synapse/__init__.py",
        "def __getattr__(n):\n    from synapse.client.client import Client\n",
    ),
    (rooms_stay_pure, HUB, "import time, os\n"),
    (libraries_stay_in_their_rooms, "src/synapse/journal/store.py", "import sqlite3\n"),
    (fast_path_is_light, MAIN, "import json\nfrom synapse.errors import EXIT_OK\ndef f():\n    import asyncio\n"),
    (fast_path_is_light, MAIN, "if TYPE_CHECKING:\n    import argparse\n"),
    (broad_excepts_are_listed, HUB, "try:\n    f()\nexcept OSError:\n    pass\n"),
    (ignores_have_code_and_reason, CORE, "x = 1  # type: ignore[misc]  # the stubs are wrong here\n"),
    (ignores_have_code_and_reason, CORE, "x = '# noqa'  # noqa: S105  # a word, not a password\n"),
    (functions_are_short, CORE, "def f():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX - 1)),
    (public_names_have_docstrings, CORE, '"""Doc."""\ndef _f(): ...\n'),
    (no_machine_is_named, "docs/how-to.md", "laptop:/home/ada/project ~/root/x https://example.org/home/page\n"),
    (
        structs_are_frozen_and_named,
        CORE,
        "class A(msgspec.Struct, frozen=True, array_like=True): ...\nclass E(Exception): ...\n",
    ),
    (each_test_mirrors_a_module, "tests/test_errors.py", ""),
    (each_test_mirrors_a_module, "tests/test_errors_of_peers.py", ""),
    (each_test_mirrors_a_module, "tests/core/test_core.py", ""),
    (each_test_asserts_something, TEST, "def test_x():\n    with pytest.raises(ValueError):\n        f()\n"),
    (each_test_asserts_something, TEST, "def test_x():\n    check_replay(state)\n"),
    (each_bad_request_names_its_path, CORE, 'Rejected("bad_request", "no", {"path": path})\n'),
    (each_bad_request_names_its_path, CORE, 'Rejected("not_found", "no")\n'),
    (each_bad_request_names_its_path, "src/synapse/client/bodies.py", 'Rejected("bad_request", "no")\n'),
]


@pytest.mark.parametrize(("check", "path", "text", "line"), PLANTED)
def test_a_planted_fault_is_found(check: Check, path: str, text: str, line: int) -> None:
    findings = list(check(source_of(path, text)))
    assert line in {at for at, _ in findings}, findings


@pytest.mark.parametrize(("check", "path", "text"), LAWFUL)
def test_what_is_right_is_left_alone(check: Check, path: str, text: str) -> None:
    assert not list(check(source_of(path, text)))


def test_every_check_has_a_planted_fault() -> None:
    assert {check for check, *_ in PLANTED} == set(CHECKS)


def test_a_listed_broad_except_still_needs_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "BROAD_EXCEPT_ALLOWED", frozenset({HUB}))
    bare = "try:\n    f()\nexcept Exception:  # noqa: BLE001\n    pass\n"
    assert len(list(broad_excepts_are_listed(source_of(HUB, bare)))) == 1
    reasoned = bare.replace("BLE001", "BLE001  # the turn ends the process")
    assert not list(broad_excepts_are_listed(source_of(HUB, reasoned)))


def test_exceptions_to_the_rules_name_files_that_exist() -> None:
    assert [path for path in BROAD_EXCEPT_ALLOWED if not (ROOT / path).exists()] == []


def test_every_tool_that_a_test_requires_is_installed_by_the_script() -> None:
    script = (ROOT / ".ci" / "debian-packages.sh").read_text(encoding="utf-8")
    installed = {tuple(line.split()[1:]) for line in script.splitlines() if line.startswith("need ")}
    packages = {package for _, package in installed}
    required = set()
    for path in (ROOT / "tests").rglob("*.py"):
        required |= set(re.findall(r'require_tool\("([\w-]+)", "([\w-]+)"\)', path.read_text(encoding="utf-8")))
    assert ("strace", "strace") in required
    assert {tool for tool in required if tool[1] not in packages | ESSENTIAL} == set()


def test_without_git_the_tree_is_walked(tmp_path: Path) -> None:
    for path in (".ci/run", ".git/config", ".venv/x.py", "src/a.py", "src/__pycache__/a.pyc"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert walked_paths(tmp_path) == [".ci/run", "src/a.py"]


# the fast path, measured in a child


def slow_modules_after(code: str) -> list[str]:
    """The slow libraries that a fresh interpreter has loaded after running code; the code must not fail."""
    report = f"print('\\n' + json.dumps(sorted({set(SLOW)!r} & set(sys.modules))))"
    script = (
        f"import json, sys\ntry:\n    {code}\nexcept SystemExit as end:\n    assert not end.code, end.code\n{report}\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    child = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    loaded: list[str] = json.loads(child.stdout.splitlines()[-1])
    return loaded


def test_the_probe_of_the_fast_path_sees_a_slow_import() -> None:
    assert slow_modules_after("import argparse, asyncio") == ["argparse", "asyncio"]


@pytest.mark.parametrize(
    "path", [path for path in FAST_PATH if (ROOT / path).exists() and not path.endswith("__main__.py")]
)
def test_a_module_of_the_fast_path_loads_nothing_slow(path: str) -> None:
    module = path.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert slow_modules_after(f"import {module}") == []


def test_a_one_shot_call_loads_nothing_slow() -> None:
    call = "sys.argv = ['synapse', '--version']; from synapse.faces.cli.main import main; sys.exit(main())"
    assert slow_modules_after(call) == []
