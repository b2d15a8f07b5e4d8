"""The two closed lists of the protocol: error codes of replies, and close codes of connections.

Standard library only, because the command line's fast path turns codes into exit codes with it.
"""

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import Final

PROTOCOL_VERSION: "Final" = 1
"""The one protocol version this release speaks. A peer offers a range; see PROTOCOL.md, Version skew."""

ERRORS: "Final[dict[str, tuple[int, str]]]" = {
    # code: (exit code of the command line, meaning)
    "malformed": (3, "the frame is not one valid JSON object of the protocol; nothing was changed"),
    "unknown_type": (3, "no command has this type"),
    "bad_request": (3, "a field is missing, unknown, of the wrong type or out of bounds; the JSON path is named"),
    "bad_name": (3, "a name is outside its grammar; it is refused, never repaired"),
    "hello_required": (3, "the first command of a connection must be hello"),
    "already_greeted": (3, "this connection has said hello before"),
    "unauthorized": (77, "the token is missing, wrong, revoked or expired"),
    "not_permitted": (77, "this needs a higher role or an operator connection, or belongs to somebody else"),
    "name_taken": (3, "this name belongs to another secret"),
    "anonymous": (3, "this needs an agent, and the connection named none"),
    "protocol_version": (78, "client and hub share no protocol version"),
    "not_found": (4, "no such agent, room, channel or message, as far as this agent may know"),
    "already_exists": (3, "the name is in use"),
    "not_empty": (3, "something is still there or open: members, leases, questions and the like"),
    "protected": (3, "it came from the configuration and cannot be deleted"),
    "no_recipient": (3, "the message would reach nobody"),
    "inbox_full": (3, "a recipient has as many unacked messages as an inbox holds"),
    "too_large": (3, "more bytes or items than the limit named"),
    "limit": (3, "a limit of the hub is reached; it is named with its value"),
    "rate_limited": (3, "this agent or host asks faster than its token bucket refills"),
    "idem_conflict": (3, "the idempotency key was used with another payload"),
    "idem_limit": (3, "this agent has as many live idempotency keys as one agent may have"),
    "already_subscribed": (3, "another subscription of this connection covers the channel"),
    "log_diverged": (3, "the cursor belongs to another journal, or lies ahead of this one"),
    "cursor_too_old": (3, "the journal no longer holds what follows this cursor"),
    "lease_held": (3, "another's lease stands in the way; its holder, epoch and time left are named"),
    "lease_queued": (3, "others wait in line for it before this claim"),
    "stale_epoch": (3, "this grant is not live any more; the one that is, is named"),
    "not_holder": (3, "the task is leased, or the message of a role lent, to another agent"),
    "deadlock": (3, "waiting would close a cycle of holders and waiters; the cycle is named"),
    "bad_scope": (3, "a path is outside the grammar of scopes; it is refused, never widened"),
    "not_covered": (3, "a path is not covered by a live lease of this agent; who holds it is named"),
    "already_answered": (3, "the question is closed; how, by whom and when are named"),
    "version_conflict": (3, "the value has another version than was expected; it is named with who put it"),
    "cycle": (3, "the task would depend on itself, over the path that is named"),
    "illegal_transition": (3, "this status cannot follow the one the task has; those that can are named"),
    "withdrawn": (3, "the wait was ended by the agent itself or by an operator"),
    "deadline": (5, "the time given for waiting passed"),
    "unsupported": (3, "this release does not offer it"),
    "read_only": (3, "the disk is full: the hub answers reads until space returns"),
    "journal_broken": (78, "a stored row no longer matches its hash; it is not served"),
    "draining": (3, "the hub is shutting down; come back in a moment"),
}
"""Every code an error reply may carry."""

CLOSE_NORMAL: "Final" = 1000
CLOSE_GOING_AWAY: "Final" = 1001
CLOSE_PROTOCOL: "Final" = 1002
CLOSE_BAD_DATA: "Final" = 1007
CLOSE_TOO_BIG: "Final" = 1009
CLOSE_RESTART: "Final" = 1012
CLOSE_SLOW: "Final" = 4000
CLOSE_NO_HELLO: "Final" = 4001
CLOSE_FLOOD: "Final" = 4002
CLOSE_REVOKED: "Final" = 4003
CLOSE_UNAUTHORIZED: "Final" = 4500
CLOSE_NAME_TAKEN: "Final" = 4501
CLOSE_VERSION: "Final" = 4502
CLOSE_BAD_HELLO: "Final" = 4503

CLOSES: "Final[dict[int, str]]" = {
    CLOSE_NORMAL: "the client closed, or both agreed to",
    CLOSE_GOING_AWAY: "the peer went away",
    CLOSE_PROTOCOL: "the peer broke the framing",
    CLOSE_BAD_DATA: "text that is not UTF-8",
    CLOSE_TOO_BIG: "a frame, or its fragments, over the bound told in the welcome",
    CLOSE_RESTART: "the hub is shutting down; come back and resume from your cursor",
    CLOSE_SLOW: "the peer did not drain for 30 s; come back and resume from your cursor",
    CLOSE_NO_HELLO: "no hello within 5 s",
    CLOSE_FLOOD: "too many control frames",
    CLOSE_REVOKED: "an operator rebound or forgot this agent, or its token was revoked or has expired; say hello again",
    CLOSE_UNAUTHORIZED: "wrong or missing token; do not come back with the same one",
    CLOSE_NAME_TAKEN: "the name belongs to another secret; do not come back with this one",
    CLOSE_VERSION: "no common protocol version",
    CLOSE_BAD_HELLO: "the hello was refused; its error reply says why",
}
"""Every close code the hub uses. 4000–4499 and 1012: come back. 4500–4999: do not."""


def exit_code_of(code: str) -> int:
    """The command line's exit code for an error reply; an unknown code of a newer hub counts as refused (3)."""
    known = ERRORS.get(code)
    return known[0] if known is not None else 3
