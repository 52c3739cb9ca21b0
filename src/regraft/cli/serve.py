"""`regraft serve RUN|EXPORT...`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from regraft.cli.output import err

_TOKEN = "REGRAFT_TOKEN"


def command(
    models: Annotated[
        list[str], typer.Argument(help="Folders of runs or exports; NAME=FOLDER gives one another name than its own.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0: any that is free.")] = 8000,
    engine: Annotated[
        str,
        typer.Option(
            help="same: what `regraft predict` runs, to its bits. fastest: the fastest of the run and its own exports."
        ),
    ] = "same",
    sure: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="As of `predict`; default: 0.95 where the run can tell. 0: off."),
    ] = None,
    unknown: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="As of `predict`; default: 0.01 where the run can tell. 0: off."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help=f"File with the token that clients must send; or the variable {_TOKEN}."),
    ] = None,
    max_megabytes: Annotated[float, typer.Option(min=0.01, help="Of one request, in 10^6 bytes.")] = 32.0,
    max_images: Annotated[int, typer.Option(min=1, help="Of one request.")] = 32,
    max_megapixels: Annotated[
        float | None, typer.Option(min=0.001, help="Of one image; default: what `predict` reads, 89.5.")
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait; more get 429.")] = 256,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Images of one pass of the network at most.")] = 16,
    delay: Annotated[
        float, typer.Option(min=0, max=1000, help="Milliseconds that the first image of a batch waits for others.")
    ] = 2.0,
    deadline: Annotated[float, typer.Option(min=0.001, help="Seconds until an answer; later it is 504.")] = 30.0,
    body_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for a body to arrive; later it is 408.")] = 30.0,
    header_seconds: Annotated[float, typer.Option(min=0.1, help="Seconds for headers to arrive.")] = 10.0,
    decode_seconds: Annotated[float, typer.Option(min=0.01, help="Seconds for an image to be decoded.")] = 10.0,
    decoders: Annotated[int | None, typer.Option(min=1, help="Processes that decode; default: one a core.")] = None,
    connections: Annotated[int, typer.Option(min=1, help="Open connections at most.")] = 512,
    drain_delay: Annotated[
        float, typer.Option(min=0, help="Seconds from SIGTERM to the closing of the port; 503 meanwhile.")
    ] = 0.5,
    trust: Annotated[
        bool, typer.Option("--trust", help="Load an export whose format may run code (exported-program).")
    ] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Answer over HTTP: /predict, the Open Inference Protocol under /v2, and a page for people at /."""
    from regraft.models.allocator import keep_freed_memory_of_threads

    keep_freed_memory_of_threads()  # before what is imported next begins threads
    from regraft.errors import UsageError
    from regraft.pipeline.serve import check_extra, serve

    check_extra()
    from regraft.data.decode import MAX_PIXELS
    from regraft.serving.limits import Limits

    if log_level not in ("debug", "info", "warning", "error"):
        raise UsageError(f"--log-level {log_level}; expected debug, info, warning or error.")
    body_bytes = round(max_megabytes * 1e6) if max_megabytes != 32.0 else Limits.body_bytes
    limits = Limits(
        body_bytes=body_bytes,
        buffered_bytes=max(Limits.buffered_bytes, 2 * body_bytes),
        images=max_images,
        pixels=MAX_PIXELS if max_megapixels is None else round(max_megapixels * 1e6),
        header_seconds=header_seconds,
        body_seconds=body_seconds,
        decode_seconds=decode_seconds,
        deadline_seconds=deadline,
        connections=connections,
        queue=queue,
        batch=batch,
        delay_seconds=delay / 1000,
        drain_delay_seconds=drain_delay,
    )
    address = ""

    def on_listening(where: str) -> None:
        nonlocal address
        address = where
        err.print(f"Listening at {escape(where)}; loading.")

    def on_ready() -> None:
        err.print(f"Ready. The page is at [bold]{escape(address)}/[/bold], the addresses at {escape(address)}/docs. "
                  "Ctrl-C ends.")  # fmt: skip

    code = serve(
        models, host=host, port=port, engine=engine, sure=sure, unknown=unknown,  # type: ignore[arg-type]  # checked there
        token=_token(token_file), trust=trust, decoders=decoders, limits=limits, log_level=log_level,
        on_listening=on_listening, on_ready=on_ready,
    )  # fmt: skip
    raise typer.Exit(code)


def _token(file: Path | None) -> str | None:
    """From a file or the environment: on a command line every user of the machine could read it."""
    if file is not None:
        return file.read_text(encoding="utf-8").strip()
    return os.environ.get(_TOKEN) or None
