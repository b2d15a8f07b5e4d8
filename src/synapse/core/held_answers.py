"""What is answered about messages that the loop guard holds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import UNSET

from synapse.core.by import By, Rules
from synapse.core.events import MessageHeld, MessagePosted, Recorded
from synapse.core.held_events import HeldDropped, HeldReleased
from synapse.core.loops import Held, explained, may_decide, may_read, names_of, size_of
from synapse.core.refusals import require_limit
from synapse.protocol.cursor import message_id, seq_of_message
from synapse.protocol.held_commands import ListHeld
from synapse.protocol.held_replies import HeldEnded, HeldInfo, HeldNote, HeldPage
from synapse.protocol.replies import Sent
from synapse.protocol.terms import HUMAN

if TYPE_CHECKING:
    from synapse.core.state import State

LIST_BYTES_MAX = 160 * 1024


def answer_held(state: "State", by: By, events: Sequence[Recorded], cursor: str) -> HeldEnded:
    """What became of some held messages. left: as it is now, for who asks."""
    ids: list[str] = []
    origin: int | None = None
    for recorded in events:
        event = recorded.event
        if isinstance(event, HeldDropped):
            ids.append(message_id(event.held))
            origin = event.origin
        elif not isinstance(event, HeldReleased):
            ids.append(message_id(recorded.seq))
            link = getattr(event, "link", None)
            origin = None if link is None else link.origin
    left = 0
    if origin in state.loops.chains:
        held = state.loops.held.values()
        left = sum(one.link.origin == origin and may_decide(state, one, by) for one in held)
    return HeldEnded(ids=tuple(ids), left=left, cursor=cursor)


def sent_held(state: "State", recorded: Recorded, event: MessageHeld, cursor: str) -> Sent:
    """What the sender of a held message is told, also when it asks again after a person has decided."""
    name = message_id(recorded.seq)
    is_held = recorded.seq in state.loops.held
    now = "is held" if is_held else "was held, and a person has decided about it"
    rest = "a person releases or drops it, and you are told" if is_held else "its receipts tell how"
    note = HeldNote(
        why=event.why,
        detail=f"{name} {now}: {explained(event.why)}; {rest}",
        chain=message_id(event.link.origin),
        hops=event.link.hops,
        next=f"synapse held release {name}" if is_held else f"synapse receipts {name}",
        decided=not is_held,
    )
    if event.sent is not None:
        return Sent(id=name, cursor=cursor, to=names_of(event.sent), held=note)
    assert event.posted is not None, "a message is held"
    room, _, channel = event.posted.address.partition(":")
    return Sent(id=name, cursor=cursor, room=room, channel=channel, held=note)


def look_held(state: "State", rules: Rules, query: ListHeld, by: By, cursor: str) -> HeldPage:
    """A page of held messages. Raises `Rejected(bad_request)`."""
    require_limit(query.limit, rules.limits.page_items_max)
    after = 0 if query.after is None else seq_of_message(query.after, "$.body.after")
    has_all = by.has_role(HUMAN)
    page: list[HeldInfo] = []
    size, following = 0, None
    for seq, held in state.loops.held.items():
        if seq <= after or not (has_all or held.link.agent == by.agent):
            continue
        is_read = may_read(state, held, by)
        if not is_read and not (has_all and may_decide(state, held, by)):
            continue
        info = _info(held, is_read=is_read)
        size += size_of(held.message)
        if len(page) == query.limit or (page and size > LIST_BYTES_MAX):
            following = page[-1].id
            break
        page.append(info)
    return HeldPage(held=tuple(page), next=following, cursor=cursor)


def _info(held: Held, *, is_read: bool) -> HeldInfo:
    """is_read: False for an operator outside of its private place, who is told where it is and not what it says."""
    message = held.message
    is_post = type(message) is MessagePosted
    return HeldInfo(
        id=message_id(held.seq),
        sender=held.sender,
        to=UNSET if is_post else names_of(message),
        channel=names_of(message)[0] if is_post else UNSET,
        subject=message.subject if is_read else None,
        body=message.body if is_read else UNSET,
        why=held.why,
        chain=message_id(held.link.origin),
        causation=message_id(held.link.cause),
        hops=held.link.hops,
        held_at_ms=held.at_ms,
    )
