"""Open a page in Chromium (Qt WebEngine) without a window, use it, and print what happened as JSON.

python tests/browser.py PAGE FOLDER    pictures and a PDF of the page are written into FOLDER
"""

import json
import os
import sys
from pathlib import Path

os.environ |= {"QT_QPA_PLATFORM": "offscreen", "QTWEBENGINE_DISABLE_SANDBOX": "1"}

from PyQt6.QtCore import QEventLoop, QTimer, QUrl
from PyQt6.QtGui import QImage
from PyQt6.QtWebEngineCore import QWebEnginePage, QWebEngineProfile, QWebEngineUrlRequestInterceptor
from PyQt6.QtWebEngineWidgets import QWebEngineView
from PyQt6.QtWidgets import QApplication

SETTLE = 300  # ms after a change of the page
ROWS = "[...document.querySelectorAll('#overview table.data tbody tr')]"
SHOWN = (
    "[...document.querySelectorAll('h1 span')].filter(s => s.offsetWidth).map(s => s.textContent)"
)
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


class Requests(QWebEngineUrlRequestInterceptor):
    """Keeps every address that the page asks for."""

    def __init__(self):
        super().__init__()
        self.found = []

    def interceptRequest(self, info):
        self.found.append(info.requestUrl().toString()[:100])


class Page(QWebEnginePage):
    """Keeps what the page writes to the console."""

    def __init__(self, profile):
        super().__init__(profile)
        self.said = []

    def javaScriptConsoleMessage(self, level, message, line, source):
        self.said.append(message)


def waited(start):
    """Return the argument with which `start` calls back."""
    loop, found = QEventLoop(), []

    def done(*result):
        found.append(result[0] if result else None)
        loop.quit()

    start(done)
    if not found:
        QTimer.singleShot(60_000, loop.quit)
        loop.exec()
    return found[0]


def main(file: Path, folder: Path) -> None:
    app = QApplication([sys.argv[0], "--no-sandbox"])
    assert app
    profile, requests = QWebEngineProfile(), Requests()
    profile.setUrlRequestInterceptor(requests)
    page, view = Page(profile), QWebEngineView()
    view.setPage(page)

    def settle():
        waited(lambda done: QTimer.singleShot(SETTLE, done))

    def run(code):
        found = waited(lambda done: page.runJavaScript(f"JSON.stringify({code})", done))
        settle()
        return json.loads(found) if found else None

    def click(selector):
        run(f"document.querySelector({selector!r}).click()")

    def picture(name, width, height, scroll=None):
        view.resize(width, height)
        settle()
        run(f"(document.querySelector({(scroll or 'body')!r})).scrollIntoView()")
        settle()
        image: QImage = view.grab().toImage()
        image.save(str(folder / f"{name}.png"))
        colours = {image.pixel(x, y) for x in range(0, width, 7) for y in range(0, height, 7)}
        return len(colours)

    view.resize(1400, 900)
    view.show()
    found = {
        "loaded": waited(
            lambda done: (page.loadFinished.connect(done), view.load(QUrl.fromLocalFile(str(file))))
        )
    }
    settle()
    found["tables"] = run("document.querySelectorAll('table.data').length")
    found["sortable"] = run("document.querySelectorAll('table.dataTable').length")
    found["images"] = run("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
    found["unlabelled"] = run(
        "[...document.querySelectorAll('button, input, select')].filter("
        "e => !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).length"
    )
    click("[data-language=en]")
    found["english"] = run(SHOWN)
    click("[data-language=zh]")
    found["chinese"], found["lang"] = run(SHOWN), run("document.documentElement.lang")
    found["colours_chinese"] = picture("chinese", 1400, 900)
    click("[data-language=en]")
    run("document.documentElement.classList.remove('dark')")
    light = run(BACKGROUND)
    click("#theme")
    found["backgrounds"] = [light, run(BACKGROUND)]
    found["colours_dark"] = picture("dark", 1400, 900, "#overview + section")
    click("#theme")

    column = run(
        "[...document.querySelectorAll('#overview table.data thead th')]"
        ".findIndex(h => h.textContent.includes('Max abs'))"
    )
    header = f"#overview table.data thead th:nth-child({column + 1})"
    found["unsorted"] = run(f"{ROWS}.map(r => r.cells[{column}].dataset.order)")
    click(header)
    found["sorted"] = run(f"{ROWS}.map(r => r.cells[{column}].dataset.order)")
    found["aria_sort"] = run(
        "document.querySelector('#overview table.data thead th[aria-sort]')?.ariaSort"
    )
    run(
        "(i => { i.value = 'resnet34'; i.dispatchEvent(new Event('input', {bubbles: true})); "
        "i.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})) })"
        "(document.querySelector('#overview .dt-search input'))"
    )
    settle()
    found["filtered"] = run(f"{ROWS}.map(r => r.cells[0].textContent)")
    click("#overview data")
    found["source"] = run("document.getElementById('source').textContent")

    for name, width, height in (("wide", 1400, 900), ("narrow", 390, 844)):
        found[f"colours_{name}"] = picture(name, width, height)
        found[f"overflow_{name}"] = run("document.documentElement.scrollWidth - innerWidth")
        picture(f"{name}-system", width, height, "#overview + section")
        for part in ("scatter", "operators", "speed", "answers"):
            picture(f"{name}-{part}", width, height, f"section.part.{part}")
    view.resize(1400, 900)
    pdf = waited(lambda done: page.printToPdf(lambda data: done(bytes(data))))
    (folder / "page.pdf").write_bytes(pdf)
    found |= {"pdf": pdf[:5].decode(), "pdf_bytes": len(pdf)}
    found |= {"console": page.said, "requests": requests.found}
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # Qt's own end takes seconds, and has nothing to save


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
