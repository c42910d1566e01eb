"""Executes a file of the user's, whose functions run with the daemon's rights."""

from __future__ import annotations

import os
import stat
import traceback
from pathlib import Path
from types import ModuleType

from pyreplica.errors import Refused


def execute(path: Path, where: str, what: str) -> ModuleType:
    """Execute a file.

    Args:
        where: the replication, for messages.
        what: the file is, and the key that names it in the configuration: "transform", "merge".

    Raises:
        Refused: others could write it, or it cannot be executed.
    """
    _check_owners(path, where, what)
    module = ModuleType(f"pyreplica_{what}_{path.stem}")
    module.__file__ = str(path)
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except Exception as error:
        raise Refused(
            f"the {what} {path} cannot be loaded: {described(error, path)}",
            where=where,
            hint="Correct it, and start or reload the daemon.",
        ) from error
    return module


def described(error: BaseException, path: Path) -> str:
    """An exception of the user's code: what it says, and the line of the file that it came from."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    if not lines and isinstance(error, SyntaxError):
        lines = [error.lineno]
    at = f", line {lines[-1]}" if lines else ""
    return f"{type(error).__name__}: {error}{at}"


def _check_owners(path: Path, where: str, what: str) -> None:
    """Refuse a file that others can put code into, as ssh does with keys."""
    if os.name != "posix":
        return
    for one in (path, path.parent):
        try:
            status = one.stat()
        except OSError as error:
            raise Refused(
                f"the {what} {path} cannot be read: {error.strerror}",
                where=where,
                hint=f"Correct `{what}:` in the configuration.",
            ) from error
        shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if (shared and not sticky) or status.st_uid not in (0, os.geteuid()):
            raise Refused(
                f"others than the daemon's account and root can write {one}, and what is in the "
                f"{what} runs with the daemon's rights",
                where=where,
                hint=f"chown root {one}; chmod go-w {one}",
            )
