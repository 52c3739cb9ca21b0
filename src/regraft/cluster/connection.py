"""Reach a Ray cluster, or start one of this machine alone."""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from regraft.errors import ClusterError, MissingExtraError, UsageError
from regraft.resources import usable_cpus

#: Seconds in which a server must accept a connection, and in which Ray must have connected.
_CONNECT_SECONDS, _INIT_SECONDS = 10.0, 50.0
_ADDRESS = re.compile(r"(?:ray://)?(?P<host>[\w.-]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")
#: Bytes for arguments and results of tasks in a cluster of this machine; Ray would take a third of the memory.
_OBJECT_STORE = 512 * 2**20


def import_ray() -> Any:
    """The module `ray`; raises `MissingExtraError` if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray will do, without its warning
    try:
        with warnings.catch_warnings():  # of Ray's own imports
            warnings.simplefilter("ignore")
            return importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtraError("A cluster", "ray") from error


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """Connect to the cluster of this address for the block, and yield the module `ray`.

    A connection that this process has already is used, and stays. Raises `UsageError` for a wrong address, and
    `ClusterError` if the cluster does not answer within a minute or runs other versions of Python or Ray.
    """
    ray = import_ray()
    found = _ADDRESS.fullmatch(address)
    if address not in ("auto", "local") and not found:
        raise UsageError(f"The cluster's address is {address!r}; expected ray://HOST:10001, HOST:6379, auto or local.")
    if ray.is_initialized():
        yield ray
        return
    if found:
        _refuse_silent_server(address, found["host"].strip("[]"), int(found["port"]))
    options: dict[str, Any] = {"address": address}
    if address == "local":
        options |= {"num_cpus": usable_cpus(), "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    if not address.startswith("ray://"):
        options |= {"configure_logging": True, "logging_level": logging.ERROR}
    _keep_quiet()
    _init(ray, address, {**options, "log_to_driver": False})
    try:
        yield ray
    finally:
        ray.shutdown()


def _keep_quiet() -> None:
    """Send what Ray prints about dead nodes to the log, since standard output is for results; no setting does it."""
    worker = importlib.import_module("ray._private.worker")
    if hasattr(worker, "print_to_stdstream"):

        def log(data: dict[str, Any], *_: Any, **__: Any) -> None:
            logging.getLogger(__name__).info("%s", "\n".join(map(str, data.get("lines", ()))))

        vars(worker)["print_to_stdstream"] = log


def _refuse_silent_server(address: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), _CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(f"The cluster {address} cannot be reached: {error}. {_ADVICE}") from error


def _init(ray: Any, address: str, options: dict[str, Any]) -> None:
    """Call `ray.init`, in a thread where it only connects, since some of its waits have no end."""
    started: Future[None] = Future()

    def init() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                ray.init(**options)
            started.set_result(None)
        except BaseException as error:
            started.set_exception(error)

    if address == "local":  # here, since the system ends a cluster's processes with the thread that has started them
        init()
    else:
        threading.Thread(target=init, daemon=True, name="regraft-ray-init").start()
    try:
        started.result(_INIT_SECONDS)
    except TimeoutError:
        raise ClusterError(f"The cluster {address} did not answer in {_INIT_SECONDS:.0f} s. {_ADVICE}") from None
    except Exception as error:  # Ray has many, also for other versions of Python or of Ray
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ClusterError(f"The cluster {address} cannot be used: {' '.join(reason)} {_ADVICE}") from error


_ADVICE = (
    "Expected a running cluster (`ray status` on its head shows it) with the Python and Ray versions of this process; "
    "`--cluster local` needs none."
)
