"""Connection strings as text: whether it is one, filling in variables, hiding secrets.

libpq knows two forms (the PostgreSQL manual, "Connection Strings"): keyword/value pairs such as
``host=db1 dbname=shop password='two words'``, and URIs such as ``postgresql://me:secret@db1/shop``.
Nothing here connects, and nothing here judges more than it must: libpq itself does that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol
from urllib.parse import quote, unquote

_SCHEMES = ("postgresql://", "postgres://")
_HIDDEN = "***"

# libpq's parameters that hold a secret themselves; passfile only names a file, so it stays.
_SECRETS = frozenset(
    {"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}
)

_FLAGS = re.ASCII | re.DOTALL | re.IGNORECASE  # ASCII: libpq splits at C's white space only
_VALUE = r"(?:'(?:[^'\\]|\\.)*'?|(?:[^\s\\]|\\.)*\\?)"
_PAIR = re.compile(rf"(?P<keyword>[^\s=]+)\s*=\s*(?P<value>{_VALUE})", _FLAGS)
# The same for badly quoted strings: the value goes on to where the next keyword seems to begin.
_LOOSE_SECRET = re.compile(
    rf"(?:{'|'.join(sorted(_SECRETS))})\s*=\s*(?P<value>{_VALUE}(?:(?!\s+\w+\s*=).)*)", _FLAGS
)

_URI = re.compile(r"\s*[a-z][a-z0-9+.-]*://", _FLAGS)
_USERINFO = re.compile(r"[^@/?]*(?=@)", _FLAGS)
# From the first colon to the last @: more than libpq's rule, so that a password whose @ or / was
# not percent-encoded is hidden too.
_LOOSE_PASSWORD = re.compile(r"[^:]*:(?P<value>.*)@", _FLAGS)
_PARAMETER = re.compile(r"[?&][^=&]*=(?P<value>[^&]*)", _FLAGS)
# The value is in a look-ahead, so that the search goes on inside it and finds keys in there.
_LOOSE_PARAMETER = re.compile(
    r"(?<=[?&\s])(?P<keyword>[^=?&\s]+)\s*=(?=(?P<value>(?:(?!&[^=&]+=).)*))", _FLAGS
)

_Span = tuple[int, int]


class Expand(Protocol):
    """Replaces the variables in a piece of text by their values, each passed through `quoted`."""

    def __call__(self, text: str, quoted: Callable[[str], str], /) -> str: ...


def is_dsn(text: str) -> bool:
    """Say whether a text has the look of a connection string.

    A bare database name is none: libpq would take it, and a misspelt word would then be a database
    on the local machine.

    Args:
        text: the text to look at.
    """
    return "=" in text or text.startswith(_SCHEMES)


def fill(template: str, expand: Expand) -> str:
    """Fill the variables of a connection string in, so that a value can hold any character.

    Where a variable stands for a value (after the ``=`` of a pair or of a URI's parameter, before
    the ``@`` of a URI) its text is quoted as the form needs it: a password with a blank, a quote or
    an @ stays one password and cannot add a parameter. Elsewhere it is taken as it is, so that one
    variable can hold the whole connection string.

    Args:
        template: the connection string with its variables.
        expand: called with each piece of the template, in order, and how to quote a value there.

    Returns:
        The connection string, ready for libpq.
    """
    if scheme := _URI.match(template):
        return _fill(template, _uri_values(template, scheme.end()), expand, _percent_encoded)
    pairs = (pair.span("value") for pair in _PAIR.finditer(template))
    # An empty value is written out: libpq would take the next pair for that of "password= user=me".
    return _fill(template, pairs, expand, _backslashed, empty="''")


def redact(dsn: str) -> str:
    """Hide the secrets of a connection string, for logs and messages.

    A string that libpq would not understand is redacted too; in doubt more is hidden, never less.

    Args:
        dsn: a connection string in either form.

    Returns:
        The same text with ``***`` in the place of each secret.
    """
    shown = []
    at = 0
    for start, end in _secrets(dsn):
        shown += [dsn[at:start], _HIDDEN]
        at = end
    return "".join([*shown, dsn[at:]])


def secrets(dsn: str) -> list[str]:
    """The secrets of a connection string as they are written, in doubt more than there are.

    Args:
        dsn: a connection string in either form; its variables may be in it.
    """
    return [dsn[start:end] for start, end in _secrets(dsn)]


def _secrets(dsn: str) -> Iterator[_Span]:
    scheme = _URI.match(dsn)
    return _merged(_uri_secrets(dsn, scheme.end()) if scheme else _pair_secrets(dsn))


def _fill(
    template: str,
    values: Iterable[_Span],
    expand: Expand,
    quoted: Callable[[str], str],
    empty: str = "",
) -> str:
    """Expand a template, quoting what stands in the spans of its values."""
    filled = []
    at = 0
    for start, end in values:
        filled.append(expand(template[at:start], str))
        filled.append(expand(template[start:end], quoted) or empty)
        at = end
    return "".join([*filled, expand(template[at:], str)])


def _uri_values(template: str, start: int) -> Iterator[_Span]:
    """Find the spans of user and password, and of the parameters' values."""
    if userinfo := _USERINFO.match(template, start):
        yield userinfo.span()
        start = userinfo.end()
    for parameter in _PARAMETER.finditer(template, start):
        yield parameter.span("value")


def _backslashed(value: str) -> str:
    """Quote for the inside of a pair's value, which may itself be in quotes or not."""
    return re.sub(r"[\\'\s]", r"\\\g<0>", value, flags=re.ASCII)


def _percent_encoded(value: str) -> str:
    return quote(value, safe="")


def _pair_secrets(dsn: str) -> Iterator[_Span]:
    for pair in _PAIR.finditer(dsn):
        if pair["keyword"].lower() in _SECRETS:
            yield pair.span("value")
    for loose in _LOOSE_SECRET.finditer(dsn):
        yield loose.span("value")


def _uri_secrets(dsn: str, start: int) -> Iterator[_Span]:
    if loose := _LOOSE_PASSWORD.match(dsn, start):
        yield loose.span("value")
    for parameter in _LOOSE_PARAMETER.finditer(dsn, start):
        if unquote(parameter["keyword"]).lower() in _SECRETS:
            yield parameter.span("value")


def _merged(spans: Iterable[_Span]) -> Iterator[_Span]:
    """Join spans that overlap or touch, so that what is between two secrets is hidden once."""
    joined: _Span | None = None
    for start, end in sorted(spans):
        if joined is None:
            joined = start, end
        elif start <= joined[1]:
            joined = joined[0], max(joined[1], end)
        else:
            yield joined
            joined = start, end
    if joined is not None:
        yield joined
