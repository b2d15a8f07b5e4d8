"""`GET /metrics`: what Prometheus reads is what happened, and names nobody."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.hub.conftest import doors, error_of, knock, message, voice

from synapse.hub.metrics import COMMIT_S, Histogram, render
from synapse.protocol.codes import ERRORS
from synapse.protocol.commands import ClaimLease, JoinRoom, ReleaseLease
from synapse.protocol.replies import Lease
from synapse.testing import TOKEN, MemoryHub


def samples(page: bytes) -> dict[str, float]:
    """Each sample by its name and labels, as Prometheus' own parser reads the page."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page.decode()):
        assert family.documentation, f"{family.name} has no help"
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[sample.name + (f"[{labels}]" if labels else "")] = sample.value
    return found


async def test_the_page_counts_what_happened() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        before = samples(render(hub.turns))
        await ada.say(message("one"))
        assert isinstance(await ada.ask(ClaimLease(task="T1"), Lease), Lease)
        assert error_of(await ada.exchange(ReleaseLease(task="T9"))).code == "not_found"
        after = samples(render(hub.turns))
        grown = {name: after[name] - before.get(name, 0.0) for name in after if after[name] != before.get(name, 0.0)}
        assert grown["synapse_messages_total"] == grown["synapse_leases"] == 1
        assert grown["synapse_requests_total"] == 3
        assert grown["synapse_refusals_total[code=not_found]"] == 1
        assert grown["synapse_commits_total"] == grown["synapse_commit_seconds_count"] > 0
        assert (
            grown["synapse_journal_events_total"]
            == hub.journal.head - hub.journal.base - before["synapse_journal_events_total"]
        )
        assert after["synapse_healthy"] == 1
        hub.turns.is_read_only = True
        assert samples(render(hub.turns))["synapse_healthy"] == 0


async def test_nobody_is_named_and_labels_are_few() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub, "ada-canary")
        for command in (JoinRoom(room="room-canary"), ClaimLease(task="task-canary"), ReleaseLease(task="x-canary")):
            await ada.exchange(command)
        page = render(hub.turns)
        assert b"canary" not in page
        codes = {name for name in samples(page) if name.startswith("synapse_refusals_total[")}
        assert codes <= {f"synapse_refusals_total[code={code}]" for code in ERRORS}


async def test_it_is_served_on_the_port_and_guarded_as_everything_there(tmp_path: Path) -> None:
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        reader, _ = await knock(listeners, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"text/plain; version=0.0.4" in head
        assert samples(body)["synapse_connections"] == 0
        reader, _ = await knock(listeners, b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 421 ")


async def test_other_machines_need_a_token_for_the_figures_and_none_for_health(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("synapse.hub.wire.is_loopback", lambda host: host != "127.0.0.1")
    async with MemoryHub() as hub, doors(hub, tmp_path) as listeners:
        for path, more, status in (
            (b"/metrics", b"", b"401"),
            (b"/metrics?x=1", b"", b"401"),
            (b"/metrics", b"Authorization: Bearer u\r\n", b"401"),
            (b"/metrics", b"Authorization: Bearer " + TOKEN.encode() + b"\r\n", b"200"),
            (b"/health", b"", b"200"),
        ):
            reader, _ = await knock(listeners, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + more + b"\r\n")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 " + status), (path, more, answer)
            assert (b"synapse_connections" in answer) == (path == b"/metrics" and status == b"200")


@given(st.lists(st.floats(0, 3, allow_nan=False)))
def test_a_histogram_is_cumulative_and_counts_all(values: list[float]) -> None:
    histogram = Histogram(COMMIT_S)
    for value in values:
        histogram.observe(value)
    text = "# TYPE x histogram\n" + "\n".join(histogram.lines("x")) + "\n"
    found = samples(text.replace("# TYPE", "# HELP x y\n# TYPE", 1).encode())
    assert found["x_count"] == found["x_bucket[le=+Inf]"] == len(values)
    for end in COMMIT_S:
        assert found[f"x_bucket[le={end}]"] == sum(value <= end for value in values)
