"""One-line faults in files that go through the hub."""

from tests.planted.fault import Fault

FILES, CHUNKS = "core/files.py", "client/chunks.py"
_CORE = ("tests/core/test_files.py",)
_CLIENT = ("tests/client/test_chunks.py",)

FILE_FAULTS = [
    Fault(
        "a chunk is not compared with its SHA-256",
        FILES,
        "    if sha256(command.data).hexdigest() != command.sha256:",
        "    if len(command.sha256) != 64:",
        _CORE,
    ),
    Fault(
        "a file is read before it is complete",
        FILES,
        "    if not file.is_complete:\n        return False",
        "    if file.is_gone(0):\n        return False",
        _CORE,
    ),
    Fault(
        "a file with a missing chunk is complete",
        FILES,
        "    left = file.count - len(file.chunks)\n",
        "    left = 0\n",
        _CORE,
    ),
    Fault(
        "what an ended file took is not given back",
        FILES,
        "        self.bytes -= file.bytes\n",
        "        pass\n",
        _CORE,
    ),
    Fault(
        "chunks of files on their way may be dropped",
        "core/retention.py",
        "    yield from state.files.pinned()\n",
        "",
        _CORE,
    ),
    Fault(
        "chunks of files that ended are kept for ever",
        "hub/setting_values.py",
        "RETENTION: Final[Mapping[str, int]] = {FILES: KEEP_MS_MIN}",
        "RETENTION: Final[Mapping[str, int]] = {FILES: 0}",
        ("tests/hub/test_retention.py",),
    ),
    Fault(
        "what is fetched is not compared",
        CHUNKS,
        "    if len(data) != length or sha256(data).hexdigest() != digest:",
        "    if len(data) != length:",
        _CLIENT,
    ),
    Fault(
        "the whole is not compared",
        CHUNKS,
        "    if digest_of(content) != manifest.sha256:",
        "    if digest_of(content) is None:",
        _CLIENT,
    ),
    Fault(
        "a file that changed while it was sent is completed",
        CHUNKS,
        "    if left or content.read(1) or digest.hexdigest() != reference.sha256:",
        "    if left or content.read(1):",
        _CLIENT,
    ),
    Fault(
        "what is at the target is replaced",
        "client/files.py",
        "        os.link(path, target)",
        "        os.rename(path, target)",
        (*_CLIENT, "tests/client/test_files.py"),
    ),
    Fault(
        "who came later reads the files of before",
        FILES,
        "    return not floor or file.completed > floor",
        "    return floor >= 0",
        _CORE,
    ),
    Fault(
        "an operator reads what was sent to somebody",
        "core/file_answers.py",
        "    if not may_read_file(state, file, by):\n",
        "    if False:\n",
        ("tests/core/test_files.py",),
    ),
]
