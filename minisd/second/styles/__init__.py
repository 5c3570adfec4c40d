"""One renderer a file: each turns a place and its things, given as shapes, into a picture of its style."""
