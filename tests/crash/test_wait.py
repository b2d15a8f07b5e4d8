"""A loop of `synapse wait` loses nothing over kills of the hub and of itself, and repeats only what was not acked."""

import random
from pathlib import Path

import pytest
from tests.crash.checker import check
from tests.crash.history import History, add, lines_of
from tests.crash.killing import Hubs, journal_of, load_of
from tests.crash.ledger import Ledger
from tests.crash.load import DIRECT, WAITER

from synapse.core.events import MessagesAcked

KILLS = 7


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.xdist_group("crash")
def test_a_loop_of_wait_loses_nothing_and_repeats_only_what_was_not_acked(tmp_path: Path) -> None:
    home, run = tmp_path / "home", tmp_path / "run"
    run.mkdir()
    with (
        Hubs(home, run / "hub.log") as hubs,
        load_of(home, run, {"postie-1": DIRECT, "waiter-1": DIRECT}, seed=1) as processes,
    ):
        hubs.start()
        hubs.kill()
        hubs.kill_often(KILLS, random.Random(1))
        processes.raise_flag("stop", "postie")
        processes.raise_flag("drain", "waiter")
        code = hubs.stop()
        assert code == 0
    history, journal = History(), journal_of(home)
    add(history, "postie-1", lines_of(run / "postie-1.jsonl"))
    ledger = Ledger(journal)
    findings = check(history, journal)
    assert findings == []

    sent = [seq for seq, _ in ledger.arrived[WAITER]]
    waits = list(lines_of(run / "waiter-1.jsonl"))
    printed = [(int(wait["message"]["id"][1:]), wait) for wait in waits if wait["message"] is not None]
    first_seen = list(dict.fromkeys(seq for seq, _ in printed))
    assert first_seen == sent, "each message was printed, in the order of the inbox"
    done: set[int] = set()
    for seq, wait in printed:
        assert seq not in done, f"m{seq} came again after a wait that ended with 0"
        assert wait["message"] == {**wait["message"], **(ledger.shown(seq, WAITER) or {})}
        if wait["code"] == 0:
            done.add(seq)
    acked = [seq for entry in journal if isinstance(entry.event, MessagesAcked) for seq in entry.event.messages]
    assert sorted(acked) == sent, "each message was acked, once"
    killed = sum(1 for wait in waits if wait["code"] < 0)
    print(
        f"\n{KILLS + 1} kills of the hub and {killed} of a wait; {len(sent)} messages acknowledged to their sender, "
        f"0 lost, {len(printed) - len(sent)} printed again after a wait that did not end with 0; {len(waits)} waits"
    )
    assert len(sent) > 20
