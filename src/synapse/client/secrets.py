"""An agent's secret, kept by hub and name. It is on disk before the hub first hears of it, and is
never overwritten; one that was made for a name that turns out to be somebody else's is removed again.

    home/secrets/<hub id>/<name, with / as %2F>     0600 in 0700

Two first calls at once agree: the one that comes second finds the name taken by link(2) and reads the winner's.
"""

import os

from synapse.errors import EXIT_JOURNAL, PeerError, SynapseError
from synapse.home import SECRETS, ensure_home, place_once, readable_again, sync_name

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Mapping

SECRET_FILE_VARIABLE = "SYNAPSE_AGENT_SECRET_FILE"  # noqa: S105  # a variable's name, not a secret
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-/@")
_ID_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class SecretRefused(SynapseError):
    """An agent's secret cannot be read or kept. One line with the cure; exit 78."""

    exit_code = EXIT_JOURNAL


class Secrets:
    """The secrets that one home keeps."""

    __slots__ = ("_environ", "_home", "_made")

    def __init__(self, home: str, environ: "Mapping[str, str]") -> None:
        self._home = home
        self._environ = environ
        self._made: tuple[str, str] | None = None

    def of(self, hub_id: str, name: str) -> tuple[str, bool]:
        """The agent's secret, and whether it was made just now; it is on disk when this returns.

        Raises `Rejected(bad_name)` for a name outside the grammar, `SecretRefused` when the secret cannot be kept or
        the file of SYNAPSE_AGENT_SECRET_FILE does not hold one.
        """
        self._made = None
        found = self.kept(hub_id, name)
        if found is not None:
            return found, False
        path = self._path(hub_id, name)
        made = os.urandom(32).hex()
        try:
            ensure_home(self._home)
            for directory in (os.path.join(self._home, SECRETS), os.path.dirname(path)):
                if not os.path.isdir(directory):
                    _make_private(directory)
                    sync_name(directory)
            if place_once(path, made + "\n"):
                self._made = (path, made)
                return made, True
        except OSError as error:
            cure = f"make its directory writable for this user, or name a file that holds one: {SECRET_FILE_VARIABLE}"
            raise SecretRefused(f"{path}: the agent's secret cannot be kept ({error.strerror}); {cure}") from error
        winner = _read(path)
        if winner is None:
            raise SecretRefused(f"{path}: it was removed while it was made; try again")
        return winner, False

    def kept(self, hub_id: str, name: str) -> str | None:
        """The agent's secret, None where `of` would make one. Raises as `of`."""
        named = self._environ.get(SECRET_FILE_VARIABLE)
        found = _read(named or self._path(hub_id, name))
        if named and found is None:
            raise SecretRefused(f"{named}: there is no such file; {SECRET_FILE_VARIABLE} names it")
        return found

    def refused(self, code: str) -> None:
        """The hub refused a hello with the secret of the last `of`. One that was made there for a name of somebody else
        is removed: it means nothing, and would be in the way of a first call later. Raises `SecretRefused`."""
        made, self._made = self._made, None
        if made is None or code != "name_taken":
            return
        path, secret = made
        try:
            if _read(path) == secret:
                os.unlink(path)
        except FileNotFoundError:
            return  # another call of this home was refused too
        except OSError as error:
            raise SecretRefused(f"{path}: a secret that is of no use cannot be removed ({error.strerror})") from error

    def of_ancestors(self, hub_id: str, name: str) -> dict[str, str]:
        """The secrets kept here of the agents that a sub-agent's name hangs under."""
        found: dict[str, str] = {}
        above = name.rpartition("/")[0]
        while above:
            secret = _read(self._path(hub_id, above))
            if secret is not None:
                found[above] = secret
            above = above.rpartition("/")[0]
        return found

    def _path(self, hub_id: str, name: str) -> str:
        if not hub_id or len(hub_id) > 64 or not _ID_CHARS.issuperset(hub_id):
            raise PeerError("the hub gave an id that is none; nothing was told to it")
        if (
            not _NAME_CHARS.issuperset(name)
            or not all(part[:1].isalnum() for part in name.split("/"))
            or len(name) > 128
        ):
            from synapse.protocol.names import require_agent_name

            require_agent_name(name)
        return os.path.join(self._home, SECRETS, hub_id, name.replace("/", "%2F"))


def _make_private(directory: str) -> None:
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        return  # another first call made it


def _read(path: str) -> str | None:
    """The secret in a file; None when there is no file. Raises `SecretRefused` when it holds none."""
    try:
        with open(path, "rb") as file:
            text = file.read(1024).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        cure = f"name a file that holds it: {SECRET_FILE_VARIABLE}"
        if isinstance(error, PermissionError):
            cure = f"make it readable for this user ({readable_again(path)}), or {cure}"
        raise SecretRefused(f"{path}: the agent's secret cannot be read ({error.strerror}); {cure}") from error
    if not 32 <= len(text) <= 128 or not text.isprintable():
        raise SecretRefused(f"{path}: not a secret (32 to 128 characters on one line); restore the file, or remove it")
    return text
