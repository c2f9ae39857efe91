"""Sends bytes inside TLS with a member's certificate, on OpenSSL and not on the library under test, for many cases.

  tls_raw.py HOST PORT IDENTITY_PEM ALPN < CASES
  CASES: JSON list of {"name", "send": hex, "until": hex, "or": hex}
Reads until the peer closes, or "until" or "or" was seen, or nothing came for 40 s. Prints a JSON list of
{"name", "answer": hex of the first 100,000 bytes, "closed": bool, "alpn"}.
"""

import json
import select
import socket
import ssl
import sys

host, port, identity, alpn = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.minimum_version = ssl.TLSVersion.TLSv1_3
# Who answers is not this program's question.
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.load_cert_chain(identity)
context.set_alpn_protocols([alpn])


def one(case):
    answer, closed = b"", False
    ends = [bytes.fromhex(case[key]) for key in ("until", "or") if key in case]
    with socket.create_connection((host, port), timeout=40) as plain, context.wrap_socket(plain) as io:
        spoken = io.selected_alpn_protocol()

        # One thread, since a session is not to be used by two: what can be sent is sent while what comes is read.
        io.setblocking(False)
        data = memoryview(bytes.fromhex(case["send"]))
        while not closed and not any(end in answer for end in ends):
            try:
                while data:
                    data = data[io.send(data[:65536]) :]
            except ssl.SSLWantWriteError:
                pass
            except (OSError, ssl.SSLError):
                data = data[:0]  # refused while it was still being sent; the answer is read below
            try:
                got = io.recv(65536)
                closed = not got
                answer += got[: max(0, 100_000 - len(answer))]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if not any(select.select([io], [io] if data else [], [], 40)):
                    break
            except (OSError, ssl.SSLError):
                closed = True
    return {"name": case["name"], "answer": answer.hex(), "closed": closed, "alpn": spoken}


print(json.dumps([one(case) for case in json.load(sys.stdin)]))
