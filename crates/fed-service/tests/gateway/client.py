"""A stock client of Dask that knows the gateway's address and its keys, and nothing of fed.

Says each step that went well on a line of its own.
"""

# ruff: noqa: PLR2004, S101 -- a part of a test

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from distributed import Client, Security, get_task_stream, performance_report

SIZE = 50_000_000


def digest(data: bytes) -> str:
    """Give the digest of bytes, here or on a worker."""
    return hashlib.sha256(data).hexdigest()


def main(address: str) -> None:
    """Do what users do, through one TLS connection after another."""
    security = Security(
        tls_ca_file="scheduler.pem",
        tls_client_cert="client.pem",
        tls_client_key="client-key.pem",
        # Refuses the workers' own plain addresses: every byte must pass the gateway.
        require_encryption=True,
    )
    with Client(address, security=security, direct_to_workers=False, timeout=60) as client:
        client.wait_for_workers(1, timeout=60)
        print("connect")

        assert client.submit(sum, [1, 2, 3]).result() == 6
        assert client.gather(client.map(abs, range(-200, 0))) == list(range(200, 0, -1))
        print("submit")

        made = client.submit(os.urandom, SIZE, pure=False)
        gathered = made.result()
        assert len(gathered) == SIZE
        assert digest(gathered) == client.submit(digest, made).result()
        print("gather")

        data = os.urandom(SIZE)
        scattered = client.scatter(data, direct=False)
        assert client.submit(digest, scattered).result() == digest(data)
        print("scatter")

        with performance_report(filename="report.html"):
            client.gather(client.map(str, range(100)))
        report = Path("report.html").read_text(encoding="utf-8")
        assert "Dask Performance Report" in report
        print("report")

        with get_task_stream(client) as stream:
            client.gather(client.map(hex, range(50)))
        assert len(stream.data) == 50, len(stream.data)
        print("stream")


if __name__ == "__main__":
    main(sys.argv[1])
