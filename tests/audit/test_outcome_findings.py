"""The audit of a data set from which an event is to be foretold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cvrnet.audit.outcome_findings import outcome_findings
from cvrnet.data.outcomes import NO, YES, Outcome, read_course
from cvrnet.data.phantom_studies import write_studies
from cvrnet.data.record import Record


def films(views: str = "", icu: tuple[str, ...] = ("3", "")) -> list[Record]:
    """Two films each of six patients, of whom every second has the event on day 3."""
    found = []
    for patient in range(6):
        label = YES if icu[patient % 2] else NO
        for day in (0, 3):
            view = views[patient % 2 : patient % 2 + 1].replace("A", "AP Supine").replace("P", "PA") if views else ""
            metadata = {"day": str(day), "icu_day": icu[patient % 2]}
            found.append(
                Record(Path("/a"), f"{patient}-{day}", label, patient_id=f"p{patient}", view=view, metadata=metadata)
            )
    return found


def test_films_from_after_the_event_are_severe() -> None:
    records = films()
    (finding,) = outcome_findings(read_course(records, Outcome("icu_day"))[0], records)
    assert (finding.code, finding.severity) == ("after-event", "severe")
    assert finding.files == ("0-3", "2-3", "4-3")
    assert "3 films of 12 (3 patients) are from the day of icu_day or later" in finding.sentence
    before = [record for record in records if record.name not in finding.files]
    assert outcome_findings(read_course(before, Outcome("icu_day"))[0], before) == []


def test_the_view_that_tells_all_is_a_warning_and_one_that_tells_nothing_is_none() -> None:
    found = outcome_findings(read_course(films(), Outcome("icu_day"))[0], films("AP"))
    assert [(f.code, f.severity) for f in found] == [("after-event", "severe"), ("view-outcome", "warning")]
    assert found[1].figures == {"auc": 1.0, "ap_yes": 1.0, "ap_no": 0.0}
    assert len(outcome_findings(read_course(films(), Outcome("icu_day"))[0], films("AA"))) == 1


def test_yes_and_no_are_a_warning() -> None:
    records = films(icu=("Y", "N"))
    (finding,) = outcome_findings(read_course(records, Outcome("icu_day"))[0], records)
    assert (finding.code, finding.severity) == ("outcome-column", "warning")


def test_the_command_names_the_films(tmp_path: Path, cli: Callable[..., Any]) -> None:
    manifest = write_studies(tmp_path / "p", "follow-up", 12, size=64)
    status, out, err = cli("audit", manifest, "--outcome", "event_day", "--no-features", "-o", tmp_path / "a")
    assert status == 1, err
    found = json.loads((tmp_path / "a" / "audit.json").read_text())["findings"]
    (finding,) = [f for f in found if f["code"] == "after-event"]
    assert finding["severity"] == "severe"
    assert len(finding["files"]) == finding["figures"]["films"] > 0
    assert (tmp_path / "a" / "films-after-the-event.csv").is_file()
    assert "of the day of event_day or later" in out or "from the day of event_day or later" in out
    status, _, err = cli("audit", manifest, "--outcome", "event_day", "--findings", "auto")
    assert (status, "--outcome cannot be used with --findings" in err) == (2, True)
    status, _, err = cli("audit", manifest, "--outcome", "nowhere")
    assert (status, "expected a manifest column that states the event" in err) == (1, True)
