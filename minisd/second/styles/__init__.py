"""One renderer per file: each turns a place and its things, given as shapes, into an image in its style."""
