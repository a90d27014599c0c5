"""The page of heads says of each what the registry does."""

from __future__ import annotations

from pathlib import Path

from stages.heads import registry

PAGE = Path(__file__).parents[3] / "docs" / "heads.md"


def test_the_docs_list_every_head() -> None:
    top = PAGE.read_text(encoding="utf-8").split("## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in top.splitlines() if line.startswith("| `")
    ]
    expected = []
    for name in registry.names():
        module, variant = registry.find(name)
        schedule = module.SCHEDULES[variant]
        reads = [{"face": "faces", "global": "global"}[level] for level in module.NEEDS[variant]]
        reads += [f"{wanted} ({told.level}, {told.kind})" for wanted, told in registry.inputs_of(name).items()]
        expected.append(
            [f"`{name}`", ", ".join(reads), f"{schedule['epochs']}, {schedule['step']}", module.SOURCES[variant]]
        )
    assert [row[:4] for row in rows] == expected
    assert all(len(row) == 5 and row[4] for row in rows)


def test_every_table_of_a_file_is_of_its_variants() -> None:
    for name in registry.names():
        module, variant = registry.find(name)
        assert set(module.NEEDS) == set(module.SCHEDULES) == set(module.SOURCES) == set(module.VARIANTS), name
        assert module.NEEDS[variant] in ((), ("face",), ("global",), ("face", "global"))
        assert module.NEEDS[variant] or registry.inputs_of(name), name
        assert len({one.level for one in registry.inputs_of(name).values()}) <= 1, name  # `answering` takes one
        for table in ("INPUTS", "OPTIONS", "ALONE"):
            assert set(getattr(module, table, ())) <= set(module.VARIANTS), name
