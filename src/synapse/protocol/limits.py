"""Every limit a client can meet, told in the welcome."""

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The hub's limits. Sizes in bytes, times in milliseconds, rates per second."""

    frame_bytes_max: int = 256 * 1024
    message_bytes_max: int = 192 * 1024
    depth_max: int = 32
    int_max: int = 2**53 - 1
    fragments_max: int = 64
    in_flight_max: int = 64
    page_items_max: int = 500
    subject_chars_max: int = 256
    thread_chars_max: int = 128
    recipients_max: int = 64
    mentions_max: int = 16
    idem_key_chars_max: int = 128
    idem_keys_max: int = 10_000
    idem_keep_ms: int = 24 * 3600 * 1000
    inbox_unacked_max: int = 10_000
    lend_ms: int = 30_000
    lends_max: int = 16
    agents_max: int = 10_000
    rooms_max: int = 1_000
    channels_per_room_max: int = 1_000
    members_max: int = 1_000
    roles_max: int = 1_000
    roles_per_agent_max: int = 64
    subscriptions_max: int = 16
    subscribed_channels_max: int = 256
    subscribed_topics_max: int = 8
    waiting_max: int = 8
    card_bytes_max: int = 16 * 1024
    card_text_chars_max: int = 1_024
    card_words_max: int = 64
    skills_max: int = 64
    ttl_ms_min: int = 5_000
    ttl_ms_max: int = 24 * 3600 * 1000
    paths_max: int = 64
    path_chars_max: int = 512
    path_wildcards_max: int = 16
    worktree_chars_max: int = 512
    note_chars_max: int = 512
    leases_max: int = 20_000
    leases_per_agent_max: int = 1_000
    waiters_max: int = 1_000
    waits_per_agent_max: int = 32
    checkpoint_bytes_max: int = 16 * 1024
    checkpoints_bytes_max: int = 64 * 1024 * 1024
    artefacts_max: int = 32
    pools_max: int = 256
    pool_units_max: int = 1_000_000
    pools_per_claim_max: int = 8
    value_bytes_max: int = 64 * 1024
    values_per_room_max: int = 10_000
    values_bytes_max: int = 64 * 1024 * 1024
    value_ttl_ms_max: int = 10 * 365 * 24 * 3600 * 1000
    resources_max: int = 1_000
    resources_per_agent_max: int = 64
    resource_data_bytes_max: int = 4 * 1024
    resource_ttl_ms_max: int = 365 * 24 * 3600 * 1000
    tasks_per_room_max: int = 20_000
    dependencies_max: int = 1_000
    dependents_max: int = 3_500
    title_chars_max: int = 256
    description_chars_max: int = 8 * 1024
    labels_max: int = 16
    progress_chars_max: int = 4 * 1024
    plans_bytes_max: int = 64 * 1024 * 1024
    stalled_ms: int = 15 * 60 * 1000
    tie_grace_ms: int = 15_000
    reattach_ms: int = 10_000
    parked_ms_max: int = 24 * 3600 * 1000
    wait_ms_max: int = 24 * 3600 * 1000
    connections_max: int = 4_096
    connections_per_host_max: int = 2_048
    connections_unauthenticated_max: int = 256
    hello_ms: int = 5_000
    drain_ms: int = 30_000
    outbox_bytes_max: int = 1024 * 1024
    rate_agent_per_s: int = 2_000
    rate_agent_burst: int = 4_000
    rate_host_per_s: int = 10_000
    rate_host_burst: int = 20_000
