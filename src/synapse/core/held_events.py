"""What a person decides about held messages; that they are held is `MessageHeld` in `events`."""

from synapse.core.idem import Idem
from synapse.core.mail import Mail


class HeldDropped(Mail, frozen=True, kw_only=True, omit_defaults=True):
    """A person dropped a message that was held; its sender has a letter about it."""

    held: int
    origin: int
    names: tuple[str, ...]
    by: str
    question: int | None = None
    idem: Idem | None = None
