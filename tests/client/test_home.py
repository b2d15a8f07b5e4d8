"""A client's settings and its way to a hub."""

import sys
from pathlib import Path

import pytest

from synapse.client.home import HUB_TABLES, Surroundings, find_hub, refused_with, unreachable
from synapse.errors import HubUnreachable
from synapse.home import HomeRefused, HubFile, write_hub_file
from synapse.hub.settings import SETTINGS

GONE = 2**22 + 1  # above the highest pid Linux gives


def around(home: Path, flags: dict[str, str] | None = None, **environ: str) -> Surroundings:
    return Surroundings(flags or {}, {"SYNAPSE_HOME": str(home), "HOME": "/nowhere", **environ})


def test_flag_before_environment_before_config(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('port = 1\n[client]\nname = "c"\nroom = "c"\nuri = "unix:/c"\n')
    found = around(tmp_path, {"name": "f"}, SYNAPSE_NAME="e", SYNAPSE_ROOM="e")
    assert (found.get("name"), found.get("room"), found.get("uri")) == ("f", "e", "unix:/c")
    assert found.settings["uri"][1] == str(tmp_path / "config.toml")
    assert found.settings["room"][1] == "SYNAPSE_ROOM"
    assert found.get("timeout") is None


@pytest.mark.parametrize(
    "text",
    ["[client", "[clinet]\nname = 'x'", "[Client]", "[x", "[client]\nnmae = 'x'", "[client]\nname = 1", "client = 1"],
)
def test_a_config_that_is_not_understood_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(HomeRefused, match=r"config\.toml"):
        around(tmp_path)


def test_what_is_the_hubs_alone_is_not_read_by_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tomllib", None)
    (tmp_path / "config.toml").write_text("port = 1\n[rooms]\na = []\n[ limits ] # all\nx = 1\n[pools]\n[retention]\n")
    assert around(tmp_path).settings == {}


def test_a_table_of_the_hub_is_known_to_clients_by_its_name() -> None:
    tables = {setting.key for setting in SETTINGS if isinstance(setting.default, dict)} | {"limits"}
    assert {name.decode() for name in HUB_TABLES} == tables


def test_who_looks_for_what_is_wrong_can_do_without_a_config_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[client")
    environ = {"SYNAPSE_HOME": str(tmp_path)}
    assert Surroundings({}, environ, is_config_needed=False).settings == {}


def test_the_hubs_token_file_serves_clients_too(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("abc\n")
    (tmp_path / "config.toml").write_text(f"token_file = '{tmp_path / 't'}'\n")
    assert around(tmp_path).token("ws://h:1") == "abc"


@pytest.mark.parametrize("table", ["", "[client]\n"])
def test_files_of_config_toml_start_at_the_home_wherever_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    (tmp_path / "tok").write_text("abc\n")
    (tmp_path / "config.toml").write_text(f'{table}token_file = "tok"\n')
    monkeypatch.chdir("/")
    assert around(tmp_path).token("ws://h:1") == "abc"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.toml").write_text(f'{table}token_file = "~/tok"\n')
    assert around(tmp_path).token("ws://h:1") == "abc"


def test_so_does_the_ca_and_what_is_typed_starts_where_it_is_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text('[client]\ntls_ca = "ca.pem"\n')
    assert around(tmp_path).get("tls_ca") == str(tmp_path / "ca.pem")
    assert around(tmp_path, {"tls_ca": "x.pem"}).get("tls_ca") == "x.pem"
    monkeypatch.setenv("HOME", "/at/home")
    assert around(tmp_path, SYNAPSE_TLS_CA="~/ca.pem").get("tls_ca") == "/at/home/ca.pem"


def test_without_any_token_there_is_none_and_a_named_one_must_be_there(tmp_path: Path) -> None:
    assert around(tmp_path).token("ws://h:1") is None
    for uri in ("ws://h:1", "unix:/x"):
        with pytest.raises(HomeRefused):
            around(tmp_path, {"token_file": str(tmp_path / "missing")}).token(uri)


def test_a_token_of_the_home_that_cannot_be_read_is_told_where_one_is_needed(tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()
    assert around(tmp_path).token("unix:/x") is None
    for uri in ("ws://h:1", "wss://h:1"):
        with pytest.raises(HomeRefused, match=r"token: no token can be read \(Is a directory\); remove it"):
            around(tmp_path).token(uri)


def test_no_hub_json_names_the_home_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable, match=f"no hub runs for {tmp_path}.*synapse hub --home {tmp_path}"):
        find_hub(around(tmp_path))


def test_the_unix_socket_comes_first(tmp_path: Path) -> None:
    write_hub_file(tmp_path, HubFile(pid=1, uris=("ws://h:1", "unix:/x"), journal_id="j", hub_id="h"))
    where = find_hub(around(tmp_path))
    assert (where.uri, where.hub_id) == ("unix:/x", "h")
    assert find_hub(around(tmp_path, {"uri": "ws://h:1"})).hub_id == "h"
    assert find_hub(around(tmp_path, {"uri": "ws://h:2"})).hub_id is None


@pytest.mark.parametrize("uri", ["http://x", "x", "ws://", "unix:", ""])
def test_an_address_of_another_kind_is_a_value_error(tmp_path: Path, uri: str) -> None:
    with pytest.raises((ValueError, HubUnreachable)):
        find_hub(around(tmp_path, {"uri": uri}))


def test_a_stale_hub_json_says_that_its_process_is_gone(tmp_path: Path) -> None:
    write_hub_file(tmp_path, HubFile(pid=GONE, uris=("unix:/x",), journal_id="j", hub_id="h"))
    place = around(tmp_path)
    text = str(unreachable(place, find_hub(place), "refused"))
    assert f"its process {GONE} is gone" in text
    assert "synapse hub" in text
    write_hub_file(tmp_path, HubFile(pid=1, uris=("unix:/x",), journal_id="j", hub_id="h"))
    assert "pid 1 lives" in str(unreachable(place, find_hub(place), "refused"))


def test_the_default_home_needs_no_flag_to_start_a_hub() -> None:
    assert Surroundings({}, {"HOME": "/nowhere"}).start_command == "synapse hub"


def test_a_home_with_a_blank_is_quoted_in_the_command(tmp_path: Path) -> None:
    home = tmp_path / "my home"
    with pytest.raises(HubUnreachable) as raised:
        find_hub(around(home))
    assert str(raised.value).endswith(f"synapse hub --home '{home}'")


def test_a_refused_handshake_says_what_the_hub_said_if_it_can_be_read() -> None:
    assert refused_with(404, b"nothing here\nmore\n") == "HTTP status 404: nothing here"
    for body in (None, b"", b"\n", b"\x1b[2J", b"x" * 201):
        assert refused_with(403, body) == "HTTP status 403"
