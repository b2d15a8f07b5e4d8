"""Presence: online by a lasting connection, recent for five minutes, offline; soft, and told as differences."""

import pytest
from tests.core.conftest import World, declared

from synapse.core.presence import OFFLINE, ONLINE, RECENT, RECENT_MS, Presence
from synapse.core.state import digest
from synapse.protocol.commands import ForgetAgent, ListAgents
from synapse.protocol.replies import Agents, StatusDeclared

ADA = 7


def told(presence: Presence) -> set[int]:
    """The agents of the next difference, which is then said."""
    changed, presence.changed = presence.changed, set()
    return changed


def test_a_lasting_connection_makes_online_and_its_end_makes_recent() -> None:
    presence = Presence()
    presence.connect(ADA, 1, 1_000, 0, lasting=True)
    assert (presence.of(ADA, 10**9), told(presence)) == (ONLINE, {ADA})
    presence.disconnect(ADA, 1, 2_000, 500)
    assert (presence.of(ADA, 500), told(presence)) == (RECENT, {ADA})
    assert presence.here[ADA].connected_since_at_ms is None


def test_the_second_of_two_lasting_connections_changes_nothing_and_keeps_online() -> None:
    presence = Presence()
    presence.connect(ADA, 1, 1_000, 0, lasting=True)
    told(presence)
    presence.connect(ADA, 2, 2_000, 0, lasting=True)
    presence.disconnect(ADA, 1, 3_000, 0)
    assert (presence.of(ADA, 0), told(presence), presence.online()) == (ONLINE, set(), 1)
    assert presence.here[ADA].connected_since_at_ms == 1_000


def test_a_one_shot_connection_touches_the_activity_and_makes_no_difference() -> None:
    presence = Presence()
    presence.connect(ADA, 1, 1_000, 0, lasting=False)
    presence.disconnect(ADA, 1, 1_001, 1)
    assert (presence.of(ADA, 1), told(presence), presence.here[ADA].open) == (RECENT, set(), 0)


def test_recent_fades_to_offline_after_five_minutes_and_is_told_once_it_was_said() -> None:
    presence = Presence()
    presence.connect(ADA, 1, 0, 0, lasting=True)
    presence.disconnect(ADA, 1, 0, 0)
    told(presence)
    presence.note_said(ADA, 0)
    presence.fade(RECENT_MS - 1)
    assert (presence.of(ADA, RECENT_MS - 1), told(presence)) == (RECENT, set())
    presence.fade(RECENT_MS)
    assert (presence.of(ADA, RECENT_MS), told(presence)) == (OFFLINE, {ADA})


def test_nobody_ever_seen_is_offline() -> None:
    presence = Presence()
    presence.disconnect(ADA, 1, 0, 0)
    presence.forget(ADA)
    assert presence.of(ADA, 0) == OFFLINE


def test_a_declared_status_is_told_when_it_changes() -> None:
    presence = Presence()
    presence.declare(ADA, "busy")
    assert told(presence) == {ADA}
    presence.declare(ADA, "busy")
    assert told(presence) == set()


def test_a_status_outside_the_list_is_refused() -> None:
    world = World()
    world.join("ada")
    assert isinstance(world.reply(StatusDeclared, declared("busy"), "ada"), StatusDeclared)
    assert world.refusal(declared("asleep"), "ada").code == "bad_request"
    assert world.refusal(declared("busy"), "operator").code == "anonymous"


@pytest.mark.parametrize("lasting", [True, False])
def test_presence_is_outside_the_digest_and_gone_after_a_restart(lasting: bool) -> None:
    world = World()
    world.join("ada")
    before = digest(world.state)
    world.state.soft.presence.connect(world.agent("ada"), 1, world.at_ms, 0, lasting=lasting)
    assert digest(world.state) == before
    (shown,) = world.look(Agents, ListAgents()).agents
    assert (shown.presence, shown.connections) == (ONLINE if lasting else RECENT, 1)
    world.restart()
    (shown,) = world.look(Agents, ListAgents()).agents
    assert (shown.presence, shown.connections, shown.last_activity_at_ms) == (OFFLINE, 0, None)


def test_a_forgotten_agent_is_not_in_the_next_difference() -> None:
    world = World()
    world.join("ada")
    ada = world.agent("ada")
    world.state.soft.presence.connect(ada, 1, world.at_ms, 0, lasting=True)
    world.do(ForgetAgent(name="ada"), "operator")
    assert (told(world.state.soft.presence), world.state.soft.presence.here) == (set(), {})
