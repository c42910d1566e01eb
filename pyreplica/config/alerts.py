"""Who is told of what happens to the replications: by email, by a command, or both."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pyreplica.config.sections import checked, checks, required, settings
from pyreplica.config.yamltree import Check, Spot, duration, one_of, suggest, whole
from pyreplica.model import EventKind

# Addresses are for the envelope and for headers at once: only what needs no quoting in either.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,253})")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*)|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_CERTIFICATE = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----")


class Security(enum.Enum):
    """How the connection to the mail server is protected."""

    STARTTLS = "starttls"
    """It begins in the clear, and nothing is sent before it has become TLS."""
    TLS = "tls"
    """It is TLS from the first byte."""
    NONE = "none"
    """It is not: for a server on this machine."""


PORTS = {Security.STARTTLS: 587, Security.TLS: 465, Security.NONE: 25}
"""The ports where servers usually wait for each (RFC 6409, RFC 8314, RFC 5321)."""


def event_name(kind: EventKind) -> str:
    """The word for a kind of event in the file, on the command line and in JSON."""
    return kind.name.lower()


def _host(spot: Spot) -> str:
    expected = "the name or the address of a mail server, such as mail.example.com"
    text = spot.expand(spot.text(expected))
    if len(text) > 253 or not _HOST.fullmatch(text):
        spot.refuse(expected, "the port is a key of its own" if ":" in text else "")
    return text


def _address(spot: Spot) -> str:
    expected = "an email address, such as dba@example.com"
    text = spot.expand(spot.text(expected))
    if not _ADDRESS.fullmatch(text):
        spot.refuse(expected, "the address alone, without a name around it")
    return text


def _addresses(spot: Spot) -> tuple[str, ...]:
    items = spot.items("a list of email addresses, such as [dba@example.com]")
    if not items:
        spot.refuse("at least one email address")
    return tuple(dict.fromkeys(_address(item) for item in items))


def _login(what: str) -> Check[str]:
    """Part of a login: servers differ in how they read other characters than ASCII."""
    expected = f"{what}, in printable characters of ASCII"

    def check(spot: Spot) -> str:
        text = spot.expand(spot.text(expected))
        if not text or not text.isprintable() or not text.isascii():
            spot.refuse(expected)
        return text

    return check


def _prefix(spot: Spot) -> str:
    expected = "a text of up to 60 characters, such as [shop]"
    text = spot.expand(spot.text(expected))
    if len(text) > 60 or (text and not text.isprintable()):
        spot.refuse(expected)
    return text


def _ca_file(spot: Spot) -> Path:
    expected = "the absolute path of a file with certificates in PEM"
    path = Path(spot.expand(spot.text(expected)))
    if not path.is_absolute():  # the daemon does not stay in the folder it was started in
        spot.refuse(expected)
    try:
        found = path.read_bytes()
    except OSError as error:
        spot.fail(f"{path} cannot be read: {error.strerror}")
    if not _CERTIFICATE.search(found):
        spot.fail(f"there is no certificate in {path}", f"expected {expected}")
    return path


def _command(spot: Spot) -> tuple[str, ...]:
    expected = "a list of a program and its arguments, such as [/usr/local/bin/page, dba]"
    items = spot.items(f"{expected}; no shell is involved")
    words = tuple(item.expand(item.text("text; put numbers in quotes")) for item in items)
    if not words or not words[0]:
        spot.refuse(expected)
    if any("\0" in word for word in words):
        spot.fail("holds a character that no argument can have")
    if "/" in words[0] and not words[0].startswith("/"):
        # the daemon does not stay in the folder it was started in
        spot.fail(
            "the program's path must be absolute", "or its name alone, to be looked for in PATH"
        )
    return words


def _events(spot: Spot) -> frozenset[EventKind]:
    known = {event_name(kind): kind for kind in EventKind}
    items = spot.items(f"a list of events, such as [{', '.join(list(known)[:3])}]")
    if not items:
        spot.refuse("at least one event", f"known: {', '.join(known)}")
    chosen = set()
    for item in items:
        text = item.expand(item.text("the name of an event", f"known: {', '.join(known)}"))
        if text not in known:
            item.refuse("the name of an event", suggest(text, known))
        chosen.add(known[text])
    return frozenset(chosen)


@dataclass(frozen=True, slots=True, repr=False)
class EmailConfig:
    """How mails are sent.

    Attributes:
        host: the mail server.
        sender: the address that they are from; ``from`` in the file.
        to: the addresses that they go to.
        port: the server's port; None for the usual one, see ``PORTS``.
        security: how the connection is protected.
        ca_file: certificates that the server's must be signed by, instead of the system's.
        user: who logs in there; None for no login.
        password: what with.
        timeout: the longest wait for an answer of the server, in seconds.
        subject_prefix: what all subjects begin with.
    """

    host: str = field(metadata=checked(_host))
    sender: str = field(metadata=checked(_address))
    to: tuple[str, ...] = field(metadata=checked(_addresses))
    port: int | None = field(default=None, metadata=checked(whole(1, 65535)))
    security: Security = field(
        default=Security.STARTTLS, metadata=checked(one_of({way.value: way for way in Security}))
    )
    ca_file: Path | None = field(default=None, metadata=checked(_ca_file))
    user: str | None = field(default=None, metadata=checked(_login("a user's name")))
    password: str | None = field(default=None, metadata=checked(_login("a password")))
    timeout: float = field(default=30.0, metadata=checked(duration("1s", "10min", "30s")))
    subject_prefix: str = field(default="[pyreplica]", metadata=checked(_prefix))

    @property
    def server(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port or PORTS[self.security]

    def __repr__(self) -> str:
        shown = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        if self.password is not None:
            shown["password"] = "***"
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


_RENAMED = {"sender": "from"}
"""``from`` is a word of Python, so that no field can be called that."""


def _email(spot: Spot) -> EmailConfig:
    named = {_RENAMED.get(key, key): check for key, check in checks(EmailConfig).items()}
    needed = [_RENAMED.get(key, key) for key in required(EmailConfig)]
    found = settings(spot, named, needed)
    for field_name, key in _RENAMED.items():
        found[field_name] = found.pop(key)
    made = EmailConfig(**found)
    entries = spot.entries("")
    if (made.user is None) != (made.password is None):
        there, missing = ("user", "password") if made.password is None else ("password", "user")
        entries[there].fail(f"there is no {missing} with it", "a login takes both")
    if made.security is Security.NONE:
        if made.password is not None:
            entries["password"].fail(
                "would be sent in the clear", "choose security: starttls, or tls"
            )
        if made.ca_file is not None:
            entries["ca_file"].fail("is of no use without TLS", "choose starttls or tls")
    return made


@dataclass(frozen=True, slots=True)
class AlertsConfig:
    """Who is told of what.

    Attributes:
        email: how mails are sent; None for none.
        command: a program and its arguments; None for none.
        command_timeout: how long that may take, in seconds.
        events: what is told.
        repeat: for how long the same thing is held back after it was told, in seconds.
    """

    email: EmailConfig | None = field(default=None, metadata=checked(_email))
    command: tuple[str, ...] | None = field(default=None, metadata=checked(_command))
    command_timeout: float = field(default=30.0, metadata=checked(duration("1s", "1h", "30s")))
    events: frozenset[EventKind] = field(default=frozenset(EventKind), metadata=checked(_events))
    repeat: float = field(default=3600.0, metadata=checked(duration("1min", "7d", "1h")))


def alerts(spot: Spot) -> AlertsConfig:
    """Check the section ``alerts``."""
    found: Mapping[str, Any] = settings(spot, checks(AlertsConfig))
    if not found.keys() & {"email", "command"}:
        spot.fail("has neither email nor command", "alerts need one of them, or both")
    return AlertsConfig(**found)


def names(kinds: Iterable[EventKind]) -> str:
    """Kinds of events for people, in the order they are defined in."""
    chosen = set(kinds)
    return ", ".join(event_name(kind) for kind in EventKind if kind in chosen)
