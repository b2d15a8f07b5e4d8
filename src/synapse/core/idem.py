"""The idempotency key as an event carries it."""

import msgspec


class Idem(msgspec.Struct, frozen=True, kw_only=True):
    """The client's idempotency key, kept inside the first event of the command it belongs to.

    hash: first 16 bytes of SHA-256 over command type and body, hex. count: how many events the command made.
    """

    key: str
    hash: str
    count: int
