"""Where a claim's paths lie: the worktree of a directory, and its patterns as the hub wants them, from the root.

    worktree   --worktree, SYNAPSE_WORKTREE, else `hostname:real path` of the nearest parent with `.git`, else of the
               directory itself
    patterns   as written under a worktree that was named; else relative to the directory, as git's are

Rule 1: nothing is widened. What is absolute, takes a turn (`a/../b`) or leaves the worktree is refused here, where it
is known how it is written from the directory, or that it lies elsewhere; what names no path is passed on as written,
for the hub to refuse.
Rule 2: a few calls of stat and no process, because every claim pays for it. On the fast path: standard library only.
Rule 3: a file has one name. A directory that is a symbolic link is spelt as the one it leads to, with `..` where that
lies outside of the worktree, and what lies in a worktree inside this one is asked for there. Behind a wildcard there is
neither: no glob of git's goes through a link, or into a repository.
"""

import os

from synapse.errors import Rejected

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VARIABLE = "SYNAPSE_WORKTREE"
WILDCARDS = "*?["
_SHOWN_CHARS = 200
"""Of a path that is refused."""


def scope_of(
    patterns: "Iterable[str]", worktree: "str | None", cwd: str, environ: "Mapping[str, str]"
) -> tuple[str, tuple[str, ...], bool]:
    """The three that a claim tells: the worktree's id, the patterns from its root, and whether it folds case.

    worktree: the id that was named, or None for the environment's, or else for that of `cwd`. Raises as `relative`.
    """
    found, root = worktree_of(cwd)
    named = worktree or environ.get(VARIABLE)
    if named:
        return named, tuple(patterns), folds_case(root)
    return found, tuple(relative(pattern, cwd, root) for pattern in patterns), folds_case(root)


def files_of(
    paths: "Iterable[str]", worktree: "str | None", cwd: str, environ: "Mapping[str, str]"
) -> tuple[str, tuple[str, ...]]:
    """As `scope_of`, for the paths of single files, in which `*`, `?` and `[` are ordinary characters."""
    found, root = worktree_of(cwd)
    named = worktree or environ.get(VARIABLE)
    if named:
        return named, tuple(paths)
    return found, tuple(relative(path, cwd, root, is_file=True) for path in paths)


def worktree_of(cwd: str) -> tuple[str, str]:
    """The id and the root of the worktree that a directory lies in."""
    here = root = os.path.realpath(cwd)
    while not os.path.lexists(f"{root}/.git"):
        if root in ("", "/"):
            root = here
            break
        root = root.rpartition("/")[0]
    return f"{os.uname().nodename}:{_utf8(root or '/')}", root or "/"


def relative(pattern: str, cwd: str, root: str, *, is_file: bool = False) -> str:
    """A pattern that was written in `cwd`, from the root: `.` in a directory is that directory; wildcards of the
    directory's own name are spelt as classes. In the root `.` stays, and the hub says what to ask for instead.

    is_file: the path of one file, which has no wildcards. Raises `Rejected(bad_scope)` for a path that is absolute,
    has a `..` behind a name, leads out of the worktree, or into one that lies in it.
    """
    here = _segments_below(cwd, root)
    if here is None or not pattern or pattern[0] in "~:" or pattern[1:2] == ":":
        return pattern
    if pattern[0] == "/":
        return _root_or_refused(pattern, cwd, root, is_file=is_file)
    parts = pattern.split("/")
    while parts and parts[0] in ("", ".", ".."):
        if parts.pop(0) == "..":
            if not here:
                return _root_or_refused(pattern, cwd, root, is_file=is_file)
            here.pop()
    if ".." in parts:
        return _root_or_refused(pattern, cwd, root, is_file=is_file)
    here, parts = _without_links(here, parts, root, is_file=is_file)
    if here[:1] == [".."]:
        return _root_or_refused(pattern, cwd, root, is_file=is_file)
    _require_own(pattern, [*here, *parts], root, is_file=is_file)
    above = "/".join(here)
    if not is_file:
        above = _spelt(above, is_plain=not any(char in pattern for char in WILDCARDS))
    return "/".join(part for part in (above, "/".join(parts)) if part) or "."


def _require_own(pattern: str, parts: list[str], root: str, *, is_file: bool) -> None:
    """Refuse what lies below a repository, or worktree, in this one: its files are its own, as they are for git. Its
    directory itself is a path of both."""
    folder = os.path.realpath(root).rstrip("/")
    for part in parts[:-1]:
        if not is_file and any(char in part for char in WILDCARDS):
            return
        folder = f"{folder}/{part}"
        if "\0" not in folder and os.path.lexists(f"{folder}/.git"):
            raise _refused(
                pattern,
                f"lies in {_utf8(folder)}, which is a worktree of its own inside {_utf8(root)}: ask for it there",
            )


def _without_links(here: list[str], parts: list[str], root: str, *, is_file: bool) -> tuple[list[str], list[str]]:
    """A path from the root, in two, with the directories before the first wildcard as they really lie. A link at its
    end to something else than a directory stays: it is a file of its own."""
    top, count = os.path.realpath(root).rstrip("/"), 0
    while count < len(parts) and parts[count] not in ("", ".."):
        if not is_file and any(char in parts[count] for char in WILDCARDS):
            break
        count += 1
    try:
        is_directory = os.path.isdir("/".join((top, *here, *parts)))  # noqa: PTH112 - pathlib is slow to import
        if count == len(parts) and not is_directory:
            count -= 1
        folder = "/".join((top, *here, *parts[:count]))
        real = os.path.realpath(folder)
    except ValueError:  # no file has such a name
        return here, parts
    if count < 1 or real == folder:
        return here, parts
    found = _utf8(os.path.relpath(real, top or "/"))
    return [part for part in found.split("/") if part != "."], parts[count:]


def _root_or_refused(pattern: str, cwd: str, root: str, *, is_file: bool) -> str:
    """`.` for a path that is the root. Raises `Rejected` for any other, with how it is written in `cwd`."""
    parts, count = pattern.split("/"), 0
    while count < len(parts) and (is_file or not any(char in parts[count] for char in WILDCARDS)):
        count += 1
    rest, here, top = parts[count:], os.path.realpath(cwd), os.path.realpath(root)
    if ".." in rest:
        raise _refused(pattern, "holds '..' behind a wildcard, where nobody knows what it is: leave it out")
    head = "/".join(parts[:count])
    try:
        real = _real(head if pattern[0] == "/" else f"{here}/{head}")
    except ValueError:  # no file has such a name
        return pattern
    if real != top and not real.startswith(f"{top.rstrip('/')}/"):
        raise _refused(
            pattern,
            f"lies outside of the worktree {_utf8(root)}; ask for it in a directory of its own worktree, or name that "
            "one, and the path from its root",
        )
    if real == top and not rest:
        return "."
    written = "/".join([_utf8(os.path.relpath(real, here)), *rest]).removeprefix("./") or "."
    what = "is absolute" if pattern[0] == "/" else "holds '..'"
    raise _refused(pattern, f"{what}: in {_utf8(here)} it is written '{written}'")


def _real(path: str) -> str:
    """Where a path leads; a link at its end to something else than a directory stays, as in `_without_links`."""
    path = path.rstrip("/") or "/"
    folder, name = os.path.split(path)
    if name in ("", ".", "..") or os.path.isdir(path):  # noqa: PTH112 - pathlib is slow to import
        return os.path.realpath(path)
    return f"{os.path.realpath(folder).rstrip('/')}/{name}"


def _refused(pattern: str, why: str) -> Rejected:
    shown = pattern if len(pattern) <= _SHOWN_CHARS else f"{pattern[:_SHOWN_CHARS]}…"
    return Rejected("bad_scope", f"the path '{shown}' {why}", {"path": shown})


def folds_case(root: str) -> bool:
    """True when the file system finds a name of the worktree in other letters too."""
    name = f"{root}/.git"
    if not os.path.lexists(name):
        name = root
    folder, _, own = name.rpartition("/")
    while own and own == own.swapcase():  # a name without letters
        name = folder
        folder, _, own = name.rpartition("/")
    try:
        return bool(own) and os.path.samestat(os.lstat(name), os.lstat(f"{folder}/{own.swapcase()}"))
    except OSError:
        return False


def branch_of(root: str) -> "str | None":
    """The branch that is checked out in a worktree; None when its HEAD is detached, or is none."""
    git = f"{root}/.git"
    try:
        try:
            head = _read(f"{git}/HEAD")
        except NotADirectoryError:  # a linked worktree, or a submodule
            git = _read(git).removeprefix("gitdir:").strip()
            head = _read(f"{git if git.startswith('/') else f'{root}/{git}'}/HEAD")
    except (OSError, ValueError):
        return None
    branch = head.removeprefix("ref: refs/heads/")
    return None if branch in (head, "", ".invalid") else branch  # the last is what reftable leaves there


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib is slow to import
        return file.read(4096).strip()


def _segments_below(cwd: str, root: str) -> "list[str] | None":
    """The directories that lead from the root to `cwd`; None when they do not."""
    here, top = os.path.realpath(cwd), os.path.realpath(root)
    if here != top and not here.startswith(f"{top.rstrip('/')}/"):
        return None
    return [part for part in _utf8(here[len(top) :]).split("/") if part]


def _spelt(above: str, *, is_plain: bool) -> str:
    """A directory's name as a pattern of itself.

    A plain path below it covers what is below, which one with a class for a star does not: git's own spelling is then
    sent, for the hub to refuse. `[id]` needs none, as it is read as it is spelt too.
    """
    if is_plain:
        return above.replace("*", "\\*").replace("?", "\\?")
    return "".join(f"[{char}]" if char in WILDCARDS else char for char in above)


def _utf8(path: str) -> str:
    """A path as text that can be sent, whatever bytes it has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
