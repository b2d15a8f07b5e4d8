"""What a client takes from its surroundings: its settings, and where the hub is.

Rule: flag > environment > [client] of config.toml > default. Files are named as for the hub: `~` is the user's own
directory, and a relative path in config.toml starts at the home. On the fast path: standard library only, and TOML is
read only where there is a file that speaks of clients, or has a table that is not the hub's: reading it takes longer
than starting Python. What else is wrong with the file is said by the hub, and by `doctor`.
"""

import os

from synapse.errors import HubUnreachable
from synapse.home import (
    CLIENT_SETTINGS,
    HUB_FILE,
    HomeRefused,
    HubFile,
    HubFileHidden,
    config_path,
    home_dir,
    read_hub_file,
    read_token,
    token_path,
)

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from collections.abc import Mapping

UNIX = "unix:"
SCHEMES = (UNIX, "ws://", "wss://")
HUB_TABLES = frozenset({b"ephemeral", b"limits", b"pools", b"retention", b"rooms"})
"""The tables of config.toml that are not for clients."""
_FILES = ("token_file", "tls_ca")


class Surroundings:
    """The client's settings. `settings` maps each key of `CLIENT_SETTINGS` that is set to its text and its source."""

    __slots__ = ("environ", "home", "settings")

    def __init__(
        self, flags: "Mapping[str, str]", environ: "Mapping[str, str]", *, is_config_needed: bool = True
    ) -> None:
        """flags: texts by key of `CLIENT_SETTINGS`, and `home`. Raises `HomeRefused` for a config.toml that is none;
        without is_config_needed it counts as empty, for who looks for what is wrong."""
        self.environ = environ
        self.home = home_dir({**environ, "SYNAPSE_HOME": flags["home"]} if flags.get("home") else environ)
        path = config_path(self.home)
        configured: dict[str, str] = {}
        try:
            configured = _read_client_table(path)
        except HomeRefused:
            if is_config_needed:
                raise
        self.settings: dict[str, tuple[str, str]] = {}
        for key, (variable, flag, _) in CLIENT_SETTINGS.items():
            if key in flags:
                self.settings[key] = (flags[key], flag)
            elif environ.get(variable):
                self.settings[key] = (environ[variable], variable)
            elif key in configured:
                self.settings[key] = (configured[key], path)
        for key in _FILES:
            if key in self.settings:
                text, source = self.settings[key]
                base = self.home if source == path else ""
                self.settings[key] = (os.path.join(base, os.path.expanduser(text)), source)

    def get(self, key: str) -> str | None:
        """A setting's text, or None."""
        found = self.settings.get(key)
        return None if found is None else found[0]

    def token(self, uri: str) -> str | None:
        """The token for the hub at `uri`: of the file that a setting names; else of the home's, where there is one and
        the connection needs one: over a Unix socket none does.

        Raises `HomeRefused` when the file cannot be read, or holds none.
        """
        named = self.get("token_file")
        if named is not None:
            return read_token(named)
        if uri.startswith(UNIX):
            return None
        path = token_path(self.home)
        try:
            return read_token(path)
        except HomeRefused as error:
            if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)) and not os.path.lexists(path):
                return None
            raise

    @property
    def start_command(self) -> str:
        """What starts a hub for this home."""
        if self.home == home_dir({**self.environ, "SYNAPSE_HOME": ""}):
            return "synapse hub"
        from shlex import quote

        return f"synapse hub --home {quote(self.home)}"


def _read_client_table(path: str) -> dict[str, str]:
    """The client's part of config.toml. Raises `HomeRefused` when it is not what settings.md says."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise HomeRefused(f"{path}: cannot be read ({error.strerror})") from error
    if not _speaks_of_clients(data):
        return {}
    import tomllib

    try:
        document = tomllib.loads(data.decode())
    except ValueError as error:
        raise HomeRefused(f"{path}: not TOML: {error}") from error
    for key, value in document.items():
        if isinstance(value, dict) and key != "client" and key.encode() not in HUB_TABLES:
            known = ", ".join(sorted(["client", *(name.decode() for name in HUB_TABLES)]))
            raise HomeRefused(f"{path}: there is no table {key!a}; there are {known}")
    table = document.get("client", {})
    if not isinstance(table, dict):
        raise HomeRefused(f"{path}: client: a table belongs there: [client]")
    for key, value in table.items():
        if key not in CLIENT_SETTINGS:
            raise HomeRefused(f"{path}: there is no setting client.{key}; there are {', '.join(CLIENT_SETTINGS)}")
        if not isinstance(value, str):
            raise HomeRefused(f"{path}: client.{key}: a text belongs there")
    shared = document.get("token_file")
    return {"token_file": shared, **table} if isinstance(shared, str) else table


def _speaks_of_clients(data: bytes) -> bool:
    """True for a config.toml that may have settings of clients, also under a name that is spelt wrong."""
    if b"client" in data or b"token_file" in data:
        return True
    tables = (line.strip()[1:] for line in data.splitlines() if line.lstrip()[:1] == b"[")
    return any(table.partition(b"]")[0].partition(b".")[0].strip() not in HUB_TABLES for table in tables)


class Whereabouts:
    """Where the hub is. hub_id: None while only the hub itself could say it. file: hub.json, if it was used."""

    __slots__ = ("file", "hub_id", "uri")

    def __init__(self, uri: str, hub_id: str | None, file: HubFile | None) -> None:
        self.uri = uri
        self.hub_id = hub_id
        self.file = file


def find_hub(around: Surroundings) -> Whereabouts:
    """The hub that the settings name, else the one of the home.

    Raises `HubUnreachable` when the home has no hub.json, `ValueError` for a URI of another kind.
    """
    uri = around.get("uri")
    if uri is not None:
        if not uri.startswith(SCHEMES) or uri in SCHEMES:
            raise ValueError(f"{uri!a} is no address of a hub: unix:/path, ws://host:port or wss://host:port")
        try:
            file = read_hub_file(around.home)
        except HomeRefused:
            file = None
        known = file.hub_id if file is not None and uri in file.uris else None
        return Whereabouts(uri, known, None)
    try:
        file = read_hub_file(around.home)
    except HubFileHidden as error:
        raise HubUnreachable(f"no hub: {error}") from error
    except HomeRefused as error:
        raise HubUnreachable(f"no hub: {error}: {around.start_command}") from error
    if file is None:
        raise HubUnreachable(f"no hub runs for {around.home} (it has no {HUB_FILE}); start one: {around.start_command}")
    for uri in sorted(file.uris, key=lambda uri: not uri.startswith(UNIX)):
        if uri.startswith(SCHEMES):
            return Whereabouts(uri, file.hub_id, file)
    raise HubUnreachable(f"{around.home}/{HUB_FILE} names no address; start the hub again: {around.start_command}")


def unreachable(around: Surroundings, where: Whereabouts, why: str) -> HubUnreachable:
    """The error that says where a hub was looked for, whether its process lives, and how to start one."""
    if where.file is None:
        return HubUnreachable(
            f"no hub answers at {where.uri} ({why}); start one: {around.start_command}"
            + (", or leave out --uri and SYNAPSE_URI to take the one of the home" if around.get("uri") else "")
        )
    pid = where.file.pid
    if where.file.is_alive:
        return HubUnreachable(
            f"no hub answers at {where.uri} ({why}), though the process with pid {pid} lives: if that is no hub, "
            f"start one: {around.start_command}"
        )
    return HubUnreachable(
        f"no hub answers at {where.uri} ({why}): {around.home}/{HUB_FILE} is stale, its process {pid} is gone; "
        f"start one: {around.start_command}"
    )


def refused_with(status: int, body: bytes | bytearray | None) -> str:
    """An HTTP refusal of a handshake in words: its status, and its first line where that can be read."""
    said = (body or b"").decode("utf-8", "replace").partition("\n")[0].strip()
    return f"HTTP status {status}: {said}" if said.isprintable() and 0 < len(said) <= 200 else f"HTTP status {status}"
