"""The last lines of the log, for those who are sent an alert."""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass

from pyreplica.config import dsn
from pyreplica.daemon.alerts.holding import alike

LINES = 20
"""So many lines are kept of each replication; one that comes again and again counts once."""
LONGEST = 500
"""Characters of a line."""
NOT_FOR_MAILS = {"not_for_mails": True}
"""What a record of the log has as `extra` that is no news to those who read mails."""
_ROOT = "pyreplica"
_URI = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)


@dataclass(slots=True)
class _Said:
    """A line, when it was said first and when last."""

    first: tuple[float, str]
    last: tuple[float, str]
    times: int = 1


class RecentLines(logging.Handler):
    """Keeps the last lines of each replication, and of the daemon itself.

    While a replication tries again and again, its log says the same again and again: of that only
    the first and the last time are kept, so that it does not drive out what went before.

    The log shows no secrets; what looks like one in spite of that does not get into a mail.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: dict[str, dict[str, _Said]] = {}

    def attach(self) -> None:
        """Begin to listen; also after the log's handlers were made anew."""
        logger = logging.getLogger(_ROOT)
        if self not in logger.handlers:
            logger.addHandler(self)

    def detach(self) -> None:
        """Listen no more."""
        logging.getLogger(_ROOT).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Take note of a line."""
        if hasattr(record, "not_for_mails"):
            return
        try:
            self._keep(record)
        except Exception:
            self.handleError(record)  # as other handlers do: who logs is not concerned

    def _keep(self, record: logging.LogRecord) -> None:
        name = record.name.removeprefix(_ROOT).removeprefix(".")
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.created))
        said = " ".join(redacted(record.getMessage()).split())[:LONGEST]
        line = (record.created, f"{at} UTC {record.levelname} {said}")
        shape = alike(said)
        kept = self._lines.setdefault(name, {})
        known = kept.pop(shape, None)  # it goes to the end
        if known is None:
            kept[shape] = _Said(line, line)
        else:
            kept[shape] = _Said(known.first, line, known.times + 1)
        if len(kept) > LINES:
            del kept[next(iter(kept))]

    def of(self, replication: str) -> list[str]:
        """The last lines about a replication and about the whole daemon, in their order.

        Args:
            replication: its name; empty for the daemon alone.
        """
        self.acquire()  # emit() is called with it held
        try:
            kept = [said for n in {"", replication} for said in self._lines.get(n, {}).values()]
        finally:
            self.release()
        lines = [said.first for said in kept]
        for said in kept:
            if said.times > 1:
                at, line = said.last
                lines.append((at, f"{line} ({said.times} times)"))
        return [line for _, line in sorted(lines, key=lambda line: line[0])][-LINES:]

    def forget_others(self, replications: set[str]) -> None:
        """Keep only the lines of these replications."""
        self.acquire()
        try:
            for name in set(self._lines) - replications - {""}:
                del self._lines[name]
        finally:
            self.release()


def redacted(text: str) -> str:
    """A text without what looks like the password in a connection string."""
    return _URI.sub(lambda match: dsn.redact(match[0]), dsn.redact(text))
