"""What is given as an argument or on stdin: texts and JSON, bounded."""

import sys

from synapse.faces.cli.options import UsageError
from synapse.lean import loads, public_codec

STDIN_BYTES_MAX = 1 << 20


def given_text(argument: str, instead: str) -> str:
    """The argument; stdin for `-`, without one newline at its end. Raises `UsageError`, which says what to do
    `instead` of giving so much."""
    if argument != "-":
        return argument
    data = sys.stdin.buffer.read(STDIN_BYTES_MAX + 1)
    if len(data) > STDIN_BYTES_MAX:
        raise UsageError(f"more than {STDIN_BYTES_MAX} bytes on stdin: {instead}")
    try:
        return data.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"stdin is not UTF-8 (byte {error.start})") from error


def given_json(text: str, what: str) -> object:
    """The value that a text says. Raises `UsageError` that names `what` it was for."""
    try:
        return loads(text)
    except (ValueError, SystemError):  # where the lean reader has no words for it, the public one has
        pass
    except RecursionError:
        raise UsageError(f"{what} is JSON nested too deep") from None
    try:
        return public_codec()[0](text)
    except ValueError as error:
        raise UsageError(f"{what} is not JSON: {error}") from error
    except RecursionError:
        raise UsageError(f"{what} is JSON nested too deep") from None
