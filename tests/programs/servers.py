"""Echo servers as Python programs write them: servers.py socketserver|threading|asyncio ADDRESS PORT."""
import asyncio
import socketserver
import sys

style, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        sock.sendto(data, self.client_address)


class Protocol(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
        print("ready")

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


async def main():
    await asyncio.get_running_loop().create_datagram_endpoint(Protocol, local_addr=(address, port))
    await asyncio.sleep(3600)


if style == "asyncio":
    asyncio.run(main())
else:
    kind = socketserver.ThreadingUDPServer if style == "threading" else socketserver.UDPServer
    with kind((address, port), Handler) as server:
        server.max_packet_size = 65536
        print("ready")
        server.serve_forever()
