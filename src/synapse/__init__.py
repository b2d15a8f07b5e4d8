"""Synapse: a local-first coordination hub for fleets of AI agents.

The public names are loaded on first use, so that a one-shot command line call imports nothing it does not need.
"""

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start

__version__ = "0.1.0"
__all__ = ["Client", "__version__"]

if TYPE_CHECKING:
    from synapse.client.client import Client as Client


def __getattr__(name: str) -> object:
    if name == "Client":
        from synapse.client.client import Client

        return Client
    raise AttributeError(f"module 'synapse' has no attribute {name!r}")
