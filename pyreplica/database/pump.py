"""COPY from one database straight into another."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from typing import Any

from pyreplica.database.connection import Connection, Query
from pyreplica.errors import PyReplicaError


def pump(
    source: Connection,
    copy_to: Query,
    target: Connection,
    copy_from: Query,
    progress: Callable[[int], object] = lambda rows: None,
    *,
    binary: bool = False,
) -> int:
    """COPY from one database straight into another, in constant memory.

    The source is read by a thread of its own into a pipe. When either side fails the other one is
    failed too: a source that broke off must never look like the end of the data.

    Args:
        progress: called with the number of rows that have just gone through.
        binary: the statements say FORMAT binary, where no line ends tell how many rows there are.

    Returns:
        The number of rows written.

    Raises:
        PyReplicaError: what the side that failed first said.
    """
    failures: list[BaseException] = []
    messages = told = 0
    read_end, write_end = os.pipe()
    pipe = os.fdopen(read_end, "rb", buffering=0)

    def read_source() -> None:
        try:
            with io.BufferedWriter(_Pipe(write_end, source), 1 << 16) as buffer:

                def count(row: bytes) -> None:
                    nonlocal messages
                    messages += 1
                    buffer.write(row)

                try:
                    source.copy_out(copy_to, count if binary else buffer.write)
                except BaseException as error:
                    failures.append(error)
        except OSError as error:
            # the target has failed and closed the pipe
            failures.append(error)

    def read(size: int) -> bytes:
        nonlocal told
        chunk = pipe.read(size)
        if not chunk:
            thread.join()
            if failures:
                raise failures[0]
        if binary:
            # a message for each row, and one for the end; they come here a little later
            now = max(messages - 1, 0)
            progress(now - told)
            told = now
        else:
            progress(chunk.count(b"\n"))
        return chunk

    thread = threading.Thread(target=read_source, name=f"copy from {source.where}", daemon=True)
    thread.start()
    try:
        return target.copy_in(copy_from, read)
    except PyReplicaError:
        if failures and isinstance(failures[0], PyReplicaError):
            raise failures[0] from None
        raise
    finally:
        pipe.close()
        if thread.is_alive():
            source.cancel()
            thread.join()


class _Pipe(io.FileIO):
    """The pipe's end that is written; a target that takes its time is no silence of the source."""

    def __init__(self, fd: int, source: Connection) -> None:
        super().__init__(fd, "wb")
        self._source = source

    def write(self, data: Any) -> int:
        with self._source.not_waiting():
            return super().write(data)
