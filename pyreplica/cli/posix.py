"""The modules that need POSIX: imported when they are asked for, so that the rest works without."""

from __future__ import annotations

import importlib
from typing import Any

from pyreplica.errors import PyReplicaError


def module(name: str) -> Any:
    """A module of ``pyreplica.daemon``.

    Raises:
        PyReplicaError: this system lacks what it needs.
    """
    try:
        return importlib.import_module(f"pyreplica.daemon.{name}")
    except ImportError as error:
        raise PyReplicaError(
            f"this system cannot do that: there is no {error.name}",
            hint="Use `pyreplica run` without --pidfile, under a service manager.",
        ) from error
