"""Role addresses: stored once, lent to one member at a time, acked by who has it, gone only when nothing is lost."""

import msgspec
import pytest
from tests.core.conftest import World, text
from tests.core.test_happenings import OwnEyes

from synapse.core.events import MessagesAcked, MessageSent, MessagesLent
from synapse.core.happenings import kinds_named, line_of
from synapse.core.inboxes import Lend, decide_return, decide_take
from synapse.core.retention import Planning, kept_from
from synapse.core.role_events import RoleCreated, RoleDeleted, RoleJoined, RoleLeft
from synapse.core.state import decode_state, encode_state
from synapse.protocol.commands import AckInbox, ForgetAgent, SendMessage, TakeInbox
from synapse.protocol.limits import Limits
from synapse.protocol.replies import Acked, Sent
from synapse.protocol.role_commands import DeleteRole, JoinRole, LeaveRole, ListRoles, ShowRole
from synapse.protocol.role_replies import RoleChanged, RoleInfo, RolesPage

LEND_MS = 30_000
REVIEW = "role:review"


def staffed(limits: Limits | None = None, *members: str) -> World:
    """Bob, who sends, and the members of `review`: ada and cy."""
    world = World(limits)
    world.join("ada", "bob", "cy")
    for name in members or ("ada", "cy"):
        world.do(JoinRole(role="review"), name)
    return world


def sent(world: World, body: str, target: str = REVIEW) -> int:
    """The seq of a message of bob."""
    return world.do(text(body, target=target), "bob")[0][-1].seq


def take(world: World, name: str, connection: int = 1) -> int | None:
    """The seq of what was taken and lent, as the hub does it."""
    for event in world.events(TakeInbox(), world.by(name, connection=connection)):
        if isinstance(event, MessagesLent):
            holder = world.agent(name) if event.agent in world.state.roles.by_id else None
            lend = Lend(event.agent, event.messages[0], connection, world.lease_ms + LEND_MS, holder)
            world.state.soft.lending.lend(lend)
            return event.messages[0]
    return None


def give_back(world: World, connection: int) -> None:
    for lend in world.state.soft.lending.held_by(connection):
        world.state.soft.lending.end(lend.agent, lend.seq)
        world.record(decide_return(world.state, world.rules, lend), "hub")


def info(world: World) -> RoleInfo:
    return world.look(RoleInfo, ShowRole(role="review"))


def test_the_first_to_join_makes_the_role_and_joining_twice_is_the_same_as_once() -> None:
    world = World()
    world.join("ada", "bob")
    recorded, reply = world.do(JoinRole(role="review"), "ada")
    role, agent = recorded[0].seq, world.agent("ada")
    assert [item.event for item in recorded] == [
        RoleCreated(name="review"),
        RoleJoined(role=role, name="review", agent=agent),
    ]
    assert isinstance(reply, RoleChanged)
    assert (reply.role, reply.changed, reply.created) == ("review", True, True)
    again = world.reply(RoleChanged, JoinRole(role="review"), "ada")
    assert (again.changed, again.created) == (False, False)
    second = world.reply(RoleChanged, JoinRole(role="review"), "bob")
    assert (second.changed, second.created) == (True, False)
    assert info(world).participants == ("ada", "bob")


def test_a_join_that_is_repeated_under_its_key_is_answered_as_before() -> None:
    world = World()
    world.join("ada")
    first = world.reply(RoleChanged, JoinRole(role="review"), "ada", key="k")
    assert world.reply(RoleChanged, JoinRole(role="review"), "ada", key="k") == first


def test_a_message_to_a_role_is_stored_once_with_a_number_of_the_queue() -> None:
    world = staffed()
    recorded, reply = world.do(text("1", target=REVIEW), "bob")
    (event,) = [item.event for item in recorded]
    assert isinstance(event, MessageSent)
    assert [(delivery.name, delivery.agent, delivery.n) for delivery in event.to] == [
        (REVIEW, world.state.roles.by_name["review"].id, 1)
    ]
    assert isinstance(reply, Sent)
    assert (reply.to, reply.created) == ((REVIEW,), ())
    assert world.reply(Sent, text("2", to=(REVIEW,)), "bob").to == (REVIEW,)
    assert (info(world).messages, info(world).waiting) == (2, 2)
    for name in ("ada", "bob", "cy"):
        assert world.state.agents.inboxes[world.agent(name)].entries == {}


def test_each_message_is_lent_to_one_member_and_the_next_one_gets_the_next() -> None:
    world = staffed()
    one, two = sent(world, "1"), sent(world, "2")
    assert [take(world, "ada", 1), take(world, "cy", 2), take(world, "ada", 3)] == [one, two, None]
    assert take(world, "bob", 4) is None
    assert (info(world).waiting, info(world).lent) == (0, 2)


def test_own_mail_and_the_queues_of_all_roles_are_one_order_by_age() -> None:
    world = staffed()
    world.do(JoinRole(role="ops"), "ada")
    order = [sent(world, "1"), sent(world, "2", "ada"), sent(world, "3", "role:ops"), sent(world, "4", "ada")]
    assert [take(world, "ada") for _ in range(5)] == [*order, None]


def test_several_that_are_lent_at_once_are_in_order_over_all_inboxes_an_event_for_each_run() -> None:
    world = staffed()
    one, mine, too, two = sent(world, "1"), sent(world, "mine", "ada"), sent(world, "mine too", "ada"), sent(world, "2")
    events = decide_take(world.state, world.rules, TakeInbox(), world.by("ada"), 10)
    lent = [(event.messages, event.recipient) for event in events if isinstance(event, MessagesLent)]
    assert lent == [((one,), REVIEW), ((mine, too), None), ((two,), REVIEW)]


def test_directed_only_takes_what_was_sent_to_a_role() -> None:
    world = staffed()
    one = sent(world, "1")
    (lent,) = world.events(TakeInbox(directed_only=True), world.by("ada"))
    assert isinstance(lent, MessagesLent)
    assert lent.messages == (one,)


def test_what_a_connection_or_the_time_gives_back_goes_to_another_member() -> None:
    world = staffed()
    one = sent(world, "1")
    take(world, "ada", 1)
    assert take(world, "cy", 2) is None
    give_back(world, 1)
    assert take(world, "cy", 2) == one
    (late,) = world.state.soft.lending.overdue(world.lease_ms + LEND_MS)
    assert (late.seq, late.holder) == (one, world.agent("cy"))


def test_a_message_that_was_lent_too_often_dies_in_the_queue_whoever_took_it() -> None:
    world = staffed(Limits(lends_max=3))
    one = sent(world, "1")
    for turn in range(3):
        assert take(world, ("ada", "cy")[turn % 2], 1) == one
        give_back(world, 1)
    assert [take(world, "ada"), take(world, "cy")] == [None, None]
    assert (info(world).waiting, info(world).dead, info(world).unacked) == (0, 1, 1)
    world.do(AckInbox(ids=(f"m{one}",)), "cy")
    assert (info(world).dead, info(world).unacked) == (0, 0)


@pytest.mark.bad_input("BI-66")
def test_only_who_has_it_lent_acks_it_and_others_are_told_who_and_until_when() -> None:
    world = staffed()
    one, own = sent(world, "1"), sent(world, "2", "cy")
    take(world, "ada", 1)
    world.lease_ms += 10_000
    refused = world.refusal(AckInbox(ids=(f"m{own}", f"m{one}")), "cy")
    assert (refused.code, refused.retry_after_ms) == ("not_holder", 20_000)
    assert refused.facts == {"id": f"m{one}", "role": "review", "holder": "ada", "expires_in_ms": 20_000}
    recorded, reply = world.do(AckInbox(ids=(f"m{one}",)), "ada")
    role = world.state.roles.by_name["review"].id
    event = recorded[0].event
    assert len(recorded) == 1
    assert isinstance(event, MessagesAcked)
    assert (event.agent, event.messages, event.left, event.by_member) == (role, (one,), 0, True)
    assert event.recipient == "role:review"
    assert isinstance(reply, Acked)
    assert (reply.acked, reply.already, reply.unacked) == ((f"m{one}",), (), 0)
    assert world.state.soft.lending.lends == {}
    assert world.reply(Acked, AckInbox(ids=(f"m{one}",)), "cy").already == (f"m{one}",)


def test_what_nobody_has_lent_is_acked_by_any_member_and_by_nobody_else() -> None:
    world = staffed()
    one, two = sent(world, "1"), sent(world, "2")
    assert world.reply(Acked, AckInbox(ids=(f"m{one}",)), "bob").acked == ()
    assert world.reply(Acked, AckInbox(ids=(f"m{one}",)), "cy").acked == (f"m{one}",)
    take(world, "ada", 1)
    give_back(world, 1)
    assert world.reply(Acked, AckInbox(ids=(f"m{two}",)), "ada").acked == (f"m{two}",)


def test_one_ack_may_be_about_own_mail_and_several_roles_and_is_answered_the_same_again() -> None:
    world = staffed()
    world.do(JoinRole(role="ops"), "ada")
    seqs = [sent(world, "1", "role:ops"), sent(world, "2"), sent(world, "3", "ada"), sent(world, "4", "ada")]
    command = AckInbox(ids=tuple(f"m{seq}" for seq in seqs[:3]))
    reply = world.reply(Acked, command, "ada", key="k")
    assert (sorted(reply.acked), reply.already, reply.unacked) == (sorted(command.ids), (), 1)
    assert world.reply(Acked, command, "ada", key="k") == reply


def test_acking_all_leaves_in_the_queue_what_is_not_lent_to_me() -> None:
    world = staffed()
    one, two, three = sent(world, "1"), sent(world, "2"), sent(world, "3")
    take(world, "ada", 1)
    take(world, "cy", 2)
    assert world.reply(Acked, AckInbox(all=True), "ada").acked == (f"m{one}",)
    assert [take(world, "ada"), info(world).unacked] == [three, 2]
    assert world.reply(Acked, AckInbox(all=True), "cy").acked == (f"m{two}",)


def test_who_leaves_takes_no_more_and_messages_wait_for_who_joins() -> None:
    world = staffed(None, "ada")
    recorded, _ = world.do(LeaveRole(role="review"), "ada")
    role = world.state.roles.by_name["review"].id
    assert [item.event for item in recorded] == [RoleLeft(role=role, name="review", agent=world.agent("ada"))]
    assert not world.reply(RoleChanged, LeaveRole(role="review"), "ada").changed
    one = sent(world, "1")
    assert take(world, "ada") is None
    world.do(JoinRole(role="review"), "cy")
    assert take(world, "cy") == one


def test_an_agent_that_is_forgotten_leaves_its_roles() -> None:
    world = staffed()
    one = sent(world, "1")
    world.do(ForgetAgent(name="ada"), "operator")
    assert info(world).participants == ("cy",)
    world.join("ada")
    assert [take(world, "ada"), take(world, "cy")] == [None, one]


def test_what_becomes_of_roles_is_told_and_what_was_sent_to_one_only_its_sender() -> None:
    world = staffed()
    one = sent(world, "1")
    world.do(AckInbox(ids=(f"m{one}",)), "ada")
    world.do(LeaveRole(role="review"), "cy")
    for name, own in (("ada", []), ("bob", ["message.sent"])):
        eyes = OwnEyes(world, world.by(name))
        found = [line_of(item, eyes, kinds_named(("role", "message")), None) for item in world.read(0, 1 << 60)]
        lines = [msgspec.json.decode(line, type=dict[str, object]) for line in found if line is not None]
        assert [line["kind"] for line in lines] == ["role.created", "role.joined", "role.joined", *own, "role.left"]
        assert [line["by"] for line in lines if line["kind"] == "role.left"] == ["cy"]


@pytest.mark.bad_input("BI-64")
def test_a_role_nobody_ever_joined_is_refused_with_near_names_unless_it_is_to_be_made() -> None:
    world = staffed()
    refused = world.refusal(text("1", target="role:reviev"), "bob")
    assert (refused.code, refused.facts) == ("not_found", {"role": "reviev", "near": ["review"]})
    reply = world.reply(Sent, SendMessage(body=text("1").body, target="role:ops", create=True), "bob")
    assert (reply.to, reply.created) == (("role:ops",), ("role:ops",))
    world.do(JoinRole(role="ops"), "cy")
    assert take(world, "cy") == world.state.seq - 1 - 1  # before the join and the lend
    for command in (LeaveRole(role="nobody"), DeleteRole(role="nobody")):
        assert world.refusal(command, "ada" if isinstance(command, LeaveRole) else "operator").code == "not_found"


@pytest.mark.bad_input("BI-65")
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"target": "role:"}, "bad_name"),
        ({"target": "role:Review"}, "bad_name"),
        ({"target": "role:a/b"}, "bad_name"),
        ({"target": "role:review,bob"}, "bad_request"),
        ({"to": ("role:review", "bob")}, "bad_request"),
        ({"to": ("role:review",), "channel": "main:general"}, "bad_request"),
        ({"target": "bob,role:review"}, "bad_request"),
    ],
)
def test_a_role_is_addressed_alone_and_by_one_segment(fields: dict[str, object], code: str) -> None:
    assert staffed().refusal(text("?", **fields), "bob").code == code


@pytest.mark.bad_input("BI-67")
def test_a_role_is_deleted_by_an_operator_when_nobody_and_nothing_is_in_it() -> None:
    world = staffed(None, "ada")
    one = sent(world, "1")
    assert world.refusal(DeleteRole(role="review"), "ada").code == "not_permitted"
    full = world.refusal(DeleteRole(role="review"), "operator")
    assert (full.code, full.facts) == (
        "not_empty",
        {"role": "review", "members": ["ada"], "count": 1, "unacked": 1},
    )
    world.do(LeaveRole(role="review"), "ada")
    assert world.refusal(DeleteRole(role="review"), "operator").facts["unacked"] == 1
    world.do(JoinRole(role="review"), "ada")
    world.do(AckInbox(ids=(f"m{one}",)), "ada")
    world.do(LeaveRole(role="review"), "ada")
    role = world.state.roles.by_name["review"].id
    recorded, _ = world.do(DeleteRole(role="review"), "operator")
    assert [item.event for item in recorded] == [RoleDeleted(role=role, name="review")]
    assert role not in world.state.agents.inboxes
    assert world.refusal(text("2", target=REVIEW), "bob").code == "not_found"


@pytest.mark.bad_input("BI-68")
def test_each_limit_is_told() -> None:
    world = staffed(Limits(roles_max=2, roles_per_agent_max=2, members_max=2, inbox_unacked_max=1))
    world.do(JoinRole(role="ops"), "ada")
    assert world.refusal(JoinRole(role="more"), "ada").facts == {"limit": "roles_per_agent_max", "value": 2}
    assert world.refusal(JoinRole(role="more"), "bob").facts == {"limit": "roles_max", "value": 2}
    create = SendMessage(body=text("1").body, target="role:more", create=True)
    assert world.refusal(create, "bob").facts == {"limit": "roles_max", "value": 2}
    assert world.refusal(JoinRole(role="review"), "bob").facts == {"limit": "members_max", "value": 2}
    sent(world, "1")
    full = world.refusal(text("2", target=REVIEW), "bob")
    assert (full.code, full.facts) == ("inbox_full", {"role": "review", "members": 2, "inbox_unacked_max": 1})


@pytest.mark.parametrize("command", [JoinRole(role="review"), LeaveRole(role="review")])
def test_an_operator_is_no_member(command: JoinRole | LeaveRole) -> None:
    assert staffed().refusal(command, "operator").code == "anonymous"


def test_lists_and_members_come_in_pages() -> None:
    world = staffed()
    world.do(JoinRole(role="ops"), "ada")
    first = world.look(RolesPage, ListRoles(limit=1))
    assert ([(role.role, role.members) for role in first.roles], first.next) == ([("ops", 1)], "ops")
    rest = world.look(RolesPage, ListRoles(limit=1, after=first.next))
    assert ([role.role for role in rest.roles], rest.next) == (["review"], None)
    page = world.look(RoleInfo, ShowRole(role="review", limit=1))
    assert (page.participants, page.next) == (("ada",), "ada")


def test_roles_and_their_queues_survive_a_dump_and_a_replay() -> None:
    world = staffed(Limits(lends_max=2))
    one, two = sent(world, "1"), sent(world, "2")
    for _ in range(2):
        take(world, "ada", 1)
        give_back(world, 1)
    dump = encode_state(world.state)
    assert encode_state(decode_state(dump)) == encode_state(world.replayed()) == dump
    world.restart()
    assert [take(world, "cy"), take(world, "cy")] == [two, None]
    assert [entry.dead for entry in world.state.agents.inboxes[world.state.roles.by_name["review"].id].entries.values()]
    assert one < two


def test_what_waits_in_a_queue_is_pinned_and_what_was_dropped_is_called_by_the_role() -> None:
    world = staffed()
    one, two = sent(world, "1"), sent(world, "2")
    world.do(AckInbox(ids=(f"m{one}",)), "ada")
    role = world.state.roles.by_name["review"].id
    planning = Planning(world.state, {"messages": 24 * 3600 * 1000}, world.at_ms + 48 * 3600 * 1000)
    for row in world.rows:
        planning.pass_over(row.seq, row.at_ms)
        planning.look(row.seq, row.type, (row.key, *row.also), len(row.body))
    assert two in planning.pins
    assert one not in planning.pins
    event = planning.event(world.state.seq, "ab")
    assert event.floors[f"in/{role}"] == one
    assert ("@role:review", one) in kept_from(world.state, event.floors)
