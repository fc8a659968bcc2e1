"""What is known of the licences of the data sets; shown when one is built."""

from __future__ import annotations

from gta.params.download import Entry

LICENCES = {
    "cub": "not known to us; the pictures are Flickr users'",
    "cars": "none is known",
    "aircraft": "non-commercial research only; the pictures are their photographers'",
    "dogs": "ImageNet's terms: non-commercial research and education only",
    "pets": "CC BY-SA 4.0; the pictures are their authors'",
    "voc": "Flickr's terms of use; the pictures are Flickr users'",
    "digits": "made here from scikit-learn's digits (Alpaydin and Kaynak, 1998)",
    "folder": "your own pictures",
}
"""By `reader`, as far as it is known; their own pages decide."""

OVERLAPS = {
    "cub": "pictures of its test set may be in ImageNet, as its page warns",
    "dogs": "its pictures are ImageNet's",
}
"""By `reader`: what a source that was pretrained on ImageNet may have seen."""


def about(entry: Entry) -> str:
    """One line for the log: the licence, and what pretrained sources may have seen."""
    known = f"see the card of {entry.repo}" if entry.reader == "hub" else LICENCES[entry.reader]
    seen = OVERLAPS.get(entry.reader)
    return f"licence: {known}" + (f"; {seen}" if seen else "")
