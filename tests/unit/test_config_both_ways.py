"""The keys of replications between databases that are all written."""

from __future__ import annotations

import pytest

from pyreplica.config.merging import Merge
from pyreplica.errors import ConfigError
from tests.unit.test_config import shop


def test_tables_are_merged_in_one_of_three_ways() -> None:
    found = shop(
        "both_ways: true",
        "merge:",
        "  public.note: last_update_wins",
        "  public.customer: columns",
        "  public.item: {counters: [stock, sold]}",
    )
    assert found.both_ways
    assert found.merge == (
        Merge("public", "note", "last_update_wins"),
        Merge("public", "customer", "columns"),
        Merge("public", "item", "columns", ("stock", "sold")),
    )
    assert not shop().both_ways
    assert shop().merge == ()


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["merge: {public.t: last_update_wins}"], "merged only where both databases are written"),
        (["both_ways: true", "guard: true"], "the slave cannot be guarded"),
        (
            ["both_ways: true", "merge: {public.t: last_update_wins}", "forward: true"],
            "`forward:` and `merge:` do not go together",
        ),
        (
            [
                "both_ways: true",
                "merge: {public.t: last_update_wins}",
                "map: {schemas: {public: shop}}",
            ],
            "`map:` and `merge:` do not go together",
        ),
        (["both_ways: true", "merge: [public.t]"], "expected a mapping of tables"),
        (["both_ways: true", "merge: {t: last_update_wins}"], "'t' is no name of a table"),
        (
            ["both_ways: true", "merge: {public.t: cell}"],
            "expected error, apply_remote, keep_local",
        ),
        (["both_ways: true", "merge: {public.t: {}}"], "expected error, apply_remote, keep_local"),
        (["both_ways: true", "merge: {public.t: {counter: [n]}}"], "unknown key"),
        (["both_ways: true", "merge: {public.t: {counters: []}}"], "expected at least one column"),
        (["both_ways: true", "merge: {public.t: {counters: [1]}}"], "expected a column's name"),
    ],
)
def test_what_cannot_be_is_refused(lines: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        shop(*lines)
    assert raised.value.where.startswith("pyreplica.yaml:")
