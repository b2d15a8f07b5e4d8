"""`python -m synapse.journal verify HOME`, `… backup HOME PATH`, `… compact HOME JSON`: what a running hub has done in
another process.

Prints one JSON object; exits 0, or with the exit code of the error it prints.
"""

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import msgspec

from synapse.errors import EXIT_REFUSED, EXIT_USAGE, JournalError, JournalRefused, Rejected
from synapse.journal.admin import backup, verify
from synapse.journal.compaction import plan

_USAGE = "usage: python -m synapse.journal verify HOME | backup HOME PATH | compact HOME JSON"


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """How long is kept, by kind and channel, seen from when."""

    keep: dict[str, int]
    at_ms: int
    dry_run: bool


def main(arguments: list[str]) -> int:
    """Carry one verb out."""
    try:
        match arguments:
            case ["verify", home]:
                report = asdict(verify(Path(home)))
            case ["backup", home, path]:
                report = asdict(backup(Path(home), Path(path)))
            case ["compact", home, asked]:
                how = msgspec.json.decode(asked, type=_Asked)
                found = plan(Path(home), how.keep, how.at_ms, dry_run=how.dry_run)
                report = {"plan": msgspec.to_builtins(found)}
            case _:
                print(_USAGE, file=sys.stderr)  # noqa: T201 - a command line
                return EXIT_USAGE
    except Rejected as error:
        print(json.dumps({"error": error.detail}))  # noqa: T201 - a command line
        return EXIT_REFUSED
    except JournalError as error:
        seq = error.seq if isinstance(error, JournalRefused) else None
        print(json.dumps({"error": str(error), "seq": seq}))  # noqa: T201 - a command line
        return error.exit_code
    print(json.dumps(report, default=str))  # noqa: T201 - a command line
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what is half written is cleared away
    sys.exit(main(sys.argv[1:]))
