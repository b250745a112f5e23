"""The sentences and rows of a report about the prediction of an event."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvrnet.data.record import Record
from cvrnet.data.studies import group_studies
from cvrnet.metrics.paired_models import compare_auc
from cvrnet.report.outcome import auc_rows, calibration_row
from cvrnet.report.outcome_text import event_patients, evidence_sentence, outcome_sentences
from cvrnet.runs.baselines import Baselines, read_baselines, write_baselines
from cvrnet.runs.predictions import PredictionTable

OUTCOME: dict[str, Any] = {
    "column": "icu_day", "until": "first", "horizon": 14.0, "unit": "patient", "yes_no": False, "films": 9,
    "patients": 4, "events": 2, "kept_films": 5, "kept_patients": 3, "kept_events": 1, "later_events": 0, "deaths": 0,
    "not_followed": 0, "films_after": 4, "patients_after": 2, "notes": [], "late": [""] * 4, "censored": [],
}  # fmt: skip


def table(truth: list[int], p: list[float], patients: list[str]) -> PredictionTable:
    names = [f"f{i}" for i in range(len(truth))]
    return PredictionTable(
        ["no", "yes"], names, np.array(truth), np.stack([1 - np.array(p), p], 1), [""] * len(p), patients, [""] * len(p)
    )


@pytest.mark.parametrize(
    ("events", "others", "nothing"), [(5, 43, True), (99, 900, True), (900, 99, True), (100, 100, False)]
)
def test_few_events_prove_nothing(events: int, others: int, nothing: bool) -> None:
    sentence = evidence_sentence(events, others)
    assert ("prove nothing" in sentence) == nothing
    assert "at least 100 patients with the event and 100 without" in sentence


def test_the_counts_say_what_was_dropped_and_why() -> None:
    text = " ".join(outcome_sentences(OUTCOME))
    assert "taken on the day of icu_day or later, which would be a leak: 4 radiographs of 2 patients." in text
    assert "3 patients with 5 radiographs; 1 patient has icu_day within 14 days of the last radiograph kept." in text
    for key in ("censored", "Died", "no longer at risk", "A later", "not known"):
        assert key not in text
    more = {**OUTCOME, "late": [""] * 7, "until": "admission", "censored": ["", ""], "deaths": 2, "not_followed": 1}
    text = " ".join(outcome_sentences({**more, "later_events": 1}))
    for part in (
        "no longer at risk: 3 radiographs",
        "(censored): 2 patients",
        "within 14 days of the admission (day 0)",
        "A later icu_day, counted as no event: 1 patient.",
        "(column followup_day): 1 patient.",
        "Died without icu_day, counted as no event: 2 patients",
    ):
        assert part in text
    assert "14 days of the radiograph." in " ".join(outcome_sentences({**OUTCOME, "unit": "image"}))
    assert "within" not in " ".join(outcome_sentences({**OUTCOME, "yes_no": True}))


def test_the_differences_are_those_of_the_paired_test() -> None:
    truth, model = [1, 1, 0, 0, 0, 1], [0.9, 0.4, 0.5, 0.1, 0.3, 0.8]
    given, patients = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0], list("abcdef")
    first, second = auc_rows(table(truth, model, patients), {"view_ap": given})
    assert first["p"] is None
    expected = compare_auc(np.array(truth) == 1, model, given, patients)
    assert (second["difference"], second["low"], second["p"]) == (
        expected["difference"],
        expected["low"],
        expected["p"],
    )
    _, untested = auc_rows(table([1, 0, 0], [0.9, 0.1, 0.2], list("abc")), {"films": [1, 2, 3]})
    assert (untested["auc"], untested["p"]) == (0.0, None), "one patient with the event: no test"
    assert event_patients(table([1, 0, 0], [0.9, 0.1, 0.2], list("aab"))) == (1, 1)
    assert calibration_row(table([1, 0], [0.5, 0.5], list("ab")))["brier"] == 0.25


def by_name(table: Baselines) -> dict[str, list[float | None]]:
    columns = [values or [None] * len(table.names) for values in table.scores.values()]
    return {name: [values[i] for values in columns] for i, name in enumerate(table.names)}


VIEWS = st.sampled_from(["AP", "PA", "", "AP Supine"])
FILMS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9), VIEWS), min_size=1, max_size=20)


@settings(deadline=None)
@given(FILMS, st.randoms(use_true_random=False))
def test_the_order_of_the_films_does_not_change_the_baselines(rows: list[tuple[int, int, str]], random: Any) -> None:
    films = [
        Record(path=f"/{i}", name=f"f{i}", label="no", patient_id=f"p{p}", view=view, metadata={"day": str(day)})  # type: ignore[arg-type]
        for i, (p, day, view) in enumerate(rows)
    ]
    own = {film.name: i / 32 for i, film in enumerate(films)}
    found = []
    for order in (films, random.sample(films, len(films))):
        bags = group_studies(order, "patient")[0]
        of_bags = Baselines.of_bags(bags, lambda studies: [own[study.pictures[0].name] for study in studies])
        of_films = Baselines.of_films(order, own)
        found.append([by_name(of_bags), by_name(of_films)])
    assert found[0] == found[1]
    by_bag, by_film = found[0]
    for p in {p for p, _, _ in rows}:
        mine = sorted((day, f"f{i}") for i, (q, day, _) in enumerate(rows) if q == p)
        assert by_bag[f"p{p}"][:3] == [own[mine[0][1]], own[mine[-1][1]], len(mine)]
        assert by_film[mine[-1][1]][:3] == [own[mine[0][1]], None, len(mine)]


def test_scores_that_are_not_known_of_all_are_left_out(tmp_path: Any) -> None:
    scores = {"first_film": [0.1, float("nan")], "last_film": None, "films": [1.0, 2.0], "view_ap": [1.0, 0.0]}
    write_baselines(tmp_path, {"test": Baselines(["a", "b"], scores), "val": Baselines(["c"], dict.fromkeys(scores))})
    assert read_baselines([tmp_path], "test", ["b", "a"]) == {"films": [2.0, 1.0], "view_ap": [0.0, 1.0]}
    assert read_baselines([tmp_path], "test", ["a"]) == {"first_film": [0.1], "films": [1.0], "view_ap": [1.0]}
    assert read_baselines([tmp_path], "val", ["c"]) == {}
