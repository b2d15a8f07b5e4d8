"""Who a client is to a hub: its name, its secret, its card, and the hello that says so."""

import msgspec

from synapse import __version__
from synapse.client.home import Surroundings
from synapse.client.secrets import Secrets
from synapse.errors import Rejected
from synapse.home import local_person
from synapse.protocol.commands import Hello


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What others may know of an agent. What is None is not told, and stays as it was. kind: `agent`, `human`, …"""

    kind: str | None = None
    display_name: str | None = None
    personality: str | None = None
    avatar: str | None = None
    client: str | None = None
    capabilities: tuple[str, ...] | None = None


class Identity:
    """One agent, or the operator (name None). home: `room` or `room:channel` for messages that name none."""

    def __init__(
        self,
        around: Surroundings,
        *,
        name: str | None,
        secret: str | None,
        card: Card,
        home: str | None,
        lasting: bool,
    ) -> None:
        self.name = name
        self._secrets = Secrets(around.home, around.environ)
        self._secret = secret
        self._card = card
        self._home = home
        self._lasting = lasting

    @property
    def needs_hub_id(self) -> bool:
        """True when secrets kept by hub id belong into the hello: the hub must then be identified first."""
        return self.name is not None and (self._secret is None or "/" in self.name)

    def hello(self, hub_id: str, token: str | None) -> Hello:
        """The hello for this hub; a new secret is on disk when this returns.

        Raises `Rejected(bad_name)` for a name outside the grammar, `SecretRefused` when the secret cannot be kept.
        """
        name, card = self.name, self._card
        if name is None:
            return Hello(token=token, operator=True, home=self._home)
        secret, is_new = (self._secret, False) if self._secret is not None else self._secrets.of(hub_id, name)
        client = card.client
        if client is None and is_new:  # told once: programs of one agent would else describe it anew in turns
            client = f"synapse-python/{__version__}"
        return Hello(
            token=token,
            name=name,
            secret=secret,
            ancestors=self._secrets.of_ancestors(hub_id, name) if "/" in name else {},
            kind=card.kind,
            display_name=card.display_name,
            personality=card.personality,
            avatar=card.avatar,
            client=client,
            capabilities=card.capabilities,
            lasting=self._lasting,
            home=self._home,
        )

    def refused(self, refusal: Rejected) -> None:
        """The hub refused the last hello: a secret that was made for a name of somebody else is not kept."""
        self._secrets.refused(refusal.code)


def own_name(around: Surroundings, name: str | None) -> tuple[str, bool]:
    """The agent's name, and whether it is only the local person: name > SYNAPSE_NAME > SYN_IDENTITY > `user@host`."""
    named = name or around.get("name") or around.environ.get("SYN_IDENTITY")
    if named:
        return named, False
    return local_person(around.environ), True
