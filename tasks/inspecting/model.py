"""What a plan's base is made of: its layers, their sizes, and which of them an adaptor could hold."""

from collections.abc import Sequence

from torch import nn

from gearnn.evaluation.solutions import title
from gearnn.layers import aliases, layers_of, model_size, room_for_layers, stored_tensors
from gearnn.plan import Plan
from gearnn.plan.opened import Opened


def describe_base(plan: Plan) -> tuple[list[str], list[tuple[str, ...]]]:
    """A few lines on the base of a plan, and the table of its layers, headings first.

    Raises:
        PlanError: the network cannot be built, or the problem has no such option.
        CheckpointError: the checkpoint does not fit it.
    """
    opened = Opened(plan)
    _ = opened.problem  # for what is wrong with its options
    model = opened.base()
    size, policy = model_size(model), plan.bound.batchnorm_statistics
    bound = room_for_layers(model, plan.bound.in_values(size), policy)
    layers = layers_of(model, plan.bound.granularity, policy)
    tensors, tied = stored_tensors(model), aliases(model)
    cells: list[tuple[str, ...]] = [("layer", "kind", "tensors", "values", "share", "fits the bound")]
    for layer in layers:
        names = layer.stored(policy)
        shapes = (_told(name, tensors[name].shape, tied.get(name, [])) for name in names)
        fits = "yes" if layer.num_values <= bound else "no"
        share = f"{100 * layer.num_values / size:.3f} %"
        cells.append((layer.name, layer.kind, ", ".join(shapes), f"{layer.num_values:,}", share, fits))
    learnable = sum(layer.num_weights for layer in layers)
    fitting = sum(layer.num_values <= bound for layer in layers)
    lines = [
        f"{plan.base.network}: {title(opened.problem_name)}, {opened.num_classes} classes, {_weights(plan)}",
        f"{size:,} values, {learnable:,} of them learnable in {len(layers)} layers; {_fixed(model)}",
        f"bound of {bound:,} values, {100 * bound / size:.2f} %: {fitting} layers fit into it, each by itself",
    ]
    return lines, cells


def _weights(plan: Plan) -> str:
    if plan.base.train is None:
        return f"weights of {plan.base.checkpoint}"
    start = "at random" if plan.base.checkpoint is None else f"from {plan.base.checkpoint}"
    return f"to be trained, starting {start}"


def _told(name: str, shape: Sequence[int], names: Sequence[str]) -> str:
    others = [other for other in names if other != name]
    text = f"{name.rpartition('.')[2]} {'x'.join(map(str, shape))}"
    return f"{text} (tied: {', '.join(others)})" if others else text


def _fixed(model: nn.Module) -> str:
    """What no adaptor holds: fixed weights, and statistics and other buffers, by the kind of their modules."""
    counts: dict[str, int] = {}
    for path, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        fixed = sum(t.numel() for _, t in own if t.is_floating_point() and not t.requires_grad)
        if fixed:
            kind = type(module).__name__ if path else "(root)"
            counts[kind] = counts.get(kind, 0) + fixed
    told = ", ".join(f"{kind} {number:,}" for kind, number in counts.items())
    return f"fixed or statistics: {told}" if told else "none are fixed"
