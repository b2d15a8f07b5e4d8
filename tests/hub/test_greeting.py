"""The hello as the hub carries it out: the token first, then the agent, and what it is told."""

import msgspec
import pytest
from tests.hub.conftest import SECRET, Voice, error_of, hub_on_small_disk, message, operator, reply_of, voice

from synapse.protocol.codes import CLOSE_BAD_HELLO, CLOSE_NAME_TAKEN, CLOSE_UNAUTHORIZED
from synapse.protocol.commands import Hello, JoinRoom, ListAgents, RenewLease, ShowStatus, VerifyJournal
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Agents, Place, Sent, Status, Welcome
from synapse.testing import TOKEN, MemoryHub


async def test_without_the_token_nobody_who_is_not_the_owner_is_greeted() -> None:
    async with MemoryHub() as hub:
        for token in (None, "", TOKEN[:-1], "Ünïcode"):
            stranger = Voice(hub, owner=False)
            refused = await stranger.refused(Hello(name="ada", secret=SECRET, token=token))
            assert (refused.code, TOKEN in refused.detail) == ("unauthorized", False)
            assert (end := await stranger.end()) is not None
            assert end.code == CLOSE_UNAUTHORIZED
        assert "ada" not in hub.state.agents.by_name
        guest = Voice(hub, owner=False)
        assert (await guest.ask(Hello(name="ada", secret=SECRET, token=TOKEN), Welcome)).bound
        stranger = Voice(hub, owner=False)
        assert (await stranger.refused(Hello(operator=True, token=TOKEN))).code == "not_permitted"


async def test_of_two_first_hellos_of_one_name_in_one_turn_the_first_binds() -> None:
    async with MemoryHub() as hub:
        first, same, other = Voice(hub), Voice(hub), Voice(hub)
        one = await first.say(Hello(name="ada", secret=SECRET))
        two = await same.say(Hello(name="ada", secret=SECRET))
        three = await other.say(Hello(name="ada", secret="another " + SECRET))
        assert reply_of(await first.answer(one), Welcome).bound
        assert not reply_of(await same.answer(two), Welcome).bound
        taken = error_of(await other.answer(three))
        assert taken.code == "name_taken"
        assert "synapse agent rebind ada" in taken.detail
        assert not await other.is_open()
        assert await same.is_open()


async def test_a_sub_agent_needs_its_ancestors_secret_once() -> None:
    async with MemoryHub() as hub:
        await voice(hub)
        sub = Hello(name="ada/sub", secret=SECRET)
        assert (await Voice(hub).refused(sub)).code == "name_taken"
        with_wrong = msgspec.structs.replace(sub, ancestors={"ada": "wrong" * 10})
        assert (await Voice(hub).refused(with_wrong)).code == "name_taken"
        with_right = msgspec.structs.replace(sub, ancestors={"ada": f"ada: {SECRET}"})
        assert (await Voice(hub).ask(with_right, Welcome)).bound
        assert not (await Voice(hub).ask(sub, Welcome)).bound


async def test_a_welcome_says_where_the_journal_stands_and_what_is_allowed() -> None:
    limits = Limits(waiting_max=3)
    async with MemoryHub(limits=limits) as hub:
        ada = Voice(hub)
        first = await ada.hello()
        assert first.cursor == f"{hub.state.journal_id}:{hub.state.seq}"
        assert (first.hub_id, first.journal_id) == (hub.state.hub_id, hub.state.journal_id)
        assert (first.name, first.bound, first.home, first.limits) == ("ada", True, "main:general", limits)
        head = hub.state.seq
        again = await Voice(hub).hello()
        assert (again.bound, again.connection > first.connection) == (False, True)
        assert hub.state.seq == head, "an agent that is known makes no event"


@pytest.mark.parametrize(
    ("home", "address"), [(None, "main:general"), ("lab", "lab:general"), ("lab:one", "lab:one"), ("main:x", "main:x")]
)
async def test_what_names_no_address_goes_home(home: str | None, address: str) -> None:
    async with MemoryHub(rooms={"lab": ["general", "one"]}) as hub:
        ada = Voice(hub)
        said = Hello(name="ada", secret=SECRET, home=home)
        assert (await ada.ask(said, Welcome)).home == address
        request = msgspec.structs.replace(message("hi"), target=None)
        if address == "main:x":
            assert (await ada.refused(request)).code == "not_found"
        else:
            sent = await ada.ask(request, Sent)
            assert f"{sent.room}:{sent.channel}" == address


@pytest.mark.parametrize("home", ["", "Lab", "a:b:c", "lab/one", ":one", "lab:"])
async def test_a_home_outside_the_grammar_is_refused_and_nobody_is_made(home: str) -> None:
    async with MemoryHub() as hub:
        head = hub.state.seq
        ada = Voice(hub)
        assert (await ada.refused(Hello(name="ada", secret=SECRET, home=home))).code == "bad_name"
        assert (end := await ada.end()) is not None
        assert end.code == CLOSE_BAD_HELLO
        assert (hub.state.seq, hub.turns.of_agent) == (head, {})


async def test_the_tasks_of_an_agent_are_those_of_its_home_room() -> None:
    async with MemoryHub(rooms={"lab": ["one"]}) as hub:
        ada = Voice(hub)
        await ada.ask(Hello(name="ada", secret=SECRET, home="lab"), Welcome)
        refused = await ada.refused(RenewLease(task="T1"))
        assert (refused.code, "in room lab" in refused.detail) == ("not_found", True)


async def test_only_a_lasting_connection_makes_an_agent_online_and_an_operator_is_no_agent() -> None:
    async with MemoryHub() as hub:
        one_shot, boss = await voice(hub, lasting=False), await operator(hub)
        [ada] = (await boss.ask(ListAgents(), Agents)).agents
        assert (ada.presence, ada.connections) == ("recent", 1)
        await voice(hub)
        [ada] = (await boss.ask(ListAgents(), Agents)).agents
        assert (ada.presence, ada.connections) == ("online", 2)
        assert (await boss.ask(ShowStatus(), Status)).counts.agents == 1
        assert (await boss.refused(RenewLease(task="T1"))).code == "anonymous"
        assert (await one_shot.ask(JoinRoom(room="lab"), Place)).created


async def test_a_refused_hello_leaves_nothing_behind() -> None:
    async with MemoryHub() as hub:
        await voice(hub)
        head = hub.state.seq
        thief = Voice(hub)
        assert (await thief.refused(Hello(name="ada", secret="x" * 40, home="lab"))).code == "name_taken"
        assert (end := await thief.end()) is not None
        assert end.code == CLOSE_NAME_TAKEN
        assert hub.state.seq == head
        assert len(hub.turns.of_agent["ada"]) == 1
        assert hub.state.soft.presence.online() == 1


async def test_the_role_is_looked_at_before_the_command() -> None:
    async with MemoryHub() as hub:
        ada = await voice(hub)
        refused = await ada.refused(VerifyJournal())
        assert (refused.code, refused.facts) == ("not_permitted", {"role": "agent", "needed": "admin"})
        boss = await operator(hub)
        assert (await boss.refused(VerifyJournal())).code == "unsupported", "it is allowed, and has no file here"


async def test_on_a_full_disk_a_new_name_is_told_who_can_read() -> None:
    hub, disk = hub_on_small_disk()
    async with hub:
        ada = await voice(hub)
        disk.is_full = True
        await ada.post("the last one")
        refused = await Voice(hub).refused(Hello(name="bob", secret=SECRET))
        assert (refused.code, refused.retry_after_ms) == ("read_only", 1_000)
        assert refused.facts == {"since_ms": 0, "name": "bob"}
        assert refused.detail == (
            "the disk is full, and bob is new here and cannot be written down now: a name that the hub knows can read, "
            "and so can an operator (--operator where the verb has it); 24 MiB must be free"
        )
        described = await Voice(hub).refused(Hello(name="ada", secret=f"ada: {SECRET}", kind="service"))
        assert (
            "and what ada says of itself is new here and cannot be written down now: without that, ada"
            in described.detail
        )
        again = Voice(hub)
        assert not (await again.ask(Hello(name="ada", secret=f"ada: {SECRET}"), Welcome)).bound
        assert (await again.ask(ShowStatus(), Status)).read_only
        assert (await (await operator(hub)).ask(ShowStatus(), Status)).read_only
