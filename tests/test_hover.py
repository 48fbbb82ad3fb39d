"""docs/hover.html: what lab/pictures.py puts into it, and what a browser makes of it."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

from lab.pictures import HOVER, page

PAGE = HOVER.read_text(encoding="utf-8")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = ["a", "\n", "</script><img src=x onerror=document.title=1>", "<!--<script>", "\u2028&amp;", "\x1b\udcc3"]
browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH")


def causal(*shape):
    A = np.tril(np.random.default_rng(0).uniform(-1, 1, shape))
    return {"name": "differential", "description": "one of <b>many</b>", "maps": A, "lam": [0.25] * shape[0]}


def data(html):
    return json.loads(re.search(r'<script id="data" type="application/json">(.*)</script>', html)[1])


def test_template_has_one_place_for_the_data_and_asks_no_network():
    assert PAGE.count("DATA") == 1
    assert not re.search(r"https?:|src=|href=|@import|fetch\(", PAGE)


def test_template_reads_every_field_of_a_model():
    assert all(re.search(rf"model\??\.{field}\b", PAGE) for field in causal(1, 1, 6, 6))


def test_what_a_token_says_cannot_leave_its_script():
    html = page(EVIL, [causal(1, 1, 6, 6)])
    head, tail = PAGE.split("DATA")
    inside = html.removeprefix(head).removesuffix(tail)
    assert inside.isascii() and not set("<>&") & set(inside)
    assert data(html)["tokens"] == EVIL
    html.encode("utf-8")  # a stray surrogate would raise


def test_maps_are_lower_triangles_row_by_row_in_ten_thousandths():
    A = np.array([[[[1, 0, 0], [0.25, 0.75, 0], [-0.12345, 0.5, 0.00004]]]])
    assert data(page("abc", [{"name": "", "description": "", "maps": A}]))["models"][0]["maps"] == [
        [[10000, 2500, 7500, -1234, 5000, 0]]
    ]


def test_four_models_of_sixteen_heads_and_64_tokens_fit_into_a_megabyte():
    assert len(page("x" * 64, [causal(4, 4, 64, 64)] * 4)) < 1e6


# ---------------------------------------------------------------------------- in a browser


class Reader(HTMLParser):
    """What is to be seen on a page: its tags, its title, its tokens as (text, classes, weight or None), first those of
    `text` and the scale, then by table row those that have a weight, and the other `cells` of the row."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.title, self.text, self.rows, self.cells = set(), "", [], [], []
        self.tag = self.token = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tag = tag
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
            self.cells.append([])
        if tag == "span":
            attrs = dict(attrs)
            self.token = attrs.get("class", "").split(), attrs.get("data-weight")

    def handle_data(self, text):
        if self.tag == "title":
            self.title += text
        if self.tag in ("td", "th"):
            self.cells[-1].append(text)
        if self.tag == "span":
            if not self.rows:
                self.text.append((text, *self.token))
            elif self.token[1]:
                self.rows[-1].append((text, *self.token))

    def handle_endtag(self, tag):
        self.tag = None


@pytest.fixture
def look(tmp_path):
    """The page as a browser shows it, after `script`."""

    def look(html, at="", script=""):
        file = tmp_path / "page.html"
        file.write_text(html.replace("</html>", f"<script>{script}</script></html>"), encoding="utf-8")
        options = "--headless --no-sandbox --disable-gpu --window-size=1200,800 --virtual-time-budget=2000 --dump-dom"
        command = [BROWSER, *options.split(), f"--user-data-dir={tmp_path / 'profile'}", f"{file.as_uri()}{at}"]
        done = subprocess.run(command, capture_output=True, timeout=60, check=True)
        return Reader(done.stdout.decode())

    return look


def small(tokens="abcd"):
    A = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.9, -0.3, 0.15, 0], [0.25, 0.25, 0.25, 0.25]]
    return page(tokens, [{"name": "differential", "description": "", "maps": np.array([[A]]), "lam": [0.25]}])


@browser
def test_browser_shows_the_weights_of_the_token_in_the_address(look):
    seen = look(small(), "#2")
    assert [token for token, classes, _ in seen.text if "pinned" in classes] == ["c"]
    assert seen.rows == [[], [("a", [], "0.9000"), ("b", ["negative"], "−0.3000"), ("c", [], "0.1500")]]
    assert seen.cells == [["layer 0, λ = 0.25", "sum", "neg.", "max."], ["0", "0.75", "−0.30", "0.90"]]


@browser
def test_browser_shows_every_token_as_text(look):
    seen = look(page(EVIL, [causal(1, 1, 6, 6)]))
    shown = ["a", "⏎", *EVIL[2:4], r"\u2028&amp;", r"\x1b\udcc3"]
    assert [token for token, *_ in seen.text[:6]] == [token for token, *_ in seen.rows[-1]] == shown
    assert not {"img", "b"} & seen.tags


@browser
def test_browser_points_pins_and_lets_go(look):
    acts = {  # one after another: what a reader does; the token then shown, the one pinned, and the page's address
        "point(1)": "b",
        "click(2)": "cc#2",
        "point(0)": "cc#2",
        "click(2) ": "c",
        "point(0) ": "a",
        "press('ArrowLeft')": "a",
        "press('ArrowRight')": "bb#1",
        "press('Escape')": "b",
        "location.replace('#3')": "dd#3",
    }
    script = f"""
        const spans = text.querySelectorAll("span");
        const point = i => spans[i].dispatchEvent(new MouseEvent("mouseenter"));
        const click = i => spans[i].click();
        const press = key => dispatchEvent(new KeyboardEvent("keydown", {{ key }}));
        const token = name => text.querySelector(name)?.textContent ?? "";
        (async () => {{
          const seen = [];
          for (const act of {json.dumps(list(acts))}) {{
            eval(act);
            await new Promise(done => setTimeout(done, 10));  // hashchange comes later
            seen.push(token(".shown") + token(".pinned") + location.hash);
          }}
          document.title = seen.join(" ");
        }})();
    """
    assert look(small(), script=script).title == " ".join(acts.values())


@browser
def test_browser_shows_all_models_or_one(look):
    script = """
        const widest = Math.max(...[...document.querySelectorAll("*")].map(node => node.getBoundingClientRect().right));
        choice.children[2].click();
        document.title = [...main.children].map(block => block.hidden) + (widest > innerWidth ? " too wide" : "");
    """
    model = causal(2, 4, 64, 64)
    assert look(page("x" * 64, [model] * 3), script=script).title == "true,false,true"
