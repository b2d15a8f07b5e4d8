"""Secrets: made once, private, agreed on by all who ask at once, and never told by a path a hub chose."""

import os
import stat
import threading
from pathlib import Path

import pytest

from synapse.client.secrets import SecretRefused, Secrets
from synapse.errors import PeerError, Rejected


def secrets(home: Path, **environ: str) -> Secrets:
    return Secrets(str(home), environ)


def test_a_secret_is_made_once_kept_private_and_found_again(tmp_path: Path) -> None:
    secret, is_new = secrets(tmp_path).of("h", "a/b")
    assert is_new
    assert len(bytes.fromhex(secret)) == 32
    assert secrets(tmp_path).of("h", "a/b") == (secret, False)
    path = tmp_path / "secrets" / "h" / "a%2Fb"
    assert path.read_text().strip() == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["a%2Fb"]


def test_each_hub_and_each_name_has_its_own(tmp_path: Path) -> None:
    kept = secrets(tmp_path)
    assert len({kept.of(hub, name)[0] for hub in ("h", "g") for name in ("a", "a/b", "b")}) == 6


def test_many_first_calls_at_once_agree(tmp_path: Path) -> None:
    found: list[tuple[str, bool]] = []
    gate = threading.Barrier(8)

    def first() -> None:
        gate.wait()
        found.append(secrets(tmp_path).of("h", "a"))

    threads = [threading.Thread(target=first) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({secret for secret, _ in found}) == 1
    assert sum(is_new for _, is_new in found) == 1


def test_one_that_was_made_for_somebody_elses_name_is_not_kept(tmp_path: Path) -> None:
    here, again = secrets(tmp_path), secrets(tmp_path)
    here.of("h", "a")
    here.refused("rate_limited")
    assert here.of("h", "a")[1] is False
    here.refused("name_taken")
    assert again.of("h", "a")[1] is False, "who has had it for longer keeps it"
    assert here.of("h", "b")[1] is True
    here.refused("name_taken")
    assert os.listdir(tmp_path / "secrets" / "h") == ["a"]
    here.of("h", "b")
    (tmp_path / "secrets" / "h" / "b").write_text("f" * 64)
    here.refused("name_taken")
    assert again.of("h", "b") == ("f" * 64, False), "what was put there since stays"


def test_ancestors_are_found_where_they_are_kept(tmp_path: Path) -> None:
    kept = secrets(tmp_path)
    top, _ = kept.of("h", "a")
    assert kept.of_ancestors("h", "a/b/c") == {"a": top}
    middle, _ = kept.of("h", "a/b")
    assert kept.of_ancestors("h", "a/b/c") == {"a": top, "a/b": middle}
    assert kept.of_ancestors("h", "a") == {}


def test_a_file_named_by_the_environment_carries_the_identity(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("x" * 40 + "\n")
    named = secrets(tmp_path, SYNAPSE_AGENT_SECRET_FILE=str(tmp_path / "s"))
    assert named.of("h", "a") == ("x" * 40, False)
    assert not (tmp_path / "secrets").exists()
    with pytest.raises(SecretRefused, match="no such file"):
        secrets(tmp_path, SYNAPSE_AGENT_SECRET_FILE=str(tmp_path / "none")).of("h", "a")


@pytest.mark.parametrize("text", ["", "short", "x" * 129, "a\nb" * 20])
def test_a_file_that_holds_no_secret_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    secrets(tmp_path).of("h", "a")
    path = tmp_path / "secrets" / "h" / "a"
    path.write_text(text)
    with pytest.raises(SecretRefused, match="not a secret"):
        secrets(tmp_path).of("h", "a")
    assert path.read_text() == text


@pytest.mark.parametrize("name", ["..", "../x", "a//b", "A", "", ".", "a/../b", "x" * 129, "all\0"])
def test_a_name_outside_the_grammar_makes_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(Rejected, match="bad_name"):
        secrets(tmp_path).of("h", name)
    assert not (tmp_path / "secrets").exists()


@pytest.mark.parametrize("hub_id", ["", "..", "../..", "a/b", "x" * 65, "a\0"])
def test_a_hub_id_that_is_a_path_is_refused(tmp_path: Path, hub_id: str) -> None:
    with pytest.raises(PeerError):
        secrets(tmp_path).of(hub_id, "a")
    assert not (tmp_path / "secrets").exists()
