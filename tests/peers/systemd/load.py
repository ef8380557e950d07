"""load.py FILE: GETs on kept and on new connections until FILE is gone, then prints how many were sent and failed."""
import http.client
import os
import sys
import threading
import time

counts = {"sent": 0, "failed": 0}
lock = threading.Lock()


def one(connection):
    connection.request("GET", "/")
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200 and body, (answer.status, body)
    return answer.getheader("connection") == "close"


def drive(kept):
    connection = None
    while os.path.exists(sys.argv[1]):
        if connection is None or not kept:
            connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=30)
        try:
            if one(connection):
                connection = None
            failed = 0
        except Exception as error:
            print("failed:", repr(error), flush=True)
            connection, failed = None, 1
        with lock:
            counts["sent"] += 1
            counts["failed"] += failed
        time.sleep(0.005)


threads = [threading.Thread(target=drive, args=(n % 2 == 0,)) for n in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(f"{counts['sent']} requests, {counts['failed']} failed", flush=True)
sys.exit(counts["failed"] > 0)
