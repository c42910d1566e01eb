"""Refuses a configuration that holds a password and that others can read, as ssh does with keys."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

import yaml

from pyreplica.config import dsn
from pyreplica.config.yamltree import without_variables
from pyreplica.errors import ConfigError

_CONNECTIONS = frozenset({"master", "slave"})
_PASSWORDS = frozenset({"password"})
_MAP = "map"
_SECRET = "secret"


def check_secrecy(path: Path, status: os.stat_result, root: yaml.Node | None) -> None:
    """Refuse a file with a password in it that more than its owner can read.

    What comes from the environment is no password in the file. Nothing is asked of what is no plain
    file, nor where files have no such permissions.

    Args:
        path: the file, for the message.
        status: of the file that was read.
        root: what it holds.

    Raises:
        ConfigError: others can read a password.
    """
    readable = stat.S_IRGRP | stat.S_IROTH
    if os.name != "posix" or not stat.S_ISREG(status.st_mode) or not status.st_mode & readable:
        return
    for line in _passwords(root, ""):
        raise ConfigError(
            "there is a password in this file, and others than its owner can read it (its mode is "
            f"{stat.S_IMODE(status.st_mode):04o})",
            where=f"{path}:{line}",
            hint=f"chmod 600 {shlex.quote(str(path))}; or take the password from the environment, "
            "${NAME}, or from a password file.",
        )


def _passwords(node: yaml.Node | None, key: str) -> Iterator[int]:
    """The lines with a password that is written out."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            # what is below a map are names of columns, which may be called password
            if key != _MAP:
                yield from _passwords(value, str(name.value))
            elif name.value == _SECRET:
                yield from _passwords(value, "password")
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _passwords(item, key)
    elif isinstance(node, yaml.ScalarNode):
        secrets: list[str] = []
        if key in _CONNECTIONS:
            secrets = dsn.secrets(node.value)
        elif key in _PASSWORDS and node.tag != "tag:yaml.org,2002:null":
            secrets = [node.value]
        if any(without_variables(secret).strip("'\" ") for secret in secrets):
            yield node.start_mark.line + 1
