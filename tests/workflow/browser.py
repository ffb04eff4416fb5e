"""Pages opened in headless Chromium: scripts run, a script of the test looks, errors are kept."""

import html
import json
import re
import shutil
import subprocess

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# The page's own scripts come after the first part, and before the second.
LISTEN = """<script>
window.problems = [];
addEventListener("error", event => problems.push(event.message || event.target.src), true);
addEventListener("unhandledrejection", event => problems.push(String(event.reason)));
</script>"""
LOOK = """<script>
addEventListener("load", async () => {
  const pause = () => new Promise(done => setTimeout(done, 100));
  const look = async () => { %s };
  const found = await look().catch(error => { problems.push(String(error)); });
  const answer = document.createElement("pre");
  answer.id = "answer";
  answer.textContent = JSON.stringify({found, problems});
  document.body.append(answer);
});
</script>"""


def find_browser():
    """Return the path of a browser; skip the test where there is none."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    return found or pytest.skip(f"needs one of {', '.join(PROGRAMS)} on PATH")


def look_at(page, script, folder):
    """Open a page and return what the body of an async function finds in it, and its errors."""
    text = page.read_text(encoding="utf-8")
    head = text.replace("<head>", f"<head>{LISTEN}", 1)
    assert head != text
    start, end = head.rsplit("</body>", 1)
    copy = folder / f"look_at_{page.name}"
    copy.write_text(f"{start}{LOOK % script}</body>{end}", encoding="utf-8")
    done = subprocess.run(
        [find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         f"--user-data-dir={folder / 'browser'}", "--virtual-time-budget=60000", "--dump-dom",
         copy.as_uri()],
        capture_output=True, encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    answer = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
    assert answer, done.stderr
    answer = json.loads(html.unescape(answer.group(1)))
    return answer.get("found"), answer["problems"]
