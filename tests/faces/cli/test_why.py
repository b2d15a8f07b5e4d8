"""What happened to a task, against a real hub."""

import subprocess
import sys

from tests.faces.conftest import RealHub, environment


def test_the_events_of_a_task_in_words(hub: RealHub) -> None:
    epoch = hub.json("--name", "ada", "claim", "T1")["epoch"]
    hub.json("--name", "ada", "checkpoint", "T1", "1")
    hub.json("--name", "bob", "claim", "T1", "--preempt")
    told = hub.json("why", "T1")
    assert (told["task"], told["room"], "cursor" in told, "next" in told) == ("T1", "main", True, False)
    assert [event["change"] for event in told["events"]] == ["granted", "checkpointed", "revoked", "granted"]
    assert set(told["events"][0]) == {"seq", "at_ms", "by", "change", "text"}
    first = hub.run("why", SYNAPSE_TASK="T1").stdout.splitlines()[0]
    assert first.split("  ")[1] == "ada"
    assert str(epoch) in first
    assert hub.json("why", "T2", code=4)["error"]["code"] == "not_found"
    assert hub.json("why", "T1", "--room", "lab", code=4)["error"]["code"] == "not_found"


def test_it_goes_on_over_pages(hub: RealHub) -> None:
    script = (
        "from synapse.faces.cli.main import main\n"
        "for n in range(210): assert not main(['--name', 'ada', 'claim', 'T1', '--note', str(n)])"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(hub.home), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    events = hub.json("why", "T1")["events"]
    assert [event["change"] for event in events] == ["granted"] + ["renewed"] * 209
    assert len(hub.run("why", "T1").stdout.splitlines()) == 210
