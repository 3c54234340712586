"""Faces in films: landmarks, and the crops of mouths that are read from them."""
