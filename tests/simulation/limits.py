"""The limits of the simulated hub: so low that lives run into them."""

from typing import Final

from tests.simulation.lookout import INBOX_MAX, STALLED_MS

from synapse.protocol.limits import Limits

LIMITS: Final = Limits(
    outbox_bytes_max=96 * 1024,
    tie_grace_ms=5_000,
    lends_max=5,
    parked_ms_max=120_000,
    page_items_max=100,
    inbox_unacked_max=INBOX_MAX,
    stalled_ms=STALLED_MS,
    chunk_bytes_max=1_024,
    file_bytes_max=6_000,
    file_ttl_ms=150_000,
    files_max=7,
    files_per_agent_max=2,
    files_bytes_max=18_000,
    files_bytes_per_agent_max=8_000,
)
