"""Cards as agent cards of A2A 1.0, held against a schema of these."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]  # it has no stubs

from synapse.client.a2a import agent_card
from synapse.protocol.card_commands import Skill
from synapse.protocol.card_replies import CardInfo

SCHEMA = json.loads((Path(__file__).parent / "a2a_agent_card.schema.json").read_text(encoding="utf-8"))
URL = "ws://127.0.0.1:8876"


def assert_lawful(card: object) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(card)


def card(**said: Any) -> dict[str, object]:
    """A card as `card.get` answers it."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("display_name", "description", "version", "client", "personality", "avatar")
    )
    empty: dict[str, Any] = dict.fromkeys(("skills", "task_classes", "models", "tags", "capabilities"), ())
    info = CardInfo(**({"name": "ada", "kind": "agent"} | nothing | empty | said))
    found: dict[str, object] = json.loads(msgspec.json.encode(info))
    return found


def test_an_agent_that_says_nothing_of_itself_has_a_lawful_card() -> None:
    made = agent_card(card(), URL)
    assert_lawful(made)
    assert (made["name"], made["description"]) == ("ada", "ada, of kind agent")
    assert made["supportedInterfaces"] == [
        {"url": URL, "protocolBinding": "SYNAPSE", "protocolVersion": "1.0", "tenant": "ada"}
    ]


def test_what_it_says_is_in_its_place() -> None:
    skill = Skill(id="review", name="Review", description="Reads diffs", tags=("python",))
    said = card(
        display_name="Ada L.", description="Reviews", version="2.1", skills=(skill,), avatar="https://example.org/a.png"
    )
    made = agent_card(said, "https://example.org/a2a", "JSONRPC")
    assert_lawful(made)
    assert (made["name"], made["description"], made["version"]) == ("Ada L.", "Reviews", "2.1")
    assert made["skills"] == [{"id": "review", "name": "Review", "description": "Reads diffs", "tags": ["python"]}]
    assert made["iconUrl"] == "https://example.org/a.png"


_TEXT = st.none() | st.text(min_size=1)
_SKILL = st.builds(
    Skill,
    id=st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    name=st.text(min_size=1),
    description=st.text(min_size=1),
    tags=st.tuples() | st.tuples(st.just("tag")),
)


@given(
    said=st.fixed_dictionaries(
        {
            "display_name": _TEXT,
            "description": _TEXT,
            "version": _TEXT,
            "personality": _TEXT,
            "avatar": _TEXT | st.just("https://example.org/x"),
            "skills": st.lists(_SKILL, max_size=3).map(tuple),
        }
    )
)
def test_whatever_a_card_says_its_export_is_lawful(said: dict[str, Any]) -> None:
    assert_lawful(agent_card(card(**said), URL))


@pytest.mark.parametrize("field", SCHEMA["required"])
def test_the_schema_misses_what_is_required(field: str) -> None:
    made = agent_card(card(), URL)
    del made[field]
    with pytest.raises(ValidationError, match=field):
        assert_lawful(made)


@pytest.mark.parametrize(("field", "value"), [("skills", []), ("url", URL), ("supportedInterfaces", [{"url": URL}])])
def test_the_schema_refuses_what_a2a_does_not_know_or_wants_otherwise(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        assert_lawful(agent_card(card(), URL) | {field: value})
