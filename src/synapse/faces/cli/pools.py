"""`pool …`: things that are counted, such as GPUs or licences, of which a claim takes units."""

from synapse.errors import EXIT_OK
from synapse.faces.cli.call import Call
from synapse.faces.cli.options import whole_number
from synapse.faces.cli.render import field, table

TYPE_CHECKING = False  # importing typing would cost a one-shot call a third of Python's own start
if TYPE_CHECKING:
    from typing import TypeAlias

    Json: TypeAlias = dict[str, object]


def pool_list(call: Call) -> int:
    """All pools."""
    answer = call.pages("pool.list", {}, ("pools",))
    pools = answer.get("pools")
    rows = [["POOL", "UNITS", "HELD", "WAITED FOR"]]
    rows += [[field(pool, key) for key in ("pool", "capacity", "held", "waiting")] for pool in _items(pools)]
    call.show(answer, table(rows))
    return EXIT_OK


def pool_set(call: Call) -> int:
    """A new pool, or another capacity, as operator."""
    name, capacity = call.parsed.arguments
    answer = call.ask("pool.set", {"pool": name, "capacity": whole_number(capacity, "CAPACITY", 0)}, operator=True)
    call.show(answer, f"{field(answer, 'pool')}: {field(answer, 'capacity')} units, {field(answer, 'held')} held")
    return EXIT_OK


def pool_delete(call: Call) -> int:
    """Delete a pool, as operator."""
    answer = call.ask("pool.delete", {"pool": call.parsed.arguments[0]}, operator=True)
    call.show(answer, f"{field(answer, 'pool')} is deleted")
    return EXIT_OK


def _items(value: object) -> "list[Json]":
    return value if isinstance(value, list) else []
