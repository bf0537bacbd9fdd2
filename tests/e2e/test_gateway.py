"""The gateway on the operator's host: what passes it, and who is refused."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.e2e import notebook as notebooks
from tests.e2e import programs
from tests.e2e.notebook import Notebook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.world import World

REFUSED = r"Timed out|certificate|closed"
"""What Dask's client says when the other side hangs up."""


@pytest.fixture(scope="module")
def stranger(federation: World) -> Iterator[Notebook]:
    """A Python session on a host of the same network that has nothing to do with fed."""
    notebooks.register(sys.modules[__name__])
    host = federation.lab["stranger"]
    with Notebook(host, federation.paths.python, programs.environment()) as notebook:
        yield notebook


def _dashboard() -> str:
    from distributed import get_client

    return get_client().dashboard_link


def _get(url: str) -> tuple[int, str]:
    """Return the status and the page that a browser without cookies gets."""
    import urllib.error

    try:
        with _browser().open(url, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _browser() -> Any:
    from urllib.request import HTTPCookieProcessor, build_opener

    return build_opener(HTTPCookieProcessor())


def _first_message(link: str) -> str:
    """Open the dashboard as a browser does: the page, then its websocket. Return what comes."""
    import asyncio
    import re
    from http.cookiejar import CookieJar
    from urllib.request import HTTPCookieProcessor, build_opener

    from tornado.httpclient import HTTPRequest
    from tornado.websocket import websocket_connect

    jar = CookieJar()
    with build_opener(HTTPCookieProcessor(jar)).open(link, timeout=20) as page:
        session = re.search(r'"token":"([^"]+)"', page.read().decode())
    assert session is not None
    cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)
    at = urlsplit(link)

    async def listen() -> str:
        request = HTTPRequest(
            f"ws://{at.netloc}{at.path}/ws",
            headers={"Cookie": cookies, "Origin": f"http://{at.netloc}"},
            request_timeout=20,
        )
        connection = await websocket_connect(request, subprotocols=["bokeh", session[1]])
        try:
            return str(await asyncio.wait_for(connection.read_message(), 20))
        finally:
            connection.close()

    return asyncio.run(listen())


def test_the_dashboard_with_its_token(notebook: Notebook, federation: World) -> None:
    link = notebook(_dashboard)
    assert urlsplit(link).hostname == "127.0.0.1"
    assert link == federation.status()["gateway"]["dashboard"]
    code, page = notebook(_get, link)
    assert code == 200
    assert "Dask" in page


def test_the_dashboard_without_its_token(notebook: Notebook) -> None:
    link, _, token = notebook(_dashboard).partition("?token=")
    for refused in (link, f"{link}?token=", f"{link}?token={token[:-1]}", f"{link}?token={token}x"):
        code, page = notebook(_get, refused)
        assert code == 403
        assert token not in page


def test_the_dashboard_updates_itself(notebook: Notebook) -> None:
    message = notebook(_first_message, notebook(_dashboard))
    assert json.loads(message)["msgtype"] == "ACK"


def _compute_something() -> float:
    import dask.array as da

    import fed

    with fed.pool("ecmwf"):
        return float(da.ones((400, 400), chunks=100).sum().compute())


def _remarkable_square(value: int) -> int:
    return value * value


def test_a_performance_report(notebook: Notebook, tmp_path: Path) -> None:
    def report(path: str) -> list[int]:
        from distributed import get_client, performance_report

        client = get_client()
        with performance_report(filename=path):
            return client.gather(client.map(_remarkable_square, range(8), pure=False))

    path = tmp_path / "report.html"
    assert notebook(report, str(path)) == [value * value for value in range(8)]
    text = path.read_text()
    assert "Task Stream" in text
    assert text.count("_remarkable_square") >= 8


def test_the_task_stream(notebook: Notebook) -> None:
    def stream() -> list[dict]:
        from distributed import get_task_stream

        with get_task_stream() as records:
            _compute_something()
        return [{"key": str(each["key"]), "worker": each["worker"]} for each in records.data]

    records = notebook(stream)
    assert any("sum" in record["key"] for record in records)
    assert all(record["worker"].startswith("tcp://[fd") for record in records)


def _security(folder: Path, **changes: Any) -> Any:
    from distributed.security import Security

    files = {
        "tls_ca_file": str(folder / "scheduler.pem"),
        "tls_client_cert": str(folder / "client.pem"),
        "tls_client_key": str(folder / "client-key.pem"),
    }
    return Security(require_encryption=True, **{**files, **changes})


def _connect_with(address: str, security: Any) -> int:
    from distributed import Client

    with Client(address, security=security, timeout="8s", set_as_default=False,
                direct_to_workers=False) as client:  # fmt: skip
        return len(client.scheduler_info(n_workers=-1)["workers"])


def _speak_without_certificate(address: str, ca: str) -> str:
    import ssl

    context = ssl.create_default_context(cafile=ca)
    context.check_hostname = False
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain) as secured,
    ):
        try:
            return f"answer {secured.recv(1024)!r}"
        except ssl.SSLError as error:
            return error.reason


def test_a_client_needs_the_certificate(notebook: Notebook, federation: World) -> None:
    folder = federation.state / "federations" / "fed"
    address = federation.status()["gateway"]["scheduler"]
    own = notebook(_security, folder)
    assert notebook(_connect_with, f"tls://{address}", own) == 4
    told = notebook(_speak_without_certificate, address, str(folder / "scheduler.pem"))
    assert told == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    with pytest.raises(OSError, match=REFUSED):
        notebook(_connect_with, f"tcp://{address}", None)


def test_a_client_of_another_federation_is_refused(
    notebook: Notebook, federation: World, tmp_path: Path
) -> None:
    folder = federation.state / "federations" / "fed"
    address = federation.status()["gateway"]["scheduler"]
    name = tmp_path / "stranger"
    federation.operator.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-subj", "/CN=fed-client", "-keyout", f"{name}.key", "-out", f"{name}.pem"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip
    security = notebook(_security, folder)
    security.tls_client_cert, security.tls_client_key = f"{name}.pem", f"{name}.key"
    with pytest.raises(OSError, match=REFUSED):
        notebook(_connect_with, f"tls://{address}", security)


def test_the_keys_are_private(federation: World) -> None:
    folder = federation.state / "federations" / "fed"
    files = [path for path in folder.rglob("*") if path.is_file() and "scratch" not in path.parts]
    assert {"client-key.pem", "client.pem", "connect.json"} <= {path.name for path in files}
    for path in (*files, folder):
        assert path.stat().st_mode & 0o077 == 0 or path.name == "node.log", path
    assert federation.state.stat().st_mode & 0o077 == 0


def _tcp(address: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.settimeout(20)
        return probe.connect_ex((address, port))


def _udp(address: str, port: int, payload: bytes) -> str:
    """Send a datagram; return what comes back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(2)
        probe.connect((address, port))
        probe.send(payload)
        try:
            return f"answer {probe.recv(2048)!r}"
        except TimeoutError:
            return "silence"
        except ConnectionRefusedError:
            return "refused"


def test_other_hosts_do_not_reach_the_gateway(
    federation: World, stranger: Notebook, notebook: Notebook
) -> None:
    gateway = federation.status()["gateway"]
    ports = [
        int(gateway["scheduler"].rpartition(":")[2]),
        urlsplit(gateway["dashboard"]).port,
    ]
    for port in ports:
        assert notebook(_tcp, "127.0.0.1", port) == 0
        for address in (federation.operator.addr4, federation.operator.addr6):
            assert stranger(_tcp, address, port) == errno.ECONNREFUSED


def test_other_hosts_get_no_answer_from_the_mesh(federation: World, stranger: Notebook) -> None:
    operator, ecmwf, _ = federation.status()["members"]
    (endpoint,) = (each["endpoint"] for each in ecmwf["peers"] if each["name"] == "operator")
    port = int(endpoint.rpartition(":")[2])
    address = federation.operator.addr4
    # A closed port says so: silence means that something listens, and does not answer.
    assert stranger(_udp, address, 9, b"x") == "refused"
    initiation = b"\x01\0\0\0" + os.urandom(144)
    data = b"\x04\0\0\0" + os.urandom(60)
    for payload in (initiation, data, os.urandom(1200)):
        assert stranger(_udp, address, port, payload) == "silence"
    after = federation.status()["members"][0]
    assert {each["name"]: each["endpoint"] for each in after["peers"]} == {
        each["name"]: each["endpoint"] for each in operator["peers"]
    }


def test_other_hosts_are_refused_by_the_agents(federation: World, stranger: Notebook) -> None:
    """A TLS client without an enrolled key does not come as far as a call."""

    def talk(address: str) -> str:
        import ssl

        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols(["h2"])
        try:
            with (
                socket.create_connection((address, 4788), timeout=20) as plain,
                context.wrap_socket(plain) as secured,
            ):
                secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                return "answer" if secured.recv(1024) else "closed"
        except OSError as error:
            return f"{type(error).__name__}: {error}"

    told = stranger(talk, federation.lab["ecmwf"].addr4)
    assert "certificate" in told.lower()
