"""`hub` and `config show`: the verbs that know the hub's settings."""

import os
from contextlib import closing
from pathlib import Path

from synapse.errors import EXIT_OK, SynapseError
from synapse.faces.cli.call import Call
from synapse.faces.cli.options import SWITCH, TEXT, Option, Verb, parse, required
from synapse.faces.cli.render import print_json, print_text, safe, table
from synapse.faces.cli.verbs import COMMON
from synapse.home import read_own_token, require_home, socket_path
from synapse.hub.settings import (
    SETTINGS,
    Setting,
    SettingsRefused,
    Value,
    find_settings,
    load_settings,
    shown_value,
)


def run_hub(words: list[str]) -> int:
    """`synapse hub`: run the hub in the foreground until SIGTERM, SIGINT or SIGHUP; its exit code. Raises
    `SettingsRefused`, `UsageError`."""
    verb = Verb(
        "hub",
        "hub",
        "",
        (0, 0),
        "Run the hub until SIGTERM, SIGINT or SIGHUP; it prints one line when it is ready. Settings: flag > "
        "environment > config.toml > default.",
        *(_option(setting) for setting in SETTINGS if setting.flag),
    )
    parsed = parse(words, {"hub": verb}, COMMON)
    if parsed.has("help"):
        from synapse.faces.cli.guide import usage

        print(usage(verb))
        return EXIT_OK
    if parsed.has("version"):
        from synapse import __version__

        print(f"synapse {__version__}")
        return EXIT_OK
    home = parsed.text("home")
    if home is not None:
        required(home, "home")
    flags = {setting.name: text for setting in SETTINGS if (text := parsed.text(setting.name)) is not None}
    try:
        settings = load_settings(flags, os.environ)
    except SettingsRefused as error:
        from synapse.hub.supervision import Supervisor

        with closing(Supervisor(os.environ)) as supervisor:
            supervisor.say(STATUS=str(error))
        raise
    from synapse.hub.server import run

    return run(settings, as_json=parsed.has("json"))


def _option(setting: Setting) -> Option:
    kind = SWITCH if setting.kind == "boolean" else TEXT
    default = "" if setting.default in (None, ()) else f" Default: {shown_value(setting.default, setting.key)}."
    return Option(setting.flag[2:], kind, "yes|no" if kind == SWITCH else setting.kind.upper(), setting.doc + default)


def config_show(call: Call) -> int:
    """Every setting of the hub and of this client, with where its value came from. Raises `SettingsRefused`."""
    found = find_settings({"home": call.around.home}, os.environ)
    # the home came from the same places; find_settings was only told the outcome
    source = "--home" if call.parsed.has("home") else "SYNAPSE_HOME" if os.environ.get("SYNAPSE_HOME") else "default"
    rows: list[tuple[str, Value, str]] = [
        (item.setting.key or "home", item.value, item.source if item.setting.key else source) for item in found
    ]
    rows += [(f"client.{key}", text, where) for key, (text, where) in call.around.settings.items()]
    if call.as_json:
        settings = [{"key": key, "value": _plain(value), "source": where} for key, value, where in rows]
        print_json({"settings": settings, "cursor": None})
    else:
        print_text(table([[key, safe(shown_value(value, key)), safe(where)] for key, value, where in rows]))
    return EXIT_OK


def configuration_fault(home: str) -> str | None:
    """Why a hub of this home would refuse its settings; None when it would not."""
    try:
        load_settings({"home": home}, os.environ)
    except SettingsRefused as error:
        return str(error)
    return None


def start_faults(home: str) -> list[str]:
    """What a hub would refuse about this home at its start, in its words. Nothing is made; what the journal holds is
    not looked at."""
    found: list[str] = []
    for look in (_look_at_journal, _look_at_doors):
        try:
            if require_home(home):
                look(Path(home))
        except SynapseError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))  # a home that is none stands in the way of both


def _look_at_journal(home: Path) -> None:
    from synapse.journal.evidence import require_files
    from synapse.journal.files import Files, require_writable

    files = Files(home)
    require_writable(files)
    require_files(files)


def _look_at_doors(home: Path) -> None:
    """The token and the place of the socket, unless the settings are none: that is another finding."""
    from synapse.hub.listeners import require_place

    try:
        settings = load_settings({"home": str(home)}, os.environ)
    except SettingsRefused:
        return
    read_own_token(settings.token_path)
    if settings.unix_socket:
        require_place(socket_path(home))


def _plain(value: Value) -> object:
    """A value as JSON has it."""
    return str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
