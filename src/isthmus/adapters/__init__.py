"""Models of isthmus in other people's evaluation tools; each file needs the package that it is named after."""
