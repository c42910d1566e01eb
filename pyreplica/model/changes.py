"""What the log holds."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import NamedTuple


class Change(NamedTuple):
    """A row of the log, as it is fetched. ``key``, ``row`` and ``old`` are text of jsonb objects.

    ``op`` is what it is, see docs/architecture.md; ``old`` is what an update has replaced, as far
    as the master has logged it.
    """

    id: int
    table: int
    op: str
    key: str
    row: str | None
    old: str | None = None


BARRIERS = frozenset("SFP")
"""Operations that concern whole tables or the schema: they are applied after all that came before
them, and before all that comes after them."""


@dataclass(frozen=True, slots=True)
class Script:
    """A DDL statement in the log.

    Args:
        sql: the statement, as it was sent to the master.
        tag: the command, for instance "ALTER TABLE".
        search_path: the schemas that names without one were looked for in.
        strings: the setting standard_conforming_strings that it was read under.
        asked: it was run by `pyreplica execute`, and not just by somebody on the master.
        replications: whose slaves run it; None for all.
    """

    sql: str
    tag: str
    search_path: str
    strings: str
    asked: bool
    replications: tuple[str, ...] | None

    @classmethod
    def parse(cls, row: str) -> Script:
        """Read what the log holds of it."""
        given = json.loads(row)
        names = given["replications"]
        return cls(
            given["sql"],
            given["tag"],
            given["search_path"],
            given["standard_conforming_strings"],
            given["by"] == "execute",
            None if names is None else tuple(names),
        )

    @property
    def adds_label(self) -> bool:
        """Whether it adds a label to an enum, which only later transactions can use."""
        adds = re.search(r"\bADD\s+VALUE\b", self.sql, re.IGNORECASE)
        return self.tag == "ALTER TYPE" and adds is not None

    @property
    def line(self) -> str:
        """The beginning of the statement, on one line, for messages."""
        words = " ".join(self.sql.split())
        return words if len(words) <= 120 else f"{words[:117]}..."
