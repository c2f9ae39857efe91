"""Sends bytes as they are and tells what came back, for many cases at once.

  raw.py HOST PORT < CASES    CASES: JSON list of {"name", "send": latin-1 text, "repeat": n, "wait": seconds, "piece": n}
Prints a JSON list of {"name", "answer": the first 300 bytes as latin-1, "closed": bool, "seconds"}.
"""

import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

host, port = sys.argv[1], int(sys.argv[2])


def one(case):
    start = time.monotonic()
    limit = case.get("wait", 5)
    answer, closed = b"", False
    try:
        with socket.create_connection((host, port), timeout=limit) as connection:
            try:
                data = case["send"].encode("latin-1") * case.get("repeat", 1)
                piece = case.get("piece", 65536)
                for at in range(0, len(data), piece):
                    connection.sendall(data[at : at + piece])
                    if piece < 64:
                        time.sleep(case.get("pause", 0))
            except (ConnectionError, TimeoutError):
                pass  # refused while it was still being sent; the answer is read below
            while time.monotonic() - start < limit:
                connection.settimeout(max(0.01, limit - (time.monotonic() - start)))
                try:
                    data = connection.recv(65536)
                except TimeoutError:
                    break
                if not data:
                    closed = True
                    break
                answer += data[: max(0, 100_000 - len(answer))]
    except (ConnectionError, TimeoutError):
        closed = True
    return {
        "name": case["name"],
        "answer": answer[:300].decode("latin-1"),
        "answers": answer.count(b"HTTP/1.1 "),
        "closed": closed,
        "seconds": time.monotonic() - start,
    }


cases = json.load(sys.stdin)
with ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(one, cases))))
