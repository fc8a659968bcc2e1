"""The `download` section: where each data set comes from, and what has to be in it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, RootModel

from gta.errors import InputError
from gta.params.digits import Digits
from gta.params.section import Section, parse

NAME = r"^[a-z][a-z0-9_]*$"
"""Names of data sets become names of stages and folders."""

Name = Annotated[str, Field(pattern=NAME)]
Count = Annotated[int, Field(ge=1)]
Skipped = Annotated[int, Field(ge=0)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Word = Annotated[str, Field(pattern=r"^\w+$")]


def _location(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]\S*|file:///.+|[^:]+", text):
        raise ValueError("expected http://, https://, file:/// or a path")
    return text


def _checksum(text: str) -> str:
    if not re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", text):
        raise ValueError("expected sha256: and 64, or md5: and 32, digits 0-9a-f")
    return text


Location = Annotated[str, AfterValidator(_location)]


class Archive(Section):
    """One file of a data set's official release."""

    name: FileName
    """Its name in the `downloads` folder and in a mirror. Archives (.tar, .tar.gz, .tgz, .zip) are
    extracted, other files are taken as they are."""
    urls: list[Location]
    """Addresses of the very file, tried in this order after the mirrors."""
    checksum: Annotated[str, AfterValidator(_checksum)] | None
    """`sha256:<64 digits>` or `md5:<32 digits>`; null where none is known: then nothing is verified."""
    optional: bool
    """True: where no source has it, a warning is logged and the data set is built without it."""


def _distinct(archives: list[Archive]) -> list[Archive]:
    names = [archive.name for archive in archives]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"expected each name once, found {twice[0]!r} {len(twice)} times")
    return archives


class Counts(Section):
    """What the data set has to hold; anything else is an error."""

    train: Count
    """Official training images."""
    test: Count
    """Official test images."""
    classes: Count
    """Classes over both."""
    skip_unreadable: Skipped
    """Most images that may be left out, each named in the log, because they cannot be decoded; they are among
    those that `train` and `test` count."""


class Release(Section):
    """The official archives of a data set."""

    mirrors: list[Location]
    """Folders or base addresses that hold the archives under their names, tried first. A path is relative
    to the repository; `~` is the home folder."""
    archives: Annotated[list[Archive], Field(min_length=1), AfterValidator(_distinct)]
    """The files, in the order in which they are extracted."""


class Archives(Counts, Release):
    """A data set in the layout of its official archives."""

    reader: Literal["cub", "cars", "aircraft", "dogs", "pets"]
    """Whose layout it is: a module of gta.datasets."""


class Voc(Release):
    """PASCAL VOC 2012's validation images with segmentations: to be segmented, not to be trained on, as an
    image has objects of several classes."""

    reader: Literal["voc"]
    images: Count
    """Images that the list has to hold; anything else is an error."""
    masks: Literal["class", "instance"]
    """What a mask tells apart: the classes in its image, all of one class together, or single objects. For
    both, two entries: `downloads/<name of the first>` is a mirror for the second."""
    skip_unreadable: Skipped
    """Most of the images that may be left out because they cannot be decoded, each named in the log."""


class Hub(Counts):
    """A data set of the Hugging Face hub, in parquet files under its `data/` folder."""

    reader: Literal["hub"]
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    """Owner and name."""
    revision: Annotated[str, Field(min_length=1)]
    """Commit (reproducible), tag or branch."""
    train_split: Word
    """Training images are in `data/<train_split>-*.parquet`; other splits are not fetched."""
    test_split: Word
    """The same for the test images."""
    image_column: Word
    """Column of the stored image files."""
    label_column: Word
    """Column of the classes, whole numbers from 0."""
    mirrors: list[Annotated[str, Field(pattern=r"^[^:]+$")]]
    """Folders that hold a copy of the repository (`data/*.parquet`), tried first, before the hub."""


class Folder(Section):
    """The user's own images, in a folder for each class."""

    reader: Literal["folder"]
    path: Annotated[str, Field(min_length=1)]
    """Folder of class folders, relative to the repository; `~` is the home folder."""
    test: Annotated[str, Field(min_length=1)] | None
    """The same for the test images; null: a part of `path` is held out."""
    test_share: Annotated[int, Field(ge=1, le=90)]
    """Per cent of each class's images, rounded up, that are held out for the test where `test` is null."""
    seed: Annotated[int, Field(ge=0)]
    """Seed of that choice."""
    masks: Annotated[str, Field(min_length=1)] | None
    """Folder of masks: `<class>/<name>.png` for `<class>/<name>.<any>`, nonzero on the object, as large as
    the image; images without one are allowed. null: no masks."""
    skip_unreadable: Skipped
    """Most images that may be left out, each named in the log, because they cannot be decoded."""


Entry = Archives | Voc | Hub | Folder | Digits

READERS: dict[str, type[Entry]] = {
    **dict.fromkeys(["cub", "cars", "aircraft", "dogs", "pets"], Archives),
    "voc": Voc,
    "hub": Hub,
    "folder": Folder,
    "digits": Digits,
}
"""The class of an entry by its `reader`."""


class AnyEntry(Section):
    """What every entry has: it says which class the rest of the entry is."""

    model_config = ConfigDict(extra="ignore")

    reader: Literal["cub", "cars", "aircraft", "dogs", "pets", "voc", "hub", "folder", "digits"]


def _entry(values: Any) -> Entry:
    # pydantic's own tagged union would put the reader into the key path of every message
    return READERS[AnyEntry.model_validate(values).reader].model_validate(values)


class Download(RootModel[dict[Name, Annotated[Entry, PlainValidator(_entry)]]]):
    """The whole section: entries by the data set's name."""

    model_config = ConfigDict(frozen=True)


def entry(params: dict[str, Any], name: str) -> Entry:
    """The entry `download.<name>` of the whole file's values, whatever the other entries hold.

    Raises InputError with a line for every mistake.
    """
    if not re.fullmatch(NAME, name):
        raise InputError(f"params.yaml: download.{name}: expected a name that matches {NAME}, got {name!r}")
    reader = parse(AnyEntry, params, "download", name).reader
    return parse(READERS[reader], params, "download", name)
