"""Which commands take an idempotency key: those whose effect is kept, where a repeat is not a second wish."""

from typing import Final

from synapse.protocol.card_commands import SetCard
from synapse.protocol.commands import (
    AckInbox,
    ClaimLease,
    Command,
    CreateChannel,
    CreateRoom,
    DeleteChannel,
    DeletePool,
    DeleteRoom,
    ForgetAgent,
    HandOffLease,
    JoinChannel,
    JoinRoom,
    LeaveChannel,
    LeaveRoom,
    ParkLease,
    RebindAgent,
    ReleaseLease,
    RenewLease,
    SaveCheckpoint,
    SendMessage,
    SetPool,
    WithdrawClaim,
)
from synapse.protocol.delivery_commands import DropDead, ResendDead
from synapse.protocol.file_commands import BeginFile, CompleteFile, PutChunk, ReceiveFile, WithdrawFile
from synapse.protocol.held_commands import DropHeld, ReleaseHeld
from synapse.protocol.lane_commands import AcceptLane, CloseLane, DeclineLane, OfferLane, SendLane
from synapse.protocol.member_commands import InviteMember, KickMember
from synapse.protocol.plan_commands import DeclareTask, DeclareTasks, NoteProgress, RemoveTask, UpdateTask
from synapse.protocol.question_commands import AnswerQuestion, AskQuestion, DismissQuestion, WithdrawQuestion
from synapse.protocol.resource_commands import OfferResource, WithdrawResource
from synapse.protocol.role_commands import DeleteRole, JoinRole, LeaveRole
from synapse.protocol.session_commands import EndSession, SaveSessionPoint, StartSession, UpdateSession
from synapse.protocol.token_commands import CreateToken, RevokeToken
from synapse.protocol.value_commands import ClearValues, DeleteValue, PutValue, TransferValue

KEYED: Final[frozenset[type[Command]]] = frozenset(
    {
        SendMessage,
        AckInbox,
        ResendDead,
        DropDead,
        CreateToken,
        RevokeToken,
        RebindAgent,
        ForgetAgent,
        CreateRoom,
        DeleteRoom,
        JoinRoom,
        LeaveRoom,
        CreateChannel,
        DeleteChannel,
        JoinChannel,
        LeaveChannel,
        InviteMember,
        KickMember,
        ClaimLease,
        RenewLease,
        ReleaseLease,
        WithdrawClaim,
        SaveCheckpoint,
        HandOffLease,
        ParkLease,
        SetPool,
        DeletePool,
        PutValue,
        DeleteValue,
        ClearValues,
        TransferValue,
        OfferResource,
        WithdrawResource,
        SetCard,
        DeclareTask,
        DeclareTasks,
        UpdateTask,
        NoteProgress,
        RemoveTask,
        JoinRole,
        LeaveRole,
        DeleteRole,
        StartSession,
        UpdateSession,
        SaveSessionPoint,
        EndSession,
        AskQuestion,
        AnswerQuestion,
        DismissQuestion,
        WithdrawQuestion,
        OfferLane,
        AcceptLane,
        DeclineLane,
        CloseLane,
        SendLane,
        BeginFile,
        PutChunk,
        CompleteFile,
        ReceiveFile,
        WithdrawFile,
        ReleaseHeld,
        DropHeld,
    }
)
"""Commands that may carry an `idem_key`. All others are refused with one: they change nothing that is kept, or are tied
to their connection."""
