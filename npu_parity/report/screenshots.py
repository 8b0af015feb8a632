"""Pictures for the readme of a port: what a command really prints, and the page in a browser."""

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.text import Text

from npu_parity.errors import ParityError, shorten

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = "no Chromium was found"
SIZE = (1400, 1800)  # pixels of the picture of a page
WIDTH, MOST = 100, 60  # columns, lines of a terminal
PATIENCE = 600  # seconds
FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # rich names fonts on the network


def terminal(command: Sequence[str], folder: Path) -> str:
    """Run a Python program and return what it prints as SVG, as on a terminal.

    Args:
        command: the program and its arguments, as a user types them after ``python``.
        folder: where it runs.

    Raises:
        ParityError: the program fails, or takes too long.
    """
    shown = f"python {' '.join(command)}"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=env | {"PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        raise ParityError(f"`{shown}` did not end within {PATIENCE} s") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        said = said.removeprefix("error: ")
        raise ParityError(f"`{shown}` failed: {shorten(said, 200)}")
    lines = done.stdout.splitlines()
    more = [f"… and {len(lines) - MOST} more lines"] if len(lines) > MOST else []
    return svg("\n".join([f"$ {shown}", *lines[:MOST], *more]), shown)


def svg(text: str, title: str) -> str:
    """Return a text as the SVG of a terminal. The same text gives the same bytes."""
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    console.print(Text(text))
    return FONT.sub("", console.export_svg(title=title))


def page(html: Path, png: Path) -> None:
    """Write a picture of a page with Chromium.

    Raises:
        ParityError: there is no Chromium (on the path, or PyQt6-WebEngine), or it fails.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser:
        size = ",".join(map(str, SIZE))
        own = ["--no-sandbox"] * (os.geteuid() == 0)  # Chromium refuses its sandbox to root
        options = ["--headless", "--hide-scrollbars", f"--window-size={size}", *own]
        command = [browser, *options, f"--screenshot={png}", html.absolute().as_uri()]
    elif find_spec("PyQt6") and find_spec("PyQt6.QtWebEngineCore"):
        script = Path(__file__).with_name("browser.py")
        command = [sys.executable, str(script), str(html), str(png), *map(str, SIZE)]
    else:
        raise ParityError(NO_BROWSER)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ParityError(f"Chromium failed: {shorten(str(error), 150)}") from None
    if done.returncode or not png.is_file():
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ParityError(f"Chromium failed: {shorten(said, 150)}")
