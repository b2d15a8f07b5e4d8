"""How a message hangs together with the one that caused it. Only messages that have a cause carry it."""

import msgspec


class Link(msgspec.Struct, frozen=True, array_like=True):
    """A message in a chain, as the hub sees it. cause: seq of the message that caused it. origin: of the chain's first
    one. hops: how many causes lie before it; 0 when a person let it begin a new chain. agent: id of its sender.

    sender, held, question: when it was held and is delivered by a release: who it is from, the seq under which it was
    held, and the question that was asked about its chain.
    """

    cause: int
    origin: int
    hops: int
    agent: int
    sender: str | None = None
    held: int | None = None
    question: int | None = None
