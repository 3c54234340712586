"""HTML pages of tasks that have one: `NAME.py` fills `NAME.html.j2`."""
