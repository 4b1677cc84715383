"""Logs as one JSON object a line, with credentials redacted."""

from __future__ import annotations

import json
import logging
import sys

from clip_operator.moments import format_micro_time
from clipctl.contract.redact import redact

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message, whatever was passed as `extra`, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, object] = {
            "time": format_micro_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        clean = {key: redact(value) if isinstance(value, str) else value for key, value in fields.items()}
        return json.dumps(clean, default=str, ensure_ascii=False)


def set_up(level: str) -> None:
    """Log to standard error from `level` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
