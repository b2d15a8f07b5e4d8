"""How much a field of a request may hold: so many characters, so many items."""

from collections.abc import Sequence

from synapse.errors import Rejected, bad_request


def require_chars(name: str, text: str, most: int) -> None:
    """Raises `Rejected(bad_request)` unless the text has 1 to `most` characters. name: the field's."""
    if not 0 < len(text) <= most:
        raise bad_request(f"{name} has {len(text)} characters; 1 to {most}", f"$.body.{name}")


def require_few(items: Sequence[str], most: int, path: str, limit: str) -> None:
    """Raises `Rejected`: `too_large` for more items than that, `bad_request` for one that comes twice. path: where they
    are. limit: the name of what bounds them."""
    if len(items) > most:
        raise Rejected("too_large", f"{len(items)} at `{path}`; at most {most}", {"path": path, limit: most})
    if len(set(items)) < len(items):
        twice = next(item for at, item in enumerate(items) if item in items[:at])
        raise bad_request(f"{twice!a} is there twice", path)


def require_wait(wait_ms: int, most: int) -> None:
    """Raises `Rejected(bad_request)` unless a wait is 0 to `most` ms."""
    if not 0 <= wait_ms <= most:
        raise bad_request(f"wait_ms {wait_ms} must be 0 to {most}", "$.body.wait_ms", {"max": most})
