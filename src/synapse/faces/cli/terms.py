"""What a claim asks for, from the options that `claim` and `lock` share: scope, pools, mode, times, words for others.

Rule: paths are relative to the working directory, as git's are; nothing is widened here, and the hub refuses what
leaves the worktree. What the shell made of an unquoted glob is caught before it becomes a claim.
"""

import os

from synapse.client.worktree import WILDCARDS, branch_of, scope_of, worktree_of
from synapse.errors import Rejected
from synapse.faces.cli.call import Call
from synapse.faces.cli.options import NO_END, Parsed, UsageError, whole_number

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]

LITERALS_MAX = 64
"""More paths without a wildcard than a claim may have: a person does not type them, a shell does."""
_QUOTE = "quote it, so that the hub gets the glob: --paths 'src/**'"


def claim_body(call: Call, task: str) -> "Json":
    """The body of `lease.claim`. Raises `UsageError`."""
    parsed = call.parsed
    body: Json = {"task": task, **call.room, **_scope(call)}
    pools = units_by_pool(parsed.texts("pool"), "--pool")
    if pools:
        body["pools"] = pools
    for key in ("mode", "priority", "note", "branch"):
        if parsed.text(key) is not None:
            body[key] = parsed.text(key)
    ttl_s, wait_s = parsed.seconds("ttl"), parsed.seconds("wait")
    if ttl_s is not None:
        body["ttl_ms"] = milliseconds(ttl_s)
    if wait_s is not None:
        body["wait_ms"] = None if wait_s == NO_END else max(1, milliseconds(wait_s))
    under = os.environ.get("SYNAPSE_EPOCH", "")
    if under.isascii() and under.isdecimal():
        body["under"] = int(under)  # a wait for what ends only after this command would have no end
    return body


def milliseconds(seconds: float) -> int:
    """Seconds for the wire, rounded up."""
    return -int(-seconds * 1000 // 1)


def require_quoted(parsed: Parsed, wanted: str) -> None:
    """Refuse words behind the task, which are what the shell makes of an unquoted glob, or the value of a `--wait`
    without its `=`. Raises `UsageError`."""
    surplus = parsed.arguments[1:]
    if surplus and parsed.seconds("wait") == NO_END:
        raise UsageError(f"{surplus[0]!a} is one argument too many: {wanted} (--wait takes its value as --wait=S)")
    if surplus:
        raise UsageError(
            f"{surplus[0]!a} is one argument too many: {wanted} (--paths takes one glob; if the shell expanded one, "
            f"{_QUOTE})"
        )


def working_directory() -> str:
    """Where paths are written from. Raises `UsageError` when it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError as error:
        raise UsageError(
            "the working directory is gone, and paths are relative to it: cd into one that is there"
        ) from error


def _scope(call: Call) -> "Json":
    parsed = call.parsed
    patterns, worktree, is_whole = parsed.texts("paths"), parsed.text("worktree"), parsed.has("whole_worktree")
    if patterns and is_whole:
        raise UsageError("give --paths or --whole-worktree, which is all paths")
    if worktree == "":
        raise UsageError("--worktree needs a value")
    literals = sum(not any(char in pattern for char in WILDCARDS) for pattern in patterns)
    if literals > LITERALS_MAX:
        raise UsageError(f"{literals} --paths without a wildcard: did the shell expand a glob? {_QUOTE}")
    if not patterns and not is_whole:
        return {} if worktree is None else {"worktree": worktree}  # the hub says that a worktree alone is no scope
    cwd = working_directory()
    named, paths, folds = scope_of(patterns, worktree, cwd, os.environ)
    if "." in paths:
        raise Rejected(
            "bad_scope", "the path '.' is the whole worktree here: ask for it in so many words, --whole-worktree"
        )
    scope: Json = {"worktree": named, "paths": list(paths), "whole_worktree": is_whole, "folds_case": folds}
    if worktree is None:
        branch = branch_of(worktree_of(cwd)[1])
        if branch is not None:
            scope["branch"] = branch
    return scope


def units_by_pool(texts: list[str], what: str) -> dict[str, int]:
    """`NAME` or `NAME=UNITS`, each name once. what: who takes them. Raises `UsageError`."""
    pools: dict[str, int] = {}
    for text in texts:
        name, equals, units = text.partition("=")
        if not name or name in pools:
            raise UsageError(f"{what} takes NAME or NAME=UNITS, each name once, not {text!a}")
        pools[name] = whole_number(units, f"{what} {name}=") if equals else 1
    return pools
