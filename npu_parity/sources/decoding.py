"""One image file as people see it: upright, opaque, RGB with 8 bits a channel."""

import importlib.util
import io
import warnings

from PIL import ExifTags, Image, ImageOps, features

from npu_parity.errors import first_line, shorten

Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
LARGEST = 2**29  # bytes of a file

AVIF, HEIF = frozenset({".avif"}), frozenset({".heic", ".heif", ".hif"})
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
SUFFIXES = (
    {".apng", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"}
    | {".pnm", ".ppm", ".tif", ".tiff", ".webp"}
    | AVIF
    | HEIF
)
SIGNS = (  # the first bytes of files that are no images
    (b"version https://git-lfs", "a pointer of Git LFS: run `git lfs pull`"),
    (b"\0\5\x16\7", "data of macOS beside the image, not the image: name the other file"),
    (b"\x93NUMPY", "an array of NumPy: name the file .npy"),
    (b"<", "a web page or SVG: fetch the image again, or save it as PNG"),
    (b"%PDF", "a PDF: save it as PNG"),
    (b"%!PS", "PostScript: save it as PNG"),
)
# Modes whose conversion to RGB needs no explanation.
PLAIN = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"})


def decode(content: bytes, background: Colour = WHITE) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the image as RGB, and what was done to it.

    The orientation in EXIF is applied, transparent pixels are laid on `background`, and only the
    first frame counts. The result is equal to Pillow's own RGB where nothing had to be done.

    Args:
        content: the bytes of the file.
        background: red, green and blue from 0 to 255.

    Raises:
        ValueError: this is no image, or one that this environment cannot read, or it has more than
            8 bits a channel and no range of values. Damaged images raise other exceptions too.
    """
    problem, start = unreadable(_kind(content)), content[:99].lstrip()
    sign = next((text for sign, text in SIGNS if start.startswith(sign)), problem)
    if sign:
        raise ValueError(sign)
    _register_heif()
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(content)) as image:
            return _seen(image, background)


def _seen(image: Image.Image, background: Colour) -> tuple[Image.Image, tuple[str, ...]]:
    done = []
    if image.mode[0] in "IF":  # Pillow would clip the values to white
        raise ValueError(f"{image.mode}: more than 8 bits a channel; save it with 8 bits")
    if any(";16" in str(tile) for tile in getattr(image, "tile", ())):
        done.append("16 bits a channel reduced to 8")
    if getattr(image, "is_animated", False):
        done.append("first of several frames")
    turned = image.getexif().get(ExifTags.Base.Orientation, 1)
    if turned in range(2, 9):
        done.append(f"EXIF orientation {turned} applied")
        image = ImageOps.exif_transpose(image)
    if image.mode not in PLAIN:
        done.append(f"{image.mode} converted to RGB without a colour profile")
    if image.has_transparency_data:
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
        image = straight.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            done.append(f"transparent pixels on {background}")
            image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert("RGB"), tuple(done)


def unreadable(suffix: str) -> str | None:
    """Return why this environment cannot read images with a suffix; None if it can.

    >>> unreadable(".png")
    """
    if suffix in AVIF and not features.check("avif"):
        return "AVIF needs Pillow 11.3 or newer: `uv pip install -U pillow`"
    if suffix in HEIF and not importlib.util.find_spec("pillow_heif"):
        return "HEIC needs a plugin: `uv pip install pillow-heif`, or save the image as JPEG"
    return None


def explain(error: Exception) -> str:
    """Return in one line why an image cannot be decoded."""
    reason = first_line(error)
    if reason.startswith("cannot identify image file"):  # the rest is an address in memory
        reason = "its content is no image"
    return shorten(reason, 100)


def _kind(content: bytes) -> str:
    """Return the suffix of files in the container of HEIF and AVIF, by content; else nothing."""
    brands = content[8:40] if content[4:8] == b"ftyp" else b""
    if b"avif" in brands or b"avis" in brands:
        return ".avif"
    return ".heic" if brands[:4] in HEIF_BRANDS else ""


def _register_heif() -> None:
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
