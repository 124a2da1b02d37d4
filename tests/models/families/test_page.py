"""The page of families says what the tables say."""

from tests import families_page
from tlx.models.families import TABLE


def test_the_page_is_current():
    assert families_page.PAGE.read_text() == families_page.page(), "python -m tests.families_page writes it"


def test_every_family_has_a_row_and_every_class_a_case():
    page = families_page.page()
    for name in TABLE:
        family = TABLE.load(name)
        (row,) = (line for line in page.splitlines() if line.startswith(f"| {name}: "))
        assert all(size in row for size in family.sizes)
        assert "no case" not in row
