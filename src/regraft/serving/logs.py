"""What the server says of itself: one JSON object a line on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """A record as one line of ASCII without control characters, whatever was put into it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        value: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        value |= {key: item for key, item in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            value["exception"] = self.formatException(record.exc_info)
        # JSON leaves one control character as it is.
        return json.dumps(value, default=str).replace("\x7f", "\\u007f")


def set_up_logging(level: str) -> None:
    """Let the server and what it stands on write such lines, and nothing below `level`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("regraft.serving", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level.upper() if name == "regraft.serving" else "WARNING")
