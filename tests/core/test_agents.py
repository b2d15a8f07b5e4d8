"""Agents: bound at the first hello, recognised afterwards, forgotten without a trace."""

from dataclasses import replace

import msgspec
import pytest
from tests.core.conftest import SECRET, World, text

from synapse.core.agents import hash_of, near_names
from synapse.core.by import By
from synapse.core.events import AgentBound, AgentCreated, AgentDescribed, AgentForgotten, AgentUnbound, Card
from synapse.protocol.commands import ForgetAgent, Hello, JoinRoom, ListAgents, RebindAgent, TakeInbox
from synapse.protocol.limits import Limits
from synapse.protocol.replies import AgentRebound, AgentRemoved, Agents

OTHER = "o" * 32


def nobody(world: World) -> By:
    return By("", None, 1, "main:general", world.at_ms, world.lease_ms)


def test_the_first_hello_of_a_name_binds_it_to_the_secret() -> None:
    world = World()
    command = Hello(name="ada", secret=SECRET, kind="human", capabilities=("review",))
    assert world.events(command, nobody(world)) == [
        AgentCreated(name="ada", card=Card(kind="human", capabilities=("review",)), secret_hash=hash_of(SECRET))
    ]


def test_a_later_hello_with_the_same_secret_changes_nothing() -> None:
    world = World()
    world.join("ada")
    assert world.events(Hello(name="ada", secret=SECRET), nobody(world)) == []


def test_a_hello_that_says_something_new_describes_and_what_it_leaves_out_stays() -> None:
    world = World()
    world.do(Hello(name="ada", secret=SECRET, kind="human", avatar="owl"), nobody(world))
    events = world.events(Hello(name="ada", secret=SECRET, client="cli/1"), nobody(world))
    assert events == [AgentDescribed(agent=world.agent("ada"), card=Card(kind="human", avatar="owl", client="cli/1"))]


def test_a_hello_is_bounded_by_what_it_says_itself() -> None:
    world = World()
    world.do(Hello(name="ada", secret=SECRET, capabilities=("a", "b")), nobody(world))
    world.rules = replace(world.rules, limits=msgspec.structs.replace(world.rules.limits, card_words_max=1))
    assert len(world.events(Hello(name="ada", secret=SECRET, client="cli/2"), nobody(world))) == 1
    refused = world.refusal(Hello(name="ada", secret=SECRET, capabilities=("c", "d")), nobody(world))
    assert refused.facts["path"] == "$.body.capabilities"


@pytest.mark.bad_input("BI-05")
@pytest.mark.parametrize("secret", [OTHER, None, "", SECRET[:-1], SECRET + "s"])
def test_a_name_with_anothers_secret_is_taken_and_the_refusal_names_the_way_out(secret: str | None) -> None:
    world = World()
    world.join("ada")
    refused = world.refusal(Hello(name="ada", secret=secret), nobody(world))
    assert refused.code == "name_taken"
    assert "agent rebind ada" in refused.detail
    assert refused.facts == {"name": "ada", "kind": "agent", "first_seen_at_ms": world.at_ms}
    assert hash_of(SECRET) not in str(refused)


@pytest.mark.parametrize("secret", [None, "", "s" * 31, "s" * 129])
def test_the_first_hello_needs_a_secret_of_32_to_128_characters(secret: str | None) -> None:
    world = World()
    refused = world.refusal(Hello(name="ada", secret=secret), nobody(world))
    assert (refused.code, refused.facts) == ("bad_request", {"path": "$.body.secret"})


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (Hello(secret=SECRET), "bad_request"),
        (Hello(name="All", secret=SECRET), "bad_name"),
        (Hello(name="all", secret=SECRET), "bad_name"),
        (Hello(name="ada", secret=SECRET, kind=""), "bad_request"),
        (Hello(name="ada", secret=SECRET, kind="k" * 65), "bad_request"),
        (Hello(name="ada", secret=SECRET, display_name="d" * 1_025), "bad_request"),
        (Hello(name="ada", secret=SECRET, personality="p" * 9_005), "bad_request"),
        (Hello(name="ada", secret=SECRET, avatar="a" * 1_025), "bad_request"),
        (Hello(name="ada", secret=SECRET, client="c" * 1_025), "bad_request"),
        (Hello(name="ada", secret=SECRET, capabilities=("c", "d", "c")), "bad_request"),
        (Hello(name="ada", secret=SECRET, capabilities=tuple(map(str, range(65)))), "too_large"),
        (Hello(name="ada", secret=SECRET, capabilities=("c" * 17_000,)), "too_large"),
        (Hello(name="ada", operator=True), "bad_request"),
    ],
)
def test_a_hello_outside_the_bounds_is_refused(hello: Hello, code: str) -> None:
    world = World()
    assert world.refusal(hello, nobody(world)).code == code


def test_a_card_that_was_larger_before_stays_as_it_is() -> None:
    world = World()
    big = Card(personality="p" * 9_005, capabilities=("c", "c"))
    world.record([AgentCreated(name="ada", card=big, secret_hash=hash_of(SECRET))], "ada")
    known = Hello(name="ada", secret=SECRET, personality=big.personality, capabilities=big.capabilities)
    assert world.events(known, nobody(world)) == []
    assert world.replayed().agents.by_name["ada"].card == big


def test_an_operators_hello_makes_no_agent() -> None:
    world = World()
    assert world.events(Hello(operator=True), nobody(world)) == []


def test_a_sub_agent_is_bound_only_with_the_secret_of_its_nearest_bound_ancestor() -> None:
    world = World()
    world.join("ada")
    orphan = Hello(name="ada/sub", secret=OTHER)
    wrong = Hello(name="ada/sub", secret=OTHER, ancestors={"ada": OTHER})
    right = Hello(name="ada/sub", secret=OTHER, ancestors={"ada": SECRET})
    for hello in (orphan, wrong):
        refused = world.refusal(hello, nobody(world))
        assert (refused.code, refused.facts["name"]) == ("name_taken", "ada")
    assert [type(event) for event in world.events(right, nobody(world))] == [AgentCreated]
    deeper = Hello(name="ada/sub/sub", secret=SECRET, ancestors={"ada": SECRET})
    assert world.refusal(deeper, nobody(world)).facts["name"] == "ada/sub"
    assert world.events(orphan, nobody(world)) == [], "once bound, its own secret is enough"


def test_an_unbound_ancestor_guards_nothing() -> None:
    world = World()
    world.join("bob")
    world.do(text("hi", to=("ada",), create=True), "bob")
    assert [type(e) for e in world.events(Hello(name="ada/sub", secret=OTHER), nobody(world))] == [AgentCreated]


def test_a_name_that_was_written_to_before_it_came_is_bound_with_its_mail() -> None:
    world = World()
    world.join("bob")
    world.do(text("welcome", to=("ada",), create=True), "bob")
    assert world.events(Hello(name="ada", secret=SECRET, kind="human"), nobody(world)) == [
        AgentBound(agent=world.agent("ada"), secret_hash=hash_of(SECRET)),
        AgentDescribed(agent=world.agent("ada"), card=Card(kind="human")),
    ]
    assert len(world.state.agents.inboxes[world.agent("ada")].entries) == 1


def test_one_agent_too_many_is_a_limit() -> None:
    world = World(Limits(agents_max=1))
    world.join("ada")
    refused = world.refusal(Hello(name="bob", secret=SECRET), nobody(world))
    assert (refused.code, refused.facts) == ("limit", {"limit": "agents_max", "value": 1})


def test_an_operator_rebinds_and_the_next_hello_binds_anew() -> None:
    world = World()
    world.join("ada")
    recorded, reply = world.do(RebindAgent(name="ada"), "operator")
    assert [item.event for item in recorded] == [AgentUnbound(agent=world.agent("ada"))]
    assert isinstance(reply, AgentRebound)
    assert world.events(RebindAgent(name="ada"), "operator") == []
    bound = AgentBound(agent=world.agent("ada"), secret_hash=hash_of(OTHER))
    assert world.events(Hello(name="ada", secret=OTHER), nobody(world)) == [bound]
    assert world.refusal(Hello(name="ada", secret=SECRET), nobody(world)).code == "name_taken"


def test_a_forgotten_agent_leaves_nothing_but_its_messages_and_its_name_gets_a_fresh_id() -> None:
    world = World()
    world.join("ada", "bob")
    old = world.agent("ada")
    world.do(JoinRoom(room="main"), "ada")
    world.do(text("for ada", to=("ada",)), "bob")
    world.do(text("from ada", channel="main:general"), "ada", key="k")
    recorded, reply = world.do(ForgetAgent(name="ada"), "operator")
    assert [item.event for item in recorded] == [AgentForgotten(agent=old)]
    assert isinstance(reply, AgentRemoved)
    assert world.state.rooms.by_name["main"].members == set()
    assert world.state.rooms.by_address["main:general"].last_n == 1
    world.join("ada", secret=OTHER)
    assert world.agent("ada") > old
    assert world.events(TakeInbox(), "ada") == []
    again, _ = world.do(text("from ada", channel="main:general"), "ada", key="k")
    assert len(again) == 1, "the newcomer's key is not the old agent's key"


@pytest.mark.parametrize("command", [RebindAgent(name="ada"), ForgetAgent(name="ada")])
def test_only_an_operator_rebinds_and_forgets(command: RebindAgent | ForgetAgent) -> None:
    world = World()
    world.join("ada")
    assert world.refusal(command, "ada").code == "not_permitted"


@pytest.mark.parametrize("command", [RebindAgent(name="adda"), ForgetAgent(name="adda")])
def test_an_unknown_agent_is_not_found_and_near_names_are_told(command: RebindAgent | ForgetAgent) -> None:
    world = World()
    world.join("ada", "adam", "zoe")
    refused = world.refusal(command, "operator")
    assert (refused.code, refused.facts["near"]) == ("not_found", ["ada", "adam"])


def test_near_names_are_at_most_two_typing_errors_away_nearest_first() -> None:
    world = World()
    world.join("abcd", "abce", "abxx", "vwxyz", "abcdefg")
    assert near_names(world.state, "abcd", world.by("operator")) == ["abcd", "abce", "abxx"]


def test_agents_are_listed_in_pages_by_name_and_by_room() -> None:
    world = World()
    world.join("cy", "ada", "bob")
    world.do(JoinRoom(room="main"), "bob")
    first = world.look(Agents, ListAgents(limit=2))
    rest = world.look(Agents, ListAgents(limit=2, after=first.next))
    assert [a.name for a in (*first.agents, *rest.agents)] == ["ada", "bob", "cy"]
    assert (first.next, rest.next) == ("bob", None)
    assert [a.name for a in world.look(Agents, ListAgents(room="main")).agents] == ["bob"]
