"""Write the example collection: painted scenes in which a few details return, larger, smaller, mirrored, restyled.

    python benchmarks/pictures/artminer.py

Nothing in it is anyone else's. `examples/boxes.json` says where each detail is: for tests, the page never reads it.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

import artmodels

FOLDER = Path(__file__).parents[2] / "spaces" / "artminer" / "examples"
# The fast styles have been trained anew since; these make the same pictures again.
EARLIER = Path(__file__).parents[2] / "weights" / "earlier"
SCALE = 2  # pictures are drawn twice as large: smooth edges
SPRITE = 900  # px: side of the square that a detail is drawn on

Box = tuple[float, float, float, float]
Boxes = dict[str, Box]
Colour = tuple[int, int, int]
Point = tuple[float, float]


def main() -> None:
    """Draw, paint and write everything."""
    FOLDER.mkdir(exist_ok=True)
    boxes = dict[str, Boxes]()
    for name, (draw, size, style, strength) in SCENES.items():
        scene = Scene(*size, seed=len(boxes))
        draw(scene)
        picture = scene.canvas.resize(size, Image.Resampling.LANCZOS)
        if style:
            picture = artmodels.FastStyle.from_pretrained(EARLIER / f"fast-style-{style}")(
                picture, strength=strength
            ).image
        picture.save(FOLDER / f"{name}.jpg", quality=77, optimize=True)
        boxes[f"{name}.jpg"] = scene.boxes
    (FOLDER / "boxes.json").write_text(json.dumps(boxes, indent=1) + "\n", encoding="utf-8")


# --- surroundings


# --- the details that return


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


# --- the pictures that they are in


class Scene:
    """A picture while it is painted; coordinates are in pixels of the finished one."""

    def __init__(self, width: int, height: int, *, seed: int) -> None:
        """Start with an empty one."""
        self.width, self.height = width, height
        self.rng = np.random.default_rng(seed)
        self.canvas = Image.new("RGB", (width * SCALE, height * SCALE))
        self.boxes = Boxes()

    def wash(self, top: Colour, bottom: Colour, *, level: tuple[float, float] = (0, 1), rough: float = 10) -> None:
        """Fill between two levels, parts of the height, with a gradient and the grain of a brush."""
        first, last = (round(part * self.height * SCALE) for part in level)
        rows, columns = np.mgrid[0 : last - first, 0 : self.width * SCALE].astype(np.float32)
        share = (rows / max(last - first - 1, 1))[..., None]
        pixels = np.array(top) * (1 - share) + np.array(bottom) * share
        for _ in range(6):
            length, phase, slope = self.rng.uniform(30, 240), self.rng.uniform(0, 7), self.rng.uniform(-0.5, 0.5)
            wave = np.sin((rows * self.rng.uniform(1, 5) + columns * slope) / length * 2 * math.pi + phase)
            pixels += (wave * rough / 3)[..., None]
        noise = self.rng.integers(0, 255, ((last - first) // 4, columns.shape[1] // 4), np.uint8)
        grain = np.asarray(Image.fromarray(noise).resize(columns.shape[::-1], Image.Resampling.BICUBIC), np.float32)
        pixels += ((grain - 128) * rough / 128)[..., None]
        self.canvas.paste(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)), (0, first))

    def polygon(
        self, points: Sequence[Point], fill: Colour, *, line: Colour | None = None, smooth: bool = False
    ) -> None:
        """Fill a polygon, with the grain of a brush."""
        mask = Image.new("L", self.canvas.size)
        scaled = [(x * SCALE, y * SCALE) for x, y in (curve(points) if smooth else points)]
        ImageDraw.Draw(mask).polygon(scaled, fill=255)
        self.canvas.paste(fill, mask=mask)
        grain = Image.fromarray(self.rng.integers(0, 255, (self.height // 2, self.width // 2), np.uint8))
        grain = grain.resize(self.canvas.size, Image.Resampling.BICUBIC)
        red, green, blue = (max(0, value - 24) for value in fill)
        self.canvas.paste((red, green, blue), mask=ImageChops.multiply(mask, grain))
        if line:
            ImageDraw.Draw(self.canvas).line([*scaled, scaled[0]], fill=line, width=2 * SCALE, joint="curve")

    def ridge(self, level: float, height: float, fill: Colour, *, rough: float = 1.0) -> None:
        """Hills across the picture, up to a height above a level, both parts of the picture's."""
        x = np.linspace(0, self.width, 60)
        rise = sum(
            (
                (0.5 + 0.5 * np.sin(x / self.width * 2 * math.pi * turns * rough + self.rng.uniform(0, 7))) / turns
                for turns in (0.7, 1.9, 4.3)
            ),
            start=np.zeros_like(x),
        )
        line = [(float(a), float((level - height * b / 2) * self.height)) for a, b in zip(x, rise, strict=True)]
        self.polygon([(0, self.height), *line, (self.width, self.height)], fill)

    def glow(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Light around a place."""
        mask = Image.new("L", self.canvas.size)
        box = [(x - radius / 2) * SCALE, (y - radius / 2) * SCALE, (x + radius / 2) * SCALE, (y + radius / 2) * SCALE]
        ImageDraw.Draw(mask).ellipse(box, fill=170)
        self.canvas.paste(colour, mask=mask.filter(ImageFilter.GaussianBlur(radius * SCALE / 4)))

    def put(
        self, name: str, x: float, y: float, size: float, *, angle: float = 0, mirror: bool = False, fade: float = 0
    ) -> None:
        """Paint a detail around a place and note its box; `fade` brings it closer to what is behind."""
        sprite = DETAILS[name]()
        if mirror:
            sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        sprite = sprite.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        sprite = sprite.crop(sprite.getbbox())
        factor = size * SCALE / max(sprite.size)
        sprite = sprite.resize([max(1, round(side * factor)) for side in sprite.size], Image.Resampling.LANCZOS)
        corner = round(x * SCALE - sprite.width / 2), round(y * SCALE - sprite.height / 2)
        mask = sprite.getchannel("A").point([round(value * (1 - fade)) for value in range(256)])
        self.canvas.paste(sprite.convert("RGB"), corner, mask)
        ends = corner[0] + sprite.width, corner[1] + sprite.height
        left, top, right, bottom = (round(value / SCALE, 1) for value in (*corner, *ends))
        self.boxes[name] = max(left, 0), max(top, 0), min(right, self.width), min(bottom, self.height)


def _blob(middle: Point, radius: float, corners: int = 6) -> list[Point]:
    return [around(radius, turn / corners, middle) for turn in range(corners)]


def _tree(scene: Scene, x: float, y: float, size: float, leaves: Colour) -> None:
    top = y - size * 0.5
    trunk = [(x - size * 0.05, y), (x - size * 0.03, top), (x + size * 0.03, top), (x + size * 0.05, y)]
    scene.polygon(trunk, (74, 54, 42))
    for number in range(6):
        middle = around(scene.rng.uniform(0.05, 0.22) * size, scene.rng.uniform(), (x, y - size * 0.68))
        red, green, blue = (min(255, max(0, value + 9 * (number - 3))) for value in leaves)
        scene.polygon(_blob(middle, size * scene.rng.uniform(0.16, 0.24), 9), (red, green, blue), smooth=True)


def _gable(
    scene: Scene, left: float, right: float, eaves: float, peak: float, base: float, wall: Colour, roof: Colour
) -> None:
    middle = (left + right) / 2
    scene.polygon([(left, base), (left, eaves), (middle, peak), (right, eaves), (right, base)], wall, line=(60, 48, 44))
    edge = (right - left) * 0.06
    scene.polygon(
        [
            (left - edge, eaves + edge),
            (middle, peak - edge),
            (right + edge, eaves + edge),
            (right, eaves + edge * 2.2),
            (middle, peak + edge * 1.2),
            (left, eaves + edge * 2.2),
        ],
        roof,
        line=(50, 38, 38),
    )


def _window(scene: Scene, x: float, y: float, wide: float, high: float, fill: Colour) -> None:
    arch = [(x + wide / 2 * math.cos(t), y - high / 2 - wide / 2 * math.sin(t)) for t in np.linspace(0, math.pi, 12)]
    scene.polygon([(x + wide / 2, y + high / 2), *arch, (x - wide / 2, y + high / 2)], fill, line=(52, 42, 40))


def chapel(scene: Scene) -> None:
    """A chapel at dusk with its great window."""
    scene.wash((58, 66, 118), (240, 172, 120), level=(0, 0.8))
    scene.wash((84, 92, 60), (52, 60, 44), level=(0.8, 1))
    scene.ridge(0.84, 0.22, (74, 78, 98))
    _gable(scene, 150, 450, 230, 70, 560, (206, 182, 150), (112, 62, 56))
    scene.put("rose window", 300, 262, 180)
    for x in (205, 395):
        _window(scene, x, 450, 40, 110, (58, 66, 96))
    _window(scene, 300, 490, 84, 140, (70, 44, 38))
    _tree(scene, 70, 580, 240, (62, 84, 58))
    _tree(scene, 540, 590, 290, (82, 94, 52))


def street(scene: Scene) -> None:
    """A street at night; the same window far away, a lantern near."""
    scene.wash((18, 24, 56), (62, 58, 102))
    scene.glow(470, 90, 90, (238, 228, 190))
    _gable(scene, 300, 450, 200, 110, 480, (118, 104, 124), (62, 44, 66))
    scene.put("rose window", 375, 222, 92)
    for x in (335, 415):
        _window(scene, x, 340, 24, 60, (236, 188, 90))
    scene.polygon([(450, 480), (450, 120), (640, 40), (640, 480)], (76, 62, 84), line=(30, 26, 44))
    for x, y in ((505, 200), (585, 180), (505, 320), (585, 320)):
        _window(scene, x, y, 40, 66, (232, 176, 84))
    scene.polygon([(0, 480), (0, 60), (240, 130), (280, 480)], (66, 56, 80), line=(30, 26, 44))
    scene.polygon([(0, 480), (250, 400), (640, 410), (640, 480)], (70, 66, 88))
    scene.glow(150, 235, 190, (250, 206, 120))
    scene.polygon([(146, 480), (146, 130), (154, 130), (154, 480)], (24, 22, 30))
    scene.put("lantern", 150, 235, 210)


def chart(scene: Scene) -> None:
    """A chart of a strait on parchment, with a compass rose and a painted bird."""
    scene.wash((226, 206, 160), (208, 184, 134), rough=16)
    coast = [(0, 0), (250, 0), (225, 70), (270, 120), (210, 180), (235, 250), (150, 290), (120, 400), (0, 440)]
    scene.polygon(coast, (174, 170, 112), line=(92, 66, 44), smooth=False)
    scene.polygon(
        [(640, 480), (640, 230), (590, 250), (570, 320), (490, 350), (470, 430), (400, 480)],
        (182, 160, 104),
        line=(92, 66, 44),
    )
    draw = ImageDraw.Draw(scene.canvas)
    for number in range(32):
        a = around(900, number / 32, (430, 165))
        draw.line([430 * SCALE, 165 * SCALE, a[0] * SCALE, a[1] * SCALE], fill=(176, 146, 104), width=SCALE)
    scene.put("compass", 430, 165, 220)
    scene.put("bird", 100, 150, 150)
    for x, y in ((290, 380), (330, 400), (520, 440), (60, 330)):
        scene.polygon([(x - 14, y), (x, y - 22), (x + 14, y)], (128, 104, 74), line=(84, 60, 42))


def table(scene: Scene) -> None:
    """A still life: a key, a lantern that is out of use, a book with a compass rose on it."""
    scene.wash((52, 40, 40), (96, 66, 52), level=(0, 0.62))
    scene.wash((136, 84, 48), (84, 48, 30), level=(0.62, 1), rough=20)
    scene.polygon([(330, 440), (360, 190), (590, 215), (580, 470)], (46, 76, 88), line=(20, 26, 32))
    scene.polygon([(580, 470), (590, 215), (606, 222), (598, 462)], (230, 216, 180), line=(60, 44, 34))
    scene.put("compass", 466, 325, 170, angle=-5)
    scene.put("lantern", 130, 205, 300)
    scene.put("key", 235, 405, 270, angle=8)
    scene.polygon([(250, 350), (262, 330), (290, 326), (306, 346), (298, 372), (262, 374)], (188, 62, 40), smooth=True)


def orchard(scene: Scene) -> None:
    """A bird on a bough before a hilly country."""
    scene.wash((142, 188, 204), (240, 226, 184), level=(0, 0.75))
    scene.ridge(0.68, 0.3, (128, 158, 148))
    scene.ridge(0.8, 0.22, (146, 164, 92))
    scene.ridge(0.98, 0.2, (104, 128, 62))
    for x, y, size in ((500, 410, 90), (570, 430, 120), (60, 420, 110)):
        _tree(scene, x, y, size, (84, 116, 66))
    scene.polygon(
        [(0, 352), (160, 330), (330, 344), (640, 300), (640, 316), (330, 366), (160, 350), (0, 374)], (84, 60, 44)
    )
    scene.put("bird", 330, 210, 300)
    for x, y in ((90, 330), (140, 318), (520, 300), (575, 290)):
        scene.polygon(
            [(x, y), (x + 18, y - 34), (x + 46, y - 44), (x + 32, y - 12)],
            (96, 140, 66),
            line=(52, 78, 40),
            smooth=True,
        )


def tapestry(scene: Scene) -> None:
    """A hanging: the bird the other way round, and a key, among leaves on red."""
    scene.wash((128, 34, 40), (104, 26, 36), rough=14)
    for row in range(8):
        for column in range(7):
            x, y = 40 + column * 86 + 43 * (row % 2), 40 + row * 82
            petal = [around(16, turn / 5 + 0.1 * (turn % 2), (x, y)) for turn in range(5)]
            scene.polygon(petal, (176, 104, 54), smooth=True)
            scene.polygon([(x + 12, y + 12), (x + 34, y + 18), (x + 24, y + 32)], (66, 92, 62), smooth=True)
    scene.polygon([(90, 60), (470, 60), (470, 400), (90, 400)], (42, 48, 74), line=(214, 172, 88))
    scene.put("bird", 280, 230, 310, mirror=True)
    scene.put("key", 280, 512, 290)
    for y in (10, 622):
        scene.polygon([(0, y), (560, y), (560, y + 10), (0, y + 10)], (214, 172, 88))


def quay(scene: Scene) -> None:
    """A quay in the morning with a lantern on a post."""
    scene.wash((206, 202, 200), (244, 214, 172), level=(0, 0.55))
    scene.wash((112, 150, 164), (52, 88, 112), level=(0.55, 1), rough=18)
    scene.ridge(0.56, 0.1, (142, 150, 160))
    for x, size in ((250, 1.0), (420, 0.7)):
        base = 300 + 40 * size
        scene.polygon(
            [
                (x - 70 * size, base - 26 * size),
                (x + 74 * size, base - 30 * size),
                (x + 52 * size, base),
                (x - 50 * size, base),
            ],
            (92, 50, 40),
            line=(40, 26, 26),
        )
        scene.polygon(
            [(x, base - 30 * size), (x, base - 190 * size), (x + 70 * size, base - 50 * size)],
            (236, 226, 200),
            line=(80, 64, 54),
        )
        scene.polygon(
            [(x - 6 * size, base - 34 * size), (x - 6 * size, base - 160 * size), (x - 54 * size, base - 48 * size)],
            (220, 204, 170),
            line=(80, 64, 54),
        )
    scene.polygon([(0, 480), (0, 430), (640, 404), (640, 480)], (122, 104, 88), line=(66, 54, 48))
    scene.polygon([(546, 430), (546, 190), (556, 190), (556, 430)], (44, 40, 44))
    scene.put("lantern", 551, 150, 150)


def shrine(scene: Scene) -> None:
    """A painted cupboard: two doors, a key on one and the window's rose on the other."""
    scene.wash((68, 92, 82), (44, 66, 62), rough=12)
    for left in (40, 330):
        scene.polygon([(left, 40), (left + 270, 40), (left + 270, 440), (left, 440)], (150, 112, 68), line=(60, 40, 28))
        scene.polygon(
            [(left + 22, 62), (left + 248, 62), (left + 248, 418), (left + 22, 418)], (204, 184, 138), line=(92, 66, 42)
        )
        for x, y in ((left + 40, 84), (left + 230, 84), (left + 40, 396), (left + 230, 396)):
            scene.polygon(_blob((x, y), 14), (156, 60, 48), smooth=True)
    scene.put("key", 175, 240, 208, angle=14, mirror=True)
    scene.put("rose window", 465, 240, 195)


def floor(scene: Scene) -> None:
    """A tiled floor: the compass rose in stone."""
    scene.wash((190, 178, 158), (168, 152, 132))
    for row in range(6):
        for column in range(7):
            if (row + column) % 2:
                x, y = column * 92, row * 82
                scene.polygon([(x, y), (x + 92, y), (x + 92, y + 82), (x, y + 82)], (122, 116, 118))
    scene.polygon([around(232, t / 8 + 1 / 16, (320, 240)) for t in range(8)], (216, 200, 170), line=(84, 72, 66))
    scene.put("compass", 320, 240, 330, angle=12)


def lake(scene: Scene) -> None:
    """Mountains over a lake: nothing of the others."""
    scene.wash((120, 152, 196), (246, 214, 186), level=(0, 0.6))
    scene.glow(180, 110, 100, (255, 240, 200))
    for points, fill in (
        (
            [(0, 300), (120, 120), (210, 220), (330, 80), (470, 240), (560, 160), (640, 260), (640, 320), (0, 320)],
            (112, 118, 152),
        ),
        ([(330, 80), (296, 122), (330, 140), (352, 124), (366, 122)], (244, 240, 236)),
        ([(120, 120), (94, 160), (124, 172), (152, 156)], (244, 240, 236)),
    ):
        scene.polygon(points, fill)
    scene.ridge(0.68, 0.1, (70, 98, 92))
    scene.wash((150, 172, 196), (70, 104, 132), level=(0.66, 1), rough=22)
    for x, size in ((40, 190), (110, 240), (560, 260), (620, 200)):
        for part in range(4):
            y = 470 - size * 0.2 * part
            scene.polygon(
                [(x - size * (0.22 - 0.04 * part), y), (x, y - size * 0.36), (x + size * (0.22 - 0.04 * part), y)],
                (38, 72, 62),
            )


def fields(scene: Scene) -> None:
    """Fields and poplars under clouds: nothing of the others."""
    scene.wash((98, 156, 206), (222, 232, 226))
    for x, y, size in ((140, 90, 1.0), (430, 70, 1.3), (300, 160, 0.7)):
        for shift in (-50, 0, 48):
            middle = x + shift * size, y + abs(shift) / 8
            scene.polygon(_blob(middle, 36 * size, 8), (246, 244, 240), smooth=True)
    for level, fill in ((0.55, (196, 178, 92)), (0.66, (150, 168, 76)), (0.78, (216, 186, 84)), (0.9, (124, 146, 66))):
        scene.ridge(level + 0.03, 0.06, fill, rough=0.7)
    for number in range(7):
        x, size = 60 + 88 * number, 150 - 9 * number
        scene.polygon(
            [(x, 350), (x - size * 0.1, 330 - size * 0.4), (x, 340 - size), (x + size * 0.1, 330 - size * 0.4)],
            (58, 92, 58),
            smooth=True,
        )


def bouquet(scene: Scene) -> None:
    """A jug of flowers: nothing of the others."""
    scene.wash((206, 176, 132), (172, 132, 96), level=(0, 0.74))
    scene.wash((96, 74, 84), (66, 50, 62), level=(0.74, 1))
    scene.polygon(
        [(230, 330), (250, 380), (205, 480), (230, 570), (350, 570), (376, 480), (330, 380), (350, 330)],
        (80, 116, 148),
        line=(34, 48, 66),
        smooth=True,
    )
    for number in range(16):
        x, y = scene.rng.uniform(120, 460), scene.rng.uniform(90, 320)
        scene.polygon([(290, 340), (x, y), (x + 5, y), (296, 340)], (70, 102, 60))
        size, fill = (
            scene.rng.uniform(26, 46),
            ((212, 90, 74), (238, 196, 96), (240, 226, 214), (146, 92, 150))[number % 4],
        )
        for turn in range(6):
            scene.polygon(_blob(around(size * 0.55, turn / 6, (x, y)), size * 0.42), fill, smooth=True)
        scene.polygon(_blob((x, y), size * 0.3), (96, 62, 40), smooth=True)


SCENES: dict[str, tuple[Callable[[Scene], None], tuple[int, int], str, float]] = {
    "chapel": (chapel, (600, 640), "", 0),
    "chart": (chart, (640, 480), "", 0),
    "table": (table, (640, 480), "haymaking", 0.5),
    "orchard": (orchard, (640, 480), "", 0),
    "street": (street, (640, 480), "starry-night", 0.55),
    "tapestry": (tapestry, (560, 640), "city-rises", 0.5),
    "quay": (quay, (640, 480), "scream", 0.5),
    "shrine": (shrine, (640, 480), "adele", 0.5),
    "floor": (floor, (640, 480), "ink", 0.7),
    "lake": (lake, (640, 480), "starry-night", 0.5),
    "fields": (fields, (640, 480), "haymaking", 0.6),
    "bouquet": (bouquet, (560, 640), "", 0),
}


if __name__ == "__main__":
    main()
