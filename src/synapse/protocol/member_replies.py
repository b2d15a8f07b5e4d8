"""What is answered about who is in private rooms and channels; `replies` has them in its union."""

from typing import Final, TypeAlias

import msgspec

from synapse.protocol import member_commands


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """An agent and a private place. state: invited, member (it was one already), removed."""

    place: str
    agent: str
    state: str
    cursor: str


MemberReply: TypeAlias = Membership

MEMBER_REPLY_TO: Final[dict[type[msgspec.Struct], type[MemberReply]]] = {
    member_commands.InviteMember: Membership,
    member_commands.KickMember: Membership,
}
