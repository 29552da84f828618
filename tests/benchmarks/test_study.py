"""The study's report counts what was learned with the settings of today, and nothing else."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.common.study_cell import Study, StudyCell
from benchmarks.common.study_report import latest, outcomes

STUDY = {
    "seeds": [0, 1],
    "tasks": {
        "Pendulum-v1": {"steps": 20, "every": 10, "episodes": 1, "low": -1000, "high": 0, "solved": -500}
    },
    "groups": {"values": {"1": {"values": 1}}},
}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return Study.load(path)


def finished(cell: StudyCell, mean: float, **changes: Any) -> dict[str, Any]:
    curve = [[10, mean, 0.0], [20, mean, 0.0]]
    settings = cell.settings | changes
    return {"cell": asdict(cell), "settings": settings, "curve": curve, "diverged": ""}


def test_the_last_record_of_a_cell_counts(study: Study) -> None:
    base, one = study.cells()[:2]
    found = outcomes(study, [finished(base, -900.0), finished(base, -400.0), finished(one, -1000.0)])
    of_settings = found["Pendulum-v1"]
    assert of_settings["base"].areas == [0.6] and of_settings["base"].solved == 1
    assert of_settings["values=1"].areas == [0.0] and of_settings["values=1"].solved == 0


def test_records_of_other_defaults_do_not_count(study: Study) -> None:
    base, one = study.cells()[:2]
    crashed = {"cell": asdict(one), "error": "killed"}
    done = latest([finished(base, -400.0, learning_rate=123.0), crashed])
    assert [record["cell"]["setting"] for record in done.values()] == ["values=1"]
