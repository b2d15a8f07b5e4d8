"""Where things live, for the hub and for every client: the home, the rendezvous file, the Unix socket, the token.

Beside errors.py and not in a room, because the hub writes what the command line's fast path reads, and neither may
import the other. Standard library only, and nothing on import that a one-shot call would feel.

    home/            0700   $SYNAPSE_HOME, else $XDG_STATE_HOME/synapse, else ~/.local/state/synapse
      hub.json       0600   pid, uris, journal_id, hub_id, supervisor; there while the hub is ready
      hub.sock              where it is short enough; else in synapse-UID/ below the temporary directory
      token          0600   made by the hub on its first start
      config.toml           settings; made by people
"""

import os
from errno import EACCES, EDQUOT, EIO, EMFILE, ENFILE, ENOSPC

from synapse.errors import EXIT_JOURNAL, EXIT_STORE, SynapseError
from synapse.lean import dumps, loads

TYPE_CHECKING = False  # importing typing would cost a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeAlias

    PathText: TypeAlias = str | os.PathLike[str]

HUB_FILE = "hub.json"
SECRETS = "secrets"
SOCKET_FILE = "hub.sock"
_FAILURES = frozenset({EDQUOT, EIO, EMFILE, ENFILE, ENOSPC})
TOKEN_FILE = "token"  # noqa: S105  # a file's name, not a token
CONFIG_FILE = "config.toml"
_OURS = frozenset({"hub.lock", "journal.db", "journal.mark", HUB_FILE, TOKEN_FILE, CONFIG_FILE, SECRETS})
"""One of these makes a directory a home: a hub or a client was there, or somebody prepared it for one."""

SOCKET_PATH_BYTES_MAX = 100
"""What fits sun_path everywhere: 108 bytes on Linux, 104 on macOS, with the final NUL."""

CLIENT_SETTINGS = {
    # key in [client] of config.toml: (environment variable, flag, meaning)
    "uri": ("SYNAPSE_URI", "--uri", "Address of the hub: `unix:/path`, `ws://…` or `wss://…`."),
    "name": ("SYNAPSE_NAME", "--name", "Who I am; without one, `user@host`."),
    "room": ("SYNAPSE_ROOM", "--room", "The room for what names none."),
    "token_file": ("SYNAPSE_TOKEN_FILE", "--token-file", "File with the hub's token."),
    "tls_ca": ("SYNAPSE_TLS_CA", "--tls-ca", "File with the CA of a `wss://` hub (PEM), instead of the system's CAs."),
    "timeout": ("SYNAPSE_TIMEOUT", "--timeout", "Bound of one request, as a duration: `10`, `15m`."),
}
"""What a client takes from flag, environment, or the [client] table of config.toml, in this order."""


class HomeRefused(SynapseError):
    """A file or directory of the home is not as private or well formed as it must be. One line with the cure."""

    exit_code = EXIT_JOURNAL


class HomeFailed(HomeRefused):
    """The system failed on a file of the home, perhaps for want of room: starting again may help."""

    exit_code = EXIT_STORE


def _failure(error: OSError, text: str) -> HomeRefused:
    """What a failed call means: text, and for a system that failed, rather than refused, another exit code."""
    return (HomeFailed if error.errno in _FAILURES else HomeRefused)(text)


def readable_again(path: "PathText") -> str:
    """What lets its owner read a file again: a mode for it, or for the directory that is in the way."""
    from shlex import quote

    at, mode = os.path.abspath(path), "u+rw"
    while (above := os.path.dirname(at)) != at and not os.access(above, os.X_OK):
        at, mode = above, "u+rwx"
    return f"chmod {mode} {quote(at)}"


class HubFileHidden(HomeRefused):
    """hub.json is there, and this user may not read it. One line with the cure."""


class HubFile:
    """What hub.json says of the hub that wrote it."""

    __slots__ = ("hub_id", "journal_id", "pid", "supervisor", "uris")

    def __init__(
        self, *, pid: int, uris: "tuple[str, ...]", journal_id: str, hub_id: str, supervisor: str = ""
    ) -> None:
        """supervisor: the service manager that started it, `systemd` or `launchd`; '' for none."""
        self.supervisor = supervisor
        self.pid = pid
        self.uris = uris
        self.journal_id = journal_id
        self.hub_id = hub_id

    @property
    def is_alive(self) -> bool:
        """True when a process has this pid. It may be another one, after a crash."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return not file.read().rpartition(b")")[2].startswith(b" Z")  # dead, and not yet waited for
        except OSError:
            return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HubFile):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]  # equal by value, so not a key


def home_dir(environ: "Mapping[str, str]") -> str:
    """The absolute path of the home. It need not exist."""
    named = environ.get("SYNAPSE_HOME")
    if named:
        return os.path.abspath(os.path.expanduser(named))
    state = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the XDG specification: a relative path is to be ignored
        state = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "synapse")


def ensure_home(home: "PathText") -> None:
    """Make the home, 0700, or check that it is a directory. One that is ours, or empty, loses wider modes.

    Raises `HomeRefused` when that is not possible, and for a directory of other things that others may enter: it would
    not be private, and to make it so might take it from them.
    """
    try:
        os.makedirs(os.path.dirname(os.path.abspath(home)), exist_ok=True)
        try:
            os.mkdir(home, 0o700)
            sync_name(home)
        except FileExistsError:
            info = _require_ours(home)
            if info.st_uid == os.getuid() and info.st_mode & 0o077 and not info.st_mode & 0o1000:
                os.chmod(home, 0o700)
    except OSError as error:
        raise _no_home(home, error) from error


def require_home(home: "PathText") -> bool:
    """True for a home, False where `ensure_home` would make one; nothing is made. Raises as that does."""
    try:
        if os.path.lexists(home):
            _require_ours(home)
            return True
        above = os.path.dirname(os.path.abspath(home))
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        os.stat(os.path.join(above, "."))
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(EACCES, f"{above} is not writable")
    except OSError as error:
        raise _no_home(home, error) from error
    return False


def _require_ours(home: "PathText") -> os.stat_result:
    """Raises `HomeRefused` for a directory of other things that others may enter, OSError for what is none."""
    info = os.stat(home)
    names = set(os.listdir(home)) - {"lost+found"}  # a file system of its own has it
    if info.st_mode & 0o077 and names and names.isdisjoint(_OURS):
        raise HomeRefused(
            f"{os.fspath(home)}: has files that are not Synapse's, and others may enter it "
            f"(mode {info.st_mode & 0o7777:04o}); nothing was changed: name an empty or a new directory with "
            "--home, or make this one private (chmod 700) if it shall be the home"
        )
    return info


def _no_home(home: "PathText", error: OSError) -> HomeRefused:
    return _failure(error, f"{os.fspath(home)}: cannot be the home ({error.strerror}); choose another --home")


def config_path(home: "PathText") -> str:
    """Where config.toml lies."""
    return os.path.join(home, CONFIG_FILE)


def token_path(home: "PathText") -> str:
    """Where the token lies when no setting says otherwise."""
    return os.path.join(home, TOKEN_FILE)


def socket_path(home: "PathText") -> str:
    """Where the Unix socket of this home belongs; `fallback_socket_path` when that is too long for a socket's name."""
    path = os.path.join(os.path.abspath(home), SOCKET_FILE)
    return path if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX else fallback_socket_path(home)


def fallback_socket_path(home: "PathText") -> str:
    """A socket's path for this home in this user's own directory below the temporary directory; not created here."""
    from hashlib import sha256

    name = sha256(os.fsencode(os.path.realpath(home))).hexdigest()[:16] + ".sock"
    roots = (os.environ.get("TMPDIR", ""), "/tmp")  # noqa: S108  # the directory below it is made and checked as private
    for root in roots:
        path = os.path.join(root, f"synapse-{os.getuid()}", name)
        if os.path.isabs(root) and len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
            return path
    raise AssertionError("the last root is short enough")


def ensure_socket_dir(path: "PathText") -> None:
    """Make the directory of a fallback socket, 0700, or check that it is this user's and nobody else's.

    Raises `HomeRefused` when somebody else made it, or may enter it.
    """
    directory = os.path.dirname(path)
    try:
        if not os.path.lexists(directory):
            os.mkdir(directory, 0o700)
        info = os.lstat(directory)
    except OSError as error:
        raise HomeRefused(
            f"{directory}: no directory for the socket ({error.strerror}); set a shorter --home"
        ) from error
    if info.st_mode & 0o170000 != 0o040000 or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise HomeRefused(
            f"{directory}: not a directory of this user with mode 0700, so no socket is put there; remove it, or set a "
            "shorter --home"
        )


def read_hub_file(home: "PathText") -> HubFile | None:
    """What hub.json says; None when there is none. Raises `HomeRefused` when it cannot be read: `HubFileHidden` where
    this user may not, which no start of a hub mends while one runs."""
    path = os.path.join(home, HUB_FILE)
    try:
        with open(path, "rb") as file:
            found = loads(file.read().decode())
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise HubFileHidden(
            f"{path}: cannot be read ({error.strerror}); make it readable for this user ({readable_again(path)}), or "
            "choose another --home"
        ) from error
    except (OSError, ValueError) as error:
        raise HomeRefused(f"{path}: cannot be read ({error}); start the hub again, it writes a new one") from None
    if isinstance(found, dict):
        pid, uris = found.get("pid"), found.get("uris")
        journal_id, hub_id = found.get("journal_id"), found.get("hub_id")
        if (
            isinstance(pid, int)
            and pid > 0
            and isinstance(uris, list)
            and all(isinstance(uri, str) for uri in uris)
            and isinstance(journal_id, str)
            and isinstance(hub_id, str)
        ):
            supervisor = found.get("supervisor")
            named = supervisor if isinstance(supervisor, str) else ""
            return HubFile(pid=pid, uris=tuple(uris), journal_id=journal_id, hub_id=hub_id, supervisor=named)
    raise HomeRefused(f"{path}: not a rendezvous file; start the hub again, it writes a new one")


def write_hub_file(home: "PathText", content: HubFile) -> None:
    """Put hub.json in place, whole or not at all, 0600. Raises OSError."""
    text = dumps(
        {
            "pid": content.pid,
            "uris": list(content.uris),
            "journal_id": content.journal_id,
            "hub_id": content.hub_id,
            "supervisor": content.supervisor,
        }
    )
    path = os.path.join(home, HUB_FILE)
    draft = _write_draft(path, text + "\n")
    os.replace(draft, path)


def remove_hub_file(home: "PathText", pid: int) -> None:
    """Remove hub.json when it is that of `pid`; another hub's stays. Never raises."""
    try:
        found = read_hub_file(home)
        if found is not None and found.pid == pid:
            os.unlink(os.path.join(home, HUB_FILE))
    except (OSError, HomeRefused):
        return


def read_token(path: "PathText") -> str:
    """The token in a file. Raises `HomeRefused` when there is none, or what is in the file is none."""
    try:
        with open(path, "rb") as file:
            token = file.read(4096).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        cure = "name another with --token-file"
        if isinstance(error, PermissionError):
            cure = f"make it readable for this user ({readable_again(path)}), or {cure}"
        elif os.path.isdir(path) or os.path.islink(path):
            cure = f"remove it, and the hub makes a new one, or {cure}"
        text = f"{os.fspath(path)}: no token can be read ({why}); {cure}"
        raise (_failure(error, text) if isinstance(error, OSError) else HomeRefused(text)) from error
    if not token or not token.isprintable():  # after a power cut it may be all zeros
        why = "holds no token, which is a line of text" if token else "is empty"
        raise HomeRefused(f"{os.fspath(path)}: the token file {why}; remove it, and the hub makes a new one")
    return token


def read_own_token(path: "PathText") -> str | None:
    """The hub's own token, None where there is no file. Raises as `read_token`."""
    return read_token(path) if os.path.lexists(path) else None


def ensure_token(home: "PathText", token_file: "PathText | None" = None) -> str:
    """The hub's token: read, or made (32 random bytes) when the file is not there. Two at once agree on one.

    Raises `HomeRefused` when it can be neither read nor made, or is none.
    """
    path = os.fspath(token_file) if token_file is not None else token_path(home)
    token = read_own_token(path)
    if token is None:
        from base64 import urlsafe_b64encode

        try:
            place_once(path, urlsafe_b64encode(os.urandom(32)).decode().rstrip("=") + "\n")
        except OSError as error:
            text = f"{path}: no token can be made ({error.strerror}); set --token-file"
            raise _failure(error, text) from error
        token = read_token(path)
    return token


def place_once(path: str, text: str) -> bool:
    """Give `path` this content, 0600, unless it exists: then it stays. Both content and name are synced. True when it
    is ours.
    """
    draft = _write_draft(path, text, sync=True)
    is_ours = True
    try:
        os.link(draft, path)
    except FileExistsError:
        is_ours = False
    finally:
        os.unlink(draft)
    sync_name(path)
    return is_ours


def sync_name(path: "PathText") -> None:
    """Make the name of a file or directory durable, which a sync of the file itself need not do. Raises OSError.

    Where this user may not read the directory it lies in, nobody can.
    """
    try:
        descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_draft(path: str, text: str, *, sync: bool = False) -> str:
    """A new file beside `path` with this content, 0600; its name."""
    draft = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, text.encode())
        if sync:
            os.fsync(descriptor)
    except OSError:
        os.unlink(draft)
        raise
    finally:
        os.close(descriptor)
    return draft


def local_person(environ: "Mapping[str, str]") -> str:
    """The name of this process's user on this host, both made to fit the grammar of names."""
    return f"{segment(_user(environ), 'user')}@{segment(os.uname().nodename, 'host')}"


def segment(text: str, otherwise: str) -> str:
    """A text made to fit a name's segment: lower case, `-` for what is not allowed, at most 64 characters."""
    fit = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in text.lower())
    return fit.lstrip("._-")[:64] or otherwise


def _user(environ: "Mapping[str, str]") -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container runs under a uid without a name
        return environ.get("USER") or f"uid{os.getuid()}"
