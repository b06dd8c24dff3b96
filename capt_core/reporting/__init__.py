"""The report: results tables, figures and one self-contained HTML page."""
