"""What all parts of the client ask through: one request and its answer, or all pages of a list."""

from collections.abc import AsyncGenerator, Callable
from typing import Final, TypeVar

from synapse.client.bodies import require_seconds
from synapse.client.calls import KEYED
from synapse.client.lifeline import Lifeline
from synapse.errors import Disconnected
from synapse.protocol import (
    card_replies,
    commands,
    file_replies,
    held_replies,
    lane_replies,
    plan_replies,
    question_replies,
    replies,
    resource_replies,
    role_replies,
    session_replies,
    token_replies,
    value_replies,
)
from synapse.protocol.codes import CLOSE_NORMAL
from synapse.protocol.replies import Reply

_Reply = TypeVar("_Reply", bound=Reply)
_Page = TypeVar(
    "_Page",
    replies.Agents,
    replies.Rooms,
    replies.RoomInfo,
    replies.Channels,
    replies.ChannelInfo,
    replies.Leases,
    replies.Explanation,
    replies.Pools,
    value_replies.ValuesPage,
    resource_replies.ResourcesPage,
    card_replies.CardsPage,
    plan_replies.PlanPage,
    role_replies.RolesPage,
    role_replies.RoleInfo,
    session_replies.SessionsPage,
    question_replies.QuestionsPage,
    lane_replies.LanesPage,
    token_replies.TokensPage,
    file_replies.FilesPage,
    held_replies.HeldPage,
)
_PAGE: Final = 200


class Asking:
    """A client that is connected, or will be."""

    _lifeline: Lifeline

    @property
    def welcome(self) -> replies.Welcome:
        """What the hub told at the last hello: its ids, its limits, my name. Raises `Disconnected` before the first."""
        if self._lifeline.welcome is None:
            raise Disconnected(CLOSE_NORMAL, "the client is not connected: `async with client`, or await connect()")
        return self._lifeline.welcome

    @property
    def is_connected(self) -> bool:
        """True while a connection stands. False is no reason not to ask: requests wait for the next one."""
        return self._lifeline.is_up

    @property
    def _page(self) -> int:
        return min(_PAGE, self.welcome.limits.page_items_max)

    async def request(
        self,
        command: commands.Command,
        kind: type[_Reply],
        *,
        idem_key: str | None = None,
        timeout: float | None = None,
    ) -> _Reply:
        """Any command, with the type of its reply. Without `idem_key`, one that takes a key gets a random one.
        timeout: seconds, with all repeats; None is the client's.

        Raises `Rejected` as the hub refused it; `RequestTimeout` when nothing was changed, `OutcomeUnknown` when that
        is not known; `Disconnected` when the client has ended; `PeerError` for an answer that is none.
        """
        require_seconds(timeout, "a timeout")
        if idem_key is None and type(command) in KEYED and not _is_plain_ack(command):
            idem_key = self._lifeline.new_key()
        return await self._lifeline.ask(command, kind, key=idem_key, timeout=timeout)

    async def _pages(
        self, ask: Callable[[str | None], commands.Command], kind: type[_Page]
    ) -> AsyncGenerator[_Page, None]:
        """All pages of a list. ask: makes the question for the page after."""
        after: str | None = None
        while True:
            page = await self.request(ask(after), kind)
            yield page
            if not page.next:
                return
            after = page.next


def _is_plain_ack(command: commands.Command) -> bool:
    """An ack by ids is the same twice as once, and needs no key of the agent's store of keys."""
    return isinstance(command, commands.AckInbox) and not command.all
