"""POSTs with an id each until SIGTERM, over THREADS connections; prints "sent N ok M" at the end.

  posts.py HOST PORT THREADS
"""

import http.client
import signal
import sys
import threading

host, port, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
counts = [[0, 0] for _ in range(threads)]


def work(index):
    connection = http.client.HTTPConnection(host, port, timeout=20)
    while not stop.is_set():
        counts[index][0] += 1
        try:
            connection.request("POST", f"/post-{index}-{counts[index][0]}", body=b"x" * 100)
            answer = connection.getresponse()
            answer.read()
            counts[index][1] += answer.status in (200, 405)
        except (OSError, http.client.HTTPException):
            connection.close()


workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
for w in workers:
    w.start()
while not stop.wait(0.1):
    pass
for w in workers:
    w.join()
print(f"sent {sum(c[0] for c in counts)} ok {sum(c[1] for c in counts)}", flush=True)
