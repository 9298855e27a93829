"""How a peer is timed: the protocol of bench/README.md, in torch."""

import datetime
import math
import statistics
import subprocess

import torch

DEVICE = "cuda"
WARMUPS, RUNS, MOST_SECONDS = 10, 100, 2.0


class Clock:
    """Medians between two events on the stream after warm-ups; with `flush`, the L2 cache overwritten before each."""

    def __init__(self, flush=True, warmups=WARMUPS, runs=RUNS, most_seconds=MOST_SECONDS):
        self.warmups, self.runs, self.most_seconds = warmups, runs, most_seconds
        self.cache = None
        if flush:
            size = torch.cuda.get_device_properties(0).L2_cache_size
            self.cache = torch.empty(2 * size, dtype=torch.uint8, device=DEVICE)

    def _once(self, run):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if self.cache is not None:
            self.cache.zero_()
        start.record()
        run()
        end.record()
        return start, end

    def _times(self, run, count):
        events = [self._once(run) for _ in range(count)]
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in events]

    def eager(self, run):
        """As its user calls it: what the host takes shows wherever the GPU waits for it."""
        for _ in range(self.warmups):
            run()
        torch.cuda.synchronize()
        times = self._times(run, 5)
        most = min(self.runs, math.floor(self.most_seconds * 1e3 / max(times)))
        times += self._times(run, max(0, most - len(times)))
        deciles = statistics.quantiles(times, n=10)
        return {"median_ms": statistics.median(times), "p10_ms": deciles[0], "p90_ms": deciles[-1], "runs": len(times)}

    def captured(self, run):
        """As one CUDA graph, which is how fusec submits a run: no time of the host's."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = run()
        times = self.eager(graph.replay)
        del kept
        return times

    def both(self, run):
        """Eager and, where it can be captured, as a graph; `median_ms` is the better of the two."""
        eager = self.eager(run)
        try:
            graph = self.captured(run)
        except Exception as error:  # Whoever synchronises or allocates on the host cannot be captured.
            return {**eager, "way": "eager", "graph": {"error": brief(error)}}
        if graph["median_ms"] <= eager["median_ms"]:
            return {**graph, "way": "graph", "eager": eager}
        return {**eager, "way": "eager", "graph": graph}


def brief(error):
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text[:400]


def machine():
    """What a record has to say about where it was taken."""
    smi = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,temperature.gpu", "--format=csv,noheader"]
    try:
        seen = subprocess.run(smi, capture_output=True, text=True, check=True).stdout.strip().splitlines()[0]
        name, driver, sm, memory, heat = (field.strip() for field in seen.split(","))
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError) as error:
        return {"device": None, "error": brief(error), "date": now()}
    clocks = {"sm": sm, "memory": memory, "temperature": heat}
    return {"device": name, "driver": driver, "clocks_before": clocks, "date": now()}


def now():
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
