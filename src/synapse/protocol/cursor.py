"""A cursor is `journal_id:seq`: a position that also says of which journal."""

from synapse.errors import Rejected, bad_request
from synapse.protocol.names import clipped, shown


def cursor_of(journal_id: str, seq: int) -> str:
    """The cursor of a journal position."""
    return f"{journal_id}:{seq}"


def seq_of(cursor: str, journal_id: str, head: int, path: str = "$.body.since") -> int:
    """The seq of a cursor of this journal. path: where it was given.

    Raises `Rejected`: `bad_request` when it is no cursor, `log_diverged` when it is of another journal or ahead of
    `head`.
    """
    journal, colon, digits = cursor.partition(":")
    if not colon or not digits.isascii() or not digits.isdigit() or len(digits) > 16:
        raise bad_request(f"{shown(cursor)} is not a cursor: journal_id:seq", path, {"cursor": clipped(cursor)})
    seq = int(digits)
    if journal != journal_id:
        raise Rejected(
            "log_diverged",
            f"the cursor {shown(cursor)} is of journal {shown(journal)}, this hub's is {journal_id}: start again "
            "without a cursor and compare what you have",
            {"journal_id": journal_id, "head": head},
        )
    if seq > head:
        raise Rejected(
            "log_diverged",
            f"the cursor {shown(cursor)} lies ahead of this journal's head {head}: start again without a cursor",
            {"journal_id": journal_id, "head": head},
        )
    return seq


def message_id(seq: int) -> str:
    """The id of the message whose event is at `seq`."""
    return f"m{seq}"


def seq_of_message(text: str, path: str = "$.body.id") -> int:
    """The journal position of a message id, given at `path`. Raises `Rejected(bad_request)` for anything else."""
    return _seq_of(text, "m", "message", path)


def question_id(seq: int) -> str:
    """The id of the question whose event is at `seq`."""
    return f"q{seq}"


def seq_of_question(text: str) -> int:
    """The journal position of a question's id. Raises `Rejected(bad_request)` for anything else."""
    return _seq_of(text, "q", "question", "$.body.id")


def _seq_of(text: str, letter: str, what: str, path: str) -> int:
    digits = text[1:]
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= 16 and (digits[0] != "0" or digits == "0")
    if text[:1] != letter or not is_number:
        raise bad_request(f"{shown(text)} is not a {what} id: {letter} and digits", path, {"id": clipped(text)})
    return int(digits)
