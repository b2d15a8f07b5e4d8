"""Settings: four sources, one table; what is not understood is refused with its place."""

from pathlib import Path

import pytest

from synapse.home import CLIENT_SETTINGS
from synapse.hub.settings import (
    SETTINGS,
    Settings,
    SettingsRefused,
    find_settings,
    is_loopback,
    load_settings,
    reference_lines,
    shown_value,
)
from synapse.protocol.limits import Limits

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "settings.md"
FIXED = {"depth_max", "int_max", "idem_keys_max", "idem_keep_ms", "pool_units_max"}


def load(home: Path, config: str = "", flags: dict[str, str] | None = None, **environ: str) -> Settings:
    (home / "config.toml").write_text(config)
    return load_settings(flags or {}, {"SYNAPSE_HOME": str(home), **environ})


def test_without_anything_set_the_defaults_hold(tmp_path: Path) -> None:
    settings = load_settings({}, {"HOME": str(tmp_path)})
    home = tmp_path / ".local" / "state" / "synapse"
    assert settings == Settings(home=home)
    assert settings.token_path == home / "token"
    assert (settings.host, settings.port, settings.rooms) == ("127.0.0.1", 8876, {"main": ["general"]})
    assert settings.limits == Limits()


def test_flag_before_environment_before_config_before_default(tmp_path: Path) -> None:
    config = "port = 1\nhost = '127.0.0.2'\nlog_level = 'error'\n"
    settings = load(tmp_path, config, {"port": "3"}, SYNAPSE_PORT="2", SYNAPSE_HOST="127.0.0.3")
    assert (settings.port, settings.host, settings.log_level, settings.stats_log_s) == (3, "127.0.0.3", "error", 300)
    found = {
        item.setting.name: item.source
        for item in find_settings({"port": "3"}, {"SYNAPSE_HOME": str(tmp_path), "SYNAPSE_HOST": "127.0.0.3"})
    }
    wanted = {
        "port": "--port",
        "host": "SYNAPSE_HOST",
        "log_level": str(tmp_path / "config.toml"),
        "home": "SYNAPSE_HOME",
    }
    assert {name: found[name] for name in wanted} == wanted
    assert found["stats_log_s"] == "default"


def test_the_home_flag_also_says_where_the_config_lies(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("port = 5\n")
    settings = load_settings({"home": str(tmp_path)}, {"SYNAPSE_HOME": "/elsewhere"})
    assert (settings.home, settings.port) == (tmp_path, 5)


def test_every_kind_of_value_is_read_from_the_config(tmp_path: Path) -> None:
    config = """
    unix_socket = false
    allowed_hosts = ["a", "b:1"]
    token_file = "t"
    [rooms]
    science = ["explore", "general"]
    [limits]
    recipients_max = 3
    [client]
    name = "ada"
    """
    settings = load(tmp_path, config)
    assert (settings.unix_socket, settings.allowed_hosts, settings.limits.recipients_max) == (False, ("a", "b:1"), 3)
    assert settings.token_path == tmp_path / "t"
    assert settings.rooms == {"main": ["general"], "science": ["general", "explore"]}


def test_every_kind_of_value_is_read_from_texts(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "",
        {"auto_create": "no", "token_file": "/t"},
        SYNAPSE_ALLOWED_ORIGINS="http://a, http://b",
        SYNAPSE_LIMIT_LEND_MS="500",
    )
    assert (settings.auto_create, settings.token_file, settings.limits.lend_ms) == (False, Path("/t"), 500)
    assert settings.allowed_origins == ("http://a", "http://b")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("prot = 1", r"config\.toml: there is no setting prot; did you mean port\?"),
        ("recipients_max = 1", r"did you mean limits\.recipients_max\?"),
        ("[limits]\nrecipient_max = 1", r"no setting limits\.recipient_max; did you mean limits\.recipients_max\?"),
        ("[limits]\ndepth_max = 1", r"no setting limits\.depth_max"),
        ("[client]\nnmae = 'x'", r"no setting client\.nmae; did you mean client\.name\?"),
        ("[client]\nname = 1", r"client\.name: a whole number where a text belongs"),
        ("port = '1'", r"port: a text where a whole number belongs"),
        ("port = true", r"port: true or false where a whole number belongs"),
        ("port = 65536", r"port: 65536 is not within 0 to 65535"),
        ("unix_socket = 1", r"unix_socket: a whole number where true or false belongs"),
        ("allowed_hosts = 'x'", r"allowed_hosts: a text where a list of texts belongs"),
        ("allowed_hosts = [1]", r"allowed_hosts: a list where"),
        ("log_level = 'loud'", r"log_level: 'loud' is none of debug, info, warning, error"),
        ("rooms = 1", r"rooms: a whole number where a table of lists of texts belongs"),
        ("[rooms]\nx = 'y'", r"rooms\.x: a text where a list of texts belongs"),
        ("[rooms]\nX = []", r"rooms\.X: 'X' is not a room name"),
        ("[rooms]\nx = ['Y']", r"rooms\.x: 'Y' is not a channel name"),
        ("limits = 1", r"limits: a table belongs there"),
        ("client = 1", r"client: a table belongs there"),
        ("host = ''", r"host: '' cannot be used"),
        ("host = '0.0.0.0'", r"host 0\.0\.0\.0: other machines could read along.*--insecure-bind"),
        ("[limits]\nframe_bytes_max = 65536", r"does not fit"),
        (
            "[limits]\ndependencies_max = 1500",
            r"dependencies_max 1500 does not fit the 12544 characters of title_chars",
        ),
        ("[limits]\ndescription_chars_max = 16384", r"dependencies_max 1000 does not fit .* set one of them lower"),
        ("port = ", r"config\.toml: not TOML"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_place(tmp_path: Path, config: str, words: str) -> None:
    with pytest.raises(SettingsRefused, match=words) as caught:
        load(tmp_path, config)
    assert caught.value.exit_code == 78
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("SYNAPSE_LIMIT_LED_MS", r"there is no setting SYNAPSE_LIMIT_LED_MS; did you mean SYNAPSE_LIMIT_LEND_MS\?"),
        ("SYNAPSE_LIMIT_DEPTH_MAX", "there is no setting SYNAPSE_LIMIT_DEPTH_MAX"),
    ],
)
def test_a_variable_of_no_limit_is_refused(tmp_path: Path, variable: str, words: str) -> None:
    with pytest.raises(SettingsRefused, match=words) as caught:
        load_settings({}, {"SYNAPSE_HOME": str(tmp_path), variable: "500"})
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("port", "x", "--port: 'x' where a whole number"),
        ("port", "", "--port"),
        ("port", "9" * 30, "is not within"),
        ("port", "-1", "is not within"),
        ("unix_socket", "maybe", "where yes or no belongs"),
    ],
)
def test_a_flag_that_is_not_understood_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(SettingsRefused, match=words):
        load(tmp_path, "", {name: text})


def test_a_value_of_the_config_that_a_flag_overrides_is_refused_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("port = 'abc'")
    with pytest.raises(SettingsRefused, match=r"config\.toml: port: a text where a whole number belongs"):
        load_settings({"home": str(tmp_path), "port": "0"}, {})


def test_a_variable_that_is_not_understood_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match="SYNAPSE_PORT"):
        load(tmp_path, SYNAPSE_PORT="http")


def test_a_config_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(SettingsRefused, match="cannot be read"):
        load_settings({}, {"SYNAPSE_HOME": str(tmp_path)})


def test_other_machines_are_let_in_only_when_it_is_forced(tmp_path: Path) -> None:
    assert load(tmp_path, "", {"host": "0.0.0.0", "insecure_bind": "yes"}).host == "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("box", False),
    ],
)
def test_loopback_is_what_others_cannot_reach(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local


def test_every_limit_of_the_protocol_is_a_setting_or_fixed() -> None:
    rows = {setting.name for setting in SETTINGS if setting.key.startswith("limits.")}
    assert rows | FIXED == set(Limits.__struct_fields__)
    assert not rows & FIXED


def test_every_setting_is_a_field_within_its_own_bounds() -> None:
    fields = set(Settings.__struct_fields__) | set(Limits.__struct_fields__)
    for setting in SETTINGS:
        assert setting.name in fields
        if isinstance(setting.default, int) and setting.kind == "integer":
            assert setting.least <= setting.default <= setting.most


def test_the_reference_is_the_table() -> None:
    """`python -m synapse config show` shows values; this table is made by `reference_lines()`."""
    text = REFERENCE.read_text(encoding="utf-8")
    generated = text.split("<!-- generated: -->\n")[1].split("\n<!-- end -->")[0]
    assert generated == "\n".join(reference_lines())
    assert all(f"`{key}`" in generated for key in CLIENT_SETTINGS)


def test_pools_of_the_configuration_are_numbers_within_bounds(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[pools]\ngpu = 2\n")
    assert load_settings({"home": str(tmp_path)}, {}).pools == {"gpu": 2}
    for text, why in (
        ('gpu = "2"', r"pools\.gpu: a text where a whole number belongs"),
        ("gpu = true", r"pools\.gpu: true or false where a whole number belongs"),
        ("gpu = 0", r"pools\.gpu: 0 is not within 1 to 1000000"),
        ("GPU = 1", r"pools\.GPU: 'GPU' is not a pool name"),
    ):
        config.write_text(f"[pools]\n{text}\n")
        with pytest.raises(SettingsRefused, match=why):
            load_settings({"home": str(tmp_path)}, {})
    config.write_text("pools = 3\n")
    with pytest.raises(SettingsRefused, match="a whole number where a table of whole numbers belongs"):
        load_settings({"home": str(tmp_path)}, {})


def test_a_retention_is_told_by_kind_and_channel(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[retention]\nmessages = "30d"\nvalues = "36h"\n"main:general" = "all"\n')
    found = load_settings({"home": str(tmp_path)}, {}).retention
    day_ms = 24 * 3_600_000
    assert found == {"files": day_ms, "messages": 30 * day_ms, "values": 36 * 3_600_000, "main:general": 0}
    assert shown_value(found, "retention") == 'files = "1d"; messages = "30d"; values = "36h"; main:general = "all"'


def test_chunks_of_ended_files_go_after_a_day_unless_something_else_is_said(tmp_path: Path) -> None:
    day_ms = 24 * 3_600_000
    assert Settings(home=tmp_path).retention == {"files": day_ms}
    for line, wanted in (("", day_ms), ('files = "2d"', 2 * day_ms), ('files = "all"', 0)):
        (tmp_path / "config.toml").write_text(f"[retention]\n{line}\n" if line else "")
        assert load_settings({"home": str(tmp_path)}, {}).retention == {"files": wanted}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("messages = 30", "where an age such as 30d"),
        ('messages = "30"', "where an age such as 30d"),
        ('messages = "23h"', "less than 24h"),
        ('mesages = "30d"', "none of messages, leases, values"),
        ('"Main:general" = "30d"', "Main"),
    ],
)
def test_a_retention_that_cannot_be_is_refused(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "config.toml").write_text(f"[retention]\n{line}\n")
    with pytest.raises(SettingsRefused, match=words):
        load_settings({"home": str(tmp_path)}, {})
