"""W3C trace context: the one value of it that requests and messages carry, `traceparent`.

The grammar, and what is to be done with a value that does not fit it, are those of section 3.2 of the recommendation
(https://www.w3.org/TR/trace-context/). On the fast path: nothing is imported.
"""

_HEX = frozenset("0123456789abcdef")
_CHARS = 55
"""Length of a value of version 00; a later version may only add to it."""
_SAMPLED = 1
"""The one flag that version 00 knows."""


def traceparent_of(text: str) -> str | None:
    """The value as version 00 writes it; None where it must be ignored.

    What a later version adds is dropped, with the flags that version 00 does not know.
    """
    version, trace, parent, flags, added = text[:2], text[3:35], text[36:52], text[53:_CHARS], text[_CHARS:]
    if len(text) < _CHARS or text[2] + text[35] + text[52] != "---" or version == "ff":
        return None
    if not _HEX.issuperset(version + trace + parent + flags) or not trace.strip("0") or not parent.strip("0"):
        return None
    if version == "00":
        return None if added else text
    if added and added[0] != "-":
        return None
    return f"00-{trace}-{parent}-{int(flags, 16) & _SAMPLED:02x}"
