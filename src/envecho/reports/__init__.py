"""From a run folder to one self-contained HTML file with its pictures; no torch here."""

from envecho.reports.page import PageSearch, write_comparison, write_report, write_token_page

__all__ = ["PageSearch", "write_comparison", "write_report", "write_token_page"]
