"""`report.html`: one self-contained page that shows what a run did."""

from unimem_lab.report.page import Bar, Figure, NodeView, Report, Section, write_report

__all__ = ["Bar", "Figure", "NodeView", "Report", "Section", "write_report"]
