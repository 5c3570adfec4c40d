"""The next edition of the built-in model, its world and its training, which will replace `minisd.tiny`.

`picture_book` samples scenes, `captions` describes them, and `drawing` draws them in one of the four `styles`.
"""
