"""THE LAW: pure functions from command to events to state.

No I/O, no asyncio, no clock, no randomness, no logging: time enters as integers, chance not at all. One aggregate, one
file.
"""
