import os
from pathlib import Path

from synapse.client.home import Surroundings
from synapse.client.identity import Card, Identity, own_name
from synapse.faces.cli.identity import who_am_i


def around(home: Path, **environ: str) -> Surroundings:
    return Surroundings({"home": os.fspath(home)}, environ)


def identity(home: Path, name: str | None, card: Card | None = None, secret: str | None = None) -> Identity:
    card = Card() if card is None else card
    return Identity(around(home), name=name, secret=secret, card=card, home=None, lasting=True)


def test_a_name_given_wins_over_the_environment(tmp_path: Path) -> None:
    both = around(tmp_path, SYNAPSE_NAME="bob", SYN_IDENTITY="cid")
    assert own_name(both, "ada") == ("ada", False)
    assert own_name(both, None) == ("bob", False)
    assert own_name(around(tmp_path, SYN_IDENTITY="cid"), None) == ("cid", False)


def test_without_a_name_it_is_the_person_that_the_command_line_names(tmp_path: Path) -> None:
    person = who_am_i(around(tmp_path))
    assert own_name(around(tmp_path), None) == (person.name, True)
    assert person.kind == "human"


def test_the_library_names_itself_once_and_the_card_says_only_what_was_given(tmp_path: Path) -> None:
    ada = identity(tmp_path, "ada", Card(display_name="Ada"))
    first, second = ada.hello("h1", None), ada.hello("h1", None)
    assert first.client is not None
    assert first.client.startswith("synapse-python/")
    assert second.client is None
    assert second.secret == first.secret
    assert (second.display_name, second.kind) == ("Ada", None)
    assert ada.hello("h2", None).secret != first.secret


def test_a_sub_agent_shows_the_secrets_above_it(tmp_path: Path) -> None:
    above = identity(tmp_path, "ada").hello("h1", None).secret
    sub = identity(tmp_path, "ada/one/two").hello("h1", None)
    assert sub.ancestors == {"ada": above}


def test_an_operator_shows_no_secret_and_needs_no_hub_id(tmp_path: Path) -> None:
    operator = identity(tmp_path, None)
    assert not operator.needs_hub_id
    hello = operator.hello("", "t")
    assert (hello.operator, hello.name, hello.secret, hello.token) == (True, None, None, "t")


def test_a_secret_given_makes_asking_for_the_hub_needless(tmp_path: Path) -> None:
    assert identity(tmp_path, "ada").needs_hub_id
    assert not identity(tmp_path, "ada", secret="s" * 40).needs_hub_id
    assert identity(tmp_path, "ada/sub", secret="s" * 40).needs_hub_id
    assert not (tmp_path / "secrets").exists()
