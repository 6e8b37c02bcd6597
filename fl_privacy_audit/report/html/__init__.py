"""The report of an audit: one HTML file that a privacy officer can read, believe and defend.

`render_html` and `render_markdown` need nothing but an `AuditSummary`. The page holds no script,
loads nothing, and shows all text from runs as text.
"""

from fl_privacy_audit.report.markdown import render_json, render_markdown

from .page import render_html

__all__ = ["render_html", "render_json", "render_markdown"]
