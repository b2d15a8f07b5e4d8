"""Synapse: a local-first coordination hub for fleets of AI agents.

The public names are loaded on first use, so that a one-shot command line call imports nothing it does not need.
"""

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start

__version__ = "0.1.0"
__all__ = [
    "Card",
    "Client",
    "LeaseLost",
    "Skill",
    "TaskSpec",
    "Terms",
    "Wiring",
    "__version__",
    "body_as",
    "body_of",
    "connect",
    "data_of",
    "digest_text",
    "traced",
    "value_of",
]

if TYPE_CHECKING:
    from synapse.client.blocking import connect as connect
    from synapse.client.client import Card as Card
    from synapse.client.client import Client as Client
    from synapse.client.client import LeaseLost as LeaseLost
    from synapse.client.client import Skill as Skill
    from synapse.client.client import TaskSpec as TaskSpec
    from synapse.client.client import Terms as Terms
    from synapse.client.client import Wiring as Wiring
    from synapse.client.client import body_as as body_as
    from synapse.client.client import body_of as body_of
    from synapse.client.client import data_of as data_of
    from synapse.client.client import digest_text as digest_text
    from synapse.client.client import value_of as value_of
    from synapse.client.trace import traced as traced


def __getattr__(name: str) -> object:
    if name == "connect":
        from synapse.client.blocking import connect

        return connect
    if name == "traced":
        from synapse.client.trace import traced

        return traced
    if name in __all__:
        from synapse.client import client

        found: object = getattr(client, name)
        return found
    raise AttributeError(f"module 'synapse' has no attribute {name!r}")
