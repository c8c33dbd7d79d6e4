"""
Requests over loopback: ``python -m benchmarks.load PORT SECONDS THREADS``.

A process of its own, so that the server has its interpreter for itself. Says as JSON how
long each request took, and how many failed.
"""

import http.client
import itertools
import json
import sys
import threading
import time


def main(port: int, seconds: float, threads: int) -> None:
    """Send requests from threads, each over a connection that it keeps."""
    numbers, took, failed = itertools.count(), list[float](), list[int]()
    end = time.perf_counter() + seconds

    def run() -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while time.perf_counter() < end:
            body = json.dumps({"number": next(numbers), "note": "0123456789"})
            before = time.perf_counter()
            client.request(
                "POST", "/orders", body, {"Content-Type": "application/json"}
            )
            answer = client.getresponse()
            answer.read()
            took.append(time.perf_counter() - before)
            if answer.status != http.client.ACCEPTED:
                failed.append(answer.status)
        client.close()

    before = time.perf_counter()
    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    spent = time.perf_counter() - before
    json.dump({"took": took, "failed": len(failed), "seconds": spent}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
