"""The order of the gallery: the quickstart first, the others by name."""


class QuickstartFirst:
    """A sort key of file names, in the form that sphinx-gallery asks for."""

    def __init__(self, src_dir):
        self.src_dir = src_dir

    def __call__(self, filename):
        return filename != "quickstart.py", filename

    def __repr__(self):
        return type(self).__name__
