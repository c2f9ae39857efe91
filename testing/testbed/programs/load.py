"""GETs over keep-alive connections until SIGTERM; prints "FINE BAD RESENT REFUSED" as they grow and, at the end, what
the bad ones were.

  load.py URL CONNECTIONS RATE

It ends by itself after five minutes.

A connection that the server closed between two requests is opened again, and a request that met such a close before any
byte of an answer is sent once more, as RFC 9110 section 9.2.2 has clients do; it counts as resent. A new connection that nobody
accepts counts as refused. Everything else that is not 200 is bad.
"""

import collections
import http.client
import signal
import sys
import threading
import time
import urllib.parse

url, connections, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
parts = urllib.parse.urlsplit(url)
LIMIT = 300
end = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: end.set())
fine = [0] * connections
bad = collections.Counter()
resent = [0] * connections
refused = [0] * connections


def work(index):
    connection, used = None, False
    pause = connections / rate
    due = time.monotonic() + pause * index / connections
    while not end.is_set():
        now = time.monotonic()
        if due > now:
            time.sleep(min(due - now, 0.2))
            continue
        due = max(due + pause, now - 1)
        for attempt in (1, 2):
            try:
                if connection is None:
                    connection, used = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20), False
                connection.request("GET", parts.path or "/")
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    fine[index] += 1
                else:
                    bad[f"status {answer.status} {answer.getheader('leno-reason')}"] += 1
                used = True
                if answer.will_close:
                    connection.close()
                    connection = None
                break
            except ConnectionRefusedError:
                refused[index] += 1
                connection = None
                break
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
                connection.close()
                connection = None
                if not used or attempt == 2:
                    bad[f"new connection: {error!r}"] += 1
                    break
                resent[index] += 1
            except (OSError, http.client.HTTPException) as error:
                bad[repr(error)] += 1
                connection.close()
                connection = None
                break


def tell(*more):
    print(sum(fine), sum(bad.values()), sum(resent), sum(refused), *more, flush=True)


threads = [threading.Thread(target=work, args=(i,)) for i in range(connections)]
for t in threads:
    t.start()
last = time.monotonic() + LIMIT
while time.monotonic() < last and not end.wait(0.05):
    tell()
end.set()
for t in threads:
    t.join()
for what, count in bad.items():
    print(f"# {count}x {what}")
tell("end")
