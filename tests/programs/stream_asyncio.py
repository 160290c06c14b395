"""An echo server and its clients in asyncio: python3 stream_asyncio.py serve|ask ADDRESS PORT"""

import asyncio
import random
import sys

CLIENTS = 100


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"end")
    writer.write_eof()
    writer.close()
    await writer.wait_closed()


async def serve(address, port):
    server = await asyncio.start_server(echo, address, port, backlog=CLIENTS)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


async def ask(address, port, number):
    reader, writer = await asyncio.open_connection(address, port)
    data = random.Random(number).randbytes(200_000)

    async def send():
        for at in range(0, len(data), 7001):
            writer.write(data[at : at + 7001])
            await writer.drain()
        writer.write_eof()

    _, got = await asyncio.gather(send(), reader.read())
    assert got == data + b"end", f"client {number}: {len(got)} bytes, or others"
    writer.close()
    await writer.wait_closed()


async def ask_all(address, port):
    await asyncio.gather(*(ask(address, port, number) for number in range(CLIENTS)))
    print(f"{CLIENTS} clients got back what they sent")


role, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
asyncio.run(asyncio.wait_for((serve if role == "serve" else ask_all)(address, port), 80))
