"""The hub's settings: one table, from which parsing, `--help`, docs/reference/settings.md and `config show` derive.

Rule: flag > environment > config.toml > default. What is not understood is refused, with its place and the nearest
known name; a setting is never ignored and never repaired.
"""

import ipaddress
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NamedTuple, cast

import msgspec

from synapse.home import CLIENT_SETTINGS, config_path, home_dir, token_path
from synapse.hub.setting_values import RETENTION as RETENTION
from synapse.hub.setting_values import RETENTION_KINDS as RETENTION_KINDS
from synapse.hub.setting_values import Setting as Setting
from synapse.hub.setting_values import SettingsRefused as SettingsRefused
from synapse.hub.setting_values import Value as Value
from synapse.hub.setting_values import age_ms as age_ms
from synapse.hub.setting_values import checked, kind_of, shown_age
from synapse.protocol.limits import Limits
from synapse.protocol.names import GENERAL, MAIN_ROOM

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
FRAME_OVERHEAD_BYTES: Final = 16 * 1024
"""What a message's frame holds besides its body: names, subject, thread, envelope. So for a task."""
HUB_FRAME_BYTES_MAX: Final = 256 * 1024
"""PROTOCOL.md, Frames."""
TASK_ID_BYTES: Final = 131
"""A task's id in a list, as JSON."""
CHAR_BYTES_MAX: Final = 6
"""A character as JSON, if it is a control character."""


class Found(NamedTuple):
    """A setting's value, and where it came from: `--port`, `SYNAPSE_PORT`, the path of config.toml, or `default`."""

    setting: Setting
    value: Value
    source: str


def _row(name: str, kind: str, default: Value, doc: str, **bounds: int) -> Setting:
    """A row whose variable, flag and key follow from its name."""
    return Setting(
        name=name,
        kind=kind,
        default=default,
        doc=doc,
        env=f"SYNAPSE_{name.upper()}",
        flag=f"--{name.replace('_', '-')}",
        key=name,
        least=bounds.get("least", 1),
        most=bounds.get("most", 2**53 - 1),
        unit="s" if name.endswith("_s") else "bytes" if name.endswith("_bytes_max") else "",
        choices=LOG_LEVELS if name == "log_level" else (),
    )


_DAY_MS: Final = 24 * 3600 * 1000
_LIMIT_ROWS: Final[dict[str, tuple[str, int, int]]] = {
    # field of Limits: (meaning, least, most). depth_max and int_max belong to the protocol, and idempotency keys to the
    # journal, whose replay must not depend on a setting: they are none.
    "frame_bytes_max": (
        "One frame of a client; the hub's own have up to 256 KiB, whatever is set here.",
        32 * 1024,
        256 * 1024,
    ),
    "message_bytes_max": ("The body of one message; at least 16 KiB below frame_bytes_max.", 1, 240 * 1024),
    "fragments_max": ("Fragments of one WebSocket message.", 1, 65_536),
    "in_flight_max": ("Requests of one connection that wait for their answer.", 1, 4_096),
    "page_items_max": ("Items on one page of a list; clients ask for 200.", 200, 1_000),
    "subject_chars_max": ("Characters of a subject.", 1, 1_024),
    "thread_chars_max": ("Characters of a thread's name.", 1, 256),
    "recipients_max": ("Recipients of one direct message.", 1, 64),
    "mentions_max": ("Mentions in one message that reach an inbox.", 1, 64),
    "idem_key_chars_max": ("Characters of an idempotency key.", 32, 128),
    "inbox_unacked_max": ("Unacked messages in one inbox.", 1, 1_000_000),
    "lend_ms": ("How long a taken message is lent.", 100, _DAY_MS),
    "lends_max": ("Lends of one message before it is dead.", 1, 1_000_000),
    "acks_max": ("Ids in one ack.", 1, 10_000),
    "dead_letters_max": ("Dead letters in one inbox; the oldest of more are dropped.", 1, 1_000_000),
    "agents_max": ("Agents the hub knows.", 1, 1_000_000),
    "rooms_max": ("Rooms.", 1, 100_000),
    "channels_per_room_max": ("Channels in one room.", 1, 100_000),
    "members_max": ("Members of one room, channel or role; all of them fit into one answer.", 1, 1_000),
    "roles_max": ("Roles of the hub.", 0, 100_000),
    "roles_per_agent_max": ("Roles that one agent is a member of.", 0, 1_000),
    "subscriptions_max": ("Subscriptions of one connection.", 1, 1_024),
    "subscribed_channels_max": ("Channels in the subscriptions of one connection.", 1, 4_096),
    "waiting_max": ("Requests of one connection that wait for something to happen.", 1, 1_024),
    "subscribed_topics_max": ("Topics in all subscriptions of a connection.", 0, 64),
    "card_bytes_max": ("All that an agent says of itself, as JSON.", 256, 64 * 1024),
    "card_text_chars_max": ("A description, or another text of a card.", 64, 8 * 1024),
    "card_words_max": ("Tags, models and the like: words in each list of a card.", 1, 1_000),
    "skills_max": ("Skills of an agent.", 1, 1_000),
    "ttl_ms_min": ("The shortest TTL of a lease.", 100, 60_000),
    "ttl_ms_max": ("The longest TTL of a lease.", 60_000, 365 * _DAY_MS),
    "paths_max": ("Paths in one claim.", 1, 1_024),
    "path_chars_max": ("Characters of one path.", 1, 512),
    "path_wildcards_max": ("Wildcards in one path.", 0, 16),
    "worktree_chars_max": ("Characters of a worktree's id.", 16, 4_096),
    "note_chars_max": ("Characters of a note, or of a branch's name.", 1, 4_096),
    "leases_max": ("Live leases.", 1, 1_000_000),
    "leases_per_agent_max": ("Live leases of one agent.", 1, 1_000_000),
    "waiters_max": ("Claims that wait.", 1, 10_000),
    "waits_per_agent_max": ("Claims of one agent that wait.", 1, 10_000),
    "checkpoint_bytes_max": ("One checkpoint.", 64, 64 * 1024),
    "checkpoints_bytes_max": ("All checkpoints together.", 64 * 1024, 1 << 32),
    "artefacts_max": ("Files that one checkpoint points to.", 0, 256),
    "pools_max": ("Pools.", 0, 10_000),
    "pools_per_claim_max": ("Pools in one claim.", 1, 64),
    "value_bytes_max": ("One shared value.", 64, 128 * 1024),
    "values_per_room_max": ("Shared values of one room.", 1, 1_000_000),
    "values_bytes_max": ("All shared values together, with their keys.", 64 * 1024, 1 << 32),
    "value_ttl_ms_max": ("The longest life of a shared value that has an end.", 1_000, 100 * 365 * _DAY_MS),
    "file_bytes_max": ("One file that goes through the hub.", 0, 1 << 30),
    "chunk_bytes_max": ("One chunk of such a file; less where frame_bytes_max is small.", 4 * 1024, 128 * 1024),
    "file_ttl_ms": (
        "How long such a file is there, from its announcement and anew when it is complete.",
        1_000,
        30 * _DAY_MS,
    ),
    "files_max": ("Such files on their way.", 0, 100_000),
    "files_per_agent_max": ("Such files of one agent.", 0, 100_000),
    "files_bytes_max": ("All such files together.", 0, 1 << 40),
    "files_bytes_per_agent_max": ("All such files of one agent together.", 0, 1 << 40),
    "cause_ms": ("For so long what an agent acked last counts as the cause of what it sends.", 0, _DAY_MS),
    "hops_max": ("A chain of causes up to this long is no circle.", 1, 10_000),
    "loop_repeats_max": ("How often on one line of causes an agent sends to the same one.", 1, 10_000),
    "sends_per_chain_max": ("Messages of one agent in one chain of causes.", 1, 1_000_000),
    "agent_budget_per_hour": ("Messages of one agent in an hour that others' messages caused.", 1, 1_000_000_000),
    "held_max": ("Messages that the loop guard holds.", 0, 100_000),
    "held_bytes_max": ("All of them together, with 512 bytes for each.", 0, 1 << 30),
    "resources_max": ("Resources that all agents offer.", 0, 100_000),
    "resources_per_agent_max": ("Resources that one agent offers.", 0, 10_000),
    "resource_data_bytes_max": ("The data of a resource, in bytes.", 16, 64 * 1024),
    "resource_ttl_ms_max": ("The longest life of an offer that has an end.", 1_000, 100 * 365 * _DAY_MS),
    "tasks_per_room_max": ("Tasks in the plan of one room.", 1, 1_000_000),
    "dependencies_max": ("Tasks that one task depends on.", 1, 3_500),
    "dependents_max": ("Tasks that depend on one task.", 1, 3_500),
    "title_chars_max": ("Characters of a task's title.", 1, 1_024),
    "description_chars_max": ("Characters of a task's description.", 0, 16 * 1024),
    "labels_max": ("Labels of one task.", 0, 64),
    "progress_chars_max": ("Characters of one line of progress.", 1, 16 * 1024),
    "plans_bytes_max": ("All plans together.", 64 * 1024, 1 << 32),
    "sessions_per_agent_max": ("Open work sessions of one agent.", 1, 10_000),
    "sessions_ended_max": ("Ended work sessions that are kept at hand.", 1, 100_000),
    "session_items_max": ("Decisions, files or todos in one work session.", 1, 10_000),
    "session_item_chars_max": ("Characters of one of these.", 16, 8 * 1024),
    "session_bytes_max": ("One work session without its checkpoints.", 1_024, 96 * 1024),
    "sessions_bytes_max": ("All work sessions together, each with its last checkpoint.", 64 * 1024, 1 << 32),
    "questions_per_room_max": ("Open questions of a room.", 0, 100_000),
    "questions_per_agent_max": ("Open questions of one agent.", 0, 10_000),
    "questions_per_task_max": ("Open questions about one task.", 0, 256),
    "questions_bytes_max": ("All open questions together.", 64 * 1024, 1 << 32),
    "question_chars_max": ("A question, in characters.", 1, 32 * 1024),
    "question_context_bytes_max": ("The context of a question.", 0, 64 * 1024),
    "question_options_max": ("Options of a question.", 1, 256),
    "question_deadline_ms_max": ("The farthest deadline of a question.", 60_000, 10 * 365 * _DAY_MS),
    "answer_chars_max": ("An answer, in characters.", 1, 32 * 1024),
    "ephemeral_bytes_max": ("The body of one signal.", 1, 64 * 1024),
    "signals_per_turn_max": ("Signals that one connection sends in one turn; more are dropped.", 1, 4_096),
    "signals_turn_bytes_max": ("Signals that one connection is told in one turn, if more than one.", 1_024, 1 << 20),
    "recent_signals_max": ("The last signals of a channel that are kept in memory.", 0, 1_000),
    "recent_signals_bytes_max": ("All of them together.", 0, 192 * 1024),
    "lanes_per_agent_max": ("Open lanes of one agent, those that it offered and those that lead to it.", 1, 10_000),
    "lanes_ended_max": ("Ended lanes that are kept at hand.", 1, 100_000),
    "lane_bytes_max": ("The context of a lane, or one message in it.", 64, 64 * 1024),
    "lane_timeout_ms_min": ("The shortest time to accept a lane.", 100, 3_600_000),
    "lane_timeout_ms_max": ("The longest time to accept a lane.", 60_000, 365 * _DAY_MS),
    "tokens_max": ("Tokens, those that have expired among them.", 0, 10_000),
    "token_rooms_max": ("Rooms that one token grants.", 1, 256),
    "token_label_chars_max": ("Characters of a token's label.", 1, 1_024),
    "token_ttl_ms_max": ("The longest life of a token that has an end.", 1_000, 100 * 365 * _DAY_MS),
    "stalled_ms": ("A lease whose holder shows no progress for so long counts as stalled.", 1_000, 365 * _DAY_MS),
    "tie_grace_ms": ("How long a tied lease outlives its connection.", 0, _DAY_MS),
    "reattach_ms": ("How long a place in the queue outlives its connection.", 0, _DAY_MS),
    "parked_ms_max": ("How long a lease may be parked.", 1_000, 365 * _DAY_MS),
    "wait_ms_max": ("The longest wait of one request.", 1_000, 365 * _DAY_MS),
    "connections_max": ("Open connections.", 1, 1_000_000),
    "connections_per_host_max": ("Open connections from one host.", 1, 1_000_000),
    "connections_unauthenticated_max": (
        "Open connections before their hello; the hub's own user on the Unix socket is let in all the same.",
        1,
        1_000_000,
    ),
    "hello_ms": ("Time for the hello.", 100, 600_000),
    "drain_ms": ("Time for a peer that does not read, before it is closed.", 100, 3_600_000),
    "outbox_bytes_max": ("Bytes that wait for one connection.", 64 * 1024, 1 << 30),
    "rate_agent_per_s": (
        "Requests a second of one agent; each 8 KiB of one count as one more. As many 8 KiB are read from disk for it; "
        "more wait.",
        1,
        1_000_000_000,
    ),
    "rate_agent_burst": ("Requests of one agent at once.", 1, 1_000_000_000),
    "rate_host_per_s": (
        "Requests a second from one host, counted in the same way; a new connection counts as 32, a control frame or a "
        "piece of a message as one.",
        1,
        1_000_000_000,
    ),
    "rate_host_burst": ("Requests from one host at once.", 1, 1_000_000_000),
}


def _unit_of(limit: str) -> str:
    for ending, unit in (("_bytes_max", "bytes"), ("_ms", "ms"), ("_ms_max", "ms"), ("_per_s", "per second")):
        if limit.endswith(ending):
            return unit
    return ""


LIMIT_VARIABLE: Final = "SYNAPSE_LIMIT_"
"""How the variables of all limits begin, and no others."""


def _limit_rows() -> tuple[Setting, ...]:
    defaults = Limits()
    return tuple(
        Setting(
            name=name,
            kind="integer",
            default=cast(int, getattr(defaults, name)),
            doc=doc,
            unit=_unit_of(name),
            least=least,
            most=most,
            env=f"{LIMIT_VARIABLE}{name.upper()}",
            key=f"limits.{name}",
        )
        for name, (doc, least, most) in _LIMIT_ROWS.items()
    )


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting(
        name="home",
        kind="path",
        default=None,
        doc="Directory of the journal, the token, the secrets and the rendezvous file; by default "
        "`$XDG_STATE_HOME/synapse`, else `~/.local/state/synapse`.",
        env="SYNAPSE_HOME",
        flag="--home",
    ),
    _row("host", "text", "127.0.0.1", "Address to listen on; one that other machines reach needs TLS."),
    _row("port", "integer", 8876, "Port to listen on; 0 takes a free one.", least=0, most=65_535),
    _row("unix_socket", "boolean", True, "Listen on a Unix socket too."),
    _row("auto_create", "boolean", True, "Joining a room or channel that does not exist creates it."),
    _row("create_needs_operator", "boolean", False, "Only an operator creates rooms and channels."),
    Setting(
        name="rooms",
        kind="rooms",
        default={MAIN_ROOM: [GENERAL]},
        doc='Rooms with channels that always exist: `science = ["general", "explore"]`; `main:general` does anyway.',
        key="rooms",
    ),
    Setting(
        name="pools",
        kind="pools",
        default={},
        doc="Pools of counted units that always exist, with their capacity: `gpu = 2`.",
        key="pools",
    ),
    Setting(
        name="ephemeral",
        kind="ephemeral",
        default={},
        doc="Channels that always exist and keep nothing, with what their bodies are held to: `plain`, `telemetry` or "
        '`typing`: `"build:progress" = "plain"`.',
        key="ephemeral",
    ),
    Setting(
        name="retention",
        kind="retention",
        default=dict(RETENTION),
        doc="How long is kept what is older, at least `1d`, by kind (`messages`, `leases`, `values`, `plan`, "
        '`sessions`, `questions`, `files`) or channel: `messages = "30d"`, `"main:general" = "all"`. The hub drops '
        "the rest once a day; what is not named is kept, but chunks of files that ended.",
        key="retention",
    ),
    _row(
        "allowed_hosts",
        "texts",
        (),
        "Further values of the Host header to answer; separated by commas. One without a port is answered at any; web "
        "pages of it may connect from the hub's port and from the default one of http or https.",
    ),
    _row("allowed_origins", "texts", (), "Web origins that may connect; separated by commas."),
    _row("tls_cert", "path", None, "Certificate chain (PEM); the port then speaks TLS: wss:// and https://."),
    _row("tls_key", "path", None, "Its private key (PEM, without a password)."),
    _row("insecure_bind", "boolean", False, "Listen where other machines can read along, without TLS."),
    _row(
        "token_file",
        "path",
        None,
        "File with the hub's token; made when it is not there; by default `token` in the home.",
    ),
    _row("log_level", "text", "info", "The least severe records to log."),
    _row("log_file", "path", None, "File for the log, mode 0600; by default it goes to stderr."),
    _row(
        "log_file_bytes_max",
        "integer",
        16 * 1024 * 1024,
        "The log file is put aside, as `.1`, before it grows beyond this.",
        least=64 * 1024,
    ),
    _row("log_files_kept", "integer", 3, "How many log files are kept that were put aside.", least=0, most=100),
    _row("supervise", "boolean", False, "Keep a supervisor running beside the hub (synapse supervisor)."),
    _row("supervise_every_s", "integer", 30, "Seconds between two looks of that supervisor."),
    _row("supervise_orphaned_s", "integer", 60, "After so long it puts a task in progress without a lease back."),
    _row("supervise_tries", "integer", 3, "How often it does so, or a stall lasts, before it calls people."),
    _row("stats_log_s", "integer", 300, "Seconds between two log lines with the counts; 0: none.", least=0),
    _row(
        "snapshot_events",
        "integer",
        500_000,
        "Events between two snapshots, which bound the time of a restart.",
        least=100,
    ),
    *_limit_rows(),
)
"""Every setting of the hub."""

_BY_KEY: Final = {setting.key: setting for setting in SETTINGS if setting.key}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a hub runs with. rooms: channels by room, `main` with `general` among them. token_file None: in the home."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 8876
    unix_socket: bool = True
    auto_create: bool = True
    create_needs_operator: bool = False
    rooms: dict[str, list[str]] = msgspec.field(default_factory=lambda: {MAIN_ROOM: [GENERAL]})
    pools: dict[str, int] = msgspec.field(default_factory=dict)
    ephemeral: dict[str, str] = msgspec.field(default_factory=dict)
    retention: dict[str, int] = msgspec.field(default_factory=lambda: dict(RETENTION))
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_bind: bool = False
    token_file: Path | None = None
    log_level: str = "info"
    log_file: Path | None = None
    log_file_bytes_max: int = 16 * 1024 * 1024
    log_files_kept: int = 3
    supervise: bool = False
    supervise_every_s: int = 30
    supervise_orphaned_s: int = 60
    supervise_tries: int = 3
    stats_log_s: int = 300
    snapshot_events: int = 500_000
    limits: Limits = Limits()

    @property
    def token_path(self) -> Path:
        """Where the token lies."""
        return Path(token_path(self.home)) if self.token_file is None else self.token_file


def load_settings(flags: Mapping[str, str], environ: Mapping[str, str]) -> Settings:
    """The settings from flags (by setting name), environment and the home's config.toml. Raises `SettingsRefused`."""
    return settings_of(find_settings(flags, environ))


def settings_of(found: list[Found]) -> Settings:
    """The settings of found values. Raises `SettingsRefused` when two of them do not go together."""
    values = {item.setting.name: item.value for item in found if item.setting.name not in _LIMIT_ROWS}
    limits = Limits(**{item.setting.name: cast(int, item.value) for item in found if item.setting.name in _LIMIT_ROWS})
    settings = msgspec.convert({**values, "limits": limits}, Settings)
    _require_that_fits(settings)
    return settings


def find_settings(flags: Mapping[str, str], environ: Mapping[str, str]) -> list[Found]:
    """Every setting with its value and source, in the order of the table. Raises `SettingsRefused`."""
    home = home_dir({**environ, "SYNAPSE_HOME": flags["home"]} if flags.get("home") else environ)
    path = config_path(home)
    configured = _read_config(path)
    _require_known_limits(environ)
    # also those that are overridden: they would be the next start's surprise
    values = {
        setting.key: checked(setting, configured[setting.key], f"{path}: {setting.key}", home)
        for setting in SETTINGS
        if setting.key in configured
    }
    found = []
    for setting in SETTINGS:
        if setting.name == "home":
            source = "--home" if flags.get("home") else "SYNAPSE_HOME" if environ.get("SYNAPSE_HOME") else "default"
            found.append(Found(setting, Path(home), source))
        elif setting.name in flags:
            found.append(Found(setting, _parsed(setting, flags[setting.name], setting.flag), setting.flag))
        elif environ.get(setting.env):
            found.append(Found(setting, _parsed(setting, environ[setting.env], setting.env), setting.env))
        elif setting.key in values:
            found.append(Found(setting, values[setting.key], path))
        else:
            found.append(Found(setting, setting.default, "default"))
    return found


def _read_config(path: str) -> dict[str, object]:
    """The values of config.toml by key; {} when there is none. Raises `SettingsRefused` for keys that do not exist."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # the path comes from home.py, which is made of plain texts
            document = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsRefused(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsRefused(f"{path}: not TOML: {error}") from error
    client = document.pop("client", {})
    if not isinstance(client, dict):
        raise SettingsRefused(f"{path}: client: a table belongs there: [client]")
    for key, value in client.items():
        if key not in CLIENT_SETTINGS:
            raise _unknown(path, f"client.{key}", [f"client.{name}" for name in CLIENT_SETTINGS])
        if not isinstance(value, str):
            raise SettingsRefused(f"{path}: client.{key}: {kind_of(value)} where a text belongs")
    limits = document.pop("limits", {})
    if not isinstance(limits, dict):
        raise SettingsRefused(f"{path}: limits: a table belongs there: [limits]")
    values = {**document, **{f"limits.{key}": value for key, value in limits.items()}}
    for key in values:
        if key not in _BY_KEY:
            raise _unknown(path, key, [*_BY_KEY, "limits", "client"])
    return values


def _require_known_limits(environ: Mapping[str, str]) -> None:
    """Raises `SettingsRefused` for a variable of a limit that does not exist: it would do nothing, without a word."""
    known = [setting.env for setting in SETTINGS if setting.env.startswith(LIMIT_VARIABLE)]
    for name in sorted(environ):
        if name.startswith(LIMIT_VARIABLE) and name not in known:
            raise _unknown("environment", name, known)


def _unknown(path: str, key: str, known: list[str]) -> SettingsRefused:
    near = get_close_matches(key, known, 1, 0.5)
    by_leaf = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    hint = f"did you mean {(by_leaf or near)[0]}?" if by_leaf or near else "docs/reference/settings.md lists the keys"
    return SettingsRefused(f"{path}: there is no setting {ascii(key)[1:-1]}; {hint}")


def _parsed(setting: Setting, text: str, place: str) -> Value:
    """A flag's or variable's text as the value of a setting."""
    match setting.kind:
        case "integer":
            digits = text.strip()
            if not digits.removeprefix("-").isdecimal() or not digits.isascii():
                raise SettingsRefused(f"{place}: {text!a} where a whole number belongs")
            return checked(setting, int(digits) if len(digits) < 20 else 2**63, place, ".")
        case "boolean":
            word = text.strip().lower()
            if word not in _BOOLEANS:
                raise SettingsRefused(f"{place}: {text!a} where yes or no belongs")
            return _BOOLEANS[word]
        case "texts":
            return checked(setting, [part.strip() for part in text.split(",") if part.strip()], place, ".")
        case _:
            return checked(setting, text, place, ".")


_BOOLEANS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def _require_that_fits(settings: Settings) -> None:
    """Refuse values that are lawful alone and not together."""
    limits = settings.limits
    if limits.message_bytes_max + FRAME_OVERHEAD_BYTES > limits.frame_bytes_max:
        raise SettingsRefused(
            f"limits.message_bytes_max {limits.message_bytes_max} does not fit limits.frame_bytes_max "
            f"{limits.frame_bytes_max}: leave {FRAME_OVERHEAD_BYTES} bytes for the envelope"
        )
    texts = limits.title_chars_max + limits.description_chars_max + limits.progress_chars_max
    task_bytes = limits.dependencies_max * TASK_ID_BYTES + texts * CHAR_BYTES_MAX + FRAME_OVERHEAD_BYTES
    if task_bytes > HUB_FRAME_BYTES_MAX:
        raise SettingsRefused(
            f"limits.dependencies_max {limits.dependencies_max} does not fit the {texts} characters of "
            "title_chars_max, description_chars_max and progress_chars_max: the answer about one task could have "
            f"{task_bytes} bytes, and no frame has more than {HUB_FRAME_BYTES_MAX}; set one of them lower"
        )
    if (settings.tls_cert is None) != (settings.tls_key is None):
        missing = "tls_key" if settings.tls_key is None else "tls_cert"
        raise SettingsRefused(f"{missing} is missing: tls_cert and tls_key go together")
    if settings.tls_cert is None and not settings.insecure_bind and not is_loopback(settings.host):
        raise SettingsRefused(
            f"host {settings.host}: other machines could read along, because no TLS is there; set --tls-cert and "
            "--tls-key, or listen on 127.0.0.1 and forward the port over SSH, or force it with --insecure-bind"
        )


def is_loopback(host: str) -> bool:
    """True for an address that other machines cannot reach. A name other than `localhost` counts as reachable."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def shown_value(value: Value, key: str = "") -> str:
    """A value as config.toml writes it. key: of its setting; ages are numbers too."""
    if key == "retention" and isinstance(value, dict):
        value = {name: shown_age(age) for name, age in value.items() if isinstance(age, int)}
    match value:
        case None:
            return "–"
        case bool():
            return "true" if value else "false"
        case Path():
            return f'"{value}"'
        case tuple():
            return msgspec.json.encode(list(value)).decode()
        case dict():
            return "; ".join(f"{room} = {msgspec.json.encode(channels).decode()}" for room, channels in value.items())
        case _:
            return msgspec.json.encode(value).decode()


def reference_lines() -> Iterator[str]:
    """The tables of docs/reference/settings.md, generated."""
    yield "| key in config.toml | variable | flag of `synapse hub` | default | bounds | meaning |"
    yield "|---|---|---|---|---|---|"
    for row in SETTINGS:
        upto = f"{row.least} to {row.most}" if row.most < 2**53 - 1 else f"from {row.least}"
        bounds = f"{upto} {row.unit}".strip() if row.kind == "integer" else ", ".join(row.choices)
        default = shown_value(row.default, row.key)
        cells = [f"`{cell}`" if cell else "–" for cell in (row.key, row.env, row.flag)]
        shown = default if default == "–" else f"`{default}`"
        yield f"| {' | '.join(cells)} | {shown} | {bounds or row.kind} | {row.doc} |"
    yield ""
    yield "| key in `[client]` | variable | flag | meaning |"
    yield "|---|---|---|---|"
    for key, (env, flag, doc) in CLIENT_SETTINGS.items():
        yield f"| `{key}` | `{env}` | `{flag}` | {doc} |"
