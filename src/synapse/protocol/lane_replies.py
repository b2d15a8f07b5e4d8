"""What is answered about lanes; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from synapse.protocol import lane_commands
from synapse.protocol.terms import Artefact


class LaneInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A lane. moved_at_ms, moved_by: of its last step. epoch: of the lease that acceptance handed over."""

    lane: str
    session: str
    room: str
    sender: str
    receiver: str
    state: str
    task: str | None
    note: str | None
    offered_at_ms: int
    expires_at_ms: int
    moved_at_ms: int
    moved_by: str
    reason: str | None
    epoch: int | None
    messages: int
    checkpoints: int


class LaneMoved(msgspec.Struct, frozen=True, kw_only=True):
    """The lane after a step. epoch: of the lease that came with it; next: the line that goes on."""

    lane: str
    session: str
    room: str
    sender: str
    receiver: str
    state: str
    task: str | None
    expires_at_ms: int
    epoch: int | None
    next: str | None
    cursor: str


class LaneSent(msgspec.Struct, frozen=True, kw_only=True):
    """The message is kept with the lane, and in the inbox of the other side. id: of that message."""

    lane: str
    id: str
    n: int
    to: tuple[str, ...]
    cursor: str


class LaneEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message of a lane, or a checkpoint. n: of the lane's messages, or of the session's checkpoints."""

    kind: str
    seq: int
    by: str
    at_ms: int
    n: int
    body: msgspec.Raw | UnsetType = UNSET
    session: str | UnsetType = UNSET
    data: msgspec.Raw | UnsetType = UNSET
    artefacts: tuple[Artefact, ...] | UnsetType = UNSET


class LaneShown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A lane, what it is about, and what was said and kept in it, newest first. first_kept: as in history."""

    info: LaneInfo
    context: msgspec.Raw
    entries: tuple[LaneEntry, ...]
    next: str | None
    first_kept: str | UnsetType = UNSET
    cursor: str


class LanesPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of lanes, the latest first."""

    seq: int
    lanes: tuple[LaneInfo, ...]
    next: str | None
    cursor: str


LaneReply: TypeAlias = LaneMoved | LaneSent | LaneShown | LanesPage

LANE_REPLY_TO: Final[dict[type[msgspec.Struct], type[LaneReply]]] = {
    lane_commands.OfferLane: LaneMoved,
    lane_commands.AcceptLane: LaneMoved,
    lane_commands.DeclineLane: LaneMoved,
    lane_commands.CloseLane: LaneMoved,
    lane_commands.SendLane: LaneSent,
    lane_commands.ShowLane: LaneShown,
    lane_commands.ListLanes: LanesPage,
}
