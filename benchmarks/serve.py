"""Load tests of the server, and its throughput relative to the same model without a server.

    python benchmarks/serve.py RUN --images FOLDER --parts throughput,latency,overload,memory,slow,sigterm
    python benchmarks/serve.py RUN --images FOLDER --parts throughput --seconds 300

Needs `wrk` (saturation, overload) and `hey` (a steady rate) of Debian. Starts `regraft serve RUN` for each part and
prints one line of JSON with the measurements, and in `good` whether they are within the limits.

    throughput  images/s at saturation, relative to `predict_images` on the same bytes without a server
    latency     p50 and p99 at 70 % of the highest rate
    overload    three times as many connections as the queue holds: statuses, and the time until a request succeeds
    memory      resident memory of the server and its decoders at the start and the end of a saturated run
    slow        p99 of normal clients alone, and with 200 others that send one byte per second of headers or body
    sigterm     SIGTERM under load, repeated: accepted requests without a response, exit codes
"""

from __future__ import annotations

import argparse
import csv
import http.client
import io
import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regraft.data.sources.folders import find_images

SCRIPT = """
local bodies, counts = {}, {}
for path in string.gmatch(os.getenv("BODIES"), "[^:]+") do
  local file = io.open(path, "rb"); bodies[#bodies + 1] = file:read("*a"); file:close()
end
wrk.method = "POST"; wrk.headers["Content-Type"] = "application/octet-stream"
local made = {}
init = function(args) for i, body in ipairs(bodies) do made[i] = wrk.format(nil, "/predict", nil, body) end end
request = function() return made[math.random(#made)] end
local threads = {}
setup = function(thread) table.insert(threads, thread) end
response = function(status) local key = "s" .. status; _G[key] = (_G[key] or 0) + 1 end
done = function(summary, latency)
  for _, thread in ipairs(threads) do
    for status = 200, 599 do
      local n = thread:get("s" .. status); if n then counts[status] = (counts[status] or 0) + n end
    end
  end
  io.write("RESULT {\\"requests\\": " .. summary.requests .. ", \\"seconds\\": " .. summary.duration / 1e6)
  io.write(", \\"p50\\": " .. latency:percentile(50) / 1e3 .. ", \\"p99\\": " .. latency:percentile(99) / 1e3)
  local e = summary.errors
  io.write(", \\"socket_errors\\": " .. e.connect + e.read + e.write .. ", \\"timeouts\\": " .. e.timeout)
  for status, n in pairs(counts) do io.write(", \\"" .. status .. "\\": " .. n) end
  io.write("}\\n")
end
"""


class Server:
    """A server that is ready."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        """Store the process and parse the address."""
        self.process, self.address = process, address
        self.host, _, port = address.removeprefix("http://").rpartition(":")
        self.port = int(port)

    def megabytes(self, *, at_peak: bool = False) -> float:
        """Resident memory of the server and its decoder processes, now or at the largest of each."""
        value = "VmHWM" if at_peak else "VmRSS"
        total = 0
        for pid in (self.process.pid, *children_of(self.process.pid)):
            with open(f"/proc/{pid}/status") as status:
                total += sum(int(line.split()[1]) for line in status if line.startswith(value))
        return total / 1024


def children_of(pid: int) -> list[int]:
    """The numbers of the processes that a process has started."""
    return [int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if _parent(stat) == pid]


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@contextmanager
def running_server(run: str, *options: object, **environment: str) -> Iterator[Server]:
    """Run `regraft serve RUN` with these options and variables."""
    process = subprocess.Popen(
        [sys.executable, "-m", "regraft.cli", "serve", run, "--port", "0", "--log-level", "warning",
         *map(str, options)], stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    address = ""
    for line in process.stderr:
        if found := re.search(r"Listening at (\S+);", line):
            address = found[1]
        if line.startswith("Ready."):
            break
    reader = threading.Thread(target=process.stderr.read, daemon=True)
    reader.start()
    try:
        yield Server(process, address)
    finally:
        if process.poll() is None:
            process.terminate()
            assert process.wait(120) == 0
        reader.join(10)
        process.stderr.close()


def wrk(server: Server, files: list[Path], seconds: float, connections: int) -> dict[str, Any]:
    """Saturate the server: each connection sends its next request at once."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT)
        script.flush()
        done = subprocess.run(
            ["wrk", "-t", "1", "-c", str(connections), "-d", f"{round(seconds)}s", "--timeout", "60s",
             "-s", script.name, server.address],
            env={**os.environ, "BODIES": ":".join(map(str, files))}, capture_output=True, text=True, check=True,
        )  # fmt: skip
    (line,) = re.findall(r"RESULT (.*)", done.stdout)
    return json.loads(line)


def hey(server: Server, file: Path, seconds: float, rate: float, workers: int = 20) -> tuple[list[float], Counter[str]]:
    """Send requests at a steady rate; return the milliseconds of each, and the count of each status."""
    done = subprocess.run(
        ["hey", "-z", f"{round(seconds)}s", "-c", str(workers), "-q", str(rate / workers), "-m", "POST", "-t", "60",
         "-T", "application/octet-stream", "-D", file, "-o", "csv", f"{server.address}/predict"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    return [1000 * float(row["response-time"]) for row in rows], Counter(row["status-code"] for row in rows)


def quantile(values: list[float], share: float) -> float:
    """Return the quantile of the values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def in_process(run: str, files: list[Path], seconds: float) -> float:
    """Images/s of `predict_images` on the bytes of files in memory, in a separate process."""
    code = (
        "import sys, time, itertools; from pathlib import Path\n"
        "from regraft.exporting.exported_model import ExportedModel, is_export\n"
        "from regraft.models.inference import predict_images; from regraft.runs.run import load\n"
        "run, seconds, files = Path(sys.argv[1]), float(sys.argv[2]), [Path(p).read_bytes() for p in sys.argv[3:]]\n"
        "model = ExportedModel(run) if is_export(run) else load(run).classifier\n"
        "endless = predict_images(model, itertools.cycle(files))\n"
        "for _ in range(64): next(endless)\n"
        "started, count = time.perf_counter(), 0\n"
        "while time.perf_counter() - started < seconds:\n"
        "    for _ in range(32): next(endless)\n"
        "    count += 32\n"
        "print(count / (time.perf_counter() - started))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run, str(seconds), *map(str, files)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def throughput(run: str, files: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Measure without a server before and after, so that a change of the machine's speed is visible."""
    before = in_process(run, files, min(args.seconds, 20))
    with running_server(run) as server:
        wrk(server, files, 3, args.connections)
        found = wrk(server, files, args.seconds, args.connections)
    after = in_process(run, files, min(args.seconds, 20))
    rate = found["requests"] / found["seconds"]
    share = rate / ((before + after) / 2)
    return {"images_per_second": rate, "in_process": [before, after], "share": share, **found, "good": share >= 0.8}


def latency(run: str, files: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Measure the latency at 70 % of the highest rate."""
    with running_server(run) as server:
        wrk(server, files, 3, args.connections)
        found = wrk(server, files, min(args.seconds, 15), args.connections)
        rate = 0.7 * found["requests"] / found["seconds"]
        times, statuses = hey(server, files[0], args.seconds, rate)
    p50, p99 = quantile(times, 0.5), quantile(times, 0.99)
    good = p99 < 3 * p50 and set(statuses) == {"200"}
    return {"rate": rate, "got": len(times) / args.seconds, "p50": p50, "p99": p99, "ratio": p99 / p50,
            "statuses": statuses, "good": good}  # fmt: skip


def overload(run: str, files: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Saturate with three times as many connections as the queue holds."""
    queue = 32
    with running_server(run, "--queue", queue) as server:
        calm = wrk(server, files, 5, 16)
        found = wrk(server, files, args.seconds, 3 * queue)
        started = time.monotonic()
        while True:
            try:
                _, statuses = hey(server, files[0], 1, 2, 1)
                if set(statuses) == {"200"}:
                    break
            except subprocess.CalledProcessError:
                pass
        recovery = max(0.0, time.monotonic() - started - 1)
    allowed = {key for key in found if key.isdigit()} <= {"200", "429", "503"}
    return {**found, "calm_p50": calm["p50"], "recovery_seconds": recovery,
            "good": allowed and not found["socket_errors"] and not found["timeouts"] and recovery < 5}  # fmt: skip


def memory(run: str, files: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Measure the growth of memory after a warm-up of a tenth of the time, at most a minute."""
    with running_server(run) as server:
        wrk(server, files, min(60, max(5, args.seconds / 10)), args.connections)
        seen = [server.megabytes()]
        for _ in range(5):
            wrk(server, files, args.seconds / 5, args.connections)
            seen.append(server.megabytes())
    growth = seen[-1] / seen[0] - 1
    return {"megabytes": seen, "growth": growth, "good": growth < 0.05}


def slow(run: str, files: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Open 200 connections that never finish their headers or bodies, and reopen those that are closed."""
    with running_server(run) as server:
        wrk(server, files, 3, args.connections)
        found = wrk(server, files, 5, args.connections)
        rate = 0.3 * found["requests"] / found["seconds"]
        alone, _ = hey(server, files[0], args.seconds, rate)
        ending = threading.Event()
        slow_clients = threading.Thread(target=_send_slowly, args=(server, ending, 200))
        slow_clients.start()
        time.sleep(2)
        with urllib.request.urlopen(f"{server.address}/metrics") as answer:
            open_connections = re.search(r"^regraft_connections (\S+)", answer.read().decode(), re.MULTILINE)[1]
        beside, statuses = hey(server, files[0], args.seconds, rate)
        ending.set()
        slow_clients.join()
    one, other = quantile(alone, 0.99), quantile(beside, 0.99)
    return {"p99_alone": one, "p99_beside": other, "ratio": other / one, "connections": float(open_connections),
            "statuses": statuses, "good": other <= 2 * one and set(statuses) == {"200"}}  # fmt: skip


def _send_slowly(server: Server, ending: threading.Event, count: int) -> None:
    post = b"POST /predict HTTP/1.1\r\nHost: x\r\n"
    heads = post + b"X-Slow: ", post + b"Content-Type: image/png\r\nContent-Length: 30000\r\n\r\n"
    connections: dict[int, socket.socket] = {}
    while not ending.wait(1):
        for i in range(count):
            try:
                if i not in connections:
                    connections[i] = socket.create_connection((server.host, server.port), timeout=2)
                    connections[i].sendall(heads[i % 2])
                else:
                    connections[i].sendall(b"x")
            except OSError:
                connections.pop(i, socket.socket()).close()
    for connection in connections.values():
        connection.close()


def sigterm(run: str, files: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Send the signal at random moments while clients send requests without a pause.

    A request is lost if it was sent on a connection that had answered before, and got no or half a response. The first
    request of a connection may have been waiting at a closing port: it is counted as `unaccepted`.
    """
    totals: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    bodies = [file.read_bytes() for file in files]
    for _ in range(args.times):
        with running_server(run, "--batch", "8") as server:
            found = [Counter[str]() for _ in range(16)]
            threads = [threading.Thread(target=_send_requests, args=(server, bodies, counts)) for counts in found]
            for thread in threads:
                thread.start()
            time.sleep(random.uniform(0.5, 2))
            server.process.send_signal(signal.SIGTERM)
            codes[server.process.wait(120)] += 1
            for thread in threads:
                thread.join()
            for counts in found:
                totals += counts
    return {"times": args.times, "exit_codes": codes, **totals,
            "good": totals["lost"] == 0 and set(codes) == {0} and totals["200"] > 0}  # fmt: skip


def _send_requests(server: Server, bodies: list[bytes], counts: Counter[str]) -> None:
    while True:
        connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        try:
            connection.connect()
        except OSError:
            return  # the port is closed: nothing was accepted
        for number, body in enumerate(itertools.islice(itertools.cycle(bodies), 50)):
            try:
                connection.request("POST", "/predict", body, {"Content-Type": "application/octet-stream"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                counts["lost" if number else "unaccepted"] += 1
                break
            counts[str(answer.status)] += 1
            if answer.will_close:
                break
        connection.close()


PARTS: dict[str, Callable[[str, list[Path], argparse.Namespace], dict[str, Any]]] = {
    "throughput": throughput, "latency": latency, "overload": overload, "memory": memory, "slow": slow,
    "sigterm": sigterm,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--images", type=Path, required=True, help="folder of images to send")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--connections", type=int, default=48)
    parser.add_argument("--times", type=int, default=50, help="number of repetitions of sigterm")
    args = parser.parse_args()
    files = sorted(find_images(args.images)[0])[:40]
    good = True
    for name in args.parts.split(","):
        found = PARTS[name](args.run, files, args)
        print(json.dumps({"part": name, **found}, default=lambda value: round(value, 4)), flush=True)
        good &= found["good"]
    sys.exit(not good)


if __name__ == "__main__":
    main()
