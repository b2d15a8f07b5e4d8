"""What is given as an argument, on stdin or by `lock`: texts and JSON, bounded; a task with the epoch of its lease."""

import os
import sys
from errno import EINVAL, EISDIR

from synapse.faces.cli.options import UsageError, whole_number
from synapse.lean import loads, public_codec

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import BinaryIO

    from synapse.faces.cli.call import Call

STDIN_BYTES_MAX = 1 << 20


def require_stdin() -> "BinaryIO":
    """The bytes of standard input. Raises `UsageError` when this process was started without one."""
    if sys.stdin is None:
        raise UsageError("stdin is closed, and is to be read: give it a file, a pipe or /dev/null")
    return sys.stdin.buffer


def given_text(argument: str, instead: str) -> str:
    """The argument; stdin for `-`, without one newline at its end. Raises `UsageError`, which says what to do
    `instead` of giving so much."""
    if argument != "-":
        return argument
    data = require_stdin().read(STDIN_BYTES_MAX + 1)
    if len(data) > STDIN_BYTES_MAX:
        raise UsageError(f"more than {STDIN_BYTES_MAX} bytes on stdin: {instead}")
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not UTF-8 (byte {error.start})") from error


def given_file(path: str) -> str:
    """The text of a file. Raises OSError, `UsageError` for one that is no text."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start})") from error


def require_file(path: "str | os.PathLike[str]") -> None:
    """Raises OSError for what is no plain file that can be read. Nobody who writes into a pipe is waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        kind = os.fstat(descriptor).st_mode & 0o170000
    finally:
        os.close(descriptor)
    if kind == 0o040000:
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR), os.fspath(path))
    if kind != 0o100000:
        raise OSError(EINVAL, "is not a plain file", os.fspath(path))


def given_json(text: str, what: str) -> object:
    """The value that a text says. Raises `UsageError` that names `what` it was for."""
    try:
        return loads(text)
    except ValueError:  # the public reader has more words for it
        pass
    except RecursionError:
        raise UsageError(f"{what} is JSON nested too deep") from None
    try:
        return public_codec()[0](text)
    except ValueError as error:
        raise UsageError(f"{what} is not JSON: {error}") from error
    except RecursionError:
        raise UsageError(f"{what} is JSON nested too deep") from None


def given_version(call: "Call") -> "int | None":
    """What `--if-version` says. Raises `UsageError`."""
    text = call.parsed.text("if_version")
    return None if text is None else whole_number(text, "--if-version", 0)


def given_task(call: "Call") -> "dict[str, object]":
    """Task and room of a request, and the epoch where it is known: `--epoch`, else SYNAPSE_EPOCH when SYNAPSE_TASK
    names the same task, as `lock` sets both. Raises `UsageError`."""
    task = call.parsed.arguments[0] if call.parsed.arguments else os.environ.get("SYNAPSE_TASK")
    if not task:
        verb = call.parsed.verb
        raise UsageError(f"which task? synapse {verb.name if verb else ''} TASK; within synapse lock it is known")
    return given_task_of(call, task)


def given_task_of(call: "Call", task: str) -> "dict[str, object]":
    """As `given_task`, of a task that is named otherwise. Raises `UsageError`."""
    body: dict[str, object] = {"task": task, **call.room}
    epoch = call.parsed.whole("epoch")
    if epoch is None and os.environ.get("SYNAPSE_TASK") == task and os.environ.get("SYNAPSE_EPOCH"):
        epoch = whole_number(os.environ["SYNAPSE_EPOCH"], "SYNAPSE_EPOCH")
    return body if epoch is None else {**body, "epoch": epoch}
