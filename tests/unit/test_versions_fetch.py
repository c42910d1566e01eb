"""Which releases of PostgreSQL `make test-versions` takes."""

from __future__ import annotations

from tests.versions.fetch import newest


def test_the_newest_release_of_each_supported_version_is_taken_by_its_numbers() -> None:
    releases = [
        *("12.22.0-beta.15", "13.9.0-beta.9", "13.23.0-beta.16", "13.23.0-beta.9"),
        *("14.3.0-alpha.21", "14.3.0-beta.6", "16.1.1-beta.9", "16.1.0-beta.99", "19.0.0-beta.1"),
    ]
    assert newest(releases) == {
        13: "13.23.0-beta.16",
        14: "14.3.0-beta.6",
        16: "16.1.1-beta.9",
    }
