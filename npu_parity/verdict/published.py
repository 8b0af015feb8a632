"""The figures of published reports on real Ascend NPUs."""

from functools import cache
from typing import Any

import yaml

from npu_parity.evidence.files import PACKAGE


@cache
def figures() -> dict[str, Any]:
    """Return the figures of all reports, by the name of the report (``data/published.yaml``)."""
    text = (PACKAGE / "data/published.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found
