#!/usr/bin/env bash
# Recreates the fonts: subsets of Noto, from Debian's packages (Debian or Ubuntu).
# Needs apt-get, dpkg and a Python with fonttools (PYTHON names it). Run only to change the coverage.
set -euo pipefail
case "${1:-}" in
  -h | --help)
    sed -n '2,3s/^# //p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

(
    cd "$work"
    apt-get download -q fonts-noto-cjk fonts-noto-core fonts-noto-mono
    for package in *.deb; do dpkg -x "$package" .; done
)
cjk="$work/usr/share/fonts/opentype/noto"
latin="$work/usr/share/fonts/truetype/noto"

# The characters of GB2312 (simplified Chinese), Big5 level 1 (traditional Chinese), JIS X 0208 (Japanese) and
# KS X 1001 without its hanja (Korean), as Python's codecs know them.
"$python" - "$work" <<'PYTHON'
import sys
from pathlib import Path

def characters(codec, first, last, seconds):
    for lead in range(first, last + 1):
        for trail in seconds:
            try:
                yield bytes([lead, trail]).decode(codec)
            except UnicodeDecodeError:
                pass

gb2312 = set(characters("gb2312", 0xA1, 0xF7, range(0xA1, 0xFF)))
level1 = set(characters("gb2312", 0xB0, 0xD7, range(0xA1, 0xFF)))
big5 = set(characters("big5", 0xA4, 0xC6, [*range(0x40, 0x7F), *range(0xA1, 0xFF)]))
japanese = set(characters("euc_jp", 0xA1, 0xF4, range(0xA1, 0xFF)))
korean = set(characters("euc_kr", 0xA1, 0xC8, range(0xA1, 0xFF)))
everything = gb2312 | big5 | japanese | korean
work = Path(sys.argv[1])
(work / "all.txt").write_text("".join(sorted(everything)), encoding="utf-8")
(work / "level1.txt").write_text("".join(sorted(level1)), encoding="utf-8")
PYTHON

western="U+0020-007E,U+00A0-00FF,U+2010-2027,U+2030-203B,U+20AC"
chinese="$western,U+2103,U+2116,U+2190-2193,U+25A0-25CF,U+3000-3011,U+FF01-FF5E,U+FFE5"
subset() {
    local from="$1" to="$2"
    shift 2
    "$python" -m fontTools.subset "$from" --output-file="$to" --layout-features= --no-hinting --notdef-outline \
        --name-IDs='*' "$@"
}
# Font 2 of the collections is SC, the simplified Chinese forms.
subset "$cjk/NotoSansCJK-Regular.ttc" serving/data/NotoSansCJKsc-Regular.otf \
    --font-number=2 --text-file="$work/all.txt" --unicodes="$chinese"
# PDFium takes a font for traditional Chinese only if it claims code page 950 (Big5).
"$python" - serving/data/NotoSansCJKsc-Regular.otf <<'PYTHON'
import sys
from fontTools.ttLib import TTFont

font = TTFont(sys.argv[1])
font["OS/2"].setCodePageRanges(font["OS/2"].getCodePageRanges() | {20})
font.save(sys.argv[1])
PYTHON
subset "$cjk/NotoSerifCJK-Regular.ttc" benchmarks/corpus/data/NotoSerifCJKsc-Regular.otf \
    --font-number=2 --text-file="$work/level1.txt" --unicodes="$chinese"
for face in NotoSans-Bold NotoSerif-Regular NotoSansMono-Regular; do
    subset "$latin/$face.ttf" "benchmarks/corpus/data/$face.ttf" --unicodes="$western"
done

# What the text of a searchable PDF is set in, but never painted: every glyph is a block, half as wide as high or, for
# Chinese, as wide. (PDFium finds no text in empty glyphs that runs up or down.) Not called .ttf, because PDFium looks
# for fonts in this folder.
"$python" - serving/data/invisible.font <<'PYTHON'
import sys
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

widths = {".notdef": 500, "half": 500, "full": 1000}
glyphs = {}
for name, width in widths.items():
    pen = TTGlyphPen(None)
    pen.moveTo((0, -200))
    for corner in ((0, 800), (width, 800), (width, -200)):
        pen.lineTo(corner)
    pen.closePath()
    glyphs[name] = pen.glyph()
builder = FontBuilder(1000, isTTF=True)
builder.setupGlyphOrder(list(widths))
builder.setupCharacterMap({})
builder.setupGlyf(glyphs)
builder.setupHorizontalMetrics({name: (width, 0) for name, width in widths.items()})
builder.setupHorizontalHeader(ascent=800, descent=-200)
builder.setupNameTable({"familyName": "Invisible", "styleName": "Regular", "psName": "Invisible"})
builder.setupOS2(sTypoAscender=800, sTypoDescender=-200, usWinAscent=800, usWinDescent=200)
builder.setupPost(keepGlyphNames=False)
builder.font["head"].created = builder.font["head"].modified = 0
builder.font.recalcTimestamp = False
builder.save(sys.argv[1])
PYTHON
