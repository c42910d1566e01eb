"""Finds the files of sql/, and reads scripts and named statements out of them.

The files with statements (``master.sql``, ``slave.sql``) are made of blocks that begin with a line
``-- name: fetch``; comments after it belong to the block.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parent
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_COMMAND = re.compile(r"^\\(\w+) (.*)$", re.MULTILINE)


def path(name: str) -> Path:
    """The path of a file of sql/, in an installed package or in a checkout.

    Args:
        name: the file's name, for instance ``master-install.sql``.

    Raises:
        FileNotFoundError: the package was installed without its SQL.
    """
    for folder in (_PACKAGE / "sql", _PACKAGE.parent / "sql"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"PyReplica is installed without its file sql/{name}")


def script(name: str) -> str:
    """A script of sql/ as the server is to have it: with its parts, without psql's own commands."""
    return _COMMAND.sub(_part, _text(name))


def _text(name: str) -> str:
    return path(name).read_text(encoding="utf-8")


def _part(command: re.Match[str]) -> str:
    name, argument = command.groups()
    return script(argument) if name == "ir" else ""


@cache
def statements(name: str) -> dict[str, str]:
    """The named statements of a file of sql/, without their comment lines."""
    parts = _NAME.split(_text(name))
    named = zip(parts[1::2], parts[2::2], strict=True)
    return {key: re.sub(r"^\s*--.*\n", "", body, flags=re.MULTILINE).strip() for key, body in named}
