"""One-line faults in shared values."""

from tests.planted.fault import Fault

VALUES, ANSWERS, TURN = "core/values.py", "core/value_answers.py", "hub/turn.py"
EFFECTS = "hub/consequences.py"
_TESTS = ("tests/core/test_values.py",)
_TURN = ("tests/hub/test_turn.py",)

VALUE_FAULTS = [
    Fault(
        "the expected version is not compared",
        VALUES,
        "    if wanted is None or wanted == have:\n        return",
        "    if wanted != 0 or wanted == have:\n        return",
        _TESTS,
    ),
    Fault(
        "a value is read after its time",
        VALUES,
        "return None if value is None or value.is_gone(at_ms) else value",
        "return value",
        _TESTS,
    ),
    Fault(
        "a value ends a moment late",
        VALUES,
        "return self.expires_at_ms is not None and self.expires_at_ms <= at_ms",
        "return self.expires_at_ms is not None and self.expires_at_ms < at_ms",
        _TESTS,
    ),
    Fault(
        "what was put anew expires at the old time",
        VALUES,
        "        return value if value is not None and value.version == version else None",
        "        return value",
        _TESTS,
    ),
    Fault(
        "anybody transfers a value",
        VALUES,
        "if not by.operator and value.owner_id != by.require_agent():",
        "if not by.operator and not by.require_agent():",
        _TESTS,
    ),
    Fault(
        "who puts takes a value over",
        VALUES,
        "    if old is not None and command.owner is None:\n        owner, owner_id = old.owner, old.owner_id",
        "    if old is None and command.owner is None:\n        pass",
        _TESTS,
    ),
    Fault(
        "removed values still count", VALUES, "        self.bytes -= size_of(key, value.value)", "        pass", _TESTS
    ),
    Fault(
        "free JSON of a value is kept as it was sent",
        "protocol/codec.py",
        "            ours = _encode(_decode_any(bytes(command.value)))",
        "            ours = bytes(command.value)",
        ("tests/protocol/test_codec.py::test_hostile_free_json_is_malformed_in_any_command",),
    ),
    Fault(
        "what has ended counts as cleared",
        VALUES,
        "value.key.startswith(command.prefix) and not value.is_gone(by.at_ms) for",
        "value.key.startswith(command.prefix) for",
        _TESTS,
    ),
    Fault(
        "a start forgets when values end",
        "core/state.py",
        "            state.values.put(room_id, value)",
        "            state.values.put(room_id, value)\n            state.values._expiring.clear()",
        _TESTS,
    ),
    Fault(
        "a list has what has ended",
        ANSWERS,
        "if key.startswith(prefix) and not there[key].is_gone(by.at_ms)",
        "if key.startswith(prefix)",
        _TESTS,
    ),
    Fault(
        "who puts is told to be the owner",
        ANSWERS,
        "                version=put.seq,\n                owner=event.owner,",
        "                version=put.seq,\n                owner=put.actor,",
        _TESTS,
    ),
    Fault(
        "a removal is told with its own position",
        ANSWERS,
        "deleted=True, version=gone.version",
        "deleted=True, version=events[0].seq",
        _TESTS,
    ),
    Fault(
        "no tick ends a value",
        EFFECTS,
        '    turns.record(values.decide_expired(state, at_ms, values.EXPIRED_MAX), "hub")',
        "    pass",
        _TURN,
    ),
    Fault(
        "values end by the lease clock",
        EFFECTS,
        "values.decide_expired(state, at_ms, values.EXPIRED_MAX)",
        "values.decide_expired(state, turns.lease_clock.now_ms, values.EXPIRED_MAX)",
        _TURN,
    ),
    Fault(
        "followers are not told of values",
        TURN,
        " | VALUE_EVENTS",
        "",
        _TURN,
    ),
]
