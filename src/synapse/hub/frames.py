"""The hot half of RFC 6455: building and reading whole text frames. All other frames are websockets' business.

Measured on 200-byte frames against the library's own code, which the tests hold it to: building 0.19 µs against 0.96,
reading 0.9 against 3.2.
"""

import struct
from typing import Final, NamedTuple

PLAIN_TEXT: Final = 0x81
"""First byte of a text frame that is a whole message and uses no extension."""


class FrameAt(NamedTuple):
    """Where a frame lies in a buffer: its masking key and payload begin at `key`, it ends before `end`."""

    is_masked: bool
    key: int
    length: int
    end: int


def text_frame(payload: bytes) -> bytes:
    """An unmasked text frame that is a whole message (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65536:
        return struct.pack("!BBH", PLAIN_TEXT, 126, size) + payload
    return struct.pack("!BBQ", PLAIN_TEXT, 127, size) + payload


def frame_at(data: bytes, at: int) -> FrameAt | None:
    """Read the head of the frame that begins at `at`, a client's; None when the head is not complete."""
    have = len(data) - at
    if have < 2:
        return None
    second = data[at + 1]
    length, key = second & 0x7F, at + 2
    if length == 126:
        if have < 4:
            return None
        length, key = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
    elif length == 127:
        if have < 10:
            return None
        length, key = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
    return tuple.__new__(FrameAt, (second >= 0x80, key, length, key + 4 + length))  # half the cost of calling FrameAt


def plain_texts(data: bytes, at: int, bound: int, most: int) -> tuple[list[bytes], int]:
    """The payloads of the frames from `at` on, at most so many and as long as they have the shape that is sent all day,
    and where the first other one begins: masked text frames of at most `bound` bytes and less than 64 KiB, each a whole
    message in ASCII and here to its end."""
    found: list[bytes] = []
    size = len(data)
    try:
        while at < size and data[at] == PLAIN_TEXT and len(found) < most:
            second = data[at + 1]
            if second == 0xFE:
                start = at + 8
                end = start + (data[at + 2] << 8 | data[at + 3])
            elif 0x80 <= second < 0xFE:
                start = at + 6
                end = start + second - 0x80
            else:
                break
            if end > size or end - start > bound:
                break
            payload = _apply_mask(data[start:end], data[start - 4 : start])
            if not payload.isascii():
                break
            found.append(payload)
            at = end
    except IndexError:  # the head of the last one is not complete
        pass
    return found, at


def unmasked(data: bytes, frame: FrameAt) -> bytes:
    """The payload of a masked frame that is complete (RFC 6455, 5.3)."""
    _, key, _, end = frame
    return _apply_mask(data[key + 4 : end], data[key : key + 4])


def xor_mask(payload: bytes | bytearray | memoryview, mask: bytes | bytearray) -> bytes:
    """A payload with its mask of 4 bytes put on, or taken off, in plain Python."""
    size = len(payload)
    repeated = (bytes(mask) * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


try:
    # websockets' own C function, a tenth of the time; a wheel without it is lawful, and then ours does.
    from websockets.speedups import apply_mask as _apply_mask
except ImportError:
    _apply_mask = xor_mask  # type: ignore[assignment]  # the names of its parameters differ, and we pass by place
