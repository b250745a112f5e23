"""Labels from events: which films are from before an event, and which patients had it within the horizon."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvrnet.data import read_records
from cvrnet.data.outcomes import NO, YES, Course, Outcome, describe_course, films_after, read_course
from cvrnet.data.phantom_studies import write_studies
from cvrnet.data.record import Record
from cvrnet.data.splits import make_folds
from cvrnet.data.studies import day_of, group_studies
from cvrnet.errors import UserError

ICU = Outcome("icu_day", "first", 14)


def film(name: str, patient: str, day: object, icu: object = "", **cells: str) -> Record:
    metadata = {"day": str(day), "icu_day": str(icu), **cells}
    return Record(Path("/data") / name, name, patient_id=patient, metadata=metadata, where="m.csv:2")


def labels(records: list[Record], outcome: Outcome = ICU, unit: str = "image") -> dict[str, str]:
    course, problems = read_course(records, outcome)
    assert problems == []
    kept, wrong, _ = course.at_risk(records)
    assert wrong == []
    return {record.name: record.label for record in course.label(kept, unit)[0]}


def test_films_from_the_day_of_the_event_on_are_dropped() -> None:
    given = [
        film("a", "p", -1, 3),
        film("b", "p", 2, 3),
        film("c", "p", 3, 3),
        film("d", "p", 9, 3),
        film("e", "q", 40),
    ]
    assert labels(given) == {"a": YES, "b": YES, "e": NO}
    course, _ = read_course(given, ICU)
    _, _, late = course.at_risk(given)
    assert late == [
        "m.csv:2: c: day 3, and icu_day is 3: taken on the day of the event",
        "m.csv:2: d: day 9, and icu_day is 3: taken after the event",
    ]
    assert [record.name for record in films_after(course, given)] == ["c", "d"]


def test_the_horizon_starts_at_the_film_or_at_the_last_film_of_the_bag() -> None:
    given = [film("a", "p", 0, 20), film("b", "p", 6, 20), film("c", "q", 5, 20)]
    assert labels(given) == {"a": NO, "b": YES, "c": NO}
    assert labels(given, unit="patient") == {"a": YES, "b": YES, "c": NO}
    assert labels(given, replace(ICU, horizon=20)) == {"a": YES, "b": YES, "c": YES}
    two = [replace(record, metadata={**record.metadata, "study_id": record.name}) for record in given]
    assert labels(two, unit="study") == labels(given)


def test_the_admission_is_one_moment_for_all() -> None:
    given = [film("a", "p", -10, 5), film("b", "p", 0, 5), film("c", "p", 1, 5), film("d", "q", -3, 0),
             film("e", "r", 0, 15), film("f", "s", 0)]  # fmt: skip
    assert labels(given, replace(ICU, until="admission"), "patient") == {"a": YES, "b": YES, "e": NO, "f": NO}
    course, _ = read_course(given, replace(ICU, until="admission"))
    assert course.at_risk(given)[2] == [
        "m.csv:2: c: day 1: taken after the admission",
        "m.csv:2: d: icu_day is 0: at the admission, the patient was no longer at risk",
    ]


def test_patients_who_were_not_followed_long_enough_are_censored() -> None:
    given = [
        film("short", "p", 0, followup_day="13"),
        film("long", "q", 0, followup_day="14"),
        film("dead", "r", 0, followup_day="2", death_day="2"),
        film("unknown", "s", 0),
        film("had it", "t", 0, 3, followup_day="5"),
        film("later", "u", 0, 30, followup_day="30"),
    ]
    assert labels(given) == {"long": NO, "dead": NO, "unknown": NO, "had it": YES, "later": NO}
    course, _ = read_course(given, ICU)
    kept, censored = course.label(given)
    assert censored == ["m.csv:2: short: followed until day 13, but the horizon ends on day 14: censored"]
    found = describe_course(course, given, kept, [], censored)
    expected = {"patients": 6, "events": 2, "kept_patients": 5, "kept_events": 1, "later_events": 1, "deaths": 1}
    expected |= {"not_followed": 1, "films_after": 0}
    assert {key: found[key] for key in expected} == expected


def test_death_can_be_the_event() -> None:
    given = [film("a", "p", 0, death_day="3", followup_day="3"), film("b", "q", 0, death_day="", followup_day="4")]
    assert labels(given, Outcome("death_day", horizon=3)) == {"a": YES, "b": NO}
    assert labels(given, Outcome("death_day", horizon=9)) == {"a": YES}


def test_what_is_known_in_any_row_of_a_patient_counts_for_all_and_the_first_event_counts() -> None:
    assert labels([film("a", "p", 0), film("b", "p", 9, 7), film("c", "p", 8, 12), film("d", "q", 0)]) == {
        "a": YES,
        "d": NO,
    }
    without = [film("a", "", 0, 3), film("b", "", 5), film("c", "", 9, 3)]
    assert labels(without) == {"a": YES, "b": NO}, "films without a patient are patients of their own"


def test_bad_days_are_named_and_the_rest_goes_on() -> None:
    given = [
        film("a", "p", 0, "soon"),
        film("b", "p", 1, ""),
        film("c", "q", "Monday", 3),
        film("d", "q", 1, 3),
        film("e", "r", 0, "nan"),
        film("f", "s", "", "inf"),
        film("g", "t", 0, 2, followup_day="x"),
    ]
    course, problems = read_course(given, ICU)
    kept, wrong, late = course.at_risk(given)
    assert problems == [
        "patient p: icu_day 'soon' is not a number: left out",
        "patient s: icu_day 'inf' is not a number: left out",
        "patient t: followup_day 'x' is not a number: left out",
    ]
    assert wrong == ["m.csv:2: c: day 'Monday' is not a number: left out"]
    assert late == []
    assert {record.name: record.label for record in course.label(kept)[0]} == {"d": YES, "e": NO}


@pytest.mark.parametrize(
    ("cells", "outcome", "message"),
    [
        (
            {"day": "0", "other": "1"},
            ICU,
            r"--outcome icu_day: expected a manifest column that states the event; columns to choose from: other",
        ),
        ({"day": "0"}, Outcome("day"), "--outcome day: .*; columns to choose from: none"),
        ({"icu_day": "1"}, ICU, "--outcome icu_day needs the column day.*--columns day=NAME"),
        ({"icu_day": "Y"}, replace(ICU, until="admission"), "needs the column day"),
        ({"day": "0", "icu_day": "NA"}, ICU, "--outcome icu_day: every cell is empty"),
        ({"day": "0", "icu_day": "soon"}, ICU, r"cell 'soon' is neither a day \(a number\) nor yes or no"),
    ],
)
def test_columns_that_are_missing_or_empty_are_named(cells: dict[str, str], outcome: Outcome, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_course([Record(Path("/a"), "a", metadata=cells)], outcome)


def test_yes_and_no_warn_that_a_leak_cannot_be_excluded() -> None:
    given = [
        film("a", "p", 0, "Y"),
        film("b", "p", 30, ""),
        film("c", "q", 0, "n"),
        film("d", "r", 0),
        film("e", "s", "", "N"),
    ]
    course, problems = read_course(given, ICU)
    assert problems == []
    (note,) = course.notes
    assert "a leak cannot be excluded" in note
    kept, wrong, late = course.at_risk(given)
    assert (wrong, late) == ([], [])
    assert {r.name: r.label for r in course.label(kept)[0]} == {"a": YES, "b": YES, "c": NO, "e": NO}
    course, _ = read_course(given, replace(ICU, until="admission"))
    kept, wrong, late = course.at_risk(given)
    assert [r.name for r in kept] == ["a", "c"]
    assert (len(wrong), len(late)) == (1, 1)
    _, problems = read_course([film("a", "p", 0, "Y"), film("b", "p", 0, "N"), film("c", "q", 0, "perhaps")], ICU)
    assert problems == [
        "patient p: cells with yes and cells with no; expected one answer: left out",
        "patient q: 'perhaps' is neither yes nor no: left out",
    ]


def test_a_column_of_0_and_1_is_taken_for_days_with_a_warning() -> None:
    course, _ = read_course([film("a", "p", 0, "0"), film("b", "q", 0, "1")], ICU)
    assert "read as days" in course.notes[0]
    assert not read_course([film("a", "p", 0, "0"), film("b", "q", 0, "2")], ICU)[0].notes


@pytest.mark.parametrize(
    "text", ["x", "[]", '["icu_day", "later", 3]', '["", "first", 3]', '["a", "first", -1]', "[" * 9999]
)
def test_a_note_from_elsewhere_is_checked(text: str) -> None:
    assert Outcome.from_note(ICU.note()) == ICU
    assert Outcome.from_note("") is None
    with pytest.raises(UserError, match="expected a JSON list of three values: the column"):
        Outcome.from_note(text)


def test_phantoms_have_a_known_answer(tmp_path: Path) -> None:
    """Those who become worse have an event up to three days after their last film, or on its day."""
    records = read_records(write_studies(tmp_path / "p", "follow-up", 24, size=64))
    last = {r.patient_id: max(day_of(o) or 0 for o in records if o.patient_id == r.patient_id) for r in records}
    course, problems = read_course(records, Outcome("event_day", horizon=40))
    assert problems == []
    kept, _, late = course.at_risk(records)
    same = {r.patient_id for r in records if r.metadata["event_day"] == f"{last[r.patient_id]:g}"}
    assert 0 < len(same) < 12
    assert len(late) == len(same)
    labelled, _ = course.label(kept, "patient")
    by_name = {r.name: r.label for r in records}
    assert {(r.label, by_name[r.name]) for r in labelled} == {(YES, "worse"), (NO, "better")}


DAYS = st.one_of(st.integers(-5, 30).map(str), st.floats(-5, 30).map(repr), st.sampled_from(["", "x", "nan"]))
FILMS = st.lists(st.tuples(st.integers(0, 8), DAYS, DAYS, st.sampled_from(["", "3", "20"])), min_size=1, max_size=40)
OUTCOMES = st.builds(Outcome, st.just("icu_day"), st.sampled_from(["admission", "first"]), st.floats(0.5, 30))


def made(rows: list[tuple[int, str, str, str]]) -> list[Record]:
    return [
        film(f"f{i}", f"p{patient}" if patient else "", day, icu, followup_day=followed)
        for i, (patient, day, icu, followed) in enumerate(rows)
    ]


def course_of(records: list[Record], outcome: Outcome) -> Course | None:
    try:
        return read_course(records, outcome)[0]
    except UserError:  # no event is known
        return None


@settings(deadline=None)
@given(FILMS, OUTCOMES, st.sampled_from(["image", "patient"]))
def test_no_film_that_is_kept_is_of_the_day_of_an_event_or_later(
    rows: list[tuple[int, str, str, str]], outcome: Outcome, unit: str
) -> None:
    records = made(rows)
    course = course_of(records, outcome)
    if course is None:
        return
    kept, problems, late = course.at_risk(records)
    labelled, _ = course.label(kept, unit)
    events: dict[str, list[float]] = {}
    for record in records:  # by hand: every number in the column
        cell, mine = record.metadata["icu_day"], events.setdefault(record.patient_id or record.name, [])
        mine += [] if cell in ("", "x", "nan") else [float(cell)]
    for record in labelled:
        mine, day = events[record.patient_id or record.name], float(record.metadata["day"])
        assert all(day < event for event in mine)
        assert outcome.until == "first" or day <= 0 < min(mine, default=1)
        origin = 0.0 if outcome.until == "admission" else day
        if unit == "image":
            assert (record.label == YES) == (bool(mine) and min(mine) <= origin + outcome.horizon)
    assert len(kept) + len(problems) + len(late) <= len(records)
    assert {r.name for r in labelled} <= {r.name for r in kept}


@settings(deadline=None)
@given(FILMS, OUTCOMES, st.sampled_from(["image", "patient"]), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(rows: Any, outcome: Outcome, unit: str, random: Any) -> None:
    records = made(rows)
    mixed = random.sample(records, len(records))
    found: list[Any] = []
    for each in (records, mixed):
        course = course_of(each, outcome)
        if course is None:
            found.append(None)
            continue
        kept, problems, late = course.at_risk(each)
        labelled, censored = course.label(kept, unit)
        found.append(
            (
                {r.name: r.label for r in labelled},
                sorted(problems),
                sorted(late),
                len(censored),
                describe_course(course, each, labelled, [], [], unit),
            )
        )
    assert found[0] == found[1]


@settings(deadline=None)
@given(FILMS, OUTCOMES)
def test_a_patients_films_have_one_label_and_one_fold(rows: list[tuple[int, str, str, str]], outcome: Outcome) -> None:
    records = [record for record in made(rows) if record.patient_id]
    course = course_of(records, outcome)
    if course is None:
        return
    labelled, _ = course.label(course.at_risk(records)[0], "patient")
    assert all(len({o.label for o in labelled if o.patient_id == r.patient_id}) == 1 for r in labelled)
    if not labelled:
        return
    bags, problems = group_studies(labelled, "patient")
    assert problems == []
    try:
        folds = make_folds(labelled, 2)
    except UserError:
        return
    by_patient: dict[str, set[int]] = {}
    for record, fold in zip(labelled, folds, strict=True):
        by_patient.setdefault(record.patient_id, set()).add(fold)
    assert {len(of) for of in by_patient.values()} == {1}
    assert len(bags) == len(by_patient)


@pytest.mark.realdata
def test_the_numbers_of_the_real_follow_up(followup: Path) -> None:
    records = read_records(followup)
    course, problems = read_course(records, ICU)
    assert problems == []
    kept, wrong, late = course.at_risk(records)
    assert (len(records), len(kept), wrong, len(late)) == (243, 64, [], 179)
    labelled, censored = course.label(kept, "patient")
    found = describe_course(course, records, labelled, late, censored, "patient")
    expected = {"patients": 71, "events": 29, "films_after": 179, "patients_after": 29, "kept_patients": 48}
    expected |= {"kept_events": 5, "later_events": 1, "deaths": 2}
    assert {key: found[key] for key in expected} == expected
