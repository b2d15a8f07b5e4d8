"""The request head and what is refused before any library is asked; HTTP answers, without a socket."""

import h11
import pytest

from synapse.hub.http import HEAD_BYTES_MAX, Admitted, Exchange, Gate, Head, Page, Refused, plain_response, read_head

GATE = Gate(
    8876, opens="the-token".__eq__, hosts=("hub.example", "other.example:444"), origins=("https://dash.example",)
)


def head(*lines: str, path: str = "/") -> Head:
    found = read_head("\r\n".join([f"GET {path} HTTP/1.1", *lines, ""]).encode("latin-1"))
    assert found is not None
    return found


def verdict(*lines: str) -> int | bool:
    """The status of a refusal, else whether the token was shown."""
    found = GATE.admit(head(*lines))
    return found.status if isinstance(found, Refused) else found.token is not None


@pytest.mark.parametrize("text", [b"", b"\r\n", b"hello", b"GET /\r\n", b"GET / HTTP/2\r\n", b"GET  / HTTP/1.1\r\n"])
def test_what_is_no_request_is_none(text: bytes) -> None:
    assert read_head(text) is None


def test_each_header_line_counts_whatever_its_case() -> None:
    found = head("HOST: a", "host:b", "Origin: x", "ORIGIN: y", "Authorization: Bearer 1", "UPGRADE: WebSocket")
    assert found == Head(True, "/", ["x", "y"], ["a", "b"], ["Bearer 1"])


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", False),
        ("localhost:8876", False),
        ("LOCALHOST:8876", False),
        ("127.0.0.1:8876", False),
        ("[::1]:8876", False),
        ("[::1]", False),
        ("hub.example", False),
        ("hub.example:9", False),
        ("other.example:444", False),
        ("other.example", 421),
        ("localhost:1", 421),
        ("evil.example", 421),
        ("localhost.evil.example:8876", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost:8876x", 421),
        ("localhost:" + "9" * 5_000, 421),
        ("localhost:²", 421),
        ("", 421),
        ("[::1", 421),
    ],
)
def test_an_unknown_host_is_misdirected(host: str, expected: int | bool) -> None:
    assert verdict(f"Host: {host}") == expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:8876", False),
        ("http://127.0.0.1:8876", False),
        ("http://[::1]:8876", False),
        ("https://dash.example", False),
        ("https://hub.example", False),
        ("http://HUB.example:80", False),
        ("http://hub.example:8876", False),
        ("https://hub.example:8876", False),
        ("https://other.example:444", False),
        ("http://hub.example:1234", 403),
        ("https://hub.example:80", 403),
        ("https://other.example", 403),
        ("https://other.example:8876", 403),
        ("https://hub.example:1234@evil.example", 403),
        ("null", 403),
        ("", 403),
        ("http://localhost", 403),
        ("https://localhost", 403),
        ("http://localhost:3000", 403),
        ("http://evil.example", 403),
        ("http://dash.example", 403),
        ("http://localhost:8876.evil.example", 403),
        ("http://localhost:8876@evil.example", 403),
        ("file://localhost:8876", 403),
        ("http://localhost:8876/page", 403),
        ("http://[", 403),
        ("http://[::1", 403),
        ("http://localhost:99999999", 403),
    ],
)
def test_a_foreign_origin_is_forbidden(origin: str, expected: int | bool) -> None:
    assert verdict("Host: localhost", f"Origin: {origin}") == expected


def test_a_page_without_a_port_is_ours_when_the_hub_has_the_default_port() -> None:
    on_80 = Gate(80)
    assert on_80.admit(head("Host: localhost", "Origin: http://localhost")) == Admitted()
    assert isinstance(on_80.admit(head("Host: localhost", "Origin: https://localhost")), Refused)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Host: localhost"], False),
        (["Host: localhost", "Authorization: Bearer the-token"], True),
        (["Host: localhost", "Authorization: bearer  the-token"], True),
        (["Host: localhost", "Authorization: Bearer wrong"], 401),
        (["Host: localhost", "Authorization: Bearer the-toke\xff"], 401),
        (["Host: localhost", "Authorization: Basic the-token"], 401),
        (["Host: localhost", "Authorization: Bearer"], 401),
        (["Host: localhost", "Authorization: Bearer the-token", "Authorization: Bearer the-token"], 400),
        (["Host: localhost", "Host: localhost"], 400),
        ([], 400),
        (["Host : localhost"], 400),
        (["Host: localhost", "Origin: http://localhost:8876", "Origin: http://evil.example"], 400),
        (["Host: evil.example", "Origin: null", "Authorization: Bearer wrong"], 421),
    ],
)
def test_what_is_said_twice_or_wrong_is_refused(lines: list[str], expected: int | bool) -> None:
    assert verdict(*lines) == expected


def test_no_refusal_quotes_what_was_sent() -> None:
    for lines in (["Host: secret.example"], ["Host: localhost", "Authorization: Bearer secret"]):
        found = GATE.admit(head(*lines))
        assert isinstance(found, Refused)
        assert "secret" not in found.reason
        assert "the-token" not in found.reason


# answers


def exchange(data: bytes, *, red: bool = False) -> tuple[bytes, Exchange]:
    page = Page(503 if red else 200, "application/json", b'{"health":"red"}\n' if red else b'{"health":"green"}\n')
    found = Exchange({"/health": page}.get)
    return found.receive(data), found


def parsed(data: bytes, method: bytes = b"GET") -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body as a client reads them."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage), "the answer is whole"
    return response.status_code, dict(response.headers), body


def request(method: str = "GET", path: str = "/health", *more: str, body: str = "") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *more, "", body]).encode()


def test_health_is_200_when_green_and_503_when_red() -> None:
    status, headers, body = parsed(exchange(request())[0])
    assert (status, headers[b"content-type"], body) == (200, b"application/json", b'{"health":"green"}\n')
    assert headers[b"cache-control"] == b"no-store"
    assert parsed(exchange(request(path="/health?x=1"), red=True)[0])[::2] == (503, b'{"health":"red"}\n')


def test_head_has_the_length_and_no_body() -> None:
    answer, _ = exchange(request("HEAD"))
    status, headers, body = parsed(answer, b"HEAD")
    assert (status, headers[b"content-length"], body) == (200, b"19", b"")


@pytest.mark.parametrize("path", ["/", "/healthz", "/health/", "/../health", "//health"])
def test_other_paths_are_404(path: str) -> None:
    assert parsed(exchange(request(path=path))[0])[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_are_405_and_say_which_are_allowed(method: str) -> None:
    status, headers, _ = parsed(exchange(request(method, "/health", "Content-Length: 5", body="hello"))[0])
    assert (status, headers[b"allow"]) == (405, b"GET, HEAD")


def test_one_answer_and_then_the_end_whatever_is_pipelined() -> None:
    answer, done = exchange(request() + request() + b"\x00garbage")
    assert done.is_done
    assert answer.count(b"HTTP/1.1 ") == 1
    assert parsed(answer)[0] == 200
    assert b"connection: close" in answer.lower()


def test_an_answer_waits_for_the_whole_head() -> None:
    data = request()
    found = Exchange({"/health": Page(200, "text/plain", b"x")}.get)
    assert found.receive(data[:-1]) == b""
    assert not found.is_done
    assert parsed(found.receive(data[-1:]))[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n bad fold : \x00\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_what_h11_does_not_understand_is_a_clean_refusal(data: bytes) -> None:
    answer, done = exchange(data)
    assert done.is_done
    assert parsed(answer)[0] in (400, 501)


def test_a_plain_response_is_one_a_client_can_read() -> None:
    answer = plain_response(503, "busy", headers=(("Retry-After", "1"),))
    status, headers, body = parsed(answer)
    assert (status, headers[b"retry-after"], body) == (503, b"1", b"busy\n")
    assert HEAD_BYTES_MAX == 8_192
