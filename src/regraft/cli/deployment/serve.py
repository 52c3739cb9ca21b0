"""`regraft serve RUN|EXPORT...`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from rich.markup import escape
from typer import Argument, Exit, Option

from regraft.cli.options import Trust, probability
from regraft.cli.output import err

_TOKEN = "REGRAFT_TOKEN"


def command(
    models: Annotated[list[str], Argument(help="Folders of runs or exports; NAME=FOLDER gives another name.")],
    host: Annotated[str, Option(help="Address to listen on; 0.0.0.0 for other machines.")] = "127.0.0.1",
    port: Annotated[int, Option(metavar="N", min=0, max=65535, help="Port; 0: any free one.")] = 8000,
    engine: Annotated[str, Option(help="same: exactly as `predict`. fastest: run or export by speed.")] = "same",
    min_accuracy: Annotated[float | None, probability("As in `predict`. Default: 0.95 if possible. 0: off.")] = None,
    min_confidence: Annotated[float | None, probability("As in `predict`, in place of --min-accuracy.")] = None,
    ood_rate: Annotated[float | None, probability("As in `predict`. Default: 0.01 if possible. 0: off.")] = None,
    token_file: Annotated[Path | None, Option(help=f"File with the token of clients. Default: ${_TOKEN}.")] = None,
    max_megabytes: Annotated[float, Option(metavar="N", min=0.01, help="Megabytes per request.")] = 32.0,
    max_images: Annotated[int, Option(metavar="N", min=1, help="Images per request.")] = 32,
    max_megapixels: Annotated[
        float | None, Option(metavar="N", min=0.001, help="Megapixels per image. Default: 89.5.")
    ] = None,
    queue: Annotated[int, Option(metavar="N", min=1, help="Waiting images; more get 429.")] = 256,
    batch: Annotated[int, Option(metavar="N", min=1, max=256, help="Largest batch.")] = 16,
    delay: Annotated[
        float, Option(metavar="MS", min=0, max=1000, help="Milliseconds to wait for a fuller batch.")
    ] = 2.0,
    deadline: Annotated[float, Option(metavar="S", min=0.001, help="Seconds to an answer; then 504.")] = 30.0,
    body_seconds: Annotated[float, Option(metavar="S", min=0.1, help="Seconds for a body; then 408.")] = 30.0,
    header_seconds: Annotated[float, Option(metavar="S", min=0.1, help="Seconds for the headers.")] = 10.0,
    decode_seconds: Annotated[float, Option(metavar="S", min=0.01, help="Seconds to decode an image.")] = 10.0,
    decoders: Annotated[
        int | None, Option(metavar="N", min=1, help="Decoder processes. Default: one per core.")
    ] = None,
    connections: Annotated[int, Option(metavar="N", min=1, help="Open connections.")] = 512,
    drain_delay: Annotated[
        float, Option(metavar="S", min=0, help="Seconds of 503 between SIGTERM and closing the port.")
    ] = 0.5,
    root_path: Annotated[str, Option(metavar="PATH", help="Path at a proxy, such as /classify.")] = "",
    allow_origin: Annotated[
        list[str] | None, Option(metavar="ORIGIN", help="Origin whose pages may use the server; *: all. Repeatable.")
    ] = None,
    log: Annotated[
        Path | None, Option(metavar="FOLDER", help="Log of answers, without pictures, for `regraft drift`.")
    ] = None,
    log_megabytes: Annotated[float, Option(metavar="N", min=0.1, help="Megabytes of --log; the oldest go.")] = 200.0,
    keep_samples: Annotated[
        Path | None, Option(metavar="FOLDER", help="Keep some pictures: the strangest, and a random part.")
    ] = None,
    keep_count: Annotated[int, Option(metavar="N", min=1, help="Pictures in --keep-samples.")] = 200,
    keep_megabytes: Annotated[float, Option(metavar="N", min=0.1, help="Megabytes in --keep-samples.")] = 100.0,
    trust: Trust = False,
    require_signature: Annotated[
        Path | None, Option(metavar="KEY", help="Public key; serve only what it has signed, unchanged.")
    ] = None,
    log_level: Annotated[str, Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Serve models over HTTP: /predict, the Open Inference Protocol under /v2, and a web page at /."""
    from regraft.models.malloc import keep_freed_memory_of_threads

    keep_freed_memory_of_threads()  # before the next imports start threads
    from regraft.errors import UsageError
    from regraft.serving.serve import check_extra, serve

    check_extra()
    from regraft.data.decode import MAX_PIXELS
    from regraft.serving.limits import Limits

    if log_level not in ("debug", "info", "warning", "error"):
        raise UsageError(f"--log-level {log_level}: expected debug, info, warning or error.")
    body_bytes = round(max_megabytes * 1e6) if max_megabytes != 32.0 else Limits.body_bytes
    limits = Limits(
        body_bytes=body_bytes, buffered_bytes=max(Limits.buffered_bytes, 2 * body_bytes), images=max_images,
        pixels=MAX_PIXELS if max_megapixels is None else round(max_megapixels * 1e6), header_seconds=header_seconds,
        body_seconds=body_seconds, decode_seconds=decode_seconds, deadline_seconds=deadline, connections=connections,
        queue=queue, batch=batch, delay_seconds=delay / 1000, drain_delay_seconds=drain_delay,
        log_bytes=round(log_megabytes * 1e6), samples=keep_count, sample_bytes=round(keep_megabytes * 1e6),
    )  # fmt: skip
    address = ""

    def on_listening(url: str) -> None:
        nonlocal address
        address = escape(url)
        err.print(f"Listening at {address}; loading.")

    def on_ready() -> None:
        err.print(f"Ready. Web page: [bold]{address}/[/bold], API: {address}/docs. Press Ctrl-C to stop.")

    raise Exit(serve(
        models, host=host, port=port, engine=engine, min_accuracy=min_accuracy,  # type: ignore[arg-type]  # checked there
        min_confidence=min_confidence, ood_rate=ood_rate, token=_token(token_file), trust=trust,
        decoders=decoders, limits=limits, log_level=log_level, require_signature=require_signature,
        root_path=root_path, allow_origins=allow_origin or (), log=log, keep_samples=keep_samples,
        on_listening=on_listening, on_ready=on_ready,
    ))  # fmt: skip


def _token(file: Path | None) -> str | None:
    """Read the token from a file or the environment: every user of a machine can read command lines."""
    if file is not None:
        return file.read_text(encoding="utf-8").strip()
    return os.environ.get(_TOKEN) or None
