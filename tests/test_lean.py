"""The lean codec behaves as the public one, on what it takes and on what it refuses."""

import json
import socket
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synapse.lean import connect_unix, lean_codec, public_codec

CODECS = {"lean": lean_codec(), "public": public_codec()}
both = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@given(values)
def test_both_codecs_write_the_same_text_and_read_it_back(value: object) -> None:
    (lean_loads, lean_dumps), (public_loads, public_dumps) = CODECS.values()
    text = lean_dumps(value)
    assert text == public_dumps(value)
    assert lean_loads(text) == public_loads(text) == json.loads(text)


@both
@pytest.mark.parametrize(
    "text", ["", " ", "{", "[1,]", "{} x", "nan", "NaN", "-Infinity", "1e999", "[-1e400]", '"\t"', "{'a':1}", "01"]
)
def test_what_is_no_json_is_a_value_error(codec: tuple[object, object], text: str) -> None:
    loads = codec[0]
    assert callable(loads)
    with pytest.raises(ValueError, match=r".+"):
        loads(text)


@pytest.mark.parametrize(
    "text", ["{oops", '{"a', '"x', '["x', '{"a":"b', '{"a" 1}', "[1 2]", '{"a":1 "b"}', '"\\', '"\\u12', "{,}"]
)
def test_a_text_that_only_begins_like_json_is_a_value_error_before_the_public_module_is_there(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "json.decoder")
    with pytest.raises(ValueError, match="not JSON"):
        CODECS["lean"][0](text)


@both
def test_blanks_around_a_value_are_allowed(codec: tuple[object, object]) -> None:
    loads = codec[0]
    assert callable(loads)
    assert loads(' \r\n\t{"a": [1]} \n') == {"a": [1]}


@both
@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x"])
def test_what_json_cannot_say_is_refused(codec: tuple[object, object], value: object) -> None:
    dumps = codec[1]
    assert callable(dumps)
    with pytest.raises((ValueError, TypeError)):
        dumps(value)


def test_a_unix_connection_carries_bytes(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        stream = connect_unix(path, 1)
        peer, _ = listener.accept()
        with peer:
            stream.sendall(b"ping")
            assert peer.recv(4) == b"ping"
        stream.close()


def test_nobody_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        connect_unix(str(tmp_path / "s"), 1)


def test_a_full_backlog_is_waited_for(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        first = connect_unix(path, 1)
        with pytest.raises(TimeoutError):
            connect_unix(path, 0.05)
        accepting = threading.Timer(0.05, lambda: listener.accept()[0].close())
        accepting.start()
        connect_unix(path, 5).close()
        accepting.join()
        first.close()
