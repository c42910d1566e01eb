"""What a measure has to tell: figures beside their targets, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """One thing that was found.

    Attributes:
        what: what it is.
        found: with its unit.
        target: what it should be; empty where there is no target.
        held: whether it is; None where there is no target.
    """

    what: str
    found: str
    target: str = ""
    held: bool | None = None


@dataclass(frozen=True)
class Section:
    """What one measure tells.

    Attributes:
        title: its name, for people.
        words: how it was measured, a line each.
        figures: what was found.
        tables: further tables, each with a line of headings.
    """

    title: str
    words: Sequence[str]
    figures: Sequence[Figure]
    tables: Sequence[Sequence[Sequence[str]]] = field(default=())

    def lines(self) -> Iterator[str]:
        """The text."""
        yield from ("", "", self.title, "-" * len(self.title), *self.words, "")
        marks = {None: "", True: "held", False: "MISSED"}
        rows = [(one.what, one.found, one.target, marks[one.held]) for one in self.figures]
        yield from table([("", "found", "target", ""), *rows])
        for further in self.tables:
            yield ""
            yield from table(further)


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns with two blanks in between, all but the first one to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()


def mb(size: float) -> str:
    """Bytes as MB of 2^20."""
    return f"{size / 2**20:,.1f} MB"


def kb(size: float) -> str:
    """Bytes as kB of 2^10."""
    return f"{size / 2**10:,.0f} kB"


def percent(part: float) -> str:
    """A part of 1."""
    return f"{100 * part:.1f} %"
