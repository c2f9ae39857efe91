"""Holds one connection and says what becomes of it.

  hold.py redis HOST PORT      PING, print "open", then PING again every 50 ms until it is closed; print "closed"
  hold.py websocket HOST PORT  upgrade, print "open", then wait until it is closed; print "closed"
  hold.py silent HOST PORT     connect and say nothing until it is closed; print "closed AFTER_SECONDS"
"""

import socket
import sys
import time

kind, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
start = time.monotonic()
connection = socket.create_connection((host, port), timeout=60)
try:
    if kind == "redis":
        connection.sendall(b"PING\r\n")
        assert connection.recv(64) == b"+PONG\r\n"
        print("open", flush=True)
        while True:
            time.sleep(0.05)
            connection.sendall(b"PING\r\n")
            if not connection.recv(64):
                break
    elif kind == "websocket":
        connection.sendall(
            b"GET /ws HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        head = connection.recv(4096)
        assert head.startswith(b"HTTP/1.1 101"), head
        connection.sendall(b"ping")
        assert connection.recv(64) == b"ping"
        print("open", flush=True)
        while connection.recv(64):
            pass
    else:
        while connection.recv(4096):
            pass
except (ConnectionError, BrokenPipeError):
    pass
print(f"closed {time.monotonic() - start:.1f}", flush=True)
