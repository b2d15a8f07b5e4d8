"""What a proof measured, one row at a time; `make prove` gathers the rows into its table and into prove.json."""

import os
from pathlib import Path

import msgspec


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """One row. part: the proof, `power cuts`; what: `acknowledged operations lost`; bound: what was promised, `= 0`."""

    part: str
    what: str
    value: int | float
    unit: str = ""
    bound: str = ""
    is_kept: bool = True
    """Whether the bound holds."""
    seed: int | None = None


def tell(part: str, what: str, value: float, *, unit: str = "", **more: object) -> Figure:
    """Print a figure and, where `PROVE_FIGURES` names a file, add it there as one line of JSON.

    more: `bound`, `is_kept` and `seed` of `Figure`. Call it before asserting, so the table shows broken bounds too.
    """
    figure = msgspec.convert({"part": part, "what": what, "value": value, "unit": unit, **more}, Figure)
    print(f"{part}: {what} {value:g}{' ' + unit if unit else ''}{f' ({figure.bound})' if figure.bound else ''}")
    if file := os.environ.get("PROVE_FIGURES"):
        with Path(file).open("ab") as lines:  # one write of a short line in append mode: safe from several processes
            lines.write(msgspec.json.encode(figure) + b"\n")
    return figure
