"""The images that fit a text, or look like an image."""

from isthmus.image_search.query import check_query, looks_like_path
from isthmus.image_search.result import Hit, SearchResult
from isthmus.image_search.run import search

__all__ = ["Hit", "SearchResult", "check_query", "looks_like_path", "search"]
