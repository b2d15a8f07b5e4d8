"""Every command has the least role that it needs."""

from itertools import pairwise

import pytest
from tests.roles_reference import PAGE, generated, lines, sent_by

from synapse.core.kernel import MUTATIONS
from synapse.protocol.commands import COMMANDS, Hello
from synapse.protocol.roles import ALLOWED, MEANING, ROLE_OF
from synapse.protocol.terms import ADMIN, AGENT, OBSERVER, ROLES


def test_every_command_has_a_role_and_every_role_a_meaning() -> None:
    assert ROLE_OF.keys() == COMMANDS.keys()
    assert {role for role, _ in ROLE_OF.values()} <= set(ROLES)
    assert MEANING.keys() == set(ROLES)


@pytest.mark.parametrize("kind", COMMANDS)
def test_an_observer_may_ask_and_nothing_else(kind: str) -> None:
    is_mutation = COMMANDS[kind] in MUTATIONS - {Hello}
    assert (ROLE_OF[kind][0] != OBSERVER) or not is_mutation


def test_a_role_includes_those_before_it() -> None:
    for lower, higher in pairwise(ROLES):
        assert ALLOWED[lower] <= ALLOWED[higher]
    assert ALLOWED[ADMIN] == set(COMMANDS.values())
    assert COMMANDS["message.send"] in ALLOWED[AGENT] - ALLOWED[OBSERVER]
    assert COMMANDS["journal.backup"] in ALLOWED[ADMIN] - ALLOWED[AGENT]


def test_the_page_of_roles_is_what_the_source_says() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert generated(text) == "\n".join(lines()), "make it anew: python -m tests.roles_reference"


def test_what_a_verb_sends_is_read_from_its_code() -> None:
    assert sent_by("kv", "kv_put") == {"value.put"}
    assert {"inbox.list", "inbox.ack"} <= sent_by("mail", "inbox")
    assert "lease.claim" in sent_by("lock", "lock"), "also through other modules"
