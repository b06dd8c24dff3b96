"""Draw a contact sheet of the embedded textures: a row per class, base classes on the left.

python -m benchmarks.contact_sheet docs/proctex_contact_sheet.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from capt_core.data.proctex import CLASS_NAMES, IMAGE_SIZE, render_image

COLUMNS = 8
LABEL_WIDTH = 84
GAP = 2


def contact_sheet(seed: int = 0) -> Image.Image:
    """Test images of every class, as the data set with this seed holds them."""
    cell = IMAGE_SIZE + GAP
    half = (len(CLASS_NAMES) + 1) // 2
    width = LABEL_WIDTH + COLUMNS * cell
    sheet = Image.new("RGB", (2 * width, half * cell), "white")
    draw = ImageDraw.Draw(sheet)
    for class_id, name in enumerate(CLASS_NAMES):
        left, top = class_id // half * width, class_id % half * cell
        draw.text((left + 4, top + cell // 2 - 6), name, fill="black")
        for index in range(COLUMNS):
            image = Image.fromarray(render_image(seed, "test", class_id, index))
            sheet.paste(image, (left + LABEL_WIDTH + index * cell, top))
    return sheet


if __name__ == "__main__":
    contact_sheet().save(Path(sys.argv[1]), quality=85)
