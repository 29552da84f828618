"""The page about logs, without pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from replay_server.episode_file import EpisodeInfo
from replay_server.log_report import ReportFacts, duration, period, report_html
from replay_server.log_statistics import LogStatistics
from replay_server.log_summary import summarise
from replay_server.robot_numbers import robots


def page(make_spec: Callable[..., Any], make_transitions: Callable[..., Any], **facts: Any) -> str:
    statistics = LogStatistics(make_spec())
    info = EpisodeInfo(
        run_id="r", robot_id="<b>arm", boot_id="b", episode=0, rows=3, first_seq=0, last_seq=2,
        first_cursor=0, last_cursor=2, received_ns=0, spec_hash="", policy_version=0, evaluation=False,
        end="time_limit", success=True, metrics={}, complete=True,
    )  # fmt: skip
    statistics.add(info, make_transitions(3), np.arange(3))
    statistics.finish()
    values: dict[str, Any] = dict(
        title="Logs", summary=summarise([info]), statistics=statistics, robots=robots(statistics),
        findings=[], damaged={}, made={"command": "pnaf"},
    )  # fmt: skip
    return report_html(ReportFacts(**(values | facts)), [])


def test_strange_names_cannot_break_the_page(
    make_spec: Callable[..., Any], make_transitions: Callable[..., Any]
) -> None:
    text = page(
        make_spec,
        make_transitions,
        title="<script>",
        findings=["a < b"],
        damaged={Path("<i>.h5"): "not & whole"},
        made={"command": "pnaf 'a&b'"},
    )
    for escaped in ("&lt;script&gt;", "a &lt; b", "&lt;i&gt;.h5: not &amp; whole", "&lt;b&gt;arm"):
        assert escaped in text
    assert not any(tag in text for tag in ("<script", "<i>", "<b>"))


def test_columns_that_say_nothing_are_left_out_and_many_files_counted(
    make_spec: Callable[..., Any], make_transitions: Callable[..., Any]
) -> None:
    text = page(make_spec, make_transitions, damaged={Path(f"{i}.h5"): "cut" for i in range(250)})
    assert "<th>transitions</th>" in text and "<th>faults</th>" not in text
    assert "199.h5: cut" in text and "200.h5" not in text and "<li>50 more</li>" in text


def test_times_as_people_write_them() -> None:
    assert [duration(s) for s in (12.3, 200, 3600 * 30 + 61)] == ["12 s", "3 min", "30 h 01 min"]
    minute = 60 * 10**9
    same_day, other_day = period(12 * 60 * minute, (12 * 60 + 5) * minute), period(0, 3 * 1440 * minute)
    assert same_day.count("1970") == 1 and other_day.count("1970") == 2
    assert "–" not in period(0, 10**9)
