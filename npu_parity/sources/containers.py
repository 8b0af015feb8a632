"""What a weights file is: its first bytes say it, not its suffix.

Planning a run reads indices of shards, so this module does not import torch.
"""

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from npu_parity import evidence
from npu_parity.errors import ParityError, shorten

HEAD = 4096  # bytes that are enough to tell all kinds apart
LARGEST_INDEX = 100 * 2**20

# What can be read. The names stand in weights.json.
SAFETENSORS, ZIPPED, LEGACY, INDEX = "safetensors", "torch.save", "torch.save (legacy)", "index"

FETCH = "fetch it again"
SAVE = "load it where it was made, and save only model.state_dict() with torch.save or safetensors"
EXPORTED = f"it is made from weights and has lost their names: {SAVE}"
LFS = "run `git lfs pull`, or fetch the file itself"
UNPACK = "unpack it, and name the checkpoint in it"
CONVERT = "convert it to safetensors with the framework that made it"


@dataclass(frozen=True)
class Kind:
    """A kind of file that a user or a hub may give as weights.

    Attributes:
        name: what the file is. For a kind that can be read, its name in weights.json.
        test: takes the first bytes.
        advice: what to do about it; None if the file can be read.
    """

    name: str
    test: Callable[[bytes], object]
    advice: str | None


def _starts(*texts: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(texts)


def _pattern(pattern: bytes) -> Callable[[bytes], object]:
    return re.compile(pattern, re.DOTALL | re.IGNORECASE).match


# The only list of kinds. The first one that fits counts.
KINDS = (
    # First, because the length of the header may look like the start of another kind.
    Kind(SAFETENSORS, _pattern(rb".{6}\x00\x00\{"), None),
    Kind("an empty file", lambda head: not head, FETCH),
    Kind("full of zeros, as after an interrupted download", lambda head: not any(head), FETCH),
    Kind("a zip archive", _starts(b"PK\3\4", b"PK\5\6"), UNPACK),  # `_zip_kind` says more
    Kind(LEGACY, _starts(b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."), None),
    Kind("a plain pickle, which could execute code", _pattern(rb"\x80[\x00-\x05]"), SAVE),
    Kind("a Git LFS pointer, not the file itself", _starts(b"version https://git-lfs"), LFS),
    Kind("an HDF5 file, such as Keras writes", _starts(b"\x89HDF\r\n\x1a\n"), CONVERT),
    Kind("a TFLite model", _pattern(rb".{4}TFL3"), EXPORTED),
    Kind("a GGUF file of quantised weights", _starts(b"GGUF"), "name the unquantised weights"),
    Kind("an offline model of Ascend (.om)", _starts(b"IMOD"), EXPORTED),
    Kind("a TensorRT engine", _starts(b"ftrt", b"ptrt"), EXPORTED),
    Kind("a NumPy array", _starts(b"\x93NUMPY"), CONVERT),
    Kind("a gzip archive", _starts(b"\x1f\x8b"), UNPACK),
    Kind("a bzip2 archive", _pattern(rb"BZh[1-9]1AY&SY"), UNPACK),
    Kind("an xz archive", _starts(b"\xfd7zXZ\0"), UNPACK),
    Kind("a Zstandard archive", _starts(b"\x28\xb5\x2f\xfd"), UNPACK),
    Kind("a 7z archive", _starts(b"7z\xbc\xaf\x27\x1c"), UNPACK),
    Kind("a RAR archive", _starts(b"Rar!"), UNPACK),
    Kind("a tar archive", lambda head: head[257:262] == b"ustar", UNPACK),
    Kind("a picture", _starts(b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), "name the weights"),
    Kind("a PDF document", _starts(b"%PDF"), "name the weights"),
    Kind("a program", _starts(b"\x7fELF", b"MZ\x90\0"), "name the weights"),
    Kind("an ONNX model", _pattern(rb"\x08[\x03-\x1f][\x12\x1a\x22\x2a\x32\x3a\x42]"), EXPORTED),
    Kind("a TensorFlow model", _starts(b"\x08\x01\x12"), CONVERT),
    Kind(SAFETENSORS, _pattern(rb".{8}\{[\"}]"), None),
    Kind(
        "an HTML page, such as a login or an error",
        _pattern(rb"(\xef\xbb\xbf)?\s*(<!--.*?-->\s*)?<(!doctype html|html|head|body)"),
        f"open its address in a browser to see why, then {FETCH}",
    ),
    Kind(
        "an XML page, such as an error of a file server",
        _pattern(rb"(\xef\xbb\xbf)?\s*<[?!a-z]"),
        FETCH,
    ),
    Kind(INDEX, _pattern(rb"(\xef\xbb\xbf)?\s*[{\[]"), None),  # `shards` looks into it
)

# What a zip archive is follows from the names in it, without their first folder.
ZIP_KINDS = (
    ("a TorchScript archive, which is a program", {"constants.pkl"}, SAVE),
    ("a program of torch.export", {"archive_format", "models/model.json"}, SAVE),
    ("a program of torch.export", {"serialized_exported_program.json"}, SAVE),
    (ZIPPED, {"data.pkl"}, None),
    ("a Keras model", {"model.weights.h5"}, CONVERT),
    ("a Core ML package", {"Manifest.json"}, CONVERT),
)


def identify(path: Path) -> str:
    """Return the name of a kind that can be read.

    Raises:
        ParityError: the file is of another kind, is missing or cannot be opened.
    """
    if problem := evidence.problem(path):
        raise ParityError(f"weights {shorten(str(path), 150)}: {problem}")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from None
    kind = next((kind for kind in KINDS if kind.test(head)), None)
    if kind is None:
        shown = head[:12].decode("latin-1").encode("ascii", "backslashreplace").decode()
        raise unreadable(path, f"it starts with {shown!r}, as no checkpoint does: {FETCH}")
    if kind.name == "a zip archive":
        return _zip_kind(path)
    if kind.advice:
        raise unreadable(path, f"it is {kind.name}: {kind.advice}")
    return kind.name


def unreadable(path: Path, why: str) -> ParityError:
    """Return the error for a weights file that cannot be read."""
    return ParityError(f"weights {shorten(str(path), 150)}: cannot be read, {shorten(why, 220)}")


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        why = shorten(str(error) or type(error).__name__, 60)
        raise unreadable(path, f"its zip archive is damaged ({why}): {FETCH}") from None
    names = [entry.filename for entry in entries]
    if any(not is_inside(name.rstrip("/")) for name in names) or len({*names}) < len(names):
        raise unreadable(path, f"its zip archive has a name twice, or one that leaves it: {FETCH}")
    inner = {name.partition("/")[2] for name in names} | {*names}
    for name, marks, advice in ZIP_KINDS:
        if marks <= inner:
            if advice:
                raise unreadable(path, f"it is {name}: {advice}")
            # torch.save never compresses. A small archive may not become gigabytes in memory.
            if sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise unreadable(path, f"its zip archive is compressed, unlike torch's: {UNPACK}")
            return name
    if names and all(name.endswith(".npy") for name in names):
        raise unreadable(path, f"it is an archive of NumPy arrays (.npz): {CONVERT}")
    raise unreadable(path, f"it is a zip archive of {len(names)} files, no checkpoint: {UNPACK}")


def is_inside(name: str) -> bool:
    """Return whether a name, joined to a folder, stays within the folder on any system."""
    return (
        name.isprintable()
        and not re.search(r"\\|^~|^[A-Za-z]:", name)
        and not {"", ".", ".."} & set(name.split("/"))
    )


def shards(path: Path) -> dict[str, list[str]]:
    """Return the shards that an index names, relative to it, each with its tensors.

    Raises:
        ParityError: it is no index, or it names a file that is not below its folder.
    """
    try:
        if path.stat().st_size > LARGEST_INDEX:
            raise unreadable(path, "it is JSON of more than 100 MB, expected an index of shards")
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise unreadable(path, error.strerror or str(error)) from None
    except (ValueError, RecursionError):
        raise unreadable(path, f"it is damaged JSON, expected a checkpoint: {FETCH}") from None
    places = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(places, dict) or not places:
        said = shorten(json.dumps(found, ensure_ascii=False), 80)
        raise unreadable(path, f"it is JSON without a weight_map, no checkpoint: {said}")
    tensors: dict[str, list[str]] = {}
    for tensor, name in places.items():
        if not isinstance(name, str) or not is_inside(name):
            raise unreadable(path, f"its weight_map names {shorten(repr(name), 60)}, refused")
        tensors.setdefault(name, []).append(tensor)
    return {name: tensors[name] for name in sorted(tensors)}


def is_index(name: str | Path) -> bool:
    """Return whether a file is named as an index of shards."""
    return PurePosixPath(name).name.endswith(".index.json")
