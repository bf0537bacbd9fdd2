"""Connects over TLS without a certificate, and prints what became of it."""

from __future__ import annotations

import socket
import ssl
import sys


def main(host: str, port: str, version: str) -> None:
    """Say a word and wait for an answer; TLS 1.3 tells the refusal only then."""
    context = ssl.create_default_context(cafile="scheduler.pem")
    context.check_hostname = False
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with socket.create_connection((host, int(port)), timeout=60) as plain:
        print("{}:{}".format(*plain.getsockname()))
        try:
            with context.wrap_socket(plain) as stream:
                stream.sendall(b"hello")
                print("let in:", stream.recv(5))
        except ssl.SSLError as error:
            print(error.reason)


if __name__ == "__main__":
    main(*sys.argv[1:])
