"""The supplied base on CamVid's validation frames, against the figures that its own README states."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gearnn.datasets import Camera, DistortedDataset, Sample
from gearnn.datasets.camvid import open_camvid
from gearnn.evaluate import evaluate
from gearnn.levels import DistortionLevel
from gearnn.machine.compute import Compute
from gearnn.models import load_model
from gearnn.problems.segmentation import SemanticSegmentation

pytestmark = pytest.mark.data

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PROBLEM = SemanticSegmentation(num_classes=11, ignore_index=11, **IMAGENET)


class Rows:
    """Rows 2 to 178 of distorted frames, the cut on which the figures were measured."""

    def __init__(self, samples: DistortedDataset) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        image = Image.fromarray(np.asarray(sample.image)[2:178])
        return Sample(image=image, target=sample.target[2:178], name=sample.name)


@pytest.mark.parametrize(
    ("level", "stated", "tolerance"),
    # Whether the cut came before or after the JPEG encoder is not stated; it shifts the 8x8 grid.
    [("pristine", 54.8, 0.06), ("jpeg:quality=5", 35.6, 0.5), ("brightness:factor=0.3", 16.6, 0.1)],
)
def test_the_base_scores_what_its_readme_states(shared: Path, level: str, stated: float, tolerance: float) -> None:
    base = load_model("drn_d_22", 11, shared / "models" / "drn_d_22_camvid.safetensors")
    frames = open_camvid(shared / "data" / "camvid", "val", Camera(size=(240, 180), resample="box"))
    samples = Rows(DistortedDataset(frames, DistortionLevel.parse(level)))
    score = evaluate(base, samples, PROBLEM, compute=Compute.resolve("cpu", "fp32"))
    assert score.primary == pytest.approx(stated, abs=tolerance)
