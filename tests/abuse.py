"""How many cases of hostile input: few in every test run, all in `make abuse`."""

import os


def many(few, all):
    return all if "ABUSE" in os.environ else few
