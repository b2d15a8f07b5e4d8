"""Cards: what agents say of themselves stays with them, and the hub finds who can do what."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.conftest import SECRET, World

from synapse.core.answers import LIST_BYTES_MAX
from synapse.core.by import By
from synapse.core.card_events import AgentDescribed, Card
from synapse.core.events import from_row
from synapse.core.state import decode_state, digest, encode_state
from synapse.errors import Rejected
from synapse.protocol import replies
from synapse.protocol.card_commands import ListCards, SetCard, ShowCard, Skill
from synapse.protocol.card_replies import CardInfo, CardsPage
from synapse.protocol.commands import Hello, ListAgents
from synapse.protocol.limits import Limits

LIMITS = Limits(card_bytes_max=2_048, card_text_chars_max=64, card_words_max=3, skills_max=2)
REVIEW = Skill(id="review", name="Review", description="Reads diffs", tags=("python", "careful"))


@pytest.fixture
def world() -> World:
    world = World(LIMITS)
    world.join("ada", "bob")
    return world


def hello(world: World, **said: Any) -> list[object]:
    recorded, _ = world.do(Hello(name="ada", secret=SECRET, **said), By("", None, 1, "", world.at_ms, world.lease_ms))
    return [item.event for item in recorded]


def card_of(world: World, name: str = "ada") -> CardInfo:
    return world.look(CardInfo, ShowCard(name=name))


def names(world: World, **only: Any) -> list[str]:
    return [card.name for card in world.look(CardsPage, ListCards(**only)).cards]


def test_only_what_is_named_changes_and_empty_takes_it_away(world: World) -> None:
    world.do(SetCard(description="Reviews", tags=("python",), client="mine/1", skills=(REVIEW,)), "ada")
    world.do(SetCard(tags=("rust",), models=("opus-4",)), "ada")
    card = card_of(world)
    assert (card.description, card.tags, card.models, card.skills) == ("Reviews", ("rust",), ("opus-4",), (REVIEW,))
    world.do(SetCard(description="", skills=()), "ada")
    card = card_of(world)
    assert (card.description, card.skills, card.tags, card.client) == (None, (), ("rust",), "mine/1")


def test_to_say_the_same_again_changes_nothing(world: World) -> None:
    assert len(world.events(SetCard(tags=("a",)), "ada")) == 1
    assert world.events(SetCard(tags=("a",)), "ada") == []
    assert world.reply(CardInfo, SetCard(tags=("a",)), "ada").tags == ("a",)


def test_a_hello_leaves_what_it_cannot_say(world: World) -> None:
    world.do(SetCard(skills=(REVIEW,), description="Reviews"), "ada")
    assert hello(world) == []
    assert hello(world, capabilities=("review",))[0] == AgentDescribed(
        agent=world.agent("ada"), card=Card(skills=(REVIEW,), description="Reviews", capabilities=("review",))
    )


def test_who_has_a_card_above_a_bound_that_was_lowered_still_comes_back(world: World) -> None:
    world.do(SetCard(description="d" * 64, tags=("a", "b", "c")), "ada")
    world.rules = type(world.rules)(Limits(card_bytes_max=64))
    assert hello(world) == []
    with pytest.raises(Rejected) as refused:
        hello(world, client="more")
    assert refused.value.code == "too_large"


def test_the_manifest_has_who_says_what_it_can_do_with_presence(world: World) -> None:
    assert names(world) == []
    world.do(SetCard(client="x"), "bob")
    assert names(world) == [], "a program's name is nothing that one can do"
    world.do(SetCard(skills=(REVIEW,), tags=("fast",)), "ada")
    world.do(SetCard(tags=("python",)), "bob")
    world.state.soft.presence.connect(world.agent("ada"), 7, world.at_ms, world.lease_ms, lasting=True)
    page = world.look(CardsPage, ListCards())
    assert [(card.name, card.presence) for card in page.cards] == [("ada", "online"), ("bob", "offline")]
    assert (names(world, skill="review"), names(world, skill="revie")) == (["ada"], [])
    assert (names(world, tag="python"), names(world, tag="fast")) == (["ada", "bob"], ["ada"])
    assert names(world, skill="review", tag="rust") == []
    agents = world.look(replies.Agents, ListAgents()).agents
    assert {agent.name: agent.skills for agent in agents} == {"ada": ("review",), "bob": ()}


def test_a_repeat_gets_the_card_that_the_first_one_made(world: World) -> None:
    first = world.reply(CardInfo, SetCard(tags=("a",)), "ada", key="k")
    world.do(SetCard(tags=("b",)), "ada")
    again = world.reply(CardInfo, SetCard(tags=("a",)), "ada", key="k")
    assert (again, card_of(world).tags) == (first, ("b",))


def test_a_list_of_big_cards_comes_in_pages_that_fit_a_frame() -> None:
    world = World(Limits())
    for number in range(40):
        world.join(f"a{number:02}")
        skills = tuple(Skill(id=f"s{at}", name="n" * 50, description="d" * 1_000, tags=("t" * 64,)) for at in range(12))
        world.do(SetCard(skills=skills), f"a{number:02}")
    found: list[str] = []
    after: str | None = None
    pages = 0
    while True:
        page = world.look(CardsPage, ListCards(limit=500, after=after))
        pages += 1
        assert len(msgspec.json.encode(page)) < LIST_BYTES_MAX + 32 * 1024
        found += [card.name for card in page.cards]
        if page.next is None:
            break
        after = page.next
    assert found == [f"a{number:02}" for number in range(40)]
    assert pages > 2


def test_a_card_of_before_there_were_skills_reads_as_it_was() -> None:
    old = b'{"agent":7,"card":{"kind":"human","capabilities":["review"]}}'
    assert from_row("agent.described", old) == AgentDescribed(
        agent=7, card=Card(kind="human", capabilities=("review",))
    )


def skill(**fields: Any) -> SetCard:
    return SetCard(skills=(msgspec.structs.replace(REVIEW, **fields),))


@pytest.mark.parametrize(
    ("command", "code", "path"),
    [
        (SetCard(), "bad_request", "$.body"),
        (SetCard(description="d" * 65), "bad_request", "$.body.description"),
        (SetCard(personality="d" * 65), "bad_request", "$.body.personality"),
        (SetCard(version="1 2"), "bad_request", "$.body.version"),
        (SetCard(tags=("a b",)), "bad_request", "$.body.tags"),
        (SetCard(tags=("",)), "bad_request", "$.body.tags"),
        (SetCard(models=("m" * 65,)), "bad_request", "$.body.models"),
        (SetCard(task_classes=("é",)), "bad_request", "$.body.task_classes"),
        (SetCard(tags=("a", "a")), "bad_request", "$.body.tags"),
        (SetCard(tags=("a", "b", "c", "d")), "too_large", "$.body.tags"),
        (SetCard(capabilities=("a", "b", "c", "d")), "too_large", "$.body.capabilities"),
        (skill(id="re view"), "bad_request", "$.body.skills[0].id"),
        (skill(name=""), "bad_request", "skills[0].name"),
        (skill(description="d" * 65), "bad_request", "skills[0].description"),
        (skill(tags=("a b",)), "bad_request", "$.body.skills[0].tags"),
        (skill(tags=("a", "b", "c", "d")), "too_large", "$.body.skills[0].tags"),
        (SetCard(skills=(REVIEW, REVIEW)), "bad_request", "$.body.skills"),
        (SetCard(skills=(REVIEW,) * 3), "too_large", "$.body.skills"),
        (SetCard(capabilities=("c" * 2_048,)), "too_large", "card"),
    ],
)
@pytest.mark.bad_input("BI-47")
def test_what_is_out_of_bounds_is_refused_and_changes_nothing(
    world: World, command: SetCard, code: str, path: str
) -> None:
    refused = world.refusal(command, "ada")
    assert refused.code == code
    assert path in refused.detail


@pytest.mark.bad_input("BI-47")
def test_cards_that_cannot_be_are_not_looked_for(world: World) -> None:
    for query, code in (
        (ListCards(skill="a b"), "bad_request"),
        (ListCards(tag=""), "bad_request"),
        (ShowCard(name="eve"), "not_found"),
        (ShowCard(name="E V E"), "bad_name"),
    ):
        with pytest.raises(Rejected) as refused:
            world.look(CardInfo, query)
        assert refused.value.code == code
    assert world.refusal(SetCard(tags=("a",)), "operator").code == "anonymous"


_WORDS = st.none() | st.lists(st.sampled_from("abc"), unique=True).map(tuple)


@given(
    st.lists(
        st.builds(
            SetCard,
            description=st.none() | st.sampled_from(["", "one", "two"]),
            skills=st.none() | st.sampled_from([(), (REVIEW,)]),
            tags=_WORDS,
            models=_WORDS,
        ),
        max_size=8,
    )
)
def test_a_card_is_the_last_of_what_was_said_of_each_field_also_after_a_restart(said: list[SetCard]) -> None:
    world = World(LIMITS)
    world.join("ada")
    expected: dict[str, object] = {"description": None, "skills": (), "tags": (), "models": ()}
    for command in said:
        new = {name: value for name in expected if (value := getattr(command, name)) is not None}
        if not new:
            assert world.refusal(command, "ada").code == "bad_request"
            continue
        world.do(command, "ada")
        expected |= {name: None if value == "" else value for name, value in new.items()}
    live = digest(world.state)
    world.restart()
    assert digest(world.state) == live, "replay equals live"
    assert digest(decode_state(encode_state(world.state))) == live, "a snapshot loses nothing"
    card = card_of(world)
    assert {name: getattr(card, name) for name in expected} == expected
