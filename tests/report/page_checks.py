"""Pages, read as HTML and looked at by a headless browser: what the tests of all pages share."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
LANDMARKS = {"header", "nav", "main", "footer"}
PROBE = """<!doctype html><iframe style="border: 0; width: WIDTHpx; height: 844px" src="PAGE"></iframe>
<script>
addEventListener("load", () => {
  const view = document.querySelector("iframe").contentWindow, root = view.document.documentElement;
  const all = (what, where = root) => [...where.querySelectorAll(what)];
  const box = (element) => element.getBoundingClientRect();
  const clips = (element) => element.tagName !== "svg" && view.getComputedStyle(element).overflowX !== "visible";
  const clipped = (element) => element && (clips(element) || clipped(element.parentElement));
  const apart = (a, b) => a.right - 1 < b.left || b.right - 1 < a.left || a.bottom - 1 < b.top || b.bottom - 1 < a.top;
  const said = (elements) => elements.map((each) => `${each.tagName} ${each.textContent.trim().slice(0, 40)}`);
  const inSvg = (test) => said(all("svg").flatMap((svg) => all("text", svg).filter((text, at, texts) =>
    test(box(text), box(svg), texts.slice(0, at).map(box)))));
  document.documentElement.dataset.html = root.outerHTML;
  document.documentElement.dataset.seen = JSON.stringify({
    width: view.innerWidth,
    needed: root.scrollWidth,
    beyond: said(all("body *").filter((each) => box(each).right > view.innerWidth + 1 && !clipped(each.parentElement))),
    slim: said(all("th, td, p, li").filter((each) => box(each).height > 3 * box(each).width && box(each).width)),
    leaving: inSvg((text, svg) => text.right > svg.right + 1 || text.left < svg.left - 1),
    touching: inSvg((text, svg, others) => others.some((each) => !apart(each, text))),
    loaded: view.performance.getEntriesByType("resource").map((each) => each.name),
  });
});
</script>"""


class Page(HTMLParser):
    """What a reader of the page would find."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, name: str, tag: str | None = None) -> list[str]:
        return [value for each, key, value in self.attributes if key == name and tag in (None, each)]


def check_page(html: str) -> Page:
    """Hold a page against the rules: landmarks, text alternatives, captions, unique ids, nothing from elsewhere."""
    page = Page(html)
    assert {tag: page.tags[tag] for tag in LANDMARKS} == dict.fromkeys(LANDMARKS, 1)
    assert page.tags["h1"] == 1 and page.tags["title"] >= 1
    assert page.tags["img"] == len([alt for alt in page.values("alt", "img") if alt])
    assert page.tags["svg"] == len([label for label in page.values("aria-label", "svg") if label])
    assert page.tags["table"] == page.tags["caption"]
    assert not page.tags.keys() & {"script", "iframe", "object", "embed", "base", "form", "foreignobject", "audio"}
    assert all(source.startswith("data:image/png;base64,") for source in page.values("src"))
    assert all(link.startswith("#") or link == "data:," for link in [*page.values("href"), *page.values("xlink:href")])
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not re.search(r"url\((?!#)|@import", html)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = {link[1:] for link in [*page.values("href"), *page.values("xlink:href")] if link.startswith("#")}
    assert targets <= set(ids)
    return page


@dataclass(frozen=True)
class View:
    """A page as a real browser sees it.

    :param html: its document.
    :param seen: widths in pixels, what lies beyond the window or is much higher than wide, texts of figures that leave
        them or touch each other, and what was loaded.
    :param complaints: what was written to the console.
    """

    html: str
    seen: dict[str, Any]
    complaints: list[str]


def look_at(path: Path, width: int, place: Path) -> View:
    """Open a page in a browser, without a network; skip the test where there is no Chromium.

    :param width: that of the page, in a frame: a window itself has a smallest width, above that of a phone.
    :param place: a folder for the browser.
    """
    if CHROMIUM is None:
        pytest.skip("no Chromium installed")
    outer = place / "outer.html"
    outer.write_text(PROBE.replace("WIDTH", str(width)).replace("PAGE", path.resolve().as_uri()), encoding="utf-8")
    quiet = ["quic", "background-networking", "component-update", "sync", "gpu", "extensions"]
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{each}" for each in quiet),
         "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0", "--window-size=1400,900",
         "--allow-file-access-from-files", f"--user-data-dir={place / 'browser'}", "--dump-dom", outer.as_uri()],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    found = Page(done.stdout)
    (html,), (seen,) = found.values("data-html", "html"), found.values("data-seen", "html")
    return View(html, json.loads(seen), [line for line in done.stderr.splitlines() if "CONSOLE" in line])


def check_view(view: View, width: int) -> None:
    """Hold what a browser shows against the rules: nothing cut off or squeezed, nothing loaded, no complaints."""
    assert view.seen["width"] == width
    assert view.seen["needed"] <= width and view.seen["beyond"] == [] and view.seen["slim"] == []
    assert view.seen["loaded"] == [] and view.complaints == []
