"""Reach a Ray cluster, or start one of this machine alone."""

from __future__ import annotations

import importlib
import logging
import os
import re
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regraft.errors import ClusterError, MissingExtraError, UsageError
from regraft.resources import usable_cpus

#: Seconds in which a server must accept a connection, and in which a cluster's head must answer.
_CONNECT_SECONDS, _HEALTH_SECONDS = 10.0, 40.0
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
    options: dict[str, Any] = {"address": address, "log_to_driver": False}
    if address.startswith("ray://"):
        _use_token()
    else:
        options |= {"configure_logging": True, "logging_level": logging.ERROR}
        if address == "local":
            options |= {"num_cpus": usable_cpus(), "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
        else:  # if no head answers, Ray would end this process
            _check_health(address)
    _keep_quiet()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # In this thread, since the system ends a local cluster's processes with the thread that has started them.
            ray.init(**options)
    except Exception as error:  # Ray has many, also for other versions of Python or of Ray
        raise _unusable(address, str(error).strip() or type(error).__name__) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _use_token() -> None:
    """Send the cluster's token if there is one, which Ray's client does only in this mode."""
    variables = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if any(map(os.environ.get, variables)) or (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _check_health(address: str) -> None:
    """Raise `ClusterError` if a cluster's head does not answer."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_HEALTH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise _unusable(address, f"It did not answer in {_HEALTH_SECONDS:.0f} s.") from None
    if done.returncode == 1:  # not 2, if another version has no such command
        raise _unusable(address, done.stderr.strip().rpartition("\n")[2])


def _unusable(address: str, reason: str) -> ClusterError:
    reason = " ".join(reason.split()).removesuffix(".")
    return ClusterError(
        f"The cluster {address} cannot be used: {reason}. Expected a running cluster with the Python and Ray versions "
        "of this process, and its token here if it asks for one (RAY_AUTH_TOKEN). `ray status` on its head shows its "
        "state; `--cluster local` needs none."
    )


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
        raise _unusable(address, f"{error}.") from error
