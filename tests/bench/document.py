"""benchmarks.txt: each benchmark writes its own part of it, and leaves the others' as they are."""

from __future__ import annotations

from pathlib import Path

_RULE = "=" * 100


def write_part(path: Path, text: str) -> None:
    """Put a benchmark's part in the place of its last one, or at the end where there is none.

    Args:
        text: its first line begins with the part's name, a colon, and the date:
            "Catching up, latency and cost: 2026-11-21".
    """
    name = _name(text)
    found = path.read_text(encoding="utf-8").split(f"\n{_RULE}\n\n") if path.exists() else []
    parts = [part.rstrip("\n") + "\n" for part in found]
    new = text.strip("\n") + "\n"
    if name in map(_name, parts):
        parts = [new if _name(part) == name else part for part in parts]
    else:
        parts.append(new)
    path.write_text(f"\n{_RULE}\n\n".join(parts), encoding="utf-8")


def _name(text: str) -> str:
    return text.lstrip("\n").split(":", 1)[0]
