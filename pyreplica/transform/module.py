"""Loads a transform: a file of the user's, whose functions run with the daemon's rights."""

from __future__ import annotations

import os
import stat
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pyreplica.errors import Refused

HOOKS = ("before_batch", "change", "conflict", "after_batch")


@dataclass(frozen=True)
class Hooks:
    """The functions that a transform has.

    Args:
        path: where they are from.
    """

    path: Path
    before_batch: Callable[[Any], Any] | None = None
    change: Callable[[Any], Any] | None = None
    conflict: Callable[[Any], Any] | None = None
    after_batch: Callable[[Any], Any] | None = None

    @property
    def names(self) -> list[str]:
        """Those that there are."""
        return [name for name in HOOKS if getattr(self, name) is not None]


def load(path: Path, where: str) -> Hooks:
    """Execute the file, and find its functions.

    Args:
        where: the replication, for messages.

    Raises:
        Refused: others could write it, it cannot be executed, or it has none of the functions.
    """
    _check_owners(path, where)
    module = ModuleType(f"pyreplica_transform_{path.stem}")
    module.__file__ = str(path)
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except Exception as error:
        raise Refused(
            f"the transform {path} cannot be loaded: {described(error, path)}",
            where=where,
            hint="Correct it, and start or reload the daemon.",
        ) from error
    found = {name: getattr(module, name, None) for name in HOOKS}
    for name, hook in found.items():
        if hook is not None and not callable(hook):
            raise Refused(
                f"{name} of the transform {path} is no function",
                where=where,
                hint="Give it another name; see docs/transforms.md.",
            )
    if not any(found.values()):
        raise Refused(
            f"the transform {path} has none of the functions {', '.join(HOOKS)}",
            where=where,
            hint="See docs/transforms.md.",
        )
    return Hooks(path, **found)


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


def _check_owners(path: Path, where: str) -> None:
    """Refuse a file that others can put code into, as ssh does with keys."""
    if os.name != "posix":
        return
    for one in (path, path.parent):
        try:
            status = one.stat()
        except OSError as error:
            raise Refused(
                f"the transform {path} cannot be read: {error.strerror}",
                where=where,
                hint="Correct `transform:` in the configuration.",
            ) from error
        shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if (shared and not sticky) or status.st_uid not in (0, os.geteuid()):
            raise Refused(
                f"others than the daemon's account and root can write {one}, and what is in the "
                "transform runs with the daemon's rights",
                where=where,
                hint=f"chown root {one}; chmod go-w {one}",
            )
