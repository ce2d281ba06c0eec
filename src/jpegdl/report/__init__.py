"""One HTML page that says what a comparison found."""

from jpegdl.report.page import REPORT, write_report

__all__ = ["REPORT", "write_report"]
