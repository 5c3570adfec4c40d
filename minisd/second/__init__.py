"""The next edition of the built-in model: its world and its trainings, until it replaces `minisd.tiny`.

`picture_book` makes scenes, `captions` describes them, `drawing` draws them in the four styles of `styles`.
"""
