"""Classes for the pages' figures, as the notebooks' figures have them; minisd.css shows each class well in dark mode and on phones.

A PNG with a white page is a "plot"; any other that is as wide as the text is a "sheet" of pictures.
"""

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform


def kind(path: str) -> str | None:
    with Image.open(path) as image:
        white = image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
        return "plot" if white else "sheet" if image.width >= 600 else None


class FigureClasses(SphinxPostTransform):
    default_priority = 500

    def run(self):
        for image in self.document.findall(nodes.image):
            if not image["classes"] and image["uri"].endswith(".png") and (found := kind(self.app.srcdir / image["uri"])):
                image["classes"].append(found)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_post_transform(FigureClasses)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
