"""The release gate: an evaluation compared with criteria, and a safety card of what was found.

criteria   what a model has to show, read from YAML (evaluation/criteria/*.yaml)
check      a report compared with them, criterion by criterion
card       the safety card's content; `reports.safety_card` makes pages of it
"""
