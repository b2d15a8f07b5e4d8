"""The reference of the library says what the source says, and leaves nothing public out."""

import inspect
import re
from collections.abc import Iterator

import pytest
from tests import library_reference as reference

import synapse
from synapse.client.client import Client
from synapse.errors import JournalError, SynapseError


def text() -> str:
    return reference.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_the_source_says() -> None:
    assert text() == reference.page(), f"write it anew: {reference.COMMAND}"


def test_every_public_name_has_its_heading_and_says_what_it_is() -> None:
    headings = set(re.findall(r"^### `(\w+)`$", text(), re.MULTILINE))
    assert set(synapse.__all__) - {"__version__"} <= headings
    links = re.findall(r"^- \[`synapse\.(\w+)`\]\(#([\w-]+)\): (.+)$", text(), re.MULTILINE)
    assert sorted(name for name, _, _ in links) == sorted(set(synapse.__all__) - {"__version__"})
    assert {anchor for _, anchor, _ in links} <= {reference.anchor(heading) for heading in headings}


def test_no_heading_stands_twice() -> None:
    headings = re.findall(r"^#+ (.+)$", text(), re.MULTILINE)
    assert sorted(headings) == sorted(set(headings))


def test_every_error_of_the_client_is_there() -> None:
    is_ours = re.compile(r"synapse\.(errors|client\.(?!link))").match
    ours = {kind for kind in subclasses(SynapseError) if is_ours(kind.__module__)}
    assert {kind for kind in ours if not issubclass(kind, JournalError)} <= set(reference.ERRORS)
    assert {"MessageFeed", "LeaseFeed", "ValueFeed", "PresenceFeed"} <= {feed.__name__ for feed in reference.FEEDS}


def subclasses(kind: type) -> Iterator[type]:
    below: list[type] = type.__subclasses__(kind)
    for sub in below:
        yield sub
        yield from subclasses(sub)


@pytest.mark.parametrize("name", [name for name, _ in reference.members(Client)])
def test_every_method_says_what_it_does(name: str) -> None:
    doc = inspect.getdoc(getattr(Client, name))
    assert doc
    assert len(doc.split()) >= 5
    parameters = inspect.signature(getattr(Client, name)).parameters if callable(getattr(Client, name)) else {}
    told_elsewhere = re.search(r"[Aa]rguments|[Aa]s for|[Rr]elative as", doc)
    bounded = {"limit", "timeout", "ttl"} & set(parameters)
    assert told_elsewhere or not [one for one in bounded if f"{one}" not in doc], "a bound or a unit is missing"
