"""Draws ten small training pictures of one cartoon face before different backgrounds, each with its caption: `draw_pictures.py OUTDIR`.

Without an argument it writes `pictures10/` here.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).resolve().parent
SCALE = 4
SCENES = [
    # width, height, background, what is behind, mouth, head's centre and radius as shares of the size, caption
    (64, 64, (150, 190, 230), "hills", "smile", (0.50, 0.55, 0.33), "mychar001, cartoon face, smiling, blue sky and blue hills"),
    (96, 64, (240, 220, 180), "stripes", "open", (0.40, 0.55, 0.38), "mychar001, cartoon face, open mouth, striped wallpaper"),
    (64, 96, (40, 40, 80), "stars", "smile", (0.50, 0.45, 0.36), "mychar001, cartoon face, smiling, night sky with stars"),
    (80, 80, (200, 90, 80), "bricks", "flat", (0.50, 0.50, 0.35), "mychar001, cartoon face, serious, in front of a brick wall"),
    (64, 64, (250, 250, 250), "plain", "smile", (0.50, 0.50, 0.42), "mychar001, cartoon face, smiling, close-up, white background"),
    (96, 96, (120, 180, 120), "hills", "open", (0.60, 0.60, 0.25), "mychar001, cartoon face, open mouth, green meadow"),
    (64, 64, (90, 160, 160), "stripes", "flat", (0.45, 0.55, 0.36), "mychar001, cartoon face, serious, teal curtain"),
    (96, 80, (230, 170, 60), "hills", "smile", (0.35, 0.50, 0.36), "mychar001, cartoon face, smiling, desert in golden light"),
    (80, 96, (170, 170, 175), "bricks", "open", (0.50, 0.50, 0.38), "mychar001, cartoon face, open mouth, grey stone wall"),
    (64, 64, (25, 30, 45), "stars", "flat", (0.55, 0.50, 0.38), "mychar001, cartoon face, serious, dark room with lights"),
]


def shade(color: tuple, by: int) -> tuple:
    return tuple(max(0, min(255, part + by)) for part in color)


def backdrop(draw: ImageDraw.ImageDraw, width: int, height: int, color: tuple, kind: str) -> None:
    if kind == "hills":
        draw.ellipse((-width * 0.3, height * 0.65, width * 0.7, height * 1.6), fill=shade(color, -60))
        draw.ellipse((width * 0.4, height * 0.7, width * 1.5, height * 1.7), fill=shade(color, -85))
    elif kind == "stripes":
        for at in range(0, width, 48):
            draw.rectangle((at, 0, at + 23, height), fill=shade(color, -35))
    elif kind == "bricks":
        for row, top in enumerate(range(0, height, 32)):
            draw.rectangle((0, top, width, top + 4), fill=shade(color, 70))
            for left in range(-32 * (row % 2), width, 64):
                draw.rectangle((left, top, left + 4, top + 32), fill=shade(color, 70))
    elif kind == "stars":
        for at in range(24):
            x, y = (at * 7919 + 311) % width, (at * 104729 + 97) % height
            draw.ellipse((x, y, x + 9, y + 9), fill=(250, 240, 170))


def face(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, mouth: str) -> None:
    """Round orange face, black hair with a red bow, green eyes: what the trigger word is to mean."""
    line = max(4, int(r * 0.06))
    draw.ellipse((x - r * 1.08, y - r * 1.12, x + r * 1.08, y + r * 0.75), fill=(25, 20, 25))
    draw.ellipse((x - r, y - r * 0.85, x + r, y + r), fill=(245, 185, 120), outline=(60, 30, 20), width=line)
    draw.pieslice((x - r, y - r * 1.0, x + r, y + r * 0.5), 185, 355, fill=(25, 20, 25))
    for side in (-1, 1):
        draw.polygon(
            [(x + r * 0.5, y - r * 0.95), (x + r * 0.5 + side * r * 0.35, y - r * 1.2), (x + r * 0.5 + side * r * 0.35, y - r * 0.7)],
            fill=(215, 30, 40),
        )
        eye = x + side * r * 0.4
        draw.ellipse((eye - r * 0.2, y - r * 0.12, eye + r * 0.2, y + r * 0.3), fill="white", outline=(60, 30, 20), width=line)
        draw.ellipse((eye - r * 0.1, y - r * 0.02, eye + r * 0.1, y + r * 0.22), fill=(30, 150, 70))
        draw.ellipse((x + side * r * 0.6 - r * 0.14, y + r * 0.36, x + side * r * 0.6 + r * 0.14, y + r * 0.56), fill=(240, 140, 110))
    draw.ellipse((x - r * 0.07, y + r * 0.28, x + r * 0.07, y + r * 0.4), fill=(215, 130, 80))
    if mouth == "smile":
        draw.arc((x - r * 0.4, y + r * 0.25, x + r * 0.4, y + r * 0.75), 20, 160, fill=(150, 30, 40), width=line * 2)
    elif mouth == "open":
        draw.ellipse((x - r * 0.2, y + r * 0.5, x + r * 0.2, y + r * 0.82), fill=(150, 30, 40))
    else:
        draw.line((x - r * 0.25, y + r * 0.62, x + r * 0.25, y + r * 0.62), fill=(150, 30, 40), width=line * 2)


def picture(width: int, height: int, color: tuple, kind: str, mouth: str, head: tuple) -> Image.Image:
    """Drawn four times as large and made smaller, for soft edges."""
    image = Image.new("RGB", (width * SCALE, height * SCALE), color)
    draw = ImageDraw.Draw(image)
    backdrop(draw, *image.size, color, kind)
    short = min(image.size)
    face(draw, head[0] * image.width, head[1] * image.height, head[2] * short, mouth)
    return image.resize((width, height), Image.Resampling.BOX)


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "pictures10"
    folder.mkdir(parents=True, exist_ok=True)
    for at, (width, height, color, kind, mouth, head, caption) in enumerate(SCENES, 1):
        picture(width, height, color, kind, mouth, head).save(folder / f"{at:02}.png", optimize=True)
        (folder / f"{at:02}.txt").write_text(caption + "\n", encoding="utf-8")
    print(f"{len(SCENES)} pictures and captions")


if __name__ == "__main__":
    main()
