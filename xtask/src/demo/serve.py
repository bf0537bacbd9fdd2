"""The file server of a site: ``serve.py FOLDER PORT``. Answers range requests, by sendfile."""

import sys

from aiohttp import web


def main() -> None:
    """Serve until the process is ended; say so on stdout when it listens."""
    server = web.Application()
    server.router.add_static("/", sys.argv[1])
    web.run_app(
        server,
        port=int(sys.argv[2]),
        print=lambda _: print('{"ready": true}', flush=True),
        access_log=None,
    )


if __name__ == "__main__":
    main()
