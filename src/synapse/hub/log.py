"""The hub's log: one JSON object a line on stderr, with a stable `action`. Never a token, a secret or a body."""

import json
import logging
import sys
from typing import Final

LOGGER: Final = logging.getLogger("synapse.hub")


class JsonFormatter(logging.Formatter):
    """A record as one JSON line: time, level, action, and the facts given as `extra={"facts": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "at_ms": int(record.created * 1000),
            "level": record.levelname.lower(),
            "action": getattr(record, "action", record.name),
            "text": record.getMessage(),
        }
        line.update(getattr(record, "facts", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def set_up(level: str) -> None:
    """Send the hub's log to stderr from `level` (debug, info, warning, error) on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(level.upper())


def log(action: str, text: str, *, level: int = logging.INFO, **facts: object) -> None:
    """One line. facts: plain values only."""
    LOGGER.log(level, text, extra={"action": action, "facts": facts})
