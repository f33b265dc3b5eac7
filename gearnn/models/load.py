"""Networks by name or by a user's own function, and checkpoints put into them."""

import copy
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torchvision
from torch import Tensor, nn

from gearnn.errors import CheckpointError, PlanError
from gearnn.layers import aliases, check_finite, unusable
from gearnn.models import drn, reference
from gearnn.models.checkpoint import named_tensors, read_checkpoint
from gearnn.models.frozen import freeze_batchnorms
from gearnn.models.precision import keep_boxes_in_float32

_SHOWN = 4
_REFUSED = "{}: expected kwargs that it takes, but it raised"
_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


def model_names() -> tuple[str, ...]:
    """Names that :func:`build_model` knows: DRNs, ``mask_rcnn``, and torchvision's own names."""
    return (*drn.names(), "mask_rcnn", *_torchvision_names())


def problem_of_model(name: str) -> str | None:
    """Name of the problem that a network by name solves; None for a user's own function."""
    if name in drn.names() or name in torchvision.models.list_models(module=torchvision.models.segmentation):
        return "semantic_segmentation"
    if name == "mask_rcnn" or name in _torchvision_detectors():
        return "instance_segmentation"
    return "classification" if name in _torchvision_names() else None


def build_model(name: str, num_classes: int | None = None, kwargs: Mapping[str, Any] | None = None) -> nn.Module:
    """A network with the weights that its builder gives it.

    Args:
        name: of :func:`model_names`, or ``package.module:function``, which returns a module.
        num_classes: classes that the head distinguishes; a function is given it where it takes it.
        kwargs: for the network or the function.

    Returns:
        The network on the CPU in float32, in evaluation mode.

    Raises:
        CheckpointError: unknown name.
        PlanError: arguments that the network does not take, or a function that fails.
    """
    options = dict(kwargs or {})
    if "num_classes" in options and not reference.is_reference(name):
        raise PlanError(f"{name}: expected the number of classes as base.num_classes, not in kwargs")
    if reference.is_reference(name):
        model = reference.build(name, options, num_classes)
    elif num_classes is None:
        raise PlanError(f"{name}: expected num_classes")
    elif name == "mask_rcnn":
        from gearnn.models.mask_rcnn import mask_rcnn

        with reference.foreign_code(_REFUSED.format(name)):
            model = mask_rcnn(num_classes, **options)
    elif name in drn.names():
        if options:
            raise PlanError(f"{name}: expected no kwargs, but got {', '.join(options)}")
        model = drn.DRN(name, num_classes)
    elif name in _torchvision_names():
        model = _torchvision_model(name, num_classes, options)
    else:
        raise CheckpointError(
            f"unknown network {name!r}; expected one of {', '.join(drn.names())}, mask_rcnn, "
            f"a torchvision name such as resnet50 or deeplabv3_resnet50, or package.module:function"
        )
    keep_boxes_in_float32(model)
    return model.float().eval()


def load_model(
    name: str,
    num_classes: int | None = None,
    checkpoint: str | Path | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a network and, where a checkpoint is given, load its weights.

    Args:
        name: as for :func:`build_model`.
        num_classes: number of classes that the head distinguishes.
        checkpoint: a safetensors file, or a torch file holding tensors only; every tensor of the
            network must be in it and nothing else (``num_batches_tracked`` aside).
        kwargs: as for :func:`build_model`.

    Returns:
        The network on the CPU in float32, in evaluation mode.

    Raises:
        CheckpointError: unknown name, unreadable file, tensors that are missing, unexpected or of another
            shape, or values that are NaN, infinite or beyond float32's range; they are named.
        PlanError: as for :func:`build_model`.
    """
    model = build_model(name, num_classes, kwargs)
    if checkpoint is not None:
        _load_all(model, read_checkpoint(checkpoint).tensors, name, Path(checkpoint))
    check_finite(model, name if checkpoint is None else f"checkpoint {checkpoint}")
    return model


def start_from(model: nn.Module, checkpoint: str | Path, submodule: str | None = None) -> str:
    """Load what fits of a checkpoint, for a network that will be trained; heads for other classes stay as built.

    Args:
        model: to load into, in place.
        checkpoint: a file as for :func:`load_model`.
        submodule: the part of the network whose tensors the file names, such as ``backbone.body``; None: the whole.

    Returns:
        What was loaded, what starts afresh and what was not used, for people.

    Raises:
        CheckpointError: nothing fits, or a value is NaN, infinite or beyond float32's range.
    """
    prefix = f"{submodule}." if submodule else ""
    tensors = {prefix + name: tensor for name, tensor in read_checkpoint(checkpoint).tensors.items()}
    tensors = _with_present_names(model, tensors)
    expected = named_tensors(model)
    fits = {k: v for k, v in tensors.items() if k in expected and v.shape == expected[k].shape}
    replaced = [f"{k} {_by(v)} for {_by(expected[k])}" for k, v in tensors.items() if k in expected and k not in fits]
    if not fits:
        raise CheckpointError(
            f"checkpoint {checkpoint}: expected tensors of the network such as {next(iter(expected))}, "
            f"but it has {', '.join(list(tensors)[:3])}; base.submodule names the part that a file is of"
        )
    _check_finite(model, fits, Path(checkpoint))
    model.load_state_dict({k: v.float() for k, v in fits.items()}, strict=False)
    told = [f"took {len(fits)} of {len(expected)} tensors"]
    for what, names in (
        ("replaced", replaced),
        ("new", [k for k in expected if k not in tensors]),
        ("not used", [k.removeprefix(prefix) for k in tensors if k not in expected]),
    ):
        if names:
            told.append(f"{len(names)} {what}: {_listed(names)}")
    return f"{checkpoint}: {'; '.join(told)}"


def _torchvision_names() -> list[str]:
    modules = (torchvision.models, torchvision.models.segmentation)
    return [name for module in modules for name in torchvision.models.list_models(module=module)] + (
        _torchvision_detectors()
    )


def _torchvision_detectors() -> list[str]:
    names = torchvision.models.list_models(module=torchvision.models.detection)
    return [name for name in names if name.startswith("maskrcnn")]


def _torchvision_model(name: str, num_classes: int, options: dict[str, Any]) -> nn.Module:
    if options.keys() & {"weights", "weights_backbone"}:
        raise PlanError(f"{name}: expected weights from base.checkpoint, because nothing is downloaded, not in kwargs")
    takes = {"weights": None, "num_classes": num_classes}
    if name in torchvision.models.list_models(module=torchvision.models.segmentation):
        takes["weights_backbone"] = None
    if name in _torchvision_detectors():
        takes |= {"weights_backbone": None, "trainable_backbone_layers": 5}
    if name in ("googlenet", "inception_v3"):
        takes |= {"aux_logits": False, "init_weights": True}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*trainable_backbone_layers.*")
        with reference.foreign_code(_REFUSED.format(name)):
            model: nn.Module = torchvision.models.get_model(name, **takes | options)
    if name in _torchvision_detectors():
        freeze_batchnorms(model)
    return model


def _load_all(model: nn.Module, tensors: Mapping[str, Tensor], name: str, source: Path) -> None:
    tensors = _with_present_names(model, tensors)
    expected = named_tensors(model)
    problems = [f"missing {k} {_by(v)}" for k, v in expected.items() if k not in tensors]
    problems += [f"unexpected {k} {_by(v)}" for k, v in tensors.items() if k not in expected]
    problems += [
        f"{k} should be {_by(expected[k])} but is {_by(v)}"
        for k, v in tensors.items()
        if k in expected and v.shape != expected[k].shape
    ]
    if problems:
        other = any(" should be " in problem for problem in problems)
        hint = "; base.train replaces heads that were made for other classes, and trains them" if other else ""
        raise CheckpointError(
            f"checkpoint {source}: does not fit {name} with these classes: {_listed(problems, '; ')}{hint}"
        )
    _check_finite(model, tensors, source)
    model.load_state_dict({k: v.float() for k, v in tensors.items()}, strict=False)


def _with_present_names(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file under the names that the network has today.

    torchvision's published checkpoints are older than some of its modules (its feature pyramid, region
    proposal head and mask head, DenseNet's layers) and are renamed while they are loaded; so they are
    here, before names are compared. Of tied weights one name is enough.
    """
    expected = named_tensors(model)
    if tensors.keys() == expected.keys():
        return dict(tensors)
    renamed = {_DENSENET.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
    scratch = copy.deepcopy(model)
    for path, module in scratch.named_modules():
        if type(module).__module__.startswith("torchvision.") and "_load_from_state_dict" in vars(type(module)):
            prefix = f"{path}." if path else ""
            module._load_from_state_dict(renamed, prefix, {}, False, [], [], [])
    for name, names in aliases(model).items():
        known = next((other for other in names if other in renamed), None)
        if name not in renamed and known is not None and name in expected:
            renamed[name] = renamed[known]
    return renamed


def _check_finite(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Make sure that the values of a file can be used, in the precision of the file."""
    learnt = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in tensors.items():
        if why := unusable(name, nn.Parameter(tensor, requires_grad=False) if name in learnt else tensor):
            raise CheckpointError(f"checkpoint {source}: expected finite values that fit float32, but {name} has {why}")


def _listed(names: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return separator.join(names[:_SHOWN]) + more


def _by(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
