"""The command line's entry: parse, carry out one verb, and turn every way it can end into an exit code and words."""

import os
import sys

from synapse.errors import (
    EXIT_FAILED,
    EXIT_JOURNAL,
    EXIT_OK,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    Disconnected,
    HubUnreachable,
    PeerError,
    Rejected,
    SynapseError,
)
from synapse.faces.cli.options import Parsed, UsageError, parse
from synapse.faces.cli.verbs import COMMON, VERBS

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from synapse.faces.cli.call import Call

SIGINT_EXIT = 130
SIGPIPE_EXIT = 141
EPOCH_DIGITS = 13
"""Of milliseconds since 1970, from 2001 to 2286."""
TOO_BIG = 1009
"""The close code for a request beyond the bound of a hub that was set to take less (RFC 6455)."""


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Carry out one command line; its exit code (CLI.md)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in (words[: words.index("--")] if "--" in words else words)
    try:
        code = _run(words)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except UsageError as error:
        return _end(as_json, "usage", str(error), EXIT_USAGE)
    except HubUnreachable as error:
        return _end(as_json, "unreachable", str(error), EXIT_UNREACHABLE)
    except Rejected as error:
        return _refused(as_json, error)
    except Disconnected as error:
        return _end(as_json, "disconnected", f"the hub ended the connection: {error}", _exit_of_close(error.code))
    except PeerError as error:
        return _end(as_json, "peer", str(error), EXIT_FAILED)
    except SynapseError as error:
        return _end(as_json, error.kind, str(error), getattr(error, "exit_code", EXIT_FAILED))
    except KeyboardInterrupt as end:
        own: int = getattr(end, "exit_code", SIGINT_EXIT)
        return own
    except BrokenPipeError:
        _give_up_stdout()
        return SIGPIPE_EXIT
    except OSError as error:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:  # a full disk, for one
            _give_up_stdout()
        where = f": {error.filename}" if error.filename else ""
        if where and isinstance(error, FileExistsError):
            where += "; nothing is overwritten: name a file that is not there yet"
        return _end(as_json, "io", f"{error.strerror or error}{where}", EXIT_FAILED)


def _give_up_stdout() -> None:
    """Nobody takes what is still buffered; the interpreter flushes once more at its end and must not stumble."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_error(error: "dict[str, object]", exit_code: int, *, is_said: bool = False) -> int:
    """An error as an object on stdout; the exit code, which is another one when stdout does not take it. is_said: on
    stderr it is said already."""
    from synapse.faces.cli.render import print_json, print_words

    try:
        print_json({"error": error})
    except BrokenPipeError:
        _give_up_stdout()
        return SIGPIPE_EXIT
    except OSError as failed:
        _give_up_stdout()
        if not is_said:
            print_words(f"{failed.strerror or failed}: {error['code']}: {error['detail']}")
        return EXIT_FAILED
    return exit_code


def _run(words: list[str]) -> int:
    if sys.platform == "win32":
        sys.stderr.write("synapse: native Windows is not supported; use it in WSL2\n")
        return EXIT_FAILED
    if _verb_of(words) == "hub":
        from synapse.faces.cli.hub import run_hub

        return run_hub(words)
    parsed = parse(words, VERBS, COMMON)
    if parsed.has("help") or parsed.has("version"):
        return _say(parsed)
    from synapse.faces.cli.call import Call

    call = Call(parsed)
    try:
        return _function_of(parsed)(call)
    finally:
        call.close()


def _verb_of(words: list[str]) -> str:
    """The first word that is neither an option nor a common one's value; `hub` has options of its own."""
    values = {f"--{name}" for name, option in COMMON.items() if option.kind not in ("flag",)}
    at = 0
    while at < len(words):
        if not words[at].startswith("-"):
            return words[at]
        at += 2 if words[at] in values else 1
    return ""


def _function_of(parsed: Parsed) -> "Callable[[Call], int]":
    """The function that carries out a verb, from the module that the table names."""
    assert parsed.verb is not None
    module = __import__(f"synapse.faces.cli.{parsed.verb.module}", fromlist=["_"])
    function: Callable[[Call], int] = getattr(module, parsed.verb.name.replace(" ", "_").replace("-", "_"))
    return function


def _say(parsed: Parsed) -> int:
    """Answer --version, --help and --help VERB."""
    if parsed.has("version"):
        from synapse import __version__

        print(f"synapse {__version__}")
        return EXIT_OK
    from synapse.faces.cli.guide import overview, usage

    if parsed.verb is not None:
        print(usage(parsed.verb))
    else:
        print(overview(parsed.arguments[0] if parsed.arguments else ""))
    return EXIT_OK


def _refused(as_json: bool, error: Rejected) -> int:
    """Say a refusal: as an object on stdout, or in words with how long to wait."""
    from synapse.protocol.codes import exit_code_of

    own: int | None = getattr(error, "exit_code", None)
    exit_code = exit_code_of(error.code) if own is None else own
    if as_json:
        refusal: dict[str, object] = {"code": error.code, "detail": error.detail, "facts": error.facts}
        if error.retry_after_ms is not None:
            refusal["retry_after_ms"] = error.retry_after_ms
        return _say_error(refusal, exit_code)
    from time import time

    from synapse.faces.cli.render import clock, print_words

    later = ""
    if error.code == "lease_held" and error.retry_after_ms is not None:
        later = f"; its time is over at {clock(int(time() * 1000) + error.retry_after_ms)}"
    elif error.retry_after_ms is not None:
        later = f"; try again in {error.retry_after_ms / 1000:g} s"
    print_words(f"{error.code}: {_with_clock(error.detail)}{later}")
    return exit_code


def _with_clock(detail: str) -> str:
    """A refusal for people: moments, which the hub tells in milliseconds since 1970, are told as times."""
    from synapse.faces.cli.render import clock

    words = detail.split(" ")
    for at in range(len(words) - 2, -1, -1):
        moment, unit = words[at], words[at + 1]
        if len(moment) == EPOCH_DIGITS and moment.isascii() and moment.isdigit() and unit.rstrip(",;:.)") == "ms":
            words[at : at + 2] = [clock(int(moment)) + unit[2:]]
    return " ".join(words)


def _end(as_json: bool, code: str, detail: str, exit_code: int) -> int:
    """Say what went wrong here: in words, and with --json as an object too."""
    from synapse.faces.cli.render import print_words

    print_words(detail)
    if not as_json:
        return exit_code
    return _say_error({"code": code, "detail": detail, "facts": {}}, exit_code, is_said=True)


def _exit_of_close(code: int) -> int:
    """The exit code for a connection that the hub ended for good."""
    from synapse.errors import EXIT_NOT_PERMITTED, EXIT_REFUSED
    from synapse.protocol.codes import CLOSE_UNAUTHORIZED, CLOSE_VERSION

    if code == TOO_BIG:
        return EXIT_REFUSED
    if code < 4500:
        return EXIT_UNREACHABLE
    return {CLOSE_UNAUTHORIZED: EXIT_NOT_PERMITTED, CLOSE_VERSION: EXIT_JOURNAL}.get(code, EXIT_REFUSED)
