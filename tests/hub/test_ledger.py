"""Ledgers and stories read back from the journal: page by page, filtered, and honest about what was dropped."""

import pytest
from msgspec import UNSET
from tests.hub.conftest import Voice, error_of, operator, reply_of, voice

from synapse.protocol.commands import ClaimLease, ExplainTask, ReleaseLease
from synapse.protocol.plan_commands import DeclareTask, NoteProgress, ReadProgress, RemoveTask, UpdateTask
from synapse.protocol.plan_replies import Progress, ProgressLine, TaskGone, TaskInfo
from synapse.protocol.replies import Explanation, Lease, Released
from synapse.testing import MemoryHub


async def told(asker: Voice, **fields: object) -> Progress:
    return await asker.ask(ReadProgress(**fields), Progress)  # type: ignore[arg-type]  # the fields of the caller


def texts(page: Progress) -> list[str]:
    return [line.text for line in page.lines]


async def test_the_pages_of_a_ledger_lead_forward_and_back_without_a_gap() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        for task in ("T", "U"):
            await ada.ask(DeclareTask(task=task), TaskInfo)
        begin = hub.state.seq
        for n in range(11):
            await ada.ask(NoteProgress(task="TU"[n % 2], text=f"line {n}"), ProgressLine)
        newest = await told(ada, limit=4)
        assert texts(newest) == [f"line {n}" for n in range(7, 11)]
        earlier = await told(ada, limit=4, before=newest.previous)
        assert texts(earlier) == [f"line {n}" for n in range(3, 7)]
        first = await told(ada, limit=4, before=earlier.previous)
        assert (texts(first), first.previous, first.first_kept) == ([f"line {n}" for n in range(3)], None, UNSET)
        found: list[str] = []
        since: str | None = f"{hub.state.journal_id}:{begin}"
        while since is not None:
            page = await told(ada, task="U", limit=2, since=since)
            found += texts(page)
            since = page.next
        assert found == [f"line {n}" for n in range(1, 11, 2)], "of one task alone"


async def test_a_ledger_is_filtered_by_agent_and_kind_and_has_what_the_hub_did() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.ask(DeclareTask(task="T"), TaskInfo)
        epoch = (await bob.ask(ClaimLease(task="T", ttl_ms=5_000), Lease)).epoch
        await bob.ask(NoteProgress(task="T", text="half", kind="finding"), ProgressLine)
        await ada.ask(NoteProgress(task="T", text="and?", kind="note"), ProgressLine)
        await hub.advance(6_000)
        await ada.ask(UpdateTask(task="T", status="blocked", note="no key"), TaskInfo)
        lapse = f"put back to open: the lease of bob expired (epoch {epoch})"
        assert texts(await told(ada)) == ["half", "and?", lapse, "no key"]
        assert texts(await told(ada, agent="bob")) == ["half"]
        assert texts(await told(ada, agent="hub")) == [lapse]
        assert texts(await told(ada, kind="blocked")) == ["no key"]
        assert [(line.by, line.kind, line.epoch) for line in (await told(ada, agent="hub")).lines] == [
            ("hub", "note", epoch)
        ]


async def test_another_reason_for_the_same_status_is_kept() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.ask(DeclareTask(task="T"), TaskInfo)
        await ada.ask(UpdateTask(task="T", status="blocked", note="no key"), TaskInfo)
        again = UpdateTask(task="T", status="blocked", note="no door")
        assert (await ada.ask(again, TaskInfo, "k")).changed is False
        assert (await ada.ask(again, TaskInfo, "k")).status == "blocked"
        assert [(line.kind, line.text) for line in (await told(ada)).lines] == [
            ("blocked", "no key"),
            ("blocked", "no door"),
        ]
        await ada.ask(UpdateTask(task="T", status="open"), TaskInfo)
        await ada.ask(UpdateTask(task="T", status="open", note="at last"), TaskInfo)
        assert [(line.kind, line.text) for line in (await told(ada)).lines][2:] == [("note", "at last")]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"kind": "gossip"}, "bad_request"),
        ({"agent": "No One"}, "bad_name"),
        ({"task": "-"}, "bad_name"),
        ({"room": "nowhere"}, "not_found"),
        ({"limit": 0}, "bad_request"),
        ({"since": "x"}, "bad_request"),
    ],
)
async def test_a_ledger_that_cannot_be_read_so_is_refused(fields: dict[str, object], code: str) -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        frame = await ada.exchange(ReadProgress(**fields))  # type: ignore[arg-type]  # wrong on purpose
        assert error_of(frame).code == code


async def test_the_ledger_of_a_task_that_never_was_is_not_found_and_that_of_a_removed_one_is() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        await ada.ask(DeclareTask(task="quiet"), TaskInfo)
        assert texts(await told(ada, task="quiet")) == []
        assert (await ada.refused(ReadProgress(task="quite"))).code == "not_found"
        await ada.ask(ClaimLease(task="held"), Lease)
        assert texts(await told(ada, task="held")) == [], "held, though in no plan"
        await ada.ask(NoteProgress(task="quiet", text="a word"), ProgressLine)
        await ada.ask(UpdateTask(task="quiet", status="cancelled"), TaskInfo)
        await ada.ask(RemoveTask(task="quiet"), TaskGone)
        assert texts(await told(ada, task="quiet")) == ["a word"]
        assert texts(await told(ada, task="quiet", kind="finding")) == [], "it was there"


async def test_a_story_has_the_plan_and_the_leases_in_one_line_of_time() -> None:
    async with MemoryHub() as hub:
        ada, boss = await voice(hub), await operator(hub)
        await ada.ask(DeclareTask(task="T", title="paint it", depends_on=("D",)), TaskInfo)
        epoch = (await ada.ask(ClaimLease(task="T"), Lease)).epoch
        await ada.ask(NoteProgress(task="T", text="first coat"), ProgressLine)
        await ada.ask(ReleaseLease(task="T"), Released)
        await boss.ask(UpdateTask(task="T", status="cancelled", note="another colour"), TaskInfo)
        story = reply_of(await boss.exchange(ExplainTask(task="T")), Explanation)
        assert [(item.change, item.by) for item in story.events] == [
            ("declared", "ada"),
            ("granted", "ada"),
            ("moved", "hub"),
            ("noted", "ada"),
            ("released", "ada"),
            ("moved", "hub"),
            ("moved", "operator"),
        ]
        words = [item.text for item in story.events]
        assert words[0] == "declared by ada: paint it, after D"
        assert words[2] == f"open -> in_progress: ada claimed it (epoch {epoch})"
        assert words[3] == "note by ada: first coat"
        assert words[5] == f"in_progress -> open: put back to open: the lease of ada was released (epoch {epoch})"
        assert words[6] == "operator moved it from open to cancelled: another colour"
