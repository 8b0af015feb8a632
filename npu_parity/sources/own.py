"""The user's own inputs: images, folders, lists of images, and arrays."""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npu_parity import evidence
from npu_parity.errors import first_line, shorten
from npu_parity.sources import decoding
from npu_parity.sources.decoding import Colour
from npu_parity.sources.inputs import Input, Shape, Source, read_image

COLUMNS = ("path", "file", "filename", "file_name", "image")  # names of a list's column
LARGEST = 2**31  # bytes of a list, or of the arrays of an .npz file after decompression
NAMED = 20  # files that `skipped` names for each suffix


class Files(Source):
    """The path of an image, of a folder of images, or of a folder with a folder for each class.

    The images of a folder come in the order of their names. Subfolders count only if the folder
    itself has no image; then the names of the inputs are ``CLASS/FILE``.
    """

    def user_files(self) -> list[str]:
        """Return the images; ParityError if a folder has none."""
        return [str(path) for path in self._images()]

    def skipped(self) -> list[str]:
        """Return the names of all other files and folders in the folder."""
        return self._look()[1] if os.path.isdir(self.rest) else []

    def inputs(self, shape: Shape, background: Colour) -> Iterator[Input]:
        """Yield every image."""
        folder = Path(self.rest)
        for path in self._images():
            name = path.name if path == folder else path.relative_to(folder).as_posix()
            yield read_image(path, self.text, background, name)

    def _images(self) -> list[Path]:
        if not os.path.isdir(self.rest):  # unlike `Path.is_dir`, false for an impossible name
            return [Path(self.rest)]
        found, skipped = self._look()
        if not found:
            kinds = f"; found {counted(skipped)}" if skipped else ""
            reasons = {decoding.unreadable(Path(name).suffix.lower()) for name in skipped} - {None}
            kinds += "".join(f"; {reason}" for reason in sorted(map(str, reasons)))
            raise self.mistake(f"the folder has no image (.jpg, .png, …){kinds}")
        return found

    def _look(self) -> tuple[list[Path], list[str]]:
        """Return the images, and the names of everything else."""
        folder = Path(self.rest)
        try:
            entries = sorted(folder.iterdir())
            if not any(map(_usable, entries)):
                classes = [p for p in entries if os.path.isdir(p) and not p.name.startswith(".")]
                others = [p for p in entries if p not in classes]
                entries = others + [file for one in classes for file in sorted(one.iterdir())]
        except OSError as error:
            raise self.mistake(str(error.strerror)) from None
        names = [p.relative_to(folder).as_posix() for p in entries if not _usable(p)]
        return list(filter(_usable, entries)), names


class Listed(Source):
    """A CSV file with the paths of images in a column: the images come in its order.

    A path is relative to the folder of the CSV file, and it is the name of the input.
    """

    def user_files(self) -> list[str]:
        """Return the CSV file and its images."""
        return [self.rest, *map(str, self._paths().values())]

    def inputs(self, shape: Shape, background: Colour) -> Iterator[Input]:
        """Yield every image."""
        for name, path in self._paths().items():
            yield read_image(path, self.text, background, name)

    def _paths(self) -> dict[str, Path]:
        if problem := evidence.problem(self.rest):
            raise self.mistake(problem)
        folder, found = Path(self.rest).parent, {}
        with _explained(self), open(self.rest, encoding="utf-8-sig", newline="") as file:
            if os.path.getsize(self.rest) > LARGEST:
                raise ValueError(f"more than {LARGEST >> 20} MiB")
            rows = csv.DictReader(file, strict=True)
            column = next((c for c in rows.fieldnames or () if c in COLUMNS), None)
            if column is None:
                columns = ", ".join(rows.fieldnames or ["nothing"])
                raise ValueError(f"found the columns {columns}; expected a column {COLUMNS[0]!r}")
            for row in rows:
                name = row[column]
                if not name:
                    raise ValueError(f"line {rows.line_num} names no image")
                if name in found:
                    raise ValueError(f"line {rows.line_num} names {name} again")
                found[name] = folder / name
        if not found:
            raise self.mistake("the list has no image")
        return found


class Arrays(Source):
    """A ``.npy`` or ``.npz`` file: images before preprocessing, or inputs of the network.

    uint8 of shape (N, H, W, 3) or (H, W, 3) are images. Floating-point numbers of shape (N, 3, H,
    W) or (3, H, W) are the network's inputs, with its height and width.
    """

    def user_files(self) -> list[str]:
        """Return the file."""
        return [self.rest]

    def inputs(self, shape: Shape, background: Colour) -> Iterator[Input]:
        """Yield every row of every array."""
        if problem := evidence.problem(self.rest):
            raise self.mistake(problem)
        for name, array in self._arrays():
            yield from self._rows(name, array, shape)

    def _arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        path = Path(self.rest)
        with _explained(self):
            with path.open("rb") as file:
                if file.read(6) not in (b"\x93NUMPY", *[b"PK\3\4\x14\0", b"PK\3\4-\0"]):
                    raise ValueError("its content is no array of NumPy")
            # Mapped into memory: the header of a small file may announce a large array.
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            yield path.stem, loaded
            return
        with loaded:
            for name in self._members(loaded):
                with _explained(self):
                    array = loaded[name]
                    if not isinstance(array, np.ndarray):
                        raise ValueError(f"{name} is no array")
                yield shorten(name, 100), array

    def _members(self, loaded: Any) -> list[str]:
        if sum(info.file_size for info in loaded.zip.infolist()) > LARGEST:
            raise self.mistake(f"more than {LARGEST >> 20} MiB; save each array as .npy")
        return list(loaded)

    def _rows(self, name: str, array: NDArray[Any], shape: Shape) -> Iterator[Input]:
        image = array.dtype == np.uint8 and array.shape[-1:] == (3,)
        floats = np.issubdtype(array.dtype, np.floating) and array.shape[-3:] == shape
        if array.ndim not in (3, 4) or array.size == 0 or not (image or floats):
            raise self.mistake(
                f"{name} is {array.dtype} of shape {array.shape}; expected uint8 (N, H, W, 3), or "
                f"float32 (N, {', '.join(map(str, shape))}) as the network takes it"
            )
        for index, row in enumerate(array if array.ndim == 4 else array[None]):
            label = f"{name}_{index}" if array.ndim == 4 else name
            digest = hashlib.sha256(row.tobytes()).hexdigest()
            if image:
                yield Input(label, self.text, digest, Image.fromarray(np.array(row)))
                continue
            with np.errstate(over="ignore"):
                data = row.astype(np.float32)
            if not np.isfinite(data).all():
                raise self.mistake(f"{label} has values that are not finite in float32")
            rounded = () if (data == row).all() else (f"{row.dtype} rounded to float32",)
            yield Input(label, self.text, digest, data, rounded)


# The suffixes of files that are no images.
SUFFIXES: dict[str, type[Source]] = {".csv": Listed, ".npy": Arrays, ".npz": Arrays}


def of_path(text: str) -> Source:
    """Return the source of a path."""
    return SUFFIXES.get(Path(text).suffix.lower(), Files)(text, text)


def about_skipped(sources: Iterable[Source]) -> list[dict[str, Any]]:
    """Return for each source the number of skipped files, by suffix, and names of some of them."""
    return [
        {"source": source.text, "count": len(names), "kinds": _kinds(names), "names": _some(names)}
        for source in sources
        if (names := source.skipped())
    ]


def counted(names: list[str]) -> str:
    """Return the number of files by suffix.

    >>> counted(["a.heic", "b.HEIC", "notes"])
    '2 .heic, 1 without suffix'
    """
    return ", ".join(f"{count} {kind}" for kind, count in _kinds(names).items())


def _kinds(names: list[str]) -> dict[str, int]:
    return dict(Counter(Path(name).suffix.lower() or "without suffix" for name in names))


def _some(names: list[str]) -> list[str]:
    """Return the first names of each suffix."""
    seen: Counter[str] = Counter()
    found = []
    for name in names:
        seen[suffix := Path(name).suffix.lower()] += 1
        if seen[suffix] <= NAMED:
            found.append(shorten(name, 150))
    return found


def _usable(path: Path) -> bool:
    """Return whether a file of a folder is an image, by its name. Not those that macOS adds."""
    suffix = path.suffix.lower()
    named = suffix in decoding.SUFFIXES and not path.name.startswith("._")
    return named and not os.path.isdir(path) and decoding.unreadable(suffix) is None


@contextmanager
def _explained(source: Source) -> Iterator[None]:
    """Turn what a damaged or hostile file raises into one line."""
    try:
        yield
    except UnicodeDecodeError:
        raise source.mistake("this is not UTF-8; save the file as UTF-8") from None
    except Exception as error:  # the readers raise many kinds of errors
        raise source.mistake(f"cannot be read ({shorten(first_line(error), 120)})") from None
