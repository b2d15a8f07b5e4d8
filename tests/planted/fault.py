"""What a planted fault is, and which tests are asked about it first."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """One line that is wrong. name: as it is printed. file: below src/synapse. old: text that is in it exactly once;
    new: what replaces it. tests: files or ids of tests that should notice, asked before all others of the suite."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
