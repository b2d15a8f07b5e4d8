"""`python -m synapse.journal verify HOME` and `… backup HOME PATH`: what a running hub has done in another process.

Prints one JSON object; exits 0, or with the exit code of the error it prints.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from synapse.errors import EXIT_USAGE, JournalError, JournalRefused
from synapse.journal.admin import backup, verify


def main(arguments: list[str]) -> int:
    """Carry one verb out."""
    try:
        match arguments:
            case ["verify", home]:
                report = asdict(verify(Path(home)))
            case ["backup", home, path]:
                report = asdict(backup(Path(home), Path(path)))
            case _:
                print("usage: python -m synapse.journal verify HOME | backup HOME PATH", file=sys.stderr)  # noqa: T201 - a command line
                return EXIT_USAGE
    except JournalError as error:
        seq = error.seq if isinstance(error, JournalRefused) else None
        print(json.dumps({"error": str(error), "seq": seq}))  # noqa: T201 - a command line
        return error.exit_code
    print(json.dumps(report, default=str))  # noqa: T201 - a command line
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
