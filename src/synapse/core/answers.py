"""Replies: of mutations from their events, so that a repeat under the same idempotency key says the same again, and of
questions from the state alone."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar, get_args

import msgspec

from synapse.core.agents import Agent
from synapse.core.asking import QuestionMutation
from synapse.core.by import By, Rules
from synapse.core.cards import answer_set, card_info, cards_to_list, look_card
from synapse.core.claims import knows_pool
from synapse.core.dead_letters import DeliveryMutation, answer_delivery
from synapse.core.events import (
    AgentCreated,
    ChannelCreated,
    MessageHeld,
    MessagePosted,
    MessagesAcked,
    MessageSent,
    Recorded,
    RoleCreated,
    RoomCreated,
)
from synapse.core.file_answers import answer_file, look_file, look_files
from synapse.core.files import FileMutation
from synapse.core.held_answers import answer_held, look_held, sent_held
from synapse.core.lane_answers import answer_lane, lanes_to_list, listed_lane
from synapse.core.lanes import LaneMutation
from synapse.core.lease_answers import (
    LeaseMutation,
    LeaseQuery,
    RareLeaseMutation,
    answer_claim,
    answer_lease,
    answer_release,
    leases_to_list,
    listed_lease,
    look_lease,
    pool_info,
)
from synapse.core.loops import HeldMutation
from synapse.core.members import MemberMutation, answer_members
from synapse.core.plan_answers import answer_plan, look_task, task_info, tasks_to_list
from synapse.core.planning import PlanMutation
from synapse.core.presence import Here
from synapse.core.question_answers import (
    answer_question,
    listed_question,
    look_question,
    questions_to_list,
)
from synapse.core.refusals import require_limit
from synapse.core.resource_answers import answer_resource, resource_info, resources_to_list
from synapse.core.resources import ResourceMutation
from synapse.core.role_answers import answer_role, role_info, role_shown
from synapse.core.role_queues import RoleMutation, require_role
from synapse.core.room_answers import channel_info, room_info
from synapse.core.rooms import channel_known, knows, knows_agent, require_room, room_known
from synapse.core.session_answers import answer_session, listed_session, look_session, sessions_to_list
from synapse.core.session_changes import SessionMutation
from synapse.core.token_answers import answer_token, listed_token, tokens_to_list
from synapse.core.tokens import TokenMutation
from synapse.core.value_answers import answer_value, look_value, value_info, values_to_list
from synapse.core.values import ValueMutation
from synapse.protocol.card_commands import ListCards, SetCard, ShowCard
from synapse.protocol.card_replies import CardsPage
from synapse.protocol.commands import (
    AckInbox,
    ClaimLease,
    CreateChannel,
    CreateRoom,
    DeclareStatus,
    DeleteChannel,
    DeleteRoom,
    ForgetAgent,
    JoinChannel,
    JoinRoom,
    LeaveChannel,
    LeaveRoom,
    ListAgents,
    ListChannels,
    ListLeases,
    ListPools,
    ListRooms,
    RebindAgent,
    ReleaseLease,
    SendMessage,
    ShowChannel,
    ShowRoom,
)
from synapse.protocol.cursor import cursor_of, message_id, seq_of_message
from synapse.protocol.file_commands import ListFiles, ShowFile
from synapse.protocol.held_commands import ListHeld
from synapse.protocol.lane_commands import ListLanes
from synapse.protocol.lane_replies import LanesPage
from synapse.protocol.notices import PresenceEntry
from synapse.protocol.plan_commands import (
    ListTasks,
    ShowTask,
)
from synapse.protocol.plan_replies import PlanPage
from synapse.protocol.question_commands import ListQuestions, ShowQuestion
from synapse.protocol.question_replies import QuestionInfo, QuestionsPage
from synapse.protocol.replies import (
    Acked,
    AgentInfo,
    AgentRebound,
    AgentRemoved,
    Agents,
    Channels,
    Leases,
    Place,
    Pools,
    Reply,
    Rooms,
    Sent,
    StatusDeclared,
)
from synapse.protocol.resource_commands import ListResources
from synapse.protocol.resource_replies import ResourcesPage
from synapse.protocol.role_commands import ListRoles, ShowRole
from synapse.protocol.role_replies import RolesPage
from synapse.protocol.session_commands import ListSessions, ShowSession
from synapse.protocol.session_replies import SessionsPage
from synapse.protocol.token_commands import ListTokens
from synapse.protocol.token_replies import TokensPage
from synapse.protocol.value_commands import GetValue, ListValues
from synapse.protocol.value_replies import ValuesPage

if TYPE_CHECKING:
    from synapse.core.state import State

Answerable: TypeAlias = (
    SendMessage
    | AckInbox
    | DeclareStatus
    | RebindAgent
    | ForgetAgent
    | CreateRoom
    | DeleteRoom
    | JoinRoom
    | LeaveRoom
    | CreateChannel
    | DeleteChannel
    | JoinChannel
    | LeaveChannel
    | LeaseMutation
    | ValueMutation
    | ResourceMutation
    | SessionMutation
    | LaneMutation
    | TokenMutation
    | SetCard
    | MemberMutation
    | FileMutation
    | HeldMutation
    | PlanMutation
    | RoleMutation
    | DeliveryMutation
    | QuestionMutation
)
"""Mutations whose reply needs nothing but their events. (Hello and inbox.take also need the connection or the disk.)"""

_RestQuery: TypeAlias = (
    LeaseQuery
    | ListResources
    | ShowCard
    | ListCards
    | ShowTask
    | ListTasks
    | ListRoles
    | ShowRole
    | ShowSession
    | ListSessions
    | ShowQuestion
    | ListQuestions
    | ListLanes
    | ListTokens
    | ShowFile
    | ListFiles
    | ListHeld
)

Query: TypeAlias = (
    ListAgents
    | ListRooms
    | ShowRoom
    | ListChannels
    | ShowChannel
    | ListLeases
    | ListPools
    | GetValue
    | ListValues
    | _RestQuery
)
"""Questions that the state in memory can answer."""

_Paged: TypeAlias = (
    ListAgents
    | ListRooms
    | ShowRoom
    | ListChannels
    | ShowChannel
    | ListLeases
    | ListPools
    | ListValues
    | ListResources
    | ListCards
    | ListTasks
    | ListRoles
    | ShowRole
    | ListSessions
    | ListQuestions
    | ListLanes
    | ListTokens
)

QUERIES = frozenset(get_args(Query))

LIST_BYTES_MAX: Final = 160 * 1024
"""A list stops growing here, so that its reply stays below the largest frame whatever its items hold."""

_Item = TypeVar("_Item")
_encode: Final = msgspec.json.Encoder().encode


def answer(state: "State", command: Answerable, by: By, events: Sequence[Recorded], seq: int) -> Reply:
    """The reply of a mutation that became `events`; `seq` is the commit it reflects."""
    cursor = cursor_of(state.journal_id, events[-1].seq if events else seq)
    if type(command) is ClaimLease:
        return answer_claim(state, command, by, events, cursor)
    if type(command) is ReleaseLease:
        return answer_release(events, cursor)
    if type(command) is SendMessage:
        return _sent(state, events, cursor)
    match command:
        case AckInbox():
            return _acked(state, command, by, events, cursor)
        case DeclareStatus():
            return StatusDeclared(name=by.actor, status=command.status, cursor=cursor)
        case RebindAgent():
            return AgentRebound(name=command.name, cursor=cursor)
        case ForgetAgent():
            return AgentRemoved(name=command.name, cursor=cursor)
        case CreateRoom() | DeleteRoom() | JoinRoom() | LeaveRoom():
            return _place(command.room, None, events, cursor)
        case CreateChannel() | DeleteChannel() | JoinChannel() | LeaveChannel():
            room, _, channel = command.channel.partition(":")
            return _place(room, channel, events, cursor)
        case SetCard():
            return answer_set(state, by, events, cursor)
        case _:
            return _answer_rest(state, command, by, events, cursor)


def _answer_rest(
    state: "State",
    command: RareLeaseMutation
    | FileMutation
    | HeldMutation
    | PlanMutation
    | ResourceMutation
    | RoleMutation
    | SessionMutation
    | QuestionMutation
    | LaneMutation
    | TokenMutation
    | ValueMutation
    | MemberMutation
    | DeliveryMutation,
    by: By,
    events: Sequence[Recorded],
    cursor: str,
) -> Reply:
    """The areas that have modules of their own for what they answer."""
    if isinstance(command, PlanMutation):
        return answer_plan(state, command, by, events, cursor)
    if isinstance(command, ValueMutation):
        return answer_value(state, command, by, events, cursor)
    if isinstance(command, MemberMutation):
        return answer_members(state, command, events, cursor)
    if isinstance(command, LaneMutation):
        return answer_lane(events, cursor)
    if isinstance(command, SessionMutation):
        return answer_session(state, command, by, events, cursor)
    if isinstance(command, QuestionMutation):
        return answer_question(state, command, by, events, cursor)
    if isinstance(command, HeldMutation):
        return answer_held(state, by, events, cursor)
    if isinstance(command, FileMutation):
        return answer_file(state, command, by, events, cursor)
    if isinstance(command, ResourceMutation):
        return answer_resource(state, command, events, cursor)
    if isinstance(command, RoleMutation):
        return answer_role(command, events, cursor)
    if isinstance(command, DeliveryMutation):
        return answer_delivery(command, events, cursor)
    if isinstance(command, TokenMutation):
        return answer_token(command, events, cursor)
    return answer_lease(state, command, by, events, cursor)


def _sent(state: "State", events: Sequence[Recorded], cursor: str) -> Sent:
    last = events[-1]
    event = last.event
    if isinstance(event, MessagePosted):
        room, _, channel = event.address.partition(":")
        if not event.mentions and not event.skipped:  # nearly all
            return Sent(message_id(last.seq), cursor, room, channel, event.n)
        return Sent(
            id=message_id(last.seq),
            cursor=cursor,
            room=room,
            channel=channel,
            n=event.n,
            mentions=tuple(delivery.name for delivery in event.mentions) if event.mentions else (),
            skipped=event.skipped,
        )
    if isinstance(event, MessageHeld):
        return sent_held(state, last, event, cursor)
    assert isinstance(event, MessageSent), "a send becomes one message"
    if len(events) == 1 and len(event.to) == 1:  # nearly all
        return Sent(id=message_id(last.seq), cursor=cursor, to=(event.to[0].name,), skipped=event.skipped)
    to = tuple(delivery.name for delivery in event.to)
    created = tuple(
        item.event.name if isinstance(item.event, AgentCreated) else f"role:{item.event.name}"
        for item in events
        if isinstance(item.event, AgentCreated | RoleCreated)
    )
    return Sent(id=message_id(last.seq), cursor=cursor, to=to, skipped=event.skipped, created=created)


def _acked(state: "State", command: AckInbox, by: By, events: Sequence[Recorded], cursor: str) -> Acked:
    if len(events) == 1:
        event = events[0].event
        if isinstance(event, MessagesAcked) and len(event.messages) == len(command.ids):  # nearly all
            ids = tuple([message_id(seq) for seq in event.messages])
            return Acked(acked=ids, already=(), unacked=event.left, cursor=cursor)
    asked = [seq_of_message(text, "$.body.ids") for text in dict.fromkeys(command.ids)]
    gone: list[int] = []
    left = state.agents.inboxes[by.require_agent()].unacked
    for item in events:
        assert isinstance(item.event, MessagesAcked), "an ack becomes nothing else"
        gone += item.event.messages
        left = item.event.left
    went = frozenset(gone)
    return Acked(
        acked=tuple(message_id(seq) for seq in gone),
        already=tuple(message_id(seq) for seq in asked if seq not in went),
        unacked=left,
        cursor=cursor,
    )


def _place(room: str, channel: str | None, events: Sequence[Recorded], cursor: str) -> Place:
    created = any(isinstance(item.event, RoomCreated | ChannelCreated) for item in events)
    return Place(room=room, channel=channel, changed=bool(events), created=created, cursor=cursor)


def look(state: "State", rules: Rules, query: Query, by: By) -> Reply:
    """Answer a question from memory. Raises `Rejected`: `not_found`, `bad_name`, `bad_request`."""
    cursor = cursor_of(state.journal_id, state.seq)
    match query:
        case ListAgents():
            members = None if query.room is None else require_room(state, query.room, by).members
            names = sorted(
                agent.name
                for agent in state.agents.by_id.values()
                if (members is None or agent.id in members) and knows_agent(state, agent.id, by)
            )
            infos, following = _listed(
                names, query, rules, lambda name: _agent_info(state, state.agents.by_name[name], by.lease_ms)
            )
            return Agents(agents=infos, next=following, cursor=cursor)
        case ListRooms():
            rooms = sorted(name for name, room in state.rooms.by_name.items() if knows(state, room, by))
            listed, following = _listed(
                rooms, query, rules, lambda name: room_info(state, state.rooms.by_name[name], by)
            )
            return Rooms(rooms=listed, next=following, cursor=cursor)
        case ShowRoom():
            room = room_known(state, query.room, by)
            participants, following = _members(state, room.members, query, rules)
            channels = sorted(name for name, there in state.rooms.in_room[room.id].items() if knows(state, there, by))
            return room_info(
                state,
                room,
                by,
                channels=tuple(channels[: rules.limits.page_items_max]),
                participants=participants,
                following=following,
                cursor=cursor,
            )
        case ListChannels():
            every = list(state.rooms.channels.values())
            if query.room is not None:
                every = list(state.rooms.in_room[room_known(state, query.room, by).id].values())
            addresses = sorted(state.rooms.address(channel) for channel in every if knows(state, channel, by))
            found, following = _listed(
                addresses, query, rules, lambda address: channel_info(state, state.rooms.by_address[address])
            )
            return Channels(channels=found, next=following, cursor=cursor)
        case ShowChannel():
            channel = channel_known(state, query.channel, by)
            participants, following = _members(state, channel.members, query, rules)
            return channel_info(state, channel, participants=participants, following=following, cursor=cursor)
        case ListLeases():
            shown, following = _listed(
                leases_to_list(state, rules, query, by), query, rules, lambda epoch: listed_lease(state, epoch, by)
            )
            return Leases(seq=state.seq, leases=shown, next=following, cursor=cursor)
        case ListPools():
            there = sorted(pool.name for pool in state.leases.pools.values() if knows_pool(state, pool, by))
            pools, following = _listed(there, query, rules, lambda name: pool_info(state, name))
            return Pools(pools=pools, next=following, cursor=cursor)
        case GetValue():
            return look_value(state, query, by, cursor)
        case ListValues():
            return _values_page(state, rules, query, by, cursor)
        case _:
            return _look_rest(state, rules, query, by, cursor)


def _look_rest(state: "State", rules: Rules, query: _RestQuery, by: By, cursor: str) -> Reply:
    """The areas that are asked less often."""
    match query:
        case ListResources():
            resources, following = _listed(
                resources_to_list(state, query, by), query, rules, lambda name: resource_info(state, name, by)
            )
            return ResourcesPage(resources=resources, next=following, cursor=cursor)
        case ShowCard():
            return look_card(state, query, by, cursor)
        case ListCards():
            known = state.agents.by_name
            cards, following = _listed(
                cards_to_list(state, query, by), query, rules, lambda name: card_info(state, known[name], by)
            )
            return CardsPage(cards=cards, next=following, cursor=cursor)
        case ListRoles() | ShowRole():
            by.require_all_rooms("a role")
            return _look_role(state, rules, query, cursor)
        case ShowTask():
            return look_task(state, query, by, cursor)
        case ListTasks():
            return _plan_page(state, rules, query, by, cursor)
        case ShowSession():
            return look_session(state, query, by, cursor)
        case ListSessions():
            sessions, following = _listed(
                sessions_to_list(state, query, by), query, rules, lambda name: listed_session(state, name, by)
            )
            return SessionsPage(seq=state.seq, sessions=sessions, next=following, cursor=cursor)
        case ShowQuestion() | ListQuestions():
            return _look_questions(state, rules, query, by, cursor)
        case ListLanes():
            lanes, following = _listed(
                lanes_to_list(state, query, by), query, rules, lambda name: listed_lane(state, name, by)
            )
            return LanesPage(seq=state.seq, lanes=lanes, next=following, cursor=cursor)
        case ListTokens():
            return _tokens_page(state, rules, query, by, cursor)
        case ShowFile():
            return look_file(state, rules, query, by, cursor)
        case ListFiles():
            return look_files(state, rules, query, by, cursor)
        case ListHeld():
            return look_held(state, rules, query, by, cursor)
        case _:
            return look_lease(state, rules, query, by, cursor)


def _look_role(state: "State", rules: Rules, query: ListRoles | ShowRole, cursor: str) -> Reply:
    if isinstance(query, ShowRole):
        role = require_role(state, query.role)
        participants, following = _members(state, role.members, query, rules)
        return role_shown(state, role, participants, following, cursor)
    named = state.roles.by_name
    roles, following = _listed(sorted(named), query, rules, lambda name: role_info(state, named[name]))
    return RolesPage(roles=roles, next=following, cursor=cursor)


def _look_questions(
    state: "State", rules: Rules, query: ShowQuestion | ListQuestions, by: By, cursor: str
) -> QuestionInfo | QuestionsPage:
    if isinstance(query, ShowQuestion):
        return look_question(state, query, by, cursor)
    order, count = questions_to_list(state, query, by)
    found, following = _listed(order, query, rules, lambda key: listed_question(state, key))
    return QuestionsPage(seq=state.seq, questions=found, open=count, next=following, cursor=cursor)


def _plan_page(state: "State", rules: Rules, query: ListTasks, by: By, cursor: str) -> PlanPage:
    room, name, plan, ids = tasks_to_list(state, query, by)
    tasks, following = _listed(ids, query, rules, lambda task: task_info(state, room, name, plan.tasks[task], by))
    return PlanPage(
        seq=state.seq,
        room=name,
        tasks=tasks,
        ready=tuple(task.task for task in tasks if task.ready),
        total=len(plan.tasks),
        next=following,
        cursor=cursor,
    )


def _values_page(state: "State", rules: Rules, query: ListValues, by: By, cursor: str) -> ValuesPage:
    place, keys = values_to_list(state, query, by)
    there = state.values.by_room.get(require_room(state, place, by).id, {})
    values, following = _listed(keys, query, rules, lambda key: value_info(place, there[key], has_value=query.values))
    return ValuesPage(seq=state.seq, values=values, next=following, cursor=cursor)


def _tokens_page(state: "State", rules: Rules, query: ListTokens, by: By, cursor: str) -> TokensPage:
    tokens, following = _listed(tokens_to_list(state, by), query, rules, lambda name: listed_token(state, name, by))
    return TokensPage(tokens=tokens, next=following, cursor=cursor)


def _listed(
    names: Sequence[str], query: _Paged, rules: Rules, show: Callable[[str], _Item]
) -> tuple[tuple[_Item, ...], str | None]:
    """What `show` makes of the names behind `query.after`: at most `query.limit`, and no more than fit into a frame;
    and the `after` of the next page, or None. names: sorted."""
    most = rules.limits.page_items_max
    require_limit(query.limit, most)
    start = 0 if query.after is None else bisect_right(names, query.after)
    found: list[_Item] = []
    size = 0
    for at in range(start, min(start + query.limit, len(names))):
        item = show(names[at])
        size += len(_encode(item))
        if found and size > LIST_BYTES_MAX:
            break
        found.append(item)
    end = start + len(found)
    return tuple(found), names[end - 1] if found and end < len(names) else None


def _members(state: "State", members: Iterable[int], query: _Paged, rules: Rules) -> tuple[tuple[str, ...], str | None]:
    names = sorted(state.agents.by_id[member].name for member in members)
    return _listed(names, query, rules, lambda name: name)


def _agent_info(state: "State", agent: Agent, lease_ms: int) -> AgentInfo:
    here = state.soft.presence.here.get(agent.id) or Here()
    card = agent.card
    return AgentInfo(
        name=agent.name,
        kind=card.kind,
        presence=state.soft.presence.of(agent.id, lease_ms),
        status=here.status,
        connected_since_at_ms=here.connected_since_at_ms,
        last_activity_at_ms=here.last_activity_at_ms,
        connections=here.open,
        first_seen_at_ms=agent.created_at_ms,
        bound=agent.secret_hash is not None,
        unacked=state.agents.inboxes[agent.id].unacked,
        wakeable=here.is_wakeable,
        display_name=card.display_name,
        personality=card.personality,
        avatar=card.avatar,
        client=card.client,
        capabilities=card.capabilities,
        skills=tuple(skill.id for skill in card.skills),
    )


def presence_entry(state: "State", agent: Agent, lease_ms: int) -> PresenceEntry:
    """One agent's presence as subscribers see it."""
    here = state.soft.presence.here.get(agent.id) or Here()
    return PresenceEntry(
        name=agent.name,
        kind=agent.card.kind,
        presence=state.soft.presence.of(agent.id, lease_ms),
        status=here.status,
        connected_since_at_ms=here.connected_since_at_ms,
        last_activity_at_ms=here.last_activity_at_ms,
        wakeable=here.is_wakeable,
    )
