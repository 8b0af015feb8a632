"""The report: tables and pictures of what was found."""
