"""Takes apart what pg_restore writes: the contents of a dump, and its statements entry by entry."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_LISTED = re.compile(r"^(\d+); (\d+) (\d+) ")

# Whatever can hold what looks like a header, or like the beginning of something that holds one, is
# a token, so that none is found inside another.
_TOKEN = re.compile(
    r"""
    ^--\n--\ TOC\ entry\ (?P<entry>\d+)\ \(class\ \d+\ OID\ \d+\)\n
        (?:--\ Dependencies:(?P<needs>[ \d]*)\n)?
    | ^SET\ default_tablespace\ =\ (?P<tablespace>''|\w+|"(?:[^"]|"")*");\n
    | --[^\n]*
    | (?<!\w)E'(?:[^'\\]|''|\\.)*'
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | (?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_RESTRICTED = re.compile(r"\A(?:--[^\n]*\n|\n)*(?P<line>\\restrict (?P<key>\w+)\n)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a dump's contents.

    Attributes:
        id: its number in the dump.
        catalog, oid: what it describes on the server that was dumped; zero for some.
        line: all of it.
    """

    id: int
    catalog: int
    oid: int
    line: str

    def __str__(self) -> str:
        _, _, _, what = self.line.split(" ", 3)
        return what.rpartition(" ")[0]  # without its owner


def contents(listed: str) -> list[Entry]:
    """The entries of what ``pg_restore --list`` has written."""
    return [
        Entry(int(found[1]), int(found[2]), int(found[3]), line)
        for line in listed.split("\n")
        if (found := _LISTED.match(line))
    ]


def _sql_only(script: str) -> str:
    """A script without the commands for psql that newer releases put around it.

    They carry a random key, so that nothing in between can look like them.
    """
    found = _RESTRICTED.match(script)
    if found is None:
        return script
    bare = script[: found.start("line")] + script[found.end("line") :]
    return bare.replace(f"\\unrestrict {found['key']}\n", "")


@dataclass(frozen=True, slots=True)
class Statements:
    """What one entry of a dump is restored with.

    Attributes:
        id: the entry's number.
        needs: the numbers of those that it depends on.
        sql: for a transaction: settings are made until its end.
    """

    id: int
    needs: frozenset[int]
    sql: str


def statements(script: str) -> list[Statements]:
    """The statements of each entry in a script that ``pg_restore --verbose`` has written.

    What comes before the first one is left out: settings, of which ours has pinned all that matter
    to what is written down with every name's schema.
    The tablespace that an entry is meant for is set with it.
    """
    script = _sql_only(script)
    parts: list[Statements] = []
    tablespace = "''"
    number, needs, begin, text = -1, frozenset[int](), 0, ""

    def end(at: int) -> None:
        if number >= 0:
            parts.append(Statements(number, needs, text + script[begin:at]))

    for token in _TOKEN.finditer(script):
        if token["entry"] is not None:
            end(token.start())
            number, begin = int(token["entry"]), token.start()
            needs = frozenset(map(int, (token["needs"] or "").split()))
            text = f"SET LOCAL default_tablespace = {tablespace};\n"
        elif token["tablespace"] is not None:
            # it stands before the header of the entry that it is for
            text += script[begin : token.start()]
            tablespace, begin = token["tablespace"], token.end()
    end(len(script))
    return parts


def use_list(entries: Iterable[Entry]) -> str:
    """What ``pg_restore --use-list`` reads."""
    return "".join(f"{entry.line}\n" for entry in entries)
