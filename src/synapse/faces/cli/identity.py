"""Who am I: --name > SYNAPSE_NAME > SYN_IDENTITY > the local user as `user@host`, of kind human."""

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from synapse.client.home import Surroundings


class Identity:
    """A name, and its kind when the surroundings know it. is_named: False for the local user."""

    __slots__ = ("is_named", "kind", "name")

    def __init__(self, name: str, kind: str | None, *, is_named: bool) -> None:
        self.name = name
        self.kind = kind
        self.is_named = is_named


def who_am_i(around: "Surroundings") -> Identity:
    """The identity this call acts under. A name is taken as it is; the hub refuses what is outside the grammar."""
    named = around.get("name")
    if named is None:
        named = around.environ.get("SYN_IDENTITY") or None
    if named is not None:
        return Identity(named, None, is_named=True)
    from synapse.home import local_person

    return Identity(local_person(around.environ), "human", is_named=False)
