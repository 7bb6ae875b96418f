"""Searchable PDFs: the pages as they came, under them their text, which is not painted.

As Tesseract and OCRmyPDF do it: text render mode 3 (ISO 32000-2, 9.3.6), in a font of blocks whose
ToUnicode map gives the characters. It parses what callers send, so it runs in a decoder
process (`sandbox/worker.py`).
"""

from __future__ import annotations

import io
import itertools
import struct
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any, cast

import pikepdf
import pypdfium2
from pikepdf import Array, Dictionary, Name, Pdf, Stream
from PIL import Image as PillowImage
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import ICCPROFILE, TiffImageFile

from serving.errors import Undecodable
from serving.imaging import pillow
from serving.imaging.formats import Data, Kind
from serving.imaging.headers import read_header
from serving.imaging.sandbox.protocol import PageText, TextRun

IMAGE_DPI = 144.0
"""Of a page made from an image that does not say its own."""
_MAX_POINTS = 14_400.0
"""A side of a page, ISO 32000-2, annex C."""
_MAX_FIELDS = 10_000
_ASCENT, _DESCENT = 800, -200
"""Thousandths of the font size; with these, text is selected as high as its line."""
_HALF, _FULL = b"\0\1", b"\0\2"
"""The glyphs of the font: half as wide as high, and as wide."""
_FONT = Path(__file__).parents[1] / "data" / "invisible.font"

Matrix = tuple[float, float, float, float, float, float]
"""a b c d e f of the operator cm."""


def check(data: Data) -> None:
    """Raise Undecodable for a PDF that must not be changed: encrypted or signed."""
    with _opened(data):
        pass


def searchable(
    documents: Sequence[tuple[Kind, Data]], layers: Sequence[Sequence[PageText]]
) -> bytes:
    """One PDF of all documents, each with its kind, and the texts of its pages.

    A PDF keeps all of its pages, and the first document, if it is one, also its outlines and
    metadata. Of other documents only the given pages are in it; one without a size, which could
    not be read, is empty. Raises Undecodable.
    """
    kind, data = documents[0]
    with _opened(data) if kind == "pdf" else Pdf.new() as pdf:
        font = _Font(pdf)
        for index, ((kind, data), texts) in enumerate(zip(documents, layers, strict=True)):
            if kind != "pdf":
                _add_images(pdf, kind, data, texts, font)
                continue
            first = 0 if index == 0 else len(pdf.pages)
            if index > 0:
                with _opened(data) as other:
                    pdf.pages.extend(other.pages)
            with pypdfium2.PdfDocument(data) as drawn:
                for text in texts:
                    if text["runs"]:
                        page = pdf.pages[first + text["index"]]
                        font.add_layer(page, text, _drawn_space(drawn, text))
        font.finish()
        out = io.BytesIO()
        pdf.save(out, stream_decode_level=pikepdf.StreamDecodeLevel.none)
        return out.getvalue()


def _opened(data: Data) -> Pdf:
    pdf = Pdf.open(io.BytesIO(data))
    if pdf.is_encrypted:
        raise Undecodable(
            "the PDF is encrypted, and a searchable copy would not be: send it without encryption"
        )
    if _is_signed(pdf):
        raise Undecodable(
            "the PDF is signed, and added text would break its signature: send a copy without it"
        )
    _keep_places(pdf, data)
    return pdf


def _keep_places(pdf: Pdf, data: Data) -> None:
    """Put an empty page where PDFium, which draws, counts a broken page and qpdf leaves it out.

    Raises Undecodable where their pages still differ: text would get on the wrong ones.
    """
    with pypdfium2.PdfDocument(data) as drawn:
        if len(drawn) != len(pdf.pages):
            for index in range(len(drawn)):
                try:
                    drawn.get_page_size(index)
                except pypdfium2.PdfiumError:
                    pdf.pages.insert(index, _empty_page())
        if len(drawn) != len(pdf.pages):
            raise Undecodable(
                f"the PDF is broken: of its {len(pdf.pages)} pages, {len(drawn)} can be counted, "
                "and text could get on the wrong ones: send a repaired copy"
            )


def _empty_page() -> pikepdf.Page:
    return pikepdf.Page(Dictionary(Type=Name.Page, MediaBox=[0, 0, 612, 792]))


def _is_signed(pdf: Pdf) -> bool:
    form = pdf.Root.get(Name.AcroForm)
    if Name.Perms in pdf.Root:
        return True
    if not isinstance(form, Dictionary):
        return False
    if int(form.get(Name.SigFlags, 0)) & 1:
        return True
    fields: list[Any] = list(form.get(Name.Fields, []))
    for _ in range(_MAX_FIELDS):
        if not fields:
            return False
        field = fields.pop()
        if isinstance(field, Dictionary):
            if field.get(Name.FT) == Name.Sig and Name.V in field:
                return True
            fields.extend(field.get(Name.Kids, []))
    raise Undecodable(
        f"the PDF has a form of more than {_MAX_FIELDS} fields, "
        "of which one may be signed: send a copy with its form flattened"
    )


class _Font:
    """The font of all layers: its codes are given to characters as they are met."""

    def __init__(self, pdf: Pdf) -> None:
        self._pdf = pdf
        self._codes: dict[str, int] = {}
        self._dictionary: Any = pdf.make_indirect(Dictionary(Type=Name.Font))

    def encoded(self, text: str) -> str:
        """Two bytes for each character, hexadecimal. Those beyond 65,535 are left out."""
        return "".join(
            f"{self._codes.setdefault(character, len(self._codes) + 1):04X}"
            for character in text
            if character in self._codes or len(self._codes) < 0xFFFF
        )

    def add_layer(self, page: pikepdf.Page, text: PageText, space: Matrix) -> None:
        """Put the text under all that the page paints: there, no content has changed the state."""
        layer = _layer(text, space, self)
        # A copy: other pages may share the dictionaries.
        own = page.obj.get(Name.Resources, None)
        resources = _copy(page.resources if own is None else own)
        fonts = _copy(resources.get(Name.Font))
        name = next(
            name for number in itertools.count() if (name := f"/Invisible{number}") not in fonts
        )
        fonts[name] = self._dictionary
        resources.Font = fonts
        page.obj.Resources = resources
        page.contents_add(layer.replace(b"/Invisible", name.encode()), prepend=True)

    def finish(self) -> None:
        """Describe the characters that are used."""
        pdf = self._pdf
        descriptor = Dictionary(
            Type=Name.FontDescriptor,
            FontName=Name.Invisible,
            Flags=5,
            FontBBox=[0, _DESCENT, 1000, _ASCENT],
            ItalicAngle=0,
            Ascent=_ASCENT,
            Descent=_DESCENT,
            CapHeight=_ASCENT,
            StemV=80,
            FontFile2=Stream(pdf, _FONT.read_bytes()),
        )
        glyphs = [
            (code, _FULL if _is_wide(character) else _HALF)
            for character, code in self._codes.items()
        ]
        wide = [code for code, glyph in glyphs if glyph == _FULL]
        descendant = Dictionary(
            Type=Name.Font,
            Subtype=Name.CIDFontType2,
            BaseFont=Name.Invisible,
            CIDSystemInfo=Dictionary(Registry=b"Adobe", Ordering=b"Identity", Supplement=0),
            FontDescriptor=pdf.make_indirect(descriptor),
            DW=500,
            W=Array([part for code in wide for part in (code, Array([1000]))]),
            CIDToGIDMap=Stream(pdf, b"".join([_HALF, *(glyph for _, glyph in glyphs)])),
        )
        self._dictionary.Subtype = Name.Type0
        self._dictionary.BaseFont = Name.Invisible
        self._dictionary.Encoding = Name("/Identity-H")
        self._dictionary.DescendantFonts = [pdf.make_indirect(descendant)]
        self._dictionary.ToUnicode = Stream(pdf, self._to_unicode())

    def _to_unicode(self) -> bytes:
        """ISO 32000-2, 9.10.3."""
        codes, sections = list(self._codes.items()), []
        for first in range(0, len(codes), 100):
            group = codes[first : first + 100]
            entries = "".join(
                f"<{code:04X}> <{character.encode('utf-16-be').hex()}>\n"
                for character, code in group
            )
            sections.append(f"{len(group)} beginbfchar\n{entries}endbfchar\n")
        return (
            "/CIDInit /ProcSet findresource begin 12 dict begin begincmap\n"
            "/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def\n"
            "/CMapName /Adobe-Identity-UCS def /CMapType 2 def\n"
            "1 begincodespacerange\n<0000> <FFFF>\nendcodespacerange\n"
            f"{''.join(sections)}"
            "endcmap CMapName currentdict /CMap defineresource pop end end\n"
        ).encode("ascii")


def _copy(found: Any) -> Dictionary:
    return copy(found) if isinstance(found, Dictionary) else Dictionary()


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"


def _layer(text: PageText, space: Matrix, font: _Font) -> bytes:
    """Content that writes the runs, whose y runs downwards."""
    parts = ["q", _numbers(space), "cm BT 3 Tr"]
    parts += [_run(run, font) for run in text["runs"]]
    return " ".join([*parts, "ET Q\n"]).encode("ascii")


def _run(run: TextRun, font: _Font) -> str:
    """One line: its pieces follow each other without a gap, each as wide as on the page."""
    across, down = run["direction"]
    size = run["height"]
    # The letters stand up from the line: to its left, where y runs downwards.
    matrix = (across, down, down, -across, *run["start"])
    parts = [f"/Invisible {size:.3f} Tf", _numbers(matrix), "Tm"]
    for piece, width in run["pieces"]:
        code = font.encoded(piece)
        own = size * sum(1.0 if _is_wide(character) else 0.5 for character in piece)
        if code:
            parts.append(f"{100 * width / own:.3f} Tz <{code}> Tj")
    return " ".join(parts)


def _drawn_space(document: pypdfium2.PdfDocument, text: PageText) -> Matrix:
    """From pixels of a PDF's page as PDFium draws it, cropped and turned, to its own space."""
    page = document[text["index"]]
    width, height = text["width"], text["height"]
    drawn = pypdfium2.PdfPosConv(page, (0, 0, width, height, 0))
    (left, top), end, low = (drawn.to_page(*xy) for xy in ((0, 0), (width, 0), (0, height)))
    page.close()
    across = (end[0] - left) / width, (end[1] - top) / width
    down = (low[0] - left) / height, (low[1] - top) / height
    return *across, *down, left, top


def _add_images(
    pdf: Pdf, kind: pillow.PillowKind, data: Data, texts: Sequence[PageText], font: _Font
) -> None:
    """A page for each, in its true size, with its text."""
    header = read_header(kind, data) if kind in ("jpeg", "png", "webp", "bmp") else None
    image = pillow.open_image(kind, header.body if header else data)
    orientation = header.orientation if header else 1
    profile = _colour_profile(kind, data)
    for text in texts:
        if not text["width"]:
            pdf.pages.append(_empty_page())
            continue
        if kind == "tiff":
            image.seek(text["index"])
            profile = _profile_of_page(image)
        if header and header.jpeg_mode:
            stream = _jpeg(pdf, image, bytes(header.body), header.jpeg_mode)
        else:
            stream = _lossless(pdf, image, orientation)
        _set_colours(pdf, stream, profile)
        dpi = [*(text["dpi"] or (IMAGE_DPI, IMAGE_DPI))]
        sides = zip((text["width"], text["height"]), dpi, strict=True)
        width, height = (min(_MAX_POINTS, 72 * pixels / per_inch) for pixels, per_inch in sides)
        matrix = _PLACED[orientation if header and header.jpeg_mode else 1](width, height)
        content = f"q {_numbers(matrix)} cm /Im Do Q\n".encode("ascii")
        page = Dictionary(
            Type=Name.Page,
            MediaBox=[0, 0, round(width, 3), round(height, 3)],
            Resources=Dictionary(XObject=Dictionary(Im=stream)),
            Contents=Stream(pdf, content),
        )
        pdf.pages.append(pikepdf.Page(page))
        if text["runs"]:
            across, down = width / text["width"], -height / text["height"]
            font.add_layer(pdf.pages[-1], text, (across, 0, 0, down, 0, height))


_PLACED: dict[int, Any] = {
    1: lambda w, h: (w, 0, 0, h, 0, 0),
    2: lambda w, h: (-w, 0, 0, h, w, 0),
    3: lambda w, h: (-w, 0, 0, -h, w, h),
    4: lambda w, h: (w, 0, 0, -h, 0, h),
    5: lambda w, h: (0, -h, -w, 0, w, h),
    6: lambda w, h: (0, -h, w, 0, 0, h),
    7: lambda w, h: (0, h, w, 0, 0, 0),
    8: lambda w, h: (0, h, -w, 0, w, 0),
}
"""By EXIF orientation: the matrix that makes a stored image fill a page of w by h points."""


def _colour_profile(kind: pillow.PillowKind, data: Data) -> bytes:
    """The ICC profile of an image; empty without one, or where its metadata are damaged."""
    with suppress(Exception):  # see pillow.damage_as_undecodable
        return bytes(pillow.open_image(kind, data).info.get("icc_profile") or b"")
    return b""


def _profile_of_page(image: ImageFile) -> bytes:
    """The same of the page that a TIFF is at; `info` keeps that of another one."""
    with suppress(Exception):
        return bytes(cast(TiffImageFile, image).tag_v2.get(ICCPROFILE) or b"")
    return b""


def _set_colours(pdf: Pdf, image: Any, profile: bytes) -> None:
    """Give the image the profile, if that is for colours of its kind."""
    spaces = {Name.DeviceGray: (b"GRAY", 1), Name.DeviceRGB: (b"RGB ", 3)}
    signature, count = spaces.get(image.ColorSpace, (b"CMYK", 4))
    if profile[16:20] == signature and image.BitsPerComponent == 8:
        image.ColorSpace = Array([Name.ICCBased, Stream(pdf, profile, N=count)])


def _jpeg(pdf: Pdf, image: ImageFile, body: bytes, mode: str) -> Stream:
    """The file itself: nothing is compressed anew."""
    spaces = {"L": Name.DeviceGray, "CMYK": Name.DeviceCMYK}
    stream = _image(pdf, body, image.size, spaces.get(image.mode, Name.DeviceRGB), 8)
    stream.Filter = Name.DCTDecode
    if mode == "CMYK;I":
        stream.Decode = Array([1, 0] * 4)
    return stream


def _lossless(pdf: Pdf, image: ImageFile, orientation: int) -> Stream:
    """Its pixels as PNG compresses them, which is one of PDF's filters."""
    bilevel = image.mode == "1"
    picture = PillowImage.fromarray(pillow.decode(image, orientation))
    png = io.BytesIO()
    (picture.convert("1") if bilevel else picture).save(png, "PNG")
    colours = 1 if picture.mode == "L" else 3
    space = Name.DeviceGray if colours == 1 else Name.DeviceRGB
    bits = 1 if bilevel else 8
    stream = _image(pdf, b"".join(_idat(png.getvalue())), picture.size, space, bits)
    stream.Filter = Name.FlateDecode
    stream.DecodeParms = Dictionary(
        Predictor=15, Colors=colours, BitsPerComponent=bits, Columns=picture.width
    )
    return stream


def _image(pdf: Pdf, data: bytes, size: tuple[int, int], space: Name, bits: int) -> Stream:
    return Stream(
        pdf,
        data,
        Type=Name.XObject,
        Subtype=Name.Image,
        Width=size[0],
        Height=size[1],
        ColorSpace=space,
        BitsPerComponent=bits,
    )


def _idat(png: bytes) -> Iterator[bytes]:
    position = 8
    while position < len(png):
        length, name = struct.unpack_from(">I4s", png, position)
        if name == b"IDAT":
            yield png[position + 8 : position + 8 + length]
        position += 12 + length


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.5f}".rstrip("0").rstrip(".") for value in values)
