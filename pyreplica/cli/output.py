"""Consoles, tables and the logging of the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """Standard output; plain text, unwrapped, when it is no terminal."""
    # a file or a pipe has no width that lines should be folded to
    width = None if sys.stdout.isatty() else 100_000
    return Console(highlight=False, markup=False, emoji=False, width=width)


def error_console() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None
) -> Table:
    """A table of text, numbers to the right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    filled = [tuple(row) for row in rows]
    for n, heading in enumerate(headings):
        numbers = filled and all(row[n][:1].isdigit() or row[n] in ("", "-") for row in filled)
        made.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    for row in filled:
        made.add_row(*row)
    return made


def plain(value: object) -> str:
    """What JSON has no form for, as a text."""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_json(value: Any) -> None:
    """A value for machines, on standard output; moments as in ISO 8601."""
    json.dump(value, sys.stdout, indent=2, default=plain)
    sys.stdout.write("\n")


def one_line(text: str) -> str:
    """A text without its line breaks, for instance what libpq says of a failed connection."""
    return " ".join(line.strip() for line in text.splitlines())


def counted(number: int, noun: str) -> str:
    """A number of things: "1 table", "2,000 tables"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def seconds(value: float) -> str:
    """A duration for people."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.1f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"
