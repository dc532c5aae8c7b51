"""Details that return in the example collection, each drawn on a transparent square."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

SPRITE = 900  # px: side of the square

Colour = tuple[int, int, int]
Point = tuple[float, float]


def _blank() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGBA", (SPRITE, SPRITE))
    return image, ImageDraw.Draw(image)


def around(radius: float, turn: float, middle: Point = (450, 450)) -> Point:
    """A point on a circle, `turn` in parts of a whole one, from the top."""
    angle = 2 * math.pi * turn
    return middle[0] + radius * math.sin(angle), middle[1] - radius * math.cos(angle)


def _disc(draw: ImageDraw.ImageDraw, middle: Point, radius: float, fill: Colour, line: Colour, width: int = 8) -> None:
    x, y = middle
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=line, width=width)


def curve(points: Sequence[Point], steps: int = 16) -> list[Point]:
    """A closed smooth line through points (Catmull and Rom)."""
    corners = np.array(points, dtype=np.float64)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    before, after, second = (np.roll(corners, shift, axis=0) for shift in (1, -1, -2))
    found = []
    for a, b, c, d in zip(before, corners, after, second, strict=True):
        found.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return [(float(x), float(y)) for x, y in np.concatenate(found)]


def _shape(draw: ImageDraw.ImageDraw, points: Sequence[Point], fill: Colour, line: Colour, width: int = 9) -> None:
    outline = curve(points)
    draw.polygon(outline, fill=fill)
    draw.line([*outline, outline[0]], fill=line, width=width, joint="curve")


def rose_window() -> Image.Image:
    """A round church window: twelve petals of glass, a ring of roundels, stone between."""
    image, draw = _blank()
    stone, dark = (226, 212, 182), (62, 48, 42)
    glass = ((178, 38, 48), (32, 72, 158), (222, 160, 42), (28, 118, 98))
    _disc(draw, (450, 450), 440, stone, dark, 14)
    _disc(draw, (450, 450), 395, (92, 74, 64), dark, 10)
    for number in range(12):
        turn = number / 12
        petal = [around(*at) for at in ((150, turn), (270, turn - 0.036), (345, turn), (270, turn + 0.036))]
        _shape(draw, petal, glass[number % 4], stone, 12)
        _disc(draw, around(345, turn + 1 / 24), 38, glass[(number + 2) % 4], stone, 10)
        _disc(draw, around(250, turn + 1 / 24), 17, glass[(number + 1) % 4], stone, 7)
    _disc(draw, (450, 450), 140, stone, dark, 8)
    for number in range(8):
        _disc(draw, around(88, number / 8), 36, glass[number % 2], dark, 7)
    _disc(draw, (450, 450), 48, glass[2], dark, 9)
    return image


def key() -> Image.Image:
    """An old key: a bow of three rings, a ribbed stem, a bit with teeth."""
    image, draw = _blank()
    gold, dark, light = (206, 156, 58), (58, 38, 20), (244, 214, 130)
    draw.rectangle((330, 422, 850, 478), fill=gold, outline=dark, width=9)
    draw.line((340, 438, 840, 438), fill=light, width=9)
    for left in (340, 395, 600):
        draw.rounded_rectangle((left, 396, left + 34, 504), 14, fill=light, outline=dark, width=9)
    bit = [(690, 474), (690, 640), (725, 640), (725, 560), (752, 560), (752, 610), (782, 610), (782, 560), (808, 560)]
    bit += [(808, 640), (842, 640), (842, 474)]
    draw.polygon(bit, fill=gold)
    draw.line([*bit, bit[0]], fill=dark, width=10, joint="curve")
    for middle, radius in (((200, 320), 105), ((200, 580), 105), ((120, 450), 105), ((250, 450), 118)):
        _disc(draw, middle, radius, gold, dark, 10)
    for middle, radius in (((200, 312), 52), ((200, 588), 52), ((108, 450), 52), ((252, 450), 50)):
        _disc(draw, middle, radius, dark, light, 8)
    for middle in ((200, 312), (200, 588), (108, 450), (252, 450)):
        _disc(draw, middle, 20, (168, 44, 44), light, 5)
    return image


def bird() -> Image.Image:
    """A bird of the kind that is carved on chests: a crest, a scaled wing, a tail of three feathers with eyes."""
    image, draw = _blank()
    ink, blue, red, cream = (32, 30, 48), (34, 96, 132), (186, 58, 40), (240, 222, 176)
    for number, end in enumerate(((835, 250), (870, 420), (820, 590))):
        feather = [(500, 500), ((500 + end[0]) / 2, end[1] - 10 + 30 * number), (end[0], end[1] - 45)]
        feather += [(end[0] + 25, end[1] + 25), ((540 + end[0]) / 2, end[1] + 80)]
        _shape(draw, feather, (blue, red, blue)[number], ink)
        _disc(draw, (end[0] - 42, end[1] + 6), 42, cream, ink, 8)
        _disc(draw, (end[0] - 42, end[1] + 6), 18, (28, 60, 92), ink, 4)
    for number in range(3):
        tip = (205 + 62 * number, 66 + 26 * abs(number - 1))
        draw.line((258, 190, *tip), fill=ink, width=11)
        _disc(draw, tip, 24, red, ink, 8)
    body = [(178, 232), (262, 168), (345, 232), (372, 360), (470, 400), (580, 470), (560, 610), (430, 690)]
    _shape(draw, [*body, (280, 640), (205, 500), (215, 340)], cream, ink, 11)
    draw.polygon([(180, 222), (62, 262), (184, 286)], fill=(226, 156, 44), outline=ink, width=9)
    _disc(draw, (258, 238), 30, (250, 250, 240), ink, 9)
    _disc(draw, (252, 238), 11, ink, ink)
    _shape(draw, [(300, 420), (420, 420), (560, 500), (660, 640), (520, 640), (380, 600)], blue, ink, 10)
    for row, (x, y, many) in enumerate(((350, 465, 3), (385, 525, 4), (440, 585, 4))):
        for number in range(many):
            left = x + 62 * number
            draw.pieslice(
                (left - 34, y - 40, left + 34, y + 28), 0, 180, fill=(cream, red, cream)[row], outline=ink, width=6
            )
    for left in (345, 445):
        draw.line([(left, 670), (left - 8, 830), (left - 62, 848)], fill=ink, width=13, joint="curve")
        draw.line([(left - 8, 830), (left + 48, 850)], fill=ink, width=13)
    return image


def compass() -> Image.Image:
    """A compass rose of sixteen points within a divided ring."""
    image, draw = _blank()
    ink, red, paper, blue = (40, 36, 58), (174, 52, 42), (244, 232, 200), (44, 98, 130)
    _disc(draw, (450, 480), 385, paper, ink, 12)
    _disc(draw, (450, 480), 318, (226, 208, 164), ink, 8)
    middle = (450.0, 480.0)
    for number in range(72):
        inner = 330 if number % 2 else 345
        draw.line([around(inner, number / 72, middle), around(376, number / 72, middle)], fill=ink, width=6)
    for points, length, colours in ((16, 235, (paper, ink)), (8, 290, (paper, blue)), (4, 400, (paper, red))):
        for number in range(points):
            turn = number / points + (0 if points == 4 else 0.5 / points if points == 8 else 0.25 / points)
            tip, root = around(length, turn, middle), 62 if points == 4 else 84
            for side, fill in zip((-1, 1), colours, strict=True):
                flank = around(root, turn + side * 0.11, middle)
                draw.polygon([middle, flank, tip], fill=fill, outline=ink, width=5)
    _disc(draw, middle, 40, (222, 170, 58), ink, 8)
    _shape(draw, [(450, 8), (478, 44), (450, 92), (422, 44)], red, ink, 7)
    _shape(draw, [(442, 90), (392, 40), (370, 74), (408, 96)], red, ink, 7)
    _shape(draw, [(458, 90), (508, 40), (530, 74), (492, 96)], red, ink, 7)
    return image


def lantern() -> Image.Image:
    """A street lantern of iron and yellow glass."""
    image, draw = _blank()
    iron, glass, flame = (34, 34, 40), (250, 214, 112), (255, 246, 204)
    draw.ellipse((395, 10, 505, 120), outline=iron, width=22)
    draw.polygon([(450, 108), (640, 270), (260, 270)], fill=(78, 84, 92), outline=iron, width=12)
    for left in (325, 387, 450, 513, 575):
        draw.line((450, 120, left, 262), fill=iron, width=8)
    draw.rounded_rectangle((232, 262, 668, 308), 16, fill=(150, 112, 54), outline=iron, width=10)
    draw.polygon([(268, 308), (632, 308), (578, 730), (322, 730)], fill=glass, outline=iron, width=14)
    _shape(draw, [(450, 400), (505, 545), (480, 640), (420, 640), (395, 545)], (240, 130, 40), (196, 78, 28), 8)
    _shape(draw, [(450, 490), (474, 575), (450, 622), (426, 575)], flame, (244, 180, 70), 5)
    for top, low in (((390, 308), (408, 730)), ((510, 308), (492, 730))):
        draw.line((*top, *low), fill=iron, width=13)
    for level in (445, 590):
        draw.line((268 + (level - 308) * 0.128, level, 632 - (level - 308) * 0.128, level), fill=iron, width=13)
    draw.rounded_rectangle((296, 724, 604, 770), 14, fill=(150, 112, 54), outline=iron, width=10)
    draw.polygon([(340, 770), (560, 770), (470, 862), (430, 862)], fill=(78, 84, 92), outline=iron, width=11)
    _disc(draw, (450, 872), 24, (150, 112, 54), iron, 8)
    return image


DETAILS: dict[str, Callable[[], Image.Image]] = {
    "rose window": rose_window,
    "key": key,
    "bird": bird,
    "compass": compass,
    "lantern": lantern,
}
