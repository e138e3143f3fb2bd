"""An HTTP API that knows who owns a host; a process of its own: its CPU is not counted.

``python api.py``: prints its port, and answers until its input ends.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web


async def owner(request: web.Request) -> web.Response:
    return web.json_response({"owner": f"team of {request.match_info['host']}", "tier": 1})


async def main() -> None:
    app = web.Application()
    app.router.add_get("/hosts/{host}", owner)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
