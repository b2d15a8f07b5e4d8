"""Dead letters: messages that nobody acked in time. They are listed for two, who each do with them what they want.

The recipient has them in its inbox, and may give one another chance, ack it or drop it. The sender sees what became of
what it sent, may send it anew, or take it off its own list; the letter itself stays with the recipient.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from synapse.core.by import By, Rules
from synapse.core.delivery_events import MessageRevived, MessagesDisowned, MessagesDropped
from synapse.core.events import Event, MessageSent, Recorded
from synapse.core.inboxes import MESSAGES_MAX, Entry, called, drops, inboxes_of
from synapse.core.mail import Delivery
from synapse.core.refusals import require_limit
from synapse.errors import Rejected
from synapse.protocol.cursor import message_id, seq_of_message
from synapse.protocol.delivery_commands import DropDead, ListDead, ResendDead
from synapse.protocol.delivery_replies import Dropped, Resent

if TYPE_CHECKING:
    from synapse.core.state import State

DeliveryMutation: TypeAlias = ResendDead | DropDead

_DIGITS_MAX: Final = 16
_LISTS: Final = "synapse dead-letters lists them"


def letters_to_list(
    state: "State", rules: Rules, query: ListDead, by: By
) -> tuple[list[tuple[int, Entry]], int, str | None]:
    """One page, each with the inbox it is in; how many there are in all; and the `after` of the next page. Raises
    `Rejected`."""
    agent = by.require_agent()
    require_limit(query.limit, rules.limits.page_items_max)
    every = state.agents.dead_of.get(agent, []) if query.sent else _mine(state, agent)
    start = 0 if query.after is None else bisect_right(every, _place(query.after, sent=query.sent))
    found = every[start : start + query.limit]
    following = after_of(*found[-1], sent=query.sent) if start + len(found) < len(every) and found else None
    return [(inbox, state.agents.inboxes[inbox].entries[seq]) for seq, inbox in found], len(every), following


def _mine(state: "State", agent: int) -> list[tuple[int, int]]:
    """What is dead in the inbox of an agent and in its roles' queues: pairs of seq and inbox, oldest first."""
    return sorted((seq, inbox) for inbox in inboxes_of(state, agent) for seq in state.agents.inboxes[inbox].dead)


def after_of(seq: int, inbox: int, *, sent: bool) -> str:
    """What a page that ends with this letter gives as `next`."""
    return f"{message_id(seq)}.{inbox}" if sent else message_id(seq)


def _place(after: str, *, sent: bool) -> tuple[int, int]:
    """Where a page goes on, behind its pair of seq and inbox. Raises `Rejected(bad_request)`."""
    if not sent:
        return seq_of_message(after, "$.body.after") + 1, 0
    message, _, inbox = after.partition(".")
    if not inbox.isascii() or not inbox.isdecimal() or len(inbox) > _DIGITS_MAX:
        raise Rejected(
            "bad_request",
            "after is no `next` of a page of sent dead letters - at `$.body.after`",
            {"path": "$.body.after"},
        )
    return seq_of_message(message, "$.body.after"), int(inbox)


def _find(state: "State", agent: int, seq: int) -> tuple[int, Entry]:
    """A dead letter of an agent, and the inbox it is in. Raises `Rejected(not_found)`."""
    facts: dict[str, object] = {"ids": [message_id(seq)]}
    for inbox in inboxes_of(state, agent):
        entry = state.agents.inboxes[inbox].entries.get(seq)
        if entry is not None and entry.dead:
            return inbox, entry
        if entry is not None:
            raise Rejected(
                "not_found",
                f"{message_id(seq)} is not dead but {entry.delivery}: synapse inbox --ack is done with it",
                facts,
            )
    raise Rejected("not_found", f"no dead letter {message_id(seq)} in this inbox; {_LISTS}", facts)


def decide_delivery(state: "State", rules: Rules, command: DeliveryMutation, by: By) -> list[Event]:
    """The dead letters' part of `kernel.decide`. What was sent is resent by `decide_resend_sent`, which needs its
    body."""
    if isinstance(command, DropDead):
        return decide_drop(state, rules, command, by)
    assert not command.sent, "the shell reads the body first"
    seq = seq_of_message(command.id)
    inbox, entry = _find(state, by.require_agent(), seq)
    _require_room(state, rules, inbox)
    return [MessageRevived(agent=inbox, message=seq, recipient=called(state, inbox), sender=entry.sender)]


def _require_room(state: "State", rules: Rules, inbox: int) -> None:
    """Raises `Rejected(inbox_full)` when one more is too many."""
    name, most = called(state, inbox), rules.limits.inbox_unacked_max
    if state.agents.inboxes[inbox].unacked >= most:
        raise Rejected(
            "inbox_full",
            f"{name} has {most} unacked messages: some must be acked first (synapse inbox --ack-all)",
            {"agent": name, "inbox_unacked_max": most},
        )


def sent_letters(state: "State", command: ResendDead, by: By) -> list[int]:
    """In whose inboxes a message of mine is dead. Raises `Rejected(not_found)`."""
    agent, seq = by.require_agent(), seq_of_message(command.id)
    mine = state.agents.dead_of.get(agent, [])
    found = [whose for at, whose in mine[bisect_right(mine, (seq, 0)) : bisect_right(mine, (seq + 1, 0))] if at == seq]
    if not found:
        raise Rejected(
            "not_found",
            f"no dead letter {command.id} among what you sent; synapse dead-letters --sent lists them",
            {"ids": [command.id]},
        )
    return found


def decide_resend_sent(state: "State", rules: Rules, command: ResendDead, by: By, original: MessageSent) -> list[Event]:
    """What I sent goes out anew to everybody in whose inbox it is dead, and leaves those inboxes as it was. original:
    the event of its id. Raises `Rejected`: `not_found`, `inbox_full`."""
    inboxes, seq = sent_letters(state, command, by), seq_of_message(command.id)
    for inbox in inboxes:
        _require_room(state, rules, inbox)
    sent = MessageSent(
        to=tuple(Delivery(called(state, inbox), inbox, state.agents.inboxes[inbox].last_n + 1) for inbox in inboxes),
        body=original.body,
        subject=original.subject,
        thread=original.thread,
        reply_to=original.reply_to,
        priority=original.priority,
    )
    return [sent, *(event for inbox in inboxes for event in drops(state, inbox, [seq], "resent"))]


def decide_drop(state: "State", rules: Rules, command: DropDead, by: By) -> list[Event]:
    """Dead letters leave a list. Raises `Rejected`: `bad_request`, `limit`, `not_found`."""
    agent = by.require_agent()
    if bool(command.ids) == command.all:
        raise Rejected("bad_request", "give ids, or all - at `$.body`", {"path": "$.body"})
    most = min(rules.limits.acks_max, MESSAGES_MAX)
    if len(command.ids) > most:
        raise Rejected(
            "limit",
            f"{len(command.ids)} ids at once; at most {most} (acks_max): ask again for the others",
            {"limit": "acks_max", "value": most},
        )
    seqs = list(dict.fromkeys(seq_of_message(text, "$.body.ids") for text in command.ids))
    return _disown(state, agent, seqs, most, by) if command.sent else _drop(state, agent, seqs, most)


def _drop(state: "State", agent: int, seqs: Sequence[int], most: int) -> list[Event]:
    every = _mine(state, agent)
    gone: dict[int, list[int]] = {}
    for seq, inbox in [(seq, _find(state, agent, seq)[0]) for seq in seqs] or every[:most]:
        gone.setdefault(inbox, []).append(seq)
    left = len(every) - sum(map(len, gone.values()))
    return [event for inbox, found in gone.items() for event in drops(state, inbox, found, "asked", left=left)]


def _disown(state: "State", agent: int, seqs: Sequence[int], most: int, by: By) -> list[Event]:
    mine = state.agents.dead_of.get(agent, [])
    letters = list(mine[:most])
    if seqs:
        letters = [
            (seq, whose) for seq in seqs for whose in sent_letters(state, ResendDead(id=message_id(seq), sent=True), by)
        ]
    if not letters:
        return []
    return [MessagesDisowned(sender=agent, letters=tuple(letters), left=len(mine) - len(letters))]


def answer_delivery(command: DeliveryMutation, events: Sequence[Recorded], cursor: str) -> Resent | Dropped:
    """The dead letters' part of `answers.answer`."""
    first = events[0] if events else None
    if isinstance(command, ResendDead):
        assert first is not None, "what is resent is an event"
        event = first.event
        if isinstance(event, MessageSent):
            to = tuple(delivery.name for delivery in event.to)
            return Resent(id=message_id(first.seq), resends=command.id, to=to, cursor=cursor)
        assert isinstance(event, MessageRevived), "a dead letter is revived, or sent anew"
        return Resent(id=command.id, resends=command.id, to=(event.recipient,), cursor=cursor)
    ids: dict[str, None] = {}
    left = 0
    for item in events:
        if isinstance(item.event, MessagesDropped):
            ids |= dict.fromkeys(map(message_id, item.event.messages))
            left = item.event.left
        elif isinstance(item.event, MessagesDisowned):
            ids |= dict.fromkeys(message_id(seq) for seq, _ in item.event.letters)
            left = item.event.left
    return Dropped(dropped=tuple(ids), left=left, cursor=cursor)
