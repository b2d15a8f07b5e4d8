-- The journal, schema version 1. STRICT tables: a value of the wrong kind is refused on the way in.

-- One line per event. `body` is NULL only where retention dropped it; `body_hash` is set only there, so that the
-- chain still holds over the hole. `hash` is the link of the chain (chain.py).
CREATE TABLE events (
    seq       INTEGER PRIMARY KEY,
    type      TEXT    NOT NULL,
    version   INTEGER NOT NULL,
    at_ms     INTEGER NOT NULL,
    actor     TEXT    NOT NULL,
    key       TEXT    NOT NULL,
    body      BLOB,
    body_hash BLOB,
    hash      BLOB    NOT NULL
) STRICT;

-- Which events touch an aggregate: one line per index key of each event, but for leases (tasks.py): there a line stands
-- for the events of a block. Derived from the bodies, so it can be rebuilt.
CREATE TABLE touches (
    key TEXT    NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (key, seq)
) STRICT, WITHOUT ROWID;

-- schema_version, hub_id, journal_id, base.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
