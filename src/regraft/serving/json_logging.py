"""Write the server's log as JSON, one object a line, to standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonLines(logging.Formatter):
    """Formats a record as one line of ASCII without control characters, whatever the record contains."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        value: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        fields = vars(record).items()  # other libraries add private ones
        value |= {key: item for key, item in fields if key not in _STANDARD_FIELDS and not key.startswith("_")}
        if record.exc_info:
            value["exception"] = self.formatException(record.exc_info)
        # JSON does not escape this control character.
        return json.dumps(value, default=str).replace("\x7f", "\\u007f")


def set_up_logging(level: str) -> None:
    """Make the server and its libraries log such lines from this level on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("regraft.serving", "uvicorn.error", "asyncio", "python_multipart"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level.upper() if name == "regraft.serving" else "WARNING")
