"""Self-contained HTML pages: one style, figures for light and dark mode, pictures inside the file."""

from isthmus.report.figures import drawn, svg
from isthmus.report.page import Picture, duration, render_page, write_page

__all__ = ["Picture", "drawn", "duration", "render_page", "svg", "write_page"]
