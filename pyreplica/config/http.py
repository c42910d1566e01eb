"""The page that shows the replications in a browser: where it is to be found."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

from pyreplica.config.sections import checked
from pyreplica.config.yamltree import Spot, whole

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})")


def _host(spot: Spot) -> str:
    expected = "a name or an address of this machine, such as 127.0.0.1"
    text = spot.expand(spot.text(expected))
    if not _NAME.fullmatch(text) and not _is_address(text):
        spot.refuse(expected, "the port is a key of its own" if ":" in text else "")
    return text


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _names(spot: Spot) -> tuple[str, ...]:
    return tuple(_name(item) for item in spot.items("a list of names, such as [db.example.com]"))


def _name(spot: Spot) -> str:
    expected = "a name under which browsers may ask, such as db.example.com"
    text = spot.expand(spot.text(expected))
    if not _NAME.fullmatch(text):
        spot.refuse(expected, "the name alone, without scheme and port")
    return text.lower()


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Where the page is to be found.

    Attributes:
        port: the TCP port.
        host: the name or address of this machine that it listens on.
        names: the names under which it may be asked for, beside ``host``, ``localhost`` and
            addresses.
    """

    port: int = field(metadata=checked(whole(1, 65535)))
    host: str = field(default="127.0.0.1", metadata=checked(_host))
    names: tuple[str, ...] = field(default=(), metadata=checked(_names))
