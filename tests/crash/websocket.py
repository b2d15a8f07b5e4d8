"""A WebSocket over a plain blocking socket: handshake, text frames, pongs; nothing of a library."""

import os
import socket
from base64 import b64encode

PING, PONG = 0x9, 0xA
TEXT = 0x1


def shake_hands(raw: socket.socket, token: str) -> bytes:
    """Ask for a WebSocket; what came behind the answer's head. Raises OSError when the answer is not 101."""
    request = (
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Authorization: Bearer {token}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: {b64encode(os.urandom(16)).decode()}\r\n\r\n"
    )
    raw.sendall(request.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = raw.recv(4_096)
        if not data:
            raise ConnectionResetError("closed in the handshake")
        answer += data
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        raise ConnectionRefusedError(head.splitlines()[0].decode("latin-1"))
    return rest


def masked(payload: bytes, opcode: int = TEXT) -> bytes:
    """A frame as a client sends it."""
    size, key = len(payload), os.urandom(4)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    mask = int.from_bytes((key * (size // 4 + 1))[:size], "big")
    return head + key + (int.from_bytes(payload, "big") ^ mask).to_bytes(size, "big")


def frames_in(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The whole frames, as opcode and payload, and the rest. The hub masks nothing and sends no fragments."""
    frames, at = [], 0
    while len(data) - at >= 2:
        first, size, start = data[at], data[at + 1], at + 2
        assert first & 0xF0 == 0x80, "whole frames without extensions"
        assert not size & 0x80, "a server does not mask"
        if size >= 126:
            wide = 2 if size == 126 else 8
            if len(data) < start + wide:
                break
            size = int.from_bytes(data[start : start + wide], "big")
            start += wide
        if len(data) < start + size:
            break
        frames.append((first & 0x0F, data[start : start + size]))
        at = start + size
    return frames, data[at:]
