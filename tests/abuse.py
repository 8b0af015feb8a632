"""How many cases of hostile input: few in every test run, all in `make abuse`."""

import os
import re

# A row of docs/reliability-totals.md: the kind, the cases, those with the right outcome.
ROW = re.compile(r"^\| ([a-z][^|]+?) +\| +([\d,]+) \| +([\d,]+) \|$", re.MULTILINE)


def many(few, all):
    return all if "ABUSE" in os.environ else few
