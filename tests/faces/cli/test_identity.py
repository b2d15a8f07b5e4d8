"""Who a call acts as."""

import os
import pwd

import pytest

from synapse.client.home import Surroundings
from synapse.faces.cli.identity import who_am_i
from synapse.home import segment
from synapse.protocol.names import is_agent_name


@pytest.mark.parametrize(
    ("flags", "environ", "name"),
    [
        ({"name": "f"}, {"SYNAPSE_NAME": "e", "SYN_IDENTITY": "i"}, "f"),
        ({}, {"SYNAPSE_NAME": "e", "SYN_IDENTITY": "i"}, "e"),
        ({}, {"SYNAPSE_NAME": "", "SYN_IDENTITY": "i"}, "i"),
    ],
)
def test_the_first_that_names_one_counts(flags: dict[str, str], environ: dict[str, str], name: str) -> None:
    me = who_am_i(Surroundings(flags, {"HOME": "/nowhere", **environ}))
    assert (me.name, me.kind, me.is_named) == (name, None, True)


def test_without_a_name_the_local_user_acts_as_a_person() -> None:
    me = who_am_i(Surroundings({}, {"HOME": "/nowhere"}))
    assert me.name == f"{segment(pwd.getpwuid(os.getuid()).pw_name, 'user')}@{segment(os.uname().nodename, 'host')}"
    assert (me.kind, me.is_named) == ("human", False)
    assert is_agent_name(me.name)


@pytest.mark.parametrize(
    ("text", "fit"),
    [
        ("ada", "ada"),
        ("Ada", "ada"),
        ("ada.l_x-1", "ada.l_x-1"),
        ("DOMAIN\\Ada L", "domain-ada-l"),
        ("_apt", "apt"),
        ("über", "ber"),
        ("", "user"),
        ("---", "user"),
        ("a" * 70, "a" * 64),
    ],
)
def test_a_user_is_made_to_fit_the_grammar(text: str, fit: str) -> None:
    assert segment(text, "user") == fit
    assert is_agent_name(f"{fit}@host")
