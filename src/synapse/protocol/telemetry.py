"""The form of a telemetry event, for the hub and for who sends one. On the fast path: standard library only."""

from synapse.errors import Rejected, bad_request

EVENT_TYPE = r"[A-Za-z][A-Za-z0-9_-]{0,31}(\.[A-Za-z][A-Za-z0-9_-]{0,31}){0,7}"
EVENT_TYPE_MAX = 128
SEVERITIES = ("debug", "info", "warning", "error", "critical")
_WORDS_MAX = 8
_WORD_MAX = 32
_TIME_MAX = 2**53 - 1


def require_event(event_type: str, at_ms: int | None, severity: str | None) -> None:
    """Raises `Rejected(bad_request)` with the JSON path of a message's body in its request, unless event_type is
    `EVENT_TYPE`, at_ms Unix time and severity one of `SEVERITIES`, where they are given."""
    words = event_type.split(".")
    if len(event_type) > EVENT_TYPE_MAX or len(words) > _WORDS_MAX or not all(_is_word(word) for word in words):
        why = f"eventType {_shown(event_type)} is not words joined by dots: {EVENT_TYPE}, at most {EVENT_TYPE_MAX}"
        raise outside(why, "$.body.body.eventType", pattern=EVENT_TYPE)
    if at_ms is not None and not 0 <= at_ms <= _TIME_MAX:
        raise outside(f"at_ms {at_ms} is not Unix time in milliseconds", "$.body.body.at_ms")
    if severity is not None and severity not in SEVERITIES:
        why = f"severity {_shown(severity)} is none of {', '.join(SEVERITIES)}"
        raise outside(why, "$.body.body.severity", allowed=list(SEVERITIES))


def _is_word(word: str) -> bool:
    return (
        0 < len(word) <= _WORD_MAX
        and word.isascii()
        and word[0].isalpha()
        and word.replace("_", "a").replace("-", "a").isalnum()
    )


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 80 else text[:77] + "...")


def outside(why: str, path: str, **facts: object) -> Rejected:
    """What is refused because it is outside its form, at a JSON path."""
    return bad_request(why, path, facts)
