"""Errors as values: other processes get them whole."""

import copy
import pickle
from collections.abc import Callable

import pytest

from synapse.client.calls import OutcomeUnknown
from synapse.errors import Disconnected, JournalRefused, LeaseLost, Rejected, SynapseError

ERRORS = (
    Rejected("limit", "too many", {"most": 3, "names": ["a"]}, retry_after_ms=5),
    LeaseLost("T1", 7, "ttl"),
    Disconnected(4501, "the name is taken"),
    OutcomeUnknown("no answer within 3 s", "k1"),
    JournalRefused("it is damaged", seq=4),
    SynapseError("plain"),
)


def pickled(error: SynapseError) -> object:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy], ids=["pickled", "copied", "copied deeply"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_when_it_is_copied(error: SynapseError, again: Callable[[SynapseError], object]) -> None:
    error.add_note("noted")
    other = again(error)
    assert type(other) is type(error)
    assert other is not error
    assert isinstance(other, SynapseError)
    assert (str(other), other.args, other.__dict__) == (str(error), error.args, error.__dict__)
