"""The reserve: 16 MiB of written bytes, given up when the disk is full so that the turn at hand can still be committed.

By then memory is ahead of the disk, so the turn must get through; a turn's events are at most 4 MiB. The bytes are
random, because a hole, or zeros on a compressing file system, would reserve nothing.
"""

import os
from pathlib import Path

from synapse.journal.files import NO_SPACE, has_room, sync_directory

RESERVE_BYTES = 16 << 20
ROOM_BESIDE_BYTES = 8 << 20
"""Free space that must remain beside a reserve written anew: a turn of 4 MiB with its index, twice over. Without it
the space the reserve itself gave up would look like space that came back."""

WRITABLE_AGAIN_BYTES = RESERVE_BYTES + ROOM_BESIDE_BYTES
"""What must be free until a hub that turned read-only takes writes again."""

_CHUNK_BYTES = 1 << 20


class Reserve:
    """The reserve file of one home."""

    __slots__ = ("bytes_wanted", "path")

    def __init__(self, path: Path, *, bytes_wanted: int = RESERVE_BYTES) -> None:
        self.path = path
        self.bytes_wanted = bytes_wanted

    def is_whole(self) -> bool:
        """True when the whole reserve is on disk."""
        try:
            return self.path.stat().st_size >= self.bytes_wanted
        except FileNotFoundError:
            return False

    def create(self) -> bool:
        """Write and sync the reserve; it appears under its name only when whole. False, and no trace, without room.

        Raises OSError for any other failure.
        """
        partial = self.path.with_name(self.path.name + ".new")
        try:
            with partial.open("wb") as file:
                partial.chmod(0o600)
                left = self.bytes_wanted
                while left:
                    left -= file.write(os.urandom(min(left, _CHUNK_BYTES)))
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            partial.unlink(missing_ok=True)
            if error.errno in NO_SPACE:
                return False
            raise
        return True

    def give_up(self) -> bool:
        """Delete the reserve so that its bytes are free. False when there was none. Raises OSError."""
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        sync_directory(self.path.parent)
        return True

    def restore(self) -> bool:
        """Write the reserve again when there is room for it and for work beside it; False when there is not.

        Raises OSError for any failure but a full disk.
        """
        if self.is_whole():
            return True
        beside = min(ROOM_BESIDE_BYTES, self.bytes_wanted // 2)
        return has_room(self.path.parent, self.bytes_wanted + beside) and self.create()
