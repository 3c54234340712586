"""Self-contained HTML pages: one look, figures that read in light and dark, pictures inside the file."""

from isthmus.report.figures import drawn, svg
from isthmus.report.page import Picture, duration, render_page, write_page

__all__ = ["Picture", "drawn", "duration", "render_page", "svg", "write_page"]
