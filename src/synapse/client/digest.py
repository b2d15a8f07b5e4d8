"""The client's half of digests."""

import msgspec

from synapse.client.asking import Asking
from synapse.client.digest_text import MAX_TOKENS, DigestText, lay_out
from synapse.protocol.digest_commands import ReadDigest
from synapse.protocol.digest_replies import Digest

ITEMS = 100
"""Items of each list that are asked for; the text counts the others."""


class Digests(Asking):
    """What matters first: a part of `Client`."""

    async def digest(self, *, since: str | None = None, room: str | None = None, limit: int = ITEMS) -> Digest:
        """What is asked of me, what blocks me, what is mine, and the rest as counts, all as of one moment.

        since: a cursor, such as the last digest's; what others did after it is counted. limit: items of each list, at
        most the hub's `page_items_max`. `digest_text` makes text of it.
        Raises `Rejected`: `log_diverged` for a cursor of another journal, `not_found` for no room.
        """
        return await self.request(ReadDigest(room=room, since=since, limit=limit), Digest)


def digest_text(digest: Digest, max_tokens: int = MAX_TOKENS) -> DigestText:
    """A digest as plain lines under a budget of tokens, the most important first. Raises `BudgetTooSmall`."""
    return lay_out(msgspec.to_builtins(digest), max_tokens)
