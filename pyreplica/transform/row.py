"""Values of a row that become Python objects when they are asked for, and stay what they were."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from pyreplica.transform.values import decoded, encoded


class Row(MutableMapping[str, Any]):
    """The values of some columns; each keeps its text until it is replaced.

    Args:
        texts: the values as the log has them.
        types: the columns' types on the master, as SQL.
    """

    def __init__(self, texts: Mapping[str, str | None], types: Mapping[str, str]) -> None:
        self._texts = dict(texts)
        self._types = types
        self._replaced: dict[str, Any] = {}
        self._seen: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name in self._replaced:
            return self._replaced[name]
        if name not in self._seen:
            self._seen[name] = self._decoded(name)
        return self._seen[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._texts.setdefault(name, None)
        self._replaced[name] = value

    def __delitem__(self, name: str) -> None:
        del self._texts[name]
        self._replaced.pop(name, None)
        self._seen.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __repr__(self) -> str:
        return repr(dict(self))

    def texts(self, types: Mapping[str, str]) -> dict[str, str | None]:
        """The values as texts again: the same ones, but for those that were replaced.

        Args:
            types: those of the columns that they go to.

        Raises:
            TypeError: there is no text for an object.
        """
        return {name: self._text(name, types.get(name, "")) for name in self._texts}

    def _text(self, name: str, type_: str) -> str | None:
        if name in self._replaced:
            return encoded(self._replaced[name], type_)
        seen = self._seen.get(name)
        # a list or a dict may have been changed in its place
        if isinstance(seen, (list, dict)) and seen != self._decoded(name):
            return encoded(seen, type_)
        return self._texts[name]

    def _decoded(self, name: str) -> Any:
        text = self._texts[name]
        return None if text is None else decoded(text, self._types.get(name, ""))


def texts_of(row: Mapping[str, Any], types: Mapping[str, str]) -> dict[str, str | None]:
    """The same of any mapping.

    Raises:
        TypeError: there is no text for an object, or a name is none.
    """
    if isinstance(row, Row):
        return row.texts(types)
    if not isinstance(row, Mapping):
        raise TypeError(f"a {type(row).__name__} is no mapping of columns to values")
    return {str(name): encoded(value, types.get(name, "")) for name, value in row.items()}


def as_logged(values: Mapping[str, str | None]) -> str:
    """The text of a jsonb object: keys are compared by it, and have an order in it."""
    names = sorted(values, key=lambda name: (len(name.encode()), name.encode()))
    return json.dumps({name: values[name] for name in names}, ensure_ascii=False)
