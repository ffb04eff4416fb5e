"""Tables as an HTML page: text is escaped, nothing is cut, and a click sorts."""

import pandas as pd

from tests.workflow.browser import look_at
from workflow.referee.render import page

TABLE = pd.DataFrame(
    {
        "Method": ["SyN <b>", "AVSM (3-step)", "Demons", "mine"],
        "Dice [95 %]": ["9.5 [1, 2]", "68.40 (4.35)", "--", "✓ +10.2 [1.0, 30.0]"],
        "Long": ["x" * 200, "", "", ""],
    }
)
SORT = """
  const header = document.querySelectorAll("th")[%d];
  const names = () => [...document.querySelectorAll("tbody tr")].map(r => r.cells[0].textContent);
  header.click();
  const once = names();
  header.click();
  return [once, names(), header.getAttribute("aria-sort")];
"""


def test_text_is_escaped_and_whole():
    text = page("A & B", {"": TABLE}, ["less < more"])
    assert "<title>A &amp; B</title>" in text and "SyN &lt;b&gt;" in text
    assert "x" * 200 in text and "<li>less &lt; more</li>" in text and "<h2>" not in text
    assert "<h2>Cross-subject</h2>" in page("A", {"Cross-subject": TABLE}, [])


def test_a_click_sorts_by_numbers_or_words(tmp_path):
    path = tmp_path / "table.html"
    path.write_text(page("A", {"": TABLE}, []), encoding="utf-8")
    found, problems = look_at(path, SORT % 1, tmp_path)
    best = ["AVSM (3-step)", "mine", "SyN <b>", "Demons"]
    assert found == [best, ["SyN <b>", "mine", "AVSM (3-step)", "Demons"], "ascending"]
    assert problems == []
    found, _ = look_at(path, SORT % 0, tmp_path)
    assert found[0] == ["AVSM (3-step)", "Demons", "mine", "SyN <b>"]
    assert found[1] == found[0][::-1] and found[2] == "descending"


def test_errors_of_a_page_are_seen(tmp_path):
    path = tmp_path / "broken.html"
    path.write_text("<html><head></head><body><script>no()</script></body></html>")
    _, problems = look_at(path, "return 1;", tmp_path)
    assert len(problems) == 1 and "no is not defined" in problems[0]
