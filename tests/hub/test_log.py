"""The hub's log: one JSON object a line, whatever is in it."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from synapse.hub.log import LOGGER, JsonFormatter, log, set_up


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The logger as it was."""
    handlers, propagate, level = LOGGER.handlers[:], LOGGER.propagate, LOGGER.level
    yield
    LOGGER.handlers[:], LOGGER.propagate = handlers, propagate
    LOGGER.setLevel(level)


def test_a_record_is_one_line_with_its_action_and_facts(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("info")
    log("hub.ready", "two\nlines \u2028 and \x1b[31m", pid=7, uris=("a", "b"))
    log("hub.detail", "not logged", level=logging.DEBUG)
    [line] = capsys.readouterr().err.splitlines()
    found = json.loads(line)
    assert line.isascii()
    assert (found["action"], found["level"], found["pid"], found["uris"]) == ("hub.ready", "info", 7, ["a", "b"])
    assert found["text"] == "two\nlines \u2028 and \x1b[31m"
    assert found["at_ms"] > 1_700_000_000_000


def test_an_exception_is_in_the_line_and_not_behind_it() -> None:
    try:
        raise ValueError("boom")
    except ValueError:
        record = logging.LogRecord("other", logging.ERROR, "x", 1, "failed", None, sys.exc_info())
    found = json.loads(JsonFormatter().format(record))
    assert found["action"] == "other"
    assert found["traceback"].endswith("ValueError: boom")
