"""A proxy in front of a server that answers later: python -m tests.data.delay_proxy PORT TARGET_PORT MILLISECONDS."""

import asyncio
import sys


async def _pipe(reader, writer, delay):
    """Pass bytes on, each piece `delay` seconds after it came."""
    loop = asyncio.get_running_loop()
    queue = asyncio.Queue()

    async def send():
        while True:
            due, data = await queue.get()
            await asyncio.sleep(max(due - loop.time(), 0))
            if not data:
                writer.close()
                return
            writer.write(data)

    sender = asyncio.ensure_future(send())
    while True:
        data = await reader.read(1 << 16)
        await queue.put((loop.time() + delay, data))
        if not data:
            break
    await sender


async def serve(port: int, target: int, milliseconds: float) -> None:
    """Delay every answer; requests are passed on at once."""

    async def connect(reader, writer):
        try:
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", target)
            await asyncio.gather(
                _pipe(reader, other_writer, 0.0), _pipe(other_reader, writer, milliseconds / 1000)
            )
        except OSError:
            writer.close()

    server = await asyncio.start_server(connect, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
