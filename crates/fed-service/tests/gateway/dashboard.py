"""What a browser does with the dashboard's link, up to bokeh's websocket.

Says each step that went well on a line of its own.
"""

# ruff: noqa: PLR2004, PT017, S101 -- a part of a test

from __future__ import annotations

import asyncio
import json
import re
import sys

import aiohttp
from yarl import URL

TIMEOUT = aiohttp.ClientTimeout(total=60)


async def receive(socket: aiohttp.ClientWebSocketResponse, wanted: str) -> None:
    """Wait for a message of bokeh's protocol, whose first part, a header in JSON, names its type.

    The other parts are metadata and content, in JSON too, and buffers of plots, in binary.
    """
    while True:
        message = await socket.receive(timeout=30)
        if message.type is aiohttp.WSMsgType.TEXT:
            if json.loads(message.data).get("msgtype") == wanted:
                return
        elif message.type is not aiohttp.WSMsgType.BINARY:
            raise AssertionError(f"the websocket ended while waiting for {wanted}: {message}")


async def talk(session: aiohttp.ClientSession, base: URL, token: str) -> None:
    """Open bokeh's websocket as its page does, and see the plots' data arrive by themselves."""
    url = base / "status/ws"
    origin = str(base.origin())
    async with session.ws_connect(url, protocols=("bokeh", token), origin=origin) as socket:
        assert socket.protocol == "bokeh", socket.protocol
        await receive(socket, "ACK")
        header = {"msgid": "1", "msgtype": "PULL-DOC-REQ"}
        for part in (header, {}, {}):
            await socket.send_str(json.dumps(part))
        await receive(socket, "PULL-DOC-REPLY")
        await receive(socket, "PATCH-DOC")
    print("websocket")

    try:
        async with session.ws_connect(url, protocols=("bokeh", token), origin="http://127.0.0.1:9"):
            raise AssertionError("a page of another origin was let in")
    except aiohttp.WSServerHandshakeError as error:
        assert error.status == 403, error.status
    print("origin")


async def main(link: str) -> None:
    """Follow the link."""
    url = URL(link)
    page = url.with_query(None)
    # By default aiohttp keeps no cookies of bare addresses.
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=TIMEOUT) as session:
        for path in ("/status", "/status/ws", "/", "/json/counts.json"):
            async with session.get(url.origin().with_path(path)) as answer:
                assert answer.status == 403, answer.status
                assert "fed status" in await answer.text()
        print("refused")

        async with session.get(url, allow_redirects=False) as answer:
            assert answer.status == 303, answer.status
        async with session.get(url) as answer:
            assert answer.status == 200, answer.status
            assert answer.url == page, answer.url
        print("redirect")

        async with session.get(page) as answer:
            assert answer.status == 200, answer.status
            html = await answer.text()
        found = re.search(r'"token":"([^"]+)"', html)
        assert found, "bokeh's page holds no token of its session"
        print("page")

        scripts = re.findall(r'<script[^>]* src="([^"]+)"', html)
        assert scripts
        for script in scripts:
            async with session.get(page.join(URL(script))) as answer:
                assert answer.status == 200, (script, answer.status)
                assert len(await answer.read()) > 1000
        print("static")

        await talk(session, url.origin(), found[1])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
