"""How many images run through a network at once, and on which threads.

Input: a batch of images, or of their activations. Output: what the network computes of each pass, a part of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

from regraft.models.malloc import keep_freed_memory_of_threads

#: Bytes that enter a pass on a CPU: 8 color images of 224 pixels in float32, or 16 in bfloat16. More take more memory
#: and no less time; fewer make many passes, of which each takes its time (docs/decisions/keep-freed-memory.md).
_BYTES = 8 * 3 * 224 * 224 * 4
#: Fewest images of a pass: a part of them is never a single one, which runs other kernels than several.
_FEWEST = 4

_Result = TypeVar("_Result")


def images_per_pass(values: int, precision: torch.dtype = torch.float32) -> int:
    """Number of images of so many values each, which the network has in this precision, that a CPU runs at once."""
    return max(_FEWEST, _BYTES // (max(1, values) * precision.itemsize))


def split_into_passes(
    device: torch.device, *inputs: torch.Tensor, precision: torch.dtype = torch.float32, side_by_side: int = 1
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Nearly equal parts (n, ...) of each input (N, ...), of which the first has what the network runs.

    There are several for a CPU, by `images_per_pass` in this precision, and one for a GPU, which many images keep busy.
    Where so many run `side_by_side`, these have as many images together, and their number is a multiple of it.
    """
    images = inputs[0]
    at_once = images_per_pass(images[0].numel(), precision) if device.type == "cpu" and len(images) else len(images)
    parts = -(-len(images) // max(1, at_once // side_by_side))
    parts = side_by_side * max(1, -(-parts // side_by_side))
    return zip(*(torch.tensor_split(part, parts) for part in inputs), strict=True)


def run_passes(
    run: Callable[..., _Result],
    device: torch.device,
    *inputs: torch.Tensor,
    precision: torch.dtype = torch.float32,
    on_one_thread: bool,
) -> list[_Result]:
    """What `run`, which computes in this precision, returns for each pass over the inputs, in order.

    On a CPU, passes `on_one_thread` each run side by side, as many as PyTorch has threads, where each has several
    images without more in memory than a shared pass has: threads that share a pass wait for one another after each of
    its layers. `run` then sets its own modes of PyTorch, such as inference mode, which a thread does not have from
    another. Where no thread can be started, passes run one after the other.
    """
    count, images = torch.get_num_threads(), inputs[0]
    fewest = count * _FEWEST
    if on_one_thread and device.type == "cpu" and count > 1 and len(images) >= fewest:
        is_room = images_per_pass(images[0].numel(), precision) >= fewest
        parts = split_into_passes(device, *inputs, precision=precision, side_by_side=count)
        if is_room and (futures := _submit(run, parts, count)):
            return _results(futures)
    return [run(*part) for part in split_into_passes(device, *inputs, precision=precision)]


def is_same_on_one_thread(run: Callable[[], Sequence[torch.Tensor]]) -> bool:
    """Whether what `run` computes on a CPU has the same bits on a thread of `run_passes` as on all threads.

    Sums over a map, as squeeze-and-excitation has them, may be added up in another order. With one thread it is False,
    because nothing would run side by side.
    """
    count, here = torch.get_num_threads(), run()
    futures = _submit(run, [()], count) if count > 1 else []
    return bool(futures) and all(map(torch.equal, here, _results(futures)[0]))


def _submit(
    run: Callable[..., _Result], parts: Iterable[tuple[torch.Tensor, ...]], count: int
) -> list[Future[_Result]]:
    """Begin passes on threads of their own; [] if no thread can be started."""
    try:
        with _lock:  # threads that are made twice would stay
            workers = _workers(count)
        return [workers.submit(run, *part) for part in parts]
    except RuntimeError:  # a limit of threads, or the main thread has ended
        return []


def _results(futures: Sequence[Future[_Result]]) -> list[_Result]:
    try:
        return [future.result() for future in futures]
    except BaseException:  # nothing goes on behind an error, or Ctrl-C
        for future in futures:
            future.cancel()
        wait(futures)
        raise


@cache
def _workers(count: int) -> ThreadPoolExecutor:
    """So many threads that run PyTorch's operations by themselves."""
    keep_freed_memory_of_threads()
    of_others, started = torch.get_num_threads(), threading.Barrier(count + 1)

    def set_up() -> None:
        torch.get_num_threads()  # a thread's first question gives it what was set last anywhere
        torch.set_num_threads(1)
        started.wait()

    workers = ThreadPoolExecutor(count, "regraft-pass", initializer=set_up)
    try:
        for _ in range(count):
            workers.submit(int)
        started.wait()
    except BaseException:  # such as a limit of threads; those that have started end
        started.abort()
        raise
    finally:
        torch.set_num_threads(of_others)  # PyTorch gives threads that start later what was set last
    return workers


_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a forked process has no threads
    os.register_at_fork(after_in_child=_workers.cache_clear)
