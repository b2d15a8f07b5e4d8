"""Text for people and for language models: what others wrote is made harmless on one line, times are told in words.

On the fast path: standard library only.
"""

# printable to Python, and yet nothing to see: fillers, joiners, variation selectors, the blank of braille
_INVISIBLE = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(map(chr, range(0xFE00, 0xFE10)))
)


def safe(text: str) -> str:
    """A text of somebody else's on one line: control characters, bidi and zero-width ones are shown, not obeyed."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if char.isprintable() and char not in _INVISIBLE else _visible(char) for char in text)


def _visible(char: str) -> str:
    return char.encode("unicode_escape").decode()


def span(ms: int) -> str:
    """A length of time for people, as the hub writes it: `42 s`, `14 min 5 s`, `3 h 20 min`."""
    seconds = -(-ms // 1000)
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 7200:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
