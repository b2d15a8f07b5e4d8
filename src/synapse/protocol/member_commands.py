"""What a client may ask about who is in private rooms and channels; `commands` has them in its union."""

from typing import Final, TypeAlias

import msgspec


class InviteMember(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask an agent into a private `room` or `room:channel`: it may join then. history: it will read what was said
    before it came, too. Any member may, and an operator."""

    place: str
    agent: str
    history: bool = False


class KickMember(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Put an agent out of a private `room` or `room:channel`, or take its invitation back. Its leases and lanes of the
    room end. Whoever made the place may while it is a member; else any member; and an operator."""

    place: str
    agent: str


MemberCommand: TypeAlias = InviteMember | KickMember

MEMBER_COMMANDS: Final[dict[str, type[MemberCommand]]] = {
    "member.invite": InviteMember,
    "member.kick": KickMember,
}
"""Command class by wire type."""
