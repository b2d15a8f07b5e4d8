"""What follows from events and from time for questions: deadlines, long polls, leases that stand still, followers."""

import msgspec
from tests.hub.conftest import Voice, direct, error_of, operator, voice

from synapse.core.asking import EXPIRED_MAX
from synapse.hub.paging import recorded_of
from synapse.protocol.commands import AckInbox, ClaimLease, ListInbox, ListLeases, Subscribe, TakeInbox
from synapse.protocol.limits import Limits
from synapse.protocol.notices import Message, QuestionChanged
from synapse.protocol.plan_commands import DeclareTask, ShowTask, UpdateTask
from synapse.protocol.plan_replies import TaskInfo
from synapse.protocol.question_commands import (
    AnswerQuestion,
    AskQuestion,
    DismissQuestion,
    ListQuestions,
    ShowQuestion,
    WaitQuestion,
    WithdrawQuestion,
)
from synapse.protocol.question_replies import QuestionClosed, QuestionInfo, QuestionsPage
from synapse.protocol.replies import Acked, Inbox, Lease, Leases, Sent, Subscribed, Taken
from synapse.protocol.token_commands import CreateToken
from synapse.protocol.token_replies import TokenInfo
from synapse.protocol.value_commands import PutValue
from synapse.protocol.value_replies import ValueInfo
from synapse.testing import MemoryHub


async def ask(asker: Voice, **fields: object) -> str:
    return (await asker.ask(AskQuestion(**{"title": "Which?", **fields}), QuestionInfo)).id  # type: ignore[arg-type]  # the fields of the caller


async def close(person: Voice, question: str, answer: str = "yes") -> QuestionClosed:
    return await person.ask(AnswerQuestion(id=question, answer=answer), QuestionClosed)


async def test_a_deadline_is_a_date_and_the_next_tick_deals_with_it() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        question = await ask(ada, default="no", deadline_ms=10_000)
        await hub.advance(9_000)
        assert (await ada.ask(ShowQuestion(id=question), QuestionInfo)).status == "open"
        await hub.advance(2_000)
        found = await ada.ask(ShowQuestion(id=question), QuestionInfo)
        assert (found.status, found.outcome, found.answer, found.by) == ("answered", "default", "no", "hub")
        assert (await ada.ask(TakeInbox(), Taken)).message.id == found.letter


async def test_who_answers_after_the_deadline_and_before_the_tick_comes_too_late() -> None:
    async with MemoryHub(limits=Limits(questions_per_agent_max=1_000)) as hub:
        ada, pat = await voice(hub), await operator(hub)
        late = [await ask(ada, default="no", deadline_ms=10_000) for _ in range(EXPIRED_MAX + 3)]
        hub.clock.advance(9_999)
        assert (await close(pat, late.pop())).outcome == "answered"
        hub.clock.advance(1)
        refused = await pat.refused(AnswerQuestion(id=late[-1], answer="yes"))
        facts = {name: refused.facts[name] for name in ("outcome", "answer", "by")}
        assert (refused.code, facts) == ("already_answered", {"outcome": "default", "answer": "no", "by": "hub"})
        assert (await close(pat, late[-2], "no")).already
        assert (await pat.refused(DismissQuestion(id=late[-3]))).facts["outcome"] == "default"
        assert (await ada.refused(WithdrawQuestion(id=late[-4]))).facts["outcome"] == "default"
        assert (await ada.ask(ListQuestions(), QuestionsPage)).open == 0


async def test_a_deadline_that_passed_while_the_hub_was_down_wins_over_who_comes_first_after_the_start() -> None:
    async with MemoryHub() as hub:
        question = await ask(await voice(hub), deadline_ms=10_000)
        hub.clock.advance(10_000)
        await hub.restart()
        refused = await (await operator(hub)).refused(AnswerQuestion(id=question, answer="yes"))
        assert (refused.code, refused.facts["outcome"]) == ("already_answered", "expired")


async def test_a_slow_turn_ends_nothing_before_its_time_as_the_journal_has_it() -> None:
    """The events of a turn carry the time it began at; what falls due while it runs waits for the next one."""
    async with MemoryHub() as hub:
        ada, pat = await voice(hub), await operator(hub)
        await voice(hub, "bob")
        due_ms = hub.clock.wall_ms() + 10_000
        await ask(ada, deadline_ms=10_000)
        await ada.ask(PutValue(key="k", value=msgspec.Raw(b"1"), ttl_ms=10_000), ValueInfo)
        await ada.ask(msgspec.structs.replace(direct("soon stale", "bob"), expires_at_ms=due_ms), Sent)
        await pat.ask(CreateToken(label="brief", hash="a" * 64, role="agent", ttl_ms=10_000), TokenInfo)
        before = hub.journal.head
        await hub.advance(9_500)
        hub.turns.put(None, lambda: hub.clock.advance(1_000))  # a turn that takes a second
        hub.turns.tick()
        await hub.settle()
        assert hub.journal.head == before
        hub.turns.tick()
        await hub.settle()
        ended = [recorded_of(row) for row in hub.journal.rows(before + 1, hub.journal.head)]
        assert {type(recorded.event).__name__ for recorded in ended} == {
            "QuestionExpired", "ValueExpired", "MessageDied", "TokenExpired"
        }  # fmt: skip
        assert min(recorded.at_ms for recorded in ended) >= due_ms


async def test_who_waits_is_answered_when_it_is_closed_and_at_once_when_it_is() -> None:
    async with MemoryHub() as hub:
        ada, pat = await voice(hub), await operator(hub)
        question = await ask(ada)
        waits = [await ada.say(WaitQuestion(id=question, wait_ms=60_000)) for _ in range(2)]
        brief = await ada.say(WaitQuestion(id=question, wait_ms=1_000))
        await hub.advance(2_000)
        assert error_of(await ada.answer(brief)).code == "deadline"
        await close(pat, question)
        for request_id in waits:
            assert msgspec.json.decode((await ada.answer(request_id)).body, type=QuestionInfo).answer == "yes"
        assert (await ada.ask(WaitQuestion(id=question, wait_ms=0), QuestionInfo)).outcome == "answered"
        assert (await ada.refused(WaitQuestion(id="q1"))).code == "not_found"


async def test_the_answer_survives_the_hub_and_comes_once() -> None:
    async with MemoryHub() as hub:
        ada, pat = await voice(hub), await operator(hub)
        question = await ask(ada)
        await hub.restart()
        pat = await operator(hub)
        closed = await close(pat, question)
        await hub.restart()
        ada = await voice(hub)
        taken = await ada.ask(TakeInbox(), Taken)
        body = msgspec.json.decode(taken.message.body)
        assert (body["type"], body["question"], body["answer"]) == ("question.answered", question, "yes")
        await hub.restart()  # between answer and ack: it comes again, and is the same
        ada = await voice(hub)
        assert (await ada.ask(TakeInbox(), Taken)).message.id == taken.message.id
        await ada.ask(AckInbox(ids=(taken.message.id,)), Acked)
        assert (await ada.ask(ListInbox(), Inbox)).messages == ()
        pat = await operator(hub)
        again = await close(pat, question)
        assert (again.already, again.closed_at_ms) == (True, closed.closed_at_ms)
        assert (await ada.ask(ListInbox(), Inbox)).messages == ()


async def test_the_time_of_a_lease_stands_still_while_its_question_is_open_up_to_the_ceiling() -> None:
    async with MemoryHub(limits=Limits(parked_ms_max=60_000)) as hub:
        ada, pat = await voice(hub), await operator(hub)
        await ada.ask(ClaimLease(task="T1", ttl_ms=10_000), Lease)
        await hub.advance(4_000)
        first, second = await ask(ada, task="T1"), await ask(ada, task="T1")
        await hub.advance(50_000)
        shown = (await ada.ask(ListLeases(), Leases)).leases[0]
        assert (shown.status, shown.questions, shown.remaining_ms) == ("parked", (first, second), None)
        await close(pat, first)
        await hub.advance(8_000)
        await close(pat, second)
        assert (await ada.ask(ListLeases(), Leases)).leases[0].remaining_ms == 6_000
        third = await ask(ada, task="T1")
        await hub.advance(61_000)
        assert hub.state.leases.live == {}
        bob = await voice(hub, "bob")
        await bob.ask(ClaimLease(task="T1"), Lease)
        assert (await close(pat, third)).told == ("ada", "bob")


async def test_a_task_that_ends_takes_its_questions_back_in_the_same_moment() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        await ada.ask(DeclareTask(task="T1"), TaskInfo)
        await ada.ask(ClaimLease(task="T1"), Lease)
        question = await ask(bob, task="T1")
        waits = await bob.say(WaitQuestion(id=question, wait_ms=60_000))
        await ada.ask(UpdateTask(task="T1", status="done"), TaskInfo)
        found = msgspec.json.decode((await bob.answer(waits)).body, type=QuestionInfo)
        assert (found.outcome, found.reason, found.by) == ("withdrawn", "task_done", "hub")
        assert (await ada.ask(ShowTask(task="T1"), TaskInfo)).status == "done"


async def test_followers_of_a_room_are_told_of_its_questions_live_and_later() -> None:
    async with MemoryHub() as hub:
        ada, pat, eve = await voice(hub), await operator(hub), await voice(hub, "eve")
        begun = await eve.ask(Subscribe(questions=("main",)), Subscribed)
        question = await ask(ada, priority="urgent")
        await close(pat, question)
        live = [notice for notice in await eve.notices() if isinstance(notice, QuestionChanged)]
        assert [(told.change, told.id, told.by) for told in live] == [
            ("asked", question, "ada"),
            ("answered", question, "operator"),
        ]
        late = await voice(hub, "late")
        await late.ask(Subscribe(questions=("main",), since=begun.from_cursor), Subscribed)
        assert [notice for notice in await late.notices() if isinstance(notice, QuestionChanged)] == live
        assert (await eve.refused(Subscribe(questions=("main",)))).code == "already_subscribed"


async def test_a_letter_is_heard_in_the_inbox_as_it_comes() -> None:
    async with MemoryHub() as hub:
        ada, pat = await voice(hub), await operator(hub)
        await ada.ask(Subscribe(inbox=True), Subscribed)
        waits = await ada.say(TakeInbox(wait_ms=60_000))
        question = await ask(ada)
        await close(pat, question)
        told = [notice for notice in await ada.notices() if isinstance(notice, Message)]
        assert [(message.kind, message.sender) for message in told] == [("system", "hub")]
        assert msgspec.json.decode((await ada.answer(waits)).body, type=Taken).message.id == told[0].id


async def test_a_list_has_the_urgent_ones_first_then_the_oldest_page_by_page() -> None:
    async with MemoryHub() as hub:
        ada, bob = await voice(hub), await voice(hub, "bob")
        low = await ask(ada, priority="low")
        first = await ask(ada, tags=("ui",))
        urgent = await ask(bob, priority="urgent")
        second = await ask(bob, task="T9")
        found: list[str] = []
        after: str | None = None
        while True:
            page = await ada.ask(ListQuestions(limit=1, after=after), QuestionsPage)
            found += [question.id for question in page.questions]
            after = page.next
            assert page.open == 4
            if after is None:
                break
        assert found == [urgent, first, second, low]

        async def ids(**fields: object) -> list[str]:
            listed = await ada.ask(ListQuestions(**fields), QuestionsPage)  # type: ignore[arg-type]  # the fields of the caller
            return [question.id for question in listed.questions]

        assert await ids(asker="bob") == [urgent, second]
        assert await ids(tag="ui") == [first]
        assert await ids(task="T9") == [second]
        assert await ids(status="answered") == []
        for wrong in ({"status": "lost"}, {"limit": 0}, {"room": "nowhere"}):
            refused = await ada.refused(ListQuestions(**wrong))
            assert refused.code in ("bad_request", "not_found")
