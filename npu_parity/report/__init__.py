"""The report: tables and figures of the results."""
