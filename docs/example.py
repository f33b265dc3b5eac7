"""The picture of the README, from the demo's registry: `make demo`, then `.venv/bin/python docs/example.py`.

A test scene that the networks never saw, whose gain is nearest to the mean gain of all 48, as a camera sends
it at JPEG quality 5; its true classes; what the base sees in it, and what the gearbox sees with the adaptor
for that level.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gearnn.datasets import Camera
from gearnn.datasets.streets import Streets
from gearnn.distortions import decode, encode
from gearnn.gearbox import GearBox

BASE, LEVEL, SCENE, SCALE = "drn_d_22_quarter-streets", "jpeg:quality=5", 24, 3
COLOURS = np.array(
    [[135, 180, 220], [125, 115, 110], [90, 75, 110], [205, 160, 190], [95, 145, 70], [40, 70, 165],
     [215, 60, 70], [165, 165, 165], [225, 200, 50]],
    dtype=np.uint8,
)  # fmt: skip


def main() -> None:
    """Draw the four panels side by side."""
    frames = Streets("test", SCENE + 1, 0, Camera())
    data = encode(frames.frame(SCENE), LEVEL)
    gearbox = GearBox.from_registry(BASE, "jpeg")
    base = gearbox.infer([data], level="pristine", trust_level=True)[0].prediction
    answer = gearbox.infer([data])[0]
    panels = {
        f"frame, sensed as {answer.sensed}": decode(data),
        "truth": colour(frames.target(SCENE)),
        "base alone": colour(base.numpy()),
        f"base + adaptor ({answer.used})": colour(answer.prediction.numpy()),
    }
    picture(panels).save(Path(__file__).parent / "figures" / "example.png", optimize=True)


def colour(classes: np.ndarray) -> Image.Image:
    """Classes of the pixels as colours."""
    return Image.fromarray(COLOURS[classes])


def picture(panels: dict[str, Image.Image]) -> Image.Image:
    """Panels in a row, each under its title."""
    width, height, gap, head = 192 * SCALE, 128 * SCALE, 8, 34
    canvas = Image.new("RGB", ((width + gap) * 2 - gap, (height + head) * 2), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (title, image) in enumerate(panels.items()):
        x, y = (index % 2) * (width + gap), (index // 2) * (height + head)
        draw.text((x + 2, y + 7), title, fill="black", font=ImageFont.load_default(18))
        canvas.paste(image.resize((width, height), Image.Resampling.NEAREST), (x, y + head))
    return canvas


if __name__ == "__main__":
    main()
