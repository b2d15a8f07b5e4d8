"""A real hub on an old journal is compacted under load, killed meanwhile, and has everything that was answered."""

import signal
import threading
from pathlib import Path

import pytest
from tests.faces.conftest import RealHub
from tests.journal.traffic import Traffic

from synapse.client.blocking import connect
from synapse.journal.admin import verify


@pytest.mark.parametrize("is_killed", [False, True])
def test_what_is_sent_beside_a_compaction_is_all_there(tmp_path: Path, *, is_killed: bool) -> None:
    traffic = Traffic.begin(tmp_path / "home", 4)
    traffic.go_on(200)
    traffic.journal.close()
    hub = RealHub(tmp_path / "home")
    hub.start()
    try:
        hub.until(lambda status: status["verified_through"] >= traffic.journal.head, "status")
        sent: list[str] = []
        stop = threading.Event()

        def talk() -> None:
            with connect(name="eve", home=hub.home) as eve:
                while not stop.is_set() and len(sent) < 200:
                    sent.append(eve.send("hello", channel="main:general").id)

        talking = threading.Thread(target=talk)
        talking.start()
        compacting = hub.begin("journal", "compact", "--keep", "messages=30d", "--keep", "leases=7d", "--json")
        if is_killed:
            while not list((hub.home / "bases").glob("*.base")):
                pass
            assert hub.process is not None
            hub.end(signal.SIGKILL)
            hub.start()
        else:
            assert compacting.wait(30) == 0
        compacting.communicate()
        stop.set()
        talking.join(30)
        heard = {line["id"] for line in hub.lines("history", "main:general", "--limit", "500")}
        assert sent
        assert set(sent) <= heard
    finally:
        hub.end_all()
    assert verify(hub.home).finding is None
