"""Who looks at supervisors and digests is no fool either: the truth passes, and each lie is called by its name."""

from collections.abc import Callable

import pytest
from tests.simulation.digest_lies import DIGEST_LIES, an_honest_digest
from tests.simulation.paper import Paper
from tests.simulation.terms import Violation
from tests.simulation.watch_lies import WATCH_LIES, an_honest_put_back, an_honest_supervisor

LIES = WATCH_LIES | DIGEST_LIES


@pytest.mark.parametrize(("lie", "rule"), LIES.items(), ids=lambda it: getattr(it, "__name__", it))
def test_a_lie_is_called_by_its_name(lie: Callable[[Paper], None], rule: str) -> None:
    with pytest.raises(Violation) as caught:
        lie(Paper())
    assert caught.value.rule == rule, caught.value


def test_the_truth_about_a_stall_passes_and_nothing_of_it_is_left() -> None:
    hub = Paper()
    an_honest_supervisor(hub)
    assert [kept.record["cause"] for kept in hub.ledger.lookout.kept.values()] == ["unblocked"]


def test_the_truth_about_an_orphan_passes() -> None:
    hub = Paper()
    an_honest_put_back(hub)
    assert hub.ledger.agenda.is_ready(("main", "T1"), hub.ledger.head)


def test_the_truth_of_digests_passes() -> None:
    hub = Paper()
    an_honest_digest(hub)
    assert hub.witness.answers == 4
