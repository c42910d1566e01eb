"""Where the daemon's log goes, and what a line of it looks like."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Collection
from logging.handlers import WatchedFileHandler
from pathlib import Path

from pyreplica.config import Config
from pyreplica.errors import PyReplicaError
from pyreplica.model import Event, Status

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""The levels of the journal, from sd-daemon(3)."""


class TextFormatter(logging.Formatter):
    """A line for people; the journal puts the time before it."""

    def __init__(self, *, journal: bool = False) -> None:
        time_ = "" if journal else "%(asctime)s "
        super().__init__(f"{time_}%(levelname)s %(name)s: %(message)s")


class JsonFormatter(logging.Formatter):
    """A JSON object, on one line.

    Args:
        replications: the names that loggers have, which stand for a replication.
    """

    def __init__(self, replications: Collection[str]) -> None:
        super().__init__()
        self._replications = frozenset(replications)

    def format(self, record: logging.LogRecord) -> str:
        """The line; ``replication`` and ``hint`` only where there is one."""
        line: dict[str, str] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
        }
        name = record.name.partition(".")[2]
        if name in self._replications:
            line["replication"] = name
        line["message"] = getattr(record, "what", None) or record.getMessage()
        if hint := getattr(record, "hint", ""):
            line["hint"] = hint
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _ForJournal(logging.Formatter):
    """Puts the priority before each line, which the journal takes away again."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        priority = next((p for level, p in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in self._inner.format(record).split("\n"))


class Logs:
    """The log as the configuration wants it; a listener, because that may be read anew.

    Args:
        config: the configuration.
        file: goes before its ``log_file``.
    """

    def __init__(self, config: Config, file: Path | None = None) -> None:
        self._config = config
        self._file = file

    def start(self) -> None:
        """Begin.

        Raises:
            PyReplicaError: the file cannot be written.
        """
        self.reload(self._config)

    def reload(self, config: Config) -> None:
        """Take other settings on."""
        set_up(config, self._file)

    def status(self, status: Status) -> None:
        """What is to be logged of it was."""

    def event(self, event: Event) -> None:
        """The same."""

    def stop(self) -> None:
        """Nothing: the last lines are still to come."""


def set_up(config: Config, file: Path | None = None) -> None:
    """Have the log go where the configuration says.

    Args:
        file: goes before its ``log_file``; without either it is standard error.

    Raises:
        PyReplicaError: the file cannot be written.
    """
    path = file or config.log_file
    journal = path is None and _is_journal()
    formatter: logging.Formatter = (
        JsonFormatter(config.replications)
        if config.log_format == "json"
        else TextFormatter(journal=journal)
    )
    handler: logging.Handler = logging.StreamHandler()
    if path is not None:
        try:
            # notices when the file was moved away, and begins another
            handler = WatchedFileHandler(path, encoding="utf-8")
        except OSError as error:
            raise PyReplicaError(
                f"cannot be written: {error.strerror}",
                where=str(path),
                hint="Choose another log_file, or let the daemon's user write there.",
            ) from error
    handler.setFormatter(_ForJournal(formatter) if journal else formatter)
    logger = logging.getLogger("pyreplica")
    before, logger.handlers[:] = list(logger.handlers), [handler]
    for old in before:
        old.close()
    logger.setLevel(config.log_level.upper())
    logger.propagate = False


def _is_journal() -> bool:
    """Whether standard error is the journal's: systemd says which file it has given."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))
