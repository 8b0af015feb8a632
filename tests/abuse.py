"""How much hostile input a test tries."""

import os


def many(few: int, all: int) -> int:
    """Return `all` in the full run, which sets ABUSE, and `few` in an ordinary one."""
    return all if "ABUSE" in os.environ else few
