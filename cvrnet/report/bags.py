"""The report's sections of a run whose answers are about bags of pictures."""
from __future__ import annotations
from cvrnet.report import Section
from cvrnet.report.results import Results
from cvrnet.report.operating_points import operating_points_section
from cvrnet.report.selective import selective_section
from cvrnet.report.subgroups import subgroups_section

def bag_sections(results: Results) -> list[Section]:
    sections = [subgroups_section(results), operating_points_section(results), selective_section(results)]
    return [section for section in sections if section is not None]
