"""Words and numbers that many commands share."""

from typing import Annotated, Final, TypeAlias

import msgspec

INT_MAX: Final = 2**53 - 1
"""The largest integer that a double holds exactly, and so every JSON parser."""
Int: TypeAlias = Annotated[int, msgspec.Meta(ge=-INT_MAX, le=INT_MAX)]

PRIORITIES: Final = ("low", "normal", "high", "urgent")
STATUSES: Final = ("idle", "busy", "waiting_for_input")
OBSERVER: Final = "observer"
AGENT: Final = "agent"
HUMAN: Final = "human"
ADMIN: Final = "admin"
ROLES: Final = (OBSERVER, AGENT, HUMAN, ADMIN)
"""What a connection may do; each role includes those before it."""
MODES: Final = ("exclusive", "shared")
PROGRESS_KINDS: Final = ("note", "finding", "decision", "checkpoint", "handoff", "blocked", "assessment")


class Artefact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that a checkpoint points to. sha256: hex."""

    path: str
    sha256: str | None = None
    bytes: Int | None = None
