"""The form of a telemetry event: what is checked without `re` is the pattern that refusals show."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from synapse.errors import Rejected
from synapse.protocol.telemetry import EVENT_TYPE, EVENT_TYPE_MAX, require_event

_words = st.text("aZ09_-é. \n", max_size=34)


def is_taken(event_type: str) -> bool:
    try:
        require_event(event_type, None, None)
    except Rejected as refusal:
        assert (refusal.code, refusal.facts["pattern"]) == ("bad_request", EVENT_TYPE)
        return False
    return True


@given(st.lists(_words, max_size=9).map(".".join))
@example("a" * 32)
@example("a" * 33)
@example(".".join("a" * 8))
@example(".".join("a" * 9))
@example(".".join(["a" * 31] * 4) + "a")
@example(".".join(["a" * 31] * 4) + ".a")
@example("build.finished\n")
def test_an_event_type_is_taken_if_and_only_if_it_is_of_the_pattern(event_type: str) -> None:
    is_of_pattern = re.fullmatch(EVENT_TYPE, event_type) is not None and len(event_type) <= EVENT_TYPE_MAX
    assert is_taken(event_type) == is_of_pattern
