"""THE LANGUAGE: what PROTOCOL.md specifies. Pure data and its codec; no I/O, no clock."""
