"""One-line faults in resources, cards and topics."""

from tests.planted.fault import Fault

RESOURCES = "core/resources.py"
_LENT = ("tests/core/test_resources.py",)
CARDS = "core/cards.py"
_CARDS = ("tests/core/test_cards.py",)
FEEDS = "hub/feeds.py"
_FEEDS = ("tests/hub/test_feeds.py",)
TOPICS = "core/topics.py"
_TOPICS = ("tests/core/test_topics.py",)

LENDING_FAULTS = [
    Fault(
        "what is lent no more is still taken",
        "core/claims.py",
        "        if offer is None or not offer.is_over(by.at_ms) or units <= mine.get(name, 0):",
        "        if offer is None or offer.is_over(by.at_ms) or units <= mine.get(name, 0):",
        _LENT,
    ),
    Fault(
        "who holds what is lent no more waits for more of it",
        "core/claims.py",
        "    _require_lent(state, ask, None, by)\n",
        "",
        _LENT,
    ),
    Fault(
        "an offer is taken after its time until the tick",
        "core/leases.py",
        "return self.ended is not None or (self.expires_at_ms is not None and self.expires_at_ms <= at_ms)",
        "return self.ended is not None",
        _LENT,
    ),
    Fault(
        "an offer that was renewed ends at its old time",
        RESOURCES,
        "pool.offer is not None and pool.offer.seq == seq and pool.offer.ended is None",
        "pool.offer is not None and pool.offer.ended is None",
        _LENT,
    ),
    Fault(
        "renewed offers pile up",
        RESOURCES,
        "    if len(heap) > _VOID_MIN + 2 * len(leases.pools):",
        "    if len(heap) < 0:",
        _LENT,
    ),
    Fault(
        "who waited for what is lent no more waits on",
        RESOURCES,
        "    waits = waiting_for(state, [pool])\n",
        "    waits = waiting_for(state, [])\n",
        _LENT,
    ),
    Fault(
        "anybody offers under another's name", RESOURCES, "    if offer.owner_id == agent:\n", "    if True:\n", _LENT
    ),
    Fault(
        "anybody withdraws an offer",
        RESOURCES,
        "    if not by.operator and offer.owner_id != by.require_agent():",
        "    if not by.operator and not by.require_agent():",
        _LENT,
    ),
    Fault(
        "the pool of an offer stays behind its last lease",
        "core/leases.py",
        "            if successor is None or all(name != other for other, _ in successor.pools):\n",
        "            if successor is not None:\n",
        _LENT,
    ),
    Fault(
        "the pool of an offer goes while a lease takes the place of another",
        "core/leases.py",
        "            if successor is None or all(name != other for other, _ in successor.pools):\n",
        "            if True:\n",
        _LENT,
    ),
    Fault(
        "what a forgotten agent lent is lent on",
        "core/holding.py",
        "    offers = offers_of(state, agent)\n",
        "    offers = offers_of(state, 0)\n",
        _LENT,
    ),
    Fault(
        "a card forgets what is not named",
        CARDS,
        "    card = msgspec.structs.replace(\n        agent.card,",
        "    card = msgspec.structs.replace(\n        Card(),",
        _CARDS,
    ),
    Fault(
        "a hello forgets what the card said",
        "core/agents.py",
        "    card = msgspec.structs.replace(old, **said) if said else old",
        "    card = msgspec.structs.replace(Card(), **said) if said else old",
        _CARDS,
    ),
    Fault(
        "the tags of skills are not looked at",
        CARDS,
        "return query.tag in card.tags or any(query.tag in skill.tags for skill in card.skills)",
        "return query.tag in card.tags",
        _CARDS,
    ),
    Fault(
        "a repeat is answered with the card of today",
        CARDS,
        "agent.card if event is None else event.card",
        "agent.card",
        _CARDS,
    ),
    Fault(
        "who follows a topic is told nothing where others follow the channel",
        FEEDS,
        "        if not keys:\n            return []\n",
        "        if not keys or notices:\n            return []\n",
        _FEEDS,
    ),
    Fault(
        "a topic is read from disk with the channels of nobody",
        FEEDS,
        "keys, wanted = keys_on_disk(self._state, subscription.keys), keys_told(self._state, subscription.keys)",
        "keys, wanted = subscription.keys, frozenset(subscription.keys)",
        _FEEDS,
    ),
    Fault(
        "a topic misses what is between disk and live",
        FEEDS,
        "        keys = keys_told(self._state, subscription.keys)\n",
        "        keys = frozenset(subscription.keys)\n",
        _FEEDS,
    ),
    Fault(
        "a topic outlives its room",
        FEEDS,
        'if key.startswith(("ch/", "kv/", "pl/", "qu/", "to/"))',
        'if key.startswith(("ch/", "kv/", "pl/", "qu/"))',
        _FEEDS,
    ),
    Fault(
        "two subscriptions share the channels to come",
        TOPICS,
        "        if any(room == at and prefix.startswith(other[: len(prefix)]) for at, other in others):",
        "        if any(room == at and prefix.startswith(other) for at, other in others):",
        _TOPICS,
    ),
    Fault(
        "a topic that nobody follows any more costs on",
        TOPICS,
        "        if not lengths[len(prefix)]:\n            del lengths[len(prefix)]\n",
        "",
        _TOPICS,
    ),
]
