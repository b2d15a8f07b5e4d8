"""`json` and a connected socket for the fast path, without the modules that the standard library's fronts drag in.

A one-shot call is import time: `import json, socket` costs as much as starting Python does (re, enum, selectors,
collections). Both fronts stand on C modules that need none of that. They are private to CPython, so everything here
falls back to the public modules where they are missing or have another shape; tests hold both ways to one behaviour.
"""

from time import monotonic, sleep

TYPE_CHECKING = False  # importing typing would cost a third of Python's own start
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable


def _finite(text: str) -> float:
    """A number. Raises ValueError for one that is too large for a float, and would come out as infinity."""
    number = float(text)
    if number - number != 0:
        raise ValueError(f"{text[:40]} is larger than any number here")
    return number


class _ScannerContext:
    """What `json.JSONDecoder` tells the C scanner about itself."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    array_hook = None
    parse_float = staticmethod(_finite)
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> object:
        """NaN and infinities are no JSON."""
        raise ValueError(f"{name} is not JSON")


def _no_json(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


def lean_codec() -> "tuple[Callable[[str], object], Callable[[object], str]]":
    """`loads` and `dumps` from the C module. Raises ImportError, AttributeError, TypeError where its shape differs."""
    from _json import encode_basestring, make_encoder, make_scanner

    scan_once = make_scanner(_ScannerContext)  # type: ignore[arg-type]  # the stub wants the front's class
    encode = make_encoder(None, _no_json, encode_basestring, None, ":", ",", False, False, False)

    def loads(text: str) -> object:
        text = text.strip(" \t\n\r")
        try:
            value, end = scan_once(text, 0)
        except StopIteration as error:
            raise ValueError(f"not JSON at character {error.value}") from None
        except SystemError:  # the scanner has failed, and could not say how: that class is in json.decoder
            raise ValueError("not JSON to its end") from None
        if end != len(text):
            raise ValueError(f"not JSON: more follows at character {end}")
        return value

    def dumps(value: object) -> str:
        return "".join(encode(value, 0))

    if loads(dumps({"a": [1, 2.5, None, True, "é\n"]})) != {"a": [1, 2.5, None, True, "é\n"]}:
        raise TypeError("_json has another shape")
    return loads, dumps


def public_codec() -> "tuple[Callable[[str], object], Callable[[object], str]]":
    """`loads` and `dumps` from `json`, with the same behaviour."""
    import json

    decode = json.JSONDecoder(parse_float=_finite, parse_constant=_ScannerContext.parse_constant).decode
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode
    return decode, encode


try:
    loads, dumps = lean_codec()
except (ImportError, AttributeError, TypeError):
    loads, dumps = public_codec()


def connect_unix(path: str, timeout_s: float) -> "socket.socket":
    """A stream connected to the Unix socket at `path`; the time bounds each operation. Raises OSError.

    A full backlog is waited for: Linux answers it with EAGAIN where there is a time-out.
    """
    try:
        import _socket as plain
    except ImportError:
        import socket as plain  # type: ignore[no-redef]  # the public front of the same module
    deadline_s = monotonic() + timeout_s
    while True:
        stream = plain.socket(plain.AF_UNIX, plain.SOCK_STREAM)
        try:
            stream.settimeout(timeout_s)
            stream.connect(path)
        except BlockingIOError:
            stream.close()
            if monotonic() > deadline_s:
                raise TimeoutError("the hub takes no more connections") from None
            sleep(0.01)
        except OSError:
            stream.close()
            raise
        else:
            return stream  # type: ignore[return-value]  # the C class has all that is used of the public one
