"""GETs over keep-alive connections for some time; prints "FINE BAD" and, for bad ones, what they were.

  load.py URL CONNECTIONS SECONDS RATE

A connection that the server closed between two requests is opened again, and a request that met such a close before any
byte of an answer is sent once more, as RFC 9110 section 9.2.2 has clients do. Everything else that is not 200 is bad.
"""

import collections
import http.client
import sys
import threading
import time
import urllib.parse

url, connections, seconds, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
parts = urllib.parse.urlsplit(url)
end = time.monotonic() + seconds
fine = [0] * connections
bad = collections.Counter()


def work(index):
    connection, used = None, False
    pause = connections / rate
    due = time.monotonic() + pause * index / connections
    while (now := time.monotonic()) < end:
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
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
                connection.close()
                connection = None
                if not used or attempt == 2:
                    bad[f"new connection: {error!r}"] += 1
                    break
            except (OSError, http.client.HTTPException) as error:
                bad[repr(error)] += 1
                connection.close()
                connection = None
                break


threads = [threading.Thread(target=work, args=(i,)) for i in range(connections)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print(sum(fine), sum(bad.values()))
for what, count in bad.items():
    print(f"# {count}x {what}".replace(" ", "_"))
