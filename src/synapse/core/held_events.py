"""What a person decides about held messages; that they are held is `MessageHeld` in `events`.

sender: the agent id of who sent it. Its index key `he/SEQ`, of the seq under which it was held, is how who sent it
finds what became of it; drops of older journals have neither.
"""

from synapse.core.idem import Idem
from synapse.core.mail import Mail


class HeldDropped(Mail, frozen=True, kw_only=True, omit_defaults=True):
    """A person dropped a message that was held; its sender has a letter about it."""

    held: int
    origin: int
    names: tuple[str, ...]
    by: str
    question: int | None = None
    sender: int | None = None
    idem: Idem | None = None


class HeldReleased(Mail, frozen=True, kw_only=True, omit_defaults=True):
    """A person let a message that was held be delivered, by the event before this one; its sender has a letter about
    it. message: the seq of that event, its new id."""

    held: int
    message: int
    names: tuple[str, ...]
    by: str
    sender: int
    idem: Idem | None = None
