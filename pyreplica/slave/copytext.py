"""Changes in COPY's text format, made while they are read."""

from __future__ import annotations

from collections.abc import Iterator

from pyreplica.model import Change

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


class Lines:
    """What COPY FROM STDIN reads.

    Attributes:
        failure: what getting the changes has raised; the driver says that reading has failed.
    """

    def __init__(self, changes: Iterator[Change]) -> None:
        self._changes = changes
        self._buffer = bytearray()
        self.failure: BaseException | None = None

    def read(self, size: int) -> bytes:
        """The next bytes, at most so many; none at the end."""
        try:
            while len(self._buffer) < size:
                self._buffer += _line(next(self._changes))
        except StopIteration:
            pass
        except BaseException as error:
            self.failure = error
            raise
        chunk = bytes(self._buffer[:size])
        del self._buffer[:size]
        return chunk


def _line(change: Change) -> bytes:
    parts = (
        "\\N" if value is None else str(value).translate(_ESCAPES)
        for value in (change.id, change.table, change.op, change.key, change.row, change.old)
    )
    return ("\t".join(parts) + "\n").encode()
