"""The client's half of ephemeral channels: signals, telemetry, typing, and what agents do."""

from collections.abc import Mapping

from synapse.client.asking import Asking
from synapse.client.bodies import raw_of
from synapse.client.soft_feeds import ActivityFeed, SignalFeed
from synapse.errors import Rejected
from synapse.protocol import commands, replies
from synapse.protocol.signal_commands import ListRecent, SayTyping
from synapse.protocol.signal_replies import Recent, Typed
from synapse.protocol.telemetry import require_event

TELEMETRY = "telemetry:events"
"""Where telemetry goes that names no channel."""


class Signalling(Asking):
    """What is told and not kept: a part of `Client`."""

    async def signal(self, body: object, channel: str, *, subject: str | None = None) -> replies.Sent:
        """Send to an ephemeral channel (`room:channel`): whoever follows it now is told, and nothing is kept.

        The reply says how many subscriptions follow it, and `dropped` when this connection sent too many at once. A
        signal that was on its way when the connection broke is not repeated: `OutcomeUnknown`. Raises
        `Rejected`: `not_found`, `bad_request` for a body outside the channel's schema, `too_large`.
        """
        command = commands.SendMessage(body=raw_of(body), channel=channel, subject=subject)
        return await self._lifeline.ask(command, replies.Sent)

    async def telemetry(
        self,
        event_type: str,
        payload: Mapping[str, object] | None = None,
        *,
        severity: str | None = None,
        at_ms: int | None = None,
        channel: str = TELEMETRY,
    ) -> replies.Sent:
        """Send a telemetry event: words joined by dots, such as `build.finished`, and whatever belongs to it.

        severity: debug, info, warning, error or critical. at_ms: when it happened, Unix time. A channel that is not
        ephemeral keeps it, as a message like others. Raises as `signal`, and `bad_request` for what is no telemetry,
        whatever the channel takes.
        """
        require_event(event_type, at_ms, severity)
        body: dict[str, object] = {"eventType": event_type, "payload": dict(payload or {})}
        if severity is not None:
            body["severity"] = severity
        if at_ms is not None:
            body["at_ms"] = at_ms
        return await self.signal(body, channel)

    def signals(self, *channels: str) -> SignalFeed:
        """Follow ephemeral channels, or topics: `async with client.signals(...) as feed: async for signal in feed`.

        Without any, telemetry. What comes while this process is too slow, or away, is missed; `dropped` of the next one
        says how many that were, as far as the hub or this feed counted them.
        """
        return SignalFeed(self._lifeline, channels or (TELEMETRY,))

    async def recent_signals(self, channel: str, *, limit: int = 100, after: int | None = None) -> Recent:
        """The last `limit` signals of an ephemeral channel, oldest first. after: the first ones with a larger `n`
        instead; 0 for the oldest that are kept.

        Raises `Rejected`: `not_found`, `unsupported` for a channel that has a history."""
        return await self.request(ListRecent(channel=channel, limit=limit, after=after), Recent)

    async def say_typing(self, channel: str) -> Typed:
        """Tell who follows a channel that I am writing something for it; again every few seconds, while that is so."""
        return await self.request(SayTyping(channel=channel), Typed)

    def activity(self) -> ActivityFeed:
        """What agents do: `async with client.activity() as feed: async for act in feed`. It is told and not kept."""
        return ActivityFeed(self._lifeline)


def is_about_key(refusal: Rejected) -> bool:
    """True when a message was refused for its idempotency key alone, because its channel is ephemeral."""
    return refusal.facts.get("ephemeral") is True and refusal.facts.get("path") == "$.idem_key"
