"""The configuration's file: YAML, checked strictly, becomes frozen dataclasses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pyreplica.config.alerts import AlertsConfig, alerts
from pyreplica.config.http import HttpConfig
from pyreplica.config.replication import ReplicationConfig, defaults, replication
from pyreplica.config.secrecy import check_secrecy
from pyreplica.config.sections import section, settings
from pyreplica.config.yamltree import NAME, Check, Spot, compose, one_of, or_none
from pyreplica.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that was checked.

    Attributes:
        source: where it was read, for messages.
        replications: the replications by name, in the order of the file.
        log_level: "debug", "info", "warning" or "error".
        log_format: "text", or "json" for a JSON object a line.
        log_file: where the daemon's log is written; None for standard error.
        alerts: who is told of what happens; None for nobody.
        http: where the page for browsers is to be found; None for nowhere.
    """

    source: str
    replications: Mapping[str, ReplicationConfig]
    log_level: str = "info"
    log_format: str = "text"
    log_file: Path | None = None
    alerts: AlertsConfig | None = None
    http: HttpConfig | None = None

    def select(self, names: Sequence[str]) -> tuple[ReplicationConfig, ...]:
        """Return the replications of these names, each once.

        Args:
            names: the names; none means all.

        Raises:
            ConfigError: there is no replication of that name.
        """
        for name in names:
            if name not in self.replications:
                raise ConfigError(
                    f"there is no replication named {name}",
                    where=self.source,
                    hint=f"known: {', '.join(self.replications)}",
                )
        return tuple(self.replications[name] for name in dict.fromkeys(names or self.replications))


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read a configuration file.

    Args:
        path: the file.
        environ: the environment variables that the file may use.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text, status = file.read(), os.fstat(file.fileno())
    except UnicodeDecodeError as error:
        raise ConfigError("is not a text file in UTF-8", where=str(path)) from error
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            hint="pyreplica/contrib/pyreplica.yaml is a sample to start from",
        ) from error
    check_secrecy(path, status, compose(text, str(path)))
    return parse(text, str(path), environ)


def parse(text: str, source: str, environ: Mapping[str, str]) -> Config:
    """Check a configuration.

    Args:
        text: the YAML text.
        source: where the text is from, for messages.
        environ: the environment variables that the text may use.

    Raises:
        ConfigError: something in the text is wrong.
    """
    node = compose(text, source)
    if node is None or node.tag == "tag:yaml.org,2002:null":
        raise ConfigError("is empty; expected replications and their settings", where=source)
    root = settings(Spot(node, "", 0, source, environ), _ROOT, ["replications"])
    spots, shared = root.pop("replications"), root.pop("defaults", {})
    replications = {name: replication(name, spot, shared) for name, spot in spots.items()}
    return Config(source, MappingProxyType(replications), **root)


def _by_name(spot: Spot) -> dict[str, Spot]:
    """_Check the names of the replications; their settings wait until the defaults are known."""
    entries = spot.entries("a mapping of names to replications")
    if not entries:
        spot.refuse("at least one replication")
    for name, entry in entries.items():
        if not NAME.fullmatch(name):
            entry.fail("expected a name of 1 to 63 letters, digits, _ and -")
    return entries


def _absolute(spot: Spot) -> Path:
    expected = "an absolute path, such as /var/log/pyreplica/shop.log, or none"
    path = Path(spot.expand(spot.text(expected)))
    if not path.is_absolute():
        spot.refuse(expected)
    return path


_ROOT: Mapping[str, Check[Any]] = {
    "replications": _by_name,
    "defaults": defaults,
    "alerts": alerts,
    "http": section(HttpConfig),
    "log_format": one_of({form: form for form in ("text", "json")}),
    "log_file": or_none(_absolute),
    "log_level": one_of({level: level for level in ("debug", "info", "warning", "error")}),
}
