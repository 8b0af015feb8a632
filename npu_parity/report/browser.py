"""Take a picture of a page with the Chromium in PyQt6-WebEngine, without a window.

python browser.py PAGE PICTURE WIDTH HEIGHT
"""

import os
import sys
from pathlib import Path

SETTLE = 1500  # ms after the page is loaded


def main(page: Path, picture: Path, width: int, height: int) -> None:
    """Write the top of the page as PNG; exit status 1 if the page cannot be loaded."""
    os.environ |= {"QT_QPA_PLATFORM": "offscreen", "QTWEBENGINE_DISABLE_SANDBOX": "1"}
    from PyQt6.QtCore import QTimer, QUrl
    from PyQt6.QtWebEngineWidgets import QWebEngineView
    from PyQt6.QtWidgets import QApplication

    app = QApplication([sys.argv[0], "--no-sandbox"])
    view = QWebEngineView()

    def finish() -> None:
        saved = view.grab().save(str(picture))
        sys.stdout.flush()
        os._exit(not saved)  # Qt's own end takes seconds, and has nothing to save

    def loaded(right: bool) -> None:
        if not right:
            os._exit(1)
        QTimer.singleShot(SETTLE, finish)

    view.resize(width, height)
    view.loadFinished.connect(loaded)
    view.show()
    view.load(QUrl.fromLocalFile(str(page.resolve())))
    app.exec()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
