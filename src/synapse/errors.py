"""Every error Synapse raises, sorted by whose move is next.

    SynapseError
    ├── Rejected         the lawful no: nothing changed, the connection lives, `detail` names the way out
    ├── PeerError        the other side broke the grammar of the protocol
    ├── Disconnected     the connection is gone; the number's range tells whether to come back
    ├── LeaseLost        the lease that this work was done under has ended: stop, its epoch is fenced
    ├── HubUnreachable   no hub answers at the address
    │   └── NoAnswer         it was there and did not answer in time (client.link)
    ├── RequestTimeout   a request took too long and changed nothing (client.calls)
    │   └── OutcomeUnknown   it may have changed something; repeat it under the idem_key it names
    ├── FileRefused      a file is not what the message that refers to it says (client.files)
    ├── HomeRefused, SecretRefused, SettingsRefused, AddressInUse, UsageError
    │                    what a process was started with does not fit; defined where it is checked
    └── JournalError     the store refused or failed; one line with the cure and the process's exit code
        ├── JournalRefused   the files are not what they should be: 78, a restart does not help
        ├── JournalLocked    another process owns this home: 75
        ├── DiskFull         no room: the hub turns read-only, or exits 74 when it cannot even start
        ├── StoreFailed      outcome unknown: 74, the next start replays the truth
        └── FileUnusable     a file that a verb was given cannot be written (journal.admin)

This module imports nothing, because the command line's fast path imports it.
"""

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start

if TYPE_CHECKING:
    from collections.abc import Mapping

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_NOT_FOUND = 4
EXIT_DEADLINE = 5
EXIT_UNREACHABLE = 69
EXIT_ADDRESS_IN_USE = 71
EXIT_STORE = 74
EXIT_LOCKED = 75
EXIT_NOT_PERMITTED = 77
EXIT_JOURNAL = 78


class SynapseError(Exception):
    """Base of every error that Synapse raises on purpose. kind: what `--json` calls it where it has no code of its
    own."""

    kind = "local"

    def __reduce__(self) -> "tuple[object, ...]":
        """Copied and pickled as it is: constructors here take what the text is made of, not the text."""
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(cls: type[SynapseError], args: "tuple[object, ...]", state: "dict[str, object]") -> SynapseError:
    error = cls.__new__(cls, *args)
    error.args = args  # what is an OSError too has none yet
    error.__dict__.update(state)
    return error


class Rejected(SynapseError):
    """The hub's lawful no. Nothing changed.

    code: one of `synapse.protocol.codes.ERRORS`. detail: a sentence that names the values and the way out.
    facts: the same as data. retry_after_ms: set when waiting that long may help.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        facts: "Mapping[str, object] | None" = None,
        *,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.facts: dict[str, object] = dict(facts or {})
        self.retry_after_ms = retry_after_ms


def bad_request(why: str, path: str, facts: "Mapping[str, object] | None" = None) -> Rejected:
    """A field is not what it has to be; path: its JSON path, which the words and the facts name."""
    return Rejected("bad_request", f"{why} - at `{path}`", {"path": path, **(facts or {})})


class PeerError(SynapseError):
    """The other side sent something that is not the protocol."""


class Disconnected(SynapseError):
    """The connection is gone. Codes 4000–4499 and 1012 mean come back, 4500–4999 mean do not."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason

    @property
    def may_come_back(self) -> bool:
        """True when reconnecting can help."""
        return not 4500 <= self.code <= 4999


class LeaseLost(SynapseError):
    """A lease ended under its holder's hands: stop writing, and claim the task again.

    epoch: the grant that ended; what carries it is refused from now on. reason: as in a `lease.lost` notice (ttl,
    connection, parked, preempted, forgotten; by another connection of the agent: replaced, released, handed_off), the
    code with which a renewal was refused (stale_epoch, not_found, …), `unconfirmed` when the hub did not confirm it in
    time, `disconnected` when the client ended.
    """

    def __init__(self, task: str, epoch: int, reason: str) -> None:
        super().__init__(f"the lease on {task} with epoch {epoch} is lost: {reason}; stop, and claim the task again")
        self.task = task
        self.epoch = epoch
        self.reason = reason


class HubUnreachable(SynapseError):
    """No hub answers. The text says where it was looked for and how to start one."""


class JournalError(SynapseError):
    """The store refused or failed. The text is one line that names the cure."""

    kind = "journal"
    exit_code = EXIT_STORE


class JournalRefused(JournalError):
    """The journal's files are not what they should be; nothing was changed and a restart does not help."""

    exit_code = EXIT_JOURNAL

    def __init__(self, text: str, *, seq: int | None = None) -> None:
        super().__init__(text)
        self.seq = seq


class JournalLocked(JournalError):
    """Another process owns this home; the text names its pid."""

    kind = "locked"
    exit_code = EXIT_LOCKED


class DiskFull(JournalError):
    """There is no room left where the journal lives."""


class StoreFailed(JournalError):
    """A store operation failed and its outcome is unknown; the next start replays the truth."""
