"""What a file is that has an image's name and is none."""

from __future__ import annotations

from capt_core.data.scan import CAMERA_ENDINGS

_SAVE = "which is not supported, save as JPEG or PNG"
# First bytes of files that have the names of images.
_SIGNATURES = (
    (b"8BPS", f"a Photoshop file, {_SAVE}"),
    (b"%PDF", f"a PDF document, {_SAVE}"),
    (b"%!PS", f"a PostScript file, {_SAVE}"),
    (b"\xc5\xd0\xd3\xc6", f"a PostScript file, {_SAVE}"),
    (b"\0\0\1\0", f"an icon (ICO), {_SAVE}"),
    (b"\xff\x0a", f"a JPEG XL image, {_SAVE}"),
    (b"\0\0\0\x0cJXL ", f"a JPEG XL image, {_SAVE}"),
    (b"FUJIFILMCCD-RAW", f"a raw photograph, {_SAVE}"),
    (b"IIRO", f"a raw photograph, {_SAVE}"),
    (b"IIU\0", f"a raw photograph, {_SAVE}"),
    (b"qoif", f"a QOI image, {_SAVE}"),
    (b"DDS ", f"a DirectDraw surface, {_SAVE}"),
    (b"SIMPLE  =", f"a FITS file, {_SAVE}"),
    (b"\x89HDF", "an HDF5 file, not an image"),
    (b"\x93NUMPY", "a NumPy array, not an image"),
    (b"PK\3\4", "a zip archive, not an image"),
    (b"\x1f\x8b", "a gzip archive, not an image"),
    (b"version https://git-lfs", "a git-lfs pointer, get its content with: git lfs pull"),
    (b"<!doctype html", "a web page, not an image; download it again"),
    (b"<html", "a web page, not an image; download it again"),
)
_BRANDS = (
    ((b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"), f"a HEIC image, {_SAVE}"),
    ((b"crx ",), f"a raw photograph, {_SAVE}"),
    ((b"avif", b"avis"), "a damaged AVIF file, or one that Pillow does not read"),
)
_KNOWN = {b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP", b"RIFF": "WebP"}
_KNOWN |= {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF"}


def identified(content: bytes, suffix: str) -> str:
    """What a file is that opens as no image.

    Args:
        content: at least its first 4,096 bytes.
        suffix: of its name.
    """
    head = content[:4096]
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if suffix.lower() in CAMERA_ENDINGS:
        return unsupported(suffix)
    for signature, what in _SIGNATURES:
        if head.startswith(signature) or text.startswith(signature):
            return what
    if b"<svg" in text and text.startswith(b"<"):
        return f"a drawing (SVG), {_SAVE}"
    if head[4:8] == b"ftyp":
        for brands, what in _BRANDS:
            if head[8:12] in brands:
                return what
        return "a video, not an image"
    if head[128:132] == b"DICM":
        return f"a DICOM file, {_SAVE}"
    for signature, name in _KNOWN.items():
        if head.startswith(signature):
            return f"a damaged {name} file, or one of a kind that Pillow does not read"
    if not head.strip(b"\0"):
        return "nothing but zero bytes at its beginning, as an interrupted copy leaves them"
    return "not an image"


def unsupported(suffix: str) -> str:
    """Of a camera's own format, by the ending of its files."""
    return f"{suffix} files are not supported, save as JPEG"
