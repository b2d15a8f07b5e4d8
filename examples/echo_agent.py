"""An agent that answers every direct message with the same text.

    synapse hub                          # in one terminal
    python examples/echo_agent.py        # in another
    synapse send --to echo --wait hello  # in a third: returns when the echo has taken the message
    synapse wait                         # and there is its answer

Kill the hub, or this script, at any moment and start it again: no message is lost. One that was answered but not yet
acked is answered again, under the same idempotency key, so its sender gets one answer all the same.
"""

import asyncio

from synapse import Client
from synapse.client.client import body_of
from synapse.errors import HubUnreachable, Rejected


async def main() -> None:
    """Answer until Ctrl-C."""
    async with Client(name="echo") as client:
        print(f"echo is online at {client.welcome.hub_id}; Ctrl-C ends it", flush=True)
        async for message in client.inbox_messages(directed_only=True):
            try:
                await client.send(
                    body_of(message),
                    to=message.sender,
                    reply_to=message.id,
                    thread=message.thread or message.id,
                    idem_key=f"echo/{message.id}",
                )
            except Rejected as refusal:
                print(f"no answer to {message.sender}: {refusal}", flush=True)
                continue
            print(f"{message.sender}: {body_of(message)}", flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except HubUnreachable as absent:
        raise SystemExit(f"{absent}") from None
    except KeyboardInterrupt:
        pass
