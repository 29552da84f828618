"""The screen as an operator reads it, at 100 and at 80 columns."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from fleet.config import GoalConfig
from fleet.live_screen import Progress, render, stats_of, success_rate, summary_line
from fleet.messages import Status

PROGRESS = Progress("demo-20261122-201243", 754.9, GoalConfig())


def robot(name: str, state: str = "episode", age_s: float = 0.2, **stats: Any) -> dict[str, Any]:
    values = {
        "note": "",
        "steps": 12345,
        "episodes": 154,
        "success_rate": 0.65,
        "evaluation_success_rate": 0.85,
        "interventions": 2311,
        "policy_version": 1042,
        "policy_age_s": 0.4,
    } | stats
    return {
        "role": "robot",
        "process_id": name,
        "state": state,
        "age_s": age_s,
        "stats": {f"robot/{key}": value for key, value in values.items()},
    }


LEARNER: dict[str, Any] = {
    "role": "learner",
    "process_id": "learner",
    "state": "running",
    "age_s": 0.1,
    "stats": {
        "learner/updates": 123456,
        "learner/updates_per_s": 1820.3,
        "learner/td_loss": 0.0123,
        "learner/updates_per_row": 4.0,
        "learner/policy_version": 1043,
    },
}


def status(*processes: dict[str, Any], evaluations: str = "", **stats: Any) -> Status:
    """A Status; `evaluations` has one letter per noise-free episode, y or n."""
    replay = {"rows_inserted": 1234567, "rows_per_s": 398.2, "episodes_stored": 308} | stats
    return Status(
        request_id=1,
        run_id="demo",
        stats={f"replay/{key}": value for key, value in replay.items()},
        processes=list(processes),
        evaluations=[{"success": letter == "y"} for letter in evaluations],
    )


def lines_of(shown: Status | None, progress: Progress = PROGRESS, width: int = 100) -> list[str]:
    """The rendered lines without the frame, runs of spaces as one."""
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(render(shown, progress))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    return [" ".join(line.strip("│╭╮╰╯ ").split()) for line in lines]


@pytest.mark.parametrize("width", [100, 80])
def test_every_number_of_every_robot_is_there(width: int) -> None:
    lines = lines_of(
        status(
            LEARNER,
            robot(
                "robot2", "resetting", policy_version=1041, policy_age_s=123.4, steps=1234567, episodes=12001
            ),
            robot("robot1"),
        ),
        width=width,
    )
    assert lines[1] == "robot state policy age steps episodes success eval guard"
    assert lines[2] == "robot1 episode v1042 0.4 s 12,345 154 65 % 85 % 2,311"
    assert lines[3] == "robot2 resetting v1041 123 s 1,234,567 12,001 65 % 85 % 2,311"


@pytest.mark.parametrize("width", [100, 80])
def test_replay_server_and_learner_are_there_uncut(width: int) -> None:
    text = " ".join(lines_of(status(LEARNER, robot("robot1")), width=width))
    assert "replay server 1,234,567 rows 398 rows/s 308 episodes stored" in text
    assert "learner running 123,456 updates 1,820 updates/s 4.00 updates per row loss 0.0123" in text
    assert "…" not in text
    assert "duplicates" not in text


def test_one_line_each_at_100_columns() -> None:
    lines = lines_of(status(LEARNER, robot("robot1"), evaluations="y" * 20))
    assert [line.split(" ")[0] for line in lines] == [
        *["─" * 24, "robot", "robot1", "", "replay", "learner", "noise-free"],
        "─" * 98,
    ]


@pytest.mark.parametrize("width", [100, 80])
def test_a_long_id_is_shortened_and_nothing_else(width: int) -> None:
    name = "left_arm_of_the_second_bench_by_the_window"
    line = lines_of(status(robot(name, steps=1234567)), width=width)[2]
    assert line.startswith("left_arm_") and "… episode v1042" in line
    assert line.endswith("0.4 s 1,234,567 154 65 % 85 % 2,311")


def test_why_a_robot_does_not_move_is_said_in_full() -> None:
    note = "reset took more than 10 s: joint_3 is 0.31 rad from home"
    lines = lines_of(
        status(robot("robot1", "fault", note=note), robot("robot2", note="evaluating")), width=80
    )
    assert f"robot1 fault: {note}" in lines
    assert not any("evaluating" in line for line in lines)


def test_a_silent_process_is_marked_with_its_last_note_and_not_its_old_state() -> None:
    silent_learner = LEARNER | {"age_s": 75.0}
    lines = lines_of(
        status(silent_learner, robot("robot1", age_s=12.3, note="gone"), robot("robot2", age_s=4.9))
    )
    assert lines[2].startswith("robot1 silent 12 s v1042")
    assert lines[3].startswith("robot2 episode")
    assert any(line.startswith("learner silent 75 s") for line in lines)
    assert "robot1 silent 12 s; last: gone" in lines


def test_what_is_not_known_yet_is_a_dash() -> None:
    fresh = robot(
        "robot1", "waiting", policy_version=-1, policy_age_s=-1.0, success_rate=-1.0,
        evaluation_success_rate=-1.0, steps=0, episodes=0, interventions=0,
    )  # fmt: skip
    lines = lines_of(status(fresh, rows_inserted=0, rows_per_s=0.0, episodes_stored=0))
    assert lines[2] == "robot1 waiting – – 0 0 – – 0"
    assert "learner none yet" in lines
    assert "replay server 0 rows 0 rows/s 0 episodes stored" in lines
    assert any("0 of 20 episodes" in line for line in lines)
    assert any(line == "none yet" for line in lines_of(status()))


def test_a_waiting_learner_without_numbers_is_shown() -> None:
    waiting = {"role": "learner", "process_id": "learner", "state": "waiting", "age_s": 0.0, "stats": {}}
    lines = lines_of(status(waiting))
    assert "learner waiting 0 updates 0 updates/s 0.00 updates per row" in lines


def test_progress_towards_the_goal() -> None:
    lines = lines_of(status(evaluations="n" * 10 + "y" * 13 + "n" * 7), width=80)
    assert f"noise-free {'●' * 13}{'○' * 7} 65 % goal 90 % of 20 within 25:00" in lines
    endless = lines_of(status(evaluations="yn"), Progress("demo", 1.0))
    assert "noise-free ●○ 2 of 20 episodes" in endless


def test_restarts_notes_and_time_are_shown() -> None:
    progress = Progress("demo", 3725.0, None, {"robot2": 1, "learner": 3}, "waiting for processes")
    lines = lines_of(status(), progress)
    assert "run demo · 62:05" in lines[0]
    assert "started again: robot2 ×1, learner ×3" in lines
    assert "waiting for processes" in lines


def test_before_the_first_answer_there_is_the_note() -> None:
    assert "starting 6 processes …" in lines_of(None, Progress("demo", 0.0, note="starting 6 processes …"))


def test_duplicates_are_shown_when_there_are_some() -> None:
    assert any("1,024 duplicates dropped" in line for line in lines_of(status(duplicates_dropped=1024)))


def test_text_from_others_is_not_markup() -> None:
    lines = lines_of(status(robot("robot1", "fault", note="[bold]limit[/bold] joint[3]")))
    assert "robot1 fault: [bold]limit[/bold] joint[3]" in lines


def test_success_rate_waits_until_there_are_enough() -> None:
    assert success_rate([{"success": True}] * 19, 20) is None
    assert (
        success_rate([{"success": False}] * 80 + [{"success": True}] * 18 + [{"success": False}] * 2, 20)
        == 0.9
    )
    assert success_rate([{"success": False}] * 20, 20) == 0.0


def test_the_summary_is_one_line() -> None:
    line = summary_line(status(LEARNER, evaluations="y" * 19 + "n"), PROGRESS)
    assert line == (
        "12:34  rows 1,234,567 (398/s)  updates 123,456 (1820/s)  policy v1043"
        "  success 95 % of the last 20 evaluations (20 done)"
    )
    stuck = status(
        robot("robot2", "fault", note="joint_3 does not follow"), robot("robot1"), robot("robot3", "paused")
    )
    assert summary_line(stuck, PROGRESS).endswith("  robot2 fault: joint_3 does not follow  robot3 paused")
    few = summary_line(status(evaluations="y"), Progress("demo", 5.0, note="stopping"))
    assert "success – of the last 20 evaluations (1 done)  stopping" in few


def test_stats_of_a_role() -> None:
    assert stats_of(status(robot("robot1"), LEARNER), "learner")["learner/updates"] == 123456
    assert stats_of(status(), "learner") == {}
    assert stats_of(None, "learner") == {}


def test_a_full_disk_waiting_and_dropped_rows_are_said() -> None:
    lines = lines_of(
        status(
            robot("robot1", unacked=1234, rows_dropped=56),
            robot("robot2", unacked=20),
            journal_error="No space left on device",
        )
    )
    assert "robot1: 1,234 rows wait in its spool" in lines
    assert "robot1: 56 rows LOST, its spool was full (spool.on_full)" in lines
    assert not any(line.startswith("robot2:") for line in lines)
    assert any("cannot write its journal: No space left on device. Nothing is lost" in line for line in lines)


def test_demonstrated_rows_are_shown_once_there_are_any() -> None:
    assert not any("demonstrated" in line for line in lines_of(status(demonstration_rows=0)))
    assert any("1,250 demonstrated" in line for line in lines_of(status(demonstration_rows=1250)))
