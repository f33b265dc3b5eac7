import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gearnn.adaptor import Adaptor
from gearnn.datasets import DistortedDataset, Sample
from gearnn.errors import CheckpointError, DataError, DivergedError, PlanError
from gearnn.finetune import Progress, finetune
from gearnn.layers import fingerprint, layers_of, named
from gearnn.machine.compute import Compute
from gearnn.objectives import stability_loss
from gearnn.problems.segmentation import Batch, SemanticSegmentation
from gearnn.recipe import Recipe, learning_rate
from gearnn.sensitivity import weight_change

RECIPE = Recipe(epochs=3, batch_size=4, lr=0.01)
Run = Callable[..., nn.Module]


@pytest.fixture
def run(tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute) -> Run:
    def run(**options: object) -> nn.Module:
        recipe = options.pop("recipe", RECIPE)
        return finetune(tiny, samples, problem, recipe, compute=fp32, **options).model  # type: ignore[arg-type]

    return run


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    state = after.state_dict()
    return {name for name, value in before.state_dict().items() if not torch.equal(value, state[name])}


def test_full_finetuning_moves_every_learnable_weight_and_nothing_else(tiny: nn.Module, run: Run) -> None:
    print_ = fingerprint(tiny)
    moved = changed(tiny, run(batchnorm_statistics="frozen"))
    assert moved == {name for name, p in tiny.named_parameters() if p.requires_grad}
    assert changed(tiny, run()) == moved | {"bn.running_mean", "bn.running_var"}
    assert fingerprint(tiny) == print_


@pytest.mark.parametrize(
    ("policy", "statistics"),
    [
        ("frozen", set()),
        ("folded", {"bn.running_mean", "bn.running_var"}),
        ("selected", {"bn.running_mean", "bn.running_var"}),
        ("all", {"bn.running_mean", "bn.running_var"}),
    ],
)
def test_partial_finetune_leaves_the_base_bit_identical(
    tiny: nn.Module, run: Run, policy: str, statistics: set[str]
) -> None:
    layers = named(layers_of(tiny), ["bn", "head"])
    weights = {name for layer in layers for name in layer.weights}
    assert changed(tiny, run(layers=layers, batchnorm_statistics=policy)) == weights | statistics


def test_statistics_of_layers_that_are_not_selected_stay(tiny: nn.Module, run: Run) -> None:
    head = named(layers_of(tiny), ["head"])
    for policy in ("folded", "selected"):
        assert changed(tiny, run(layers=head, batchnorm_statistics=policy)) == {"head.weight", "head.bias"}


def test_the_same_seed_gives_bit_identical_weights_whatever_else_draws_numbers(run: Run) -> None:
    first = run()
    torch.manual_seed(123)
    torch.rand(5)
    assert changed(first, run()) == set()
    assert changed(first, run(recipe=Recipe(epochs=3, batch_size=4, lr=0.01, seed=1)))


def test_frames_read_ahead_in_processes_change_nothing(run: Run) -> None:
    assert changed(run(), run(recipe=Recipe(epochs=3, batch_size=4, lr=0.01, num_workers=1))) == set()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_finetune_that_was_killed_goes_on_to_the_same_result(run: Run, tmp_path: Path, optimizer: str) -> None:
    recipe = Recipe(epochs=3, batch_size=4, lr=0.01, optimizer=optimizer, schedule="cosine", warmup=0.2)  # type: ignore[arg-type]
    whole = run(recipe=recipe)

    def kill(progress: Progress) -> None:
        if progress.step == 8:  # in the third epoch of three steps each
            raise KeyboardInterrupt

    checkpoint = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        run(recipe=recipe, checkpoint=checkpoint, on_step=kill)
    assert checkpoint.is_file()
    steps: list[int] = []
    resumed = run(recipe=recipe, checkpoint=checkpoint, on_step=lambda p: steps.append(p.step))
    assert steps == [7, 8, 9]
    assert changed(whole, resumed) == set()
    assert changed(whole, run(recipe=recipe, checkpoint=checkpoint, on_step=kill)) == set()  # done: no step is left


def test_a_checkpoint_of_another_job_or_a_damaged_one_is_not_used(run: Run, tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.pt"
    whole = run()
    checkpoint.write_bytes(b"damaged")
    assert changed(whole, run(checkpoint=checkpoint)) == set()

    def kill(progress: Progress) -> None:
        if progress.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe=Recipe(epochs=3, batch_size=4, lr=0.5), checkpoint=checkpoint, on_step=kill)
    assert changed(whole, run(checkpoint=checkpoint)) == set()


def test_a_loss_that_is_not_finite_stops_with_what_to_do(run: Run) -> None:
    with pytest.raises(
        DivergedError, match=r"the loss became .* in epoch \d at step \d with learning rate 1e\+30; lower"
    ):
        run(recipe=Recipe(epochs=3, batch_size=4, lr=1e30))


def test_progress_counts_steps_and_tells_the_time_left(run: Run) -> None:
    seen: list[Progress] = []
    run(on_step=seen.append)
    assert [p.step for p in seen] == list(range(1, 10))
    assert {p.num_steps for p in seen} == {9}
    assert [p.epoch for p in seen] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert seen[-1].seconds_left == 0.0


def test_the_result_is_ready_to_use_and_the_base_as_it_was(tiny: nn.Module, run: Run) -> None:
    tuned = run(layers=named(layers_of(tiny), ["head"]))
    assert not any(module.training for module in tuned.modules())
    flags = {name: p.requires_grad for name, p in tiny.named_parameters()}
    assert {name: p.requires_grad for name, p in tuned.named_parameters()} == flags
    assert flags["conv.weight"]
    assert not flags["fixed.weight"]


def test_the_rate_rises_then_falls() -> None:
    recipe = Recipe(lr=1.0, schedule="cosine", warmup=0.1)
    rates = [learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-3
    assert learning_rate(Recipe(lr=1.0), 99, 100) == 1.0


def test_bf16_training_keeps_float32_weights(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation
) -> None:
    tuned = finetune(tiny, samples, problem, RECIPE, compute=Compute.resolve("cpu", "bf16")).model
    assert {p.dtype for p in tuned.parameters()} == {torch.float32}
    exact = finetune(tiny, samples, problem, RECIPE, compute=Compute.resolve("cpu", "fp32")).model
    moved = (exact.head.weight - tiny.head.weight).norm()
    assert (tuned.head.weight - exact.head.weight).norm() < 0.1 * moved  # 8 bits of precision, over nine steps


def test_without_frames_there_is_nothing_to_train(tiny: nn.Module, problem: SemanticSegmentation) -> None:
    with pytest.raises(DataError, match="expected at least one training frame"):
        finetune(tiny, [], problem, RECIPE)  # type: ignore[arg-type]


def test_one_step_is_the_textbook_update(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    recipe = Recipe(epochs=1, batch_size=len(samples), lr=0.1, momentum=0.0, flip=0.0)
    tuned = finetune(tiny, samples, problem, recipe, batchnorm_statistics="frozen", compute=fp32).model
    reference = copy.deepcopy(tiny)
    batch = problem.collate([samples[i] for i in range(len(samples))])
    problem.loss(reference, batch).backward()
    for name, parameter in reference.named_parameters():
        if parameter.requires_grad:
            expected = parameter.detach() - 0.1 * parameter.grad
            assert torch.allclose(tuned.get_parameter(name), expected, atol=1e-6), name


class Passing(nn.Module):
    """A head on the mean of a frame's pixels, after a part that a test is about."""

    stride = 1

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part, self.head = part, nn.Conv2d(4, 9, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.part(x))


class InfiniteSlope(nn.Module):
    """A convolution with a root of 0 beside it, whose gradient is infinite from a step on."""

    def __init__(self, healthy: int) -> None:
        super().__init__()
        self.conv, self.left = nn.Conv2d(3, 4, 1), healthy

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.training:
            self.left -= 1
        return y if self.left >= 0 or not self.training else y + (y - y).abs().sqrt()


def test_a_last_step_that_diverges_gives_no_network_and_spares_the_good_checkpoint(
    samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute, tmp_path: Path
) -> None:
    checkpoint, kept = tmp_path / "state.pt", []
    recipe = Recipe(epochs=2, batch_size=10, lr=0.01)
    with pytest.raises(DivergedError, match=r"part.conv.weight is no longer finite after epoch 2, .* lower the learn"):
        finetune(
            Passing(InfiniteSlope(healthy=1)), samples, problem, recipe, compute=fp32, checkpoint=checkpoint,
            on_checkpoint=lambda path: kept.append(path.read_bytes()),
        )  # fmt: skip
    assert kept == [checkpoint.read_bytes()]


def test_an_optimiser_that_overflows_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: torch.optim.SGD) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["momentum_buffer"] = torch.full_like(parameter, float("inf"))

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with pytest.raises(
        DivergedError, match=r"the optimiser's momentum_buffer of \S+ is no longer finite after epoch 1"
    ):
        run()


@pytest.mark.parametrize(("value", "what"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_a_base_that_is_not_finite_is_refused(tiny: nn.Module, run: Run, value: float, what: str) -> None:
    tiny.bn.running_var[1] = value  # type: ignore[union-attr, operator]
    with pytest.raises(
        CheckpointError, match=f"expected finite values that fit float32, but bn.running_var has {what}"
    ):
        run()


def void_frame(samples: DistortedDataset, index: int) -> Sample:
    sample = samples[index]
    return Sample(image=sample.image, target=np.full_like(sample.target, 255), name="void")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_batch_without_truth_teaches_nothing_and_counts_for_nothing(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute, optimizer: str
) -> None:
    partly = replace(problem, ignore_index=255)
    recipe = Recipe(epochs=1, batch_size=1, lr=0.1, weight_decay=0.1, flip=0.0, optimizer=optimizer)  # type: ignore[arg-type]
    weights: list[torch.Tensor] = []

    def note(model: nn.Module, batch: Batch) -> torch.Tensor:
        weights.append(model.head.weight.detach().clone())  # type: ignore[union-attr, operator]
        return partly.loss(model, batch)

    mixed = [samples[0], void_frame(samples, 1), samples[2], void_frame(samples, 3)]
    seen: list[float] = []
    tuned = finetune(
        tiny, mixed, partly, recipe, compute=fp32, loss=note, batchnorm_statistics="all",  # type: ignore[arg-type]
        on_step=lambda progress: seen.append(progress.loss),
    )  # fmt: skip
    taught = [loss for loss in seen if loss]
    assert (len(seen), len(taught), len(weights)) == (4, 2, 2)
    assert tuned.epoch_losses == (sum(taught) / 2,)
    assert not torch.equal(weights[0], weights[1])


def test_the_loss_of_nothing_but_void_is_exactly_nothing(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation
) -> None:
    partly = replace(problem, ignore_index=255)
    batch = partly.collate([void_frame(samples, 0)])
    for loss in (partly.loss, stability_loss(partly, alpha=1.0, sigma=0.1)):
        value = loss(tiny, batch)
        value.backward()
        assert value.item() == 0.0
        assert not any(parameter.grad.any() for parameter in tiny.parameters() if parameter.grad is not None)


def test_frames_that_are_all_void_leave_the_base_and_are_reported(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, caplog: pytest.LogCaptureFixture
) -> None:
    void = [void_frame(samples, index) for index in range(2)]
    tuned = finetune(tiny, void, replace(problem, ignore_index=255), Recipe(epochs=1))  # type: ignore[arg-type]
    assert changed(tiny, tuned.model) == set()
    assert tuned.epoch_losses == (0.0,)
    assert "epoch 1 has taught nothing: no frame has truth that counts" in caplog.text


def stopped_after_one_epoch(run: Run, checkpoint: Path, **options: object) -> bytes:
    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=checkpoint, on_checkpoint=stop, **options)
    return checkpoint.read_bytes()


def test_a_checkpoint_with_one_wrong_bit_is_noticed(run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = tmp_path / "state.pt"
    recipe = Recipe(epochs=2, batch_size=10, lr=0.01)
    good = stopped_after_one_epoch(run, checkpoint, recipe=recipe)
    whole = run(recipe=recipe)
    for place in np.random.default_rng(0).integers(0, 8 * len(good), 12):
        content = bytearray(good)
        content[place // 8] ^= 1 << (place % 8)
        checkpoint.write_bytes(content)
        caplog.clear()
        seen: list[Progress] = []
        resumed = run(recipe=recipe, checkpoint=checkpoint, on_step=seen.append)
        assert changed(whole, resumed) == set()
        assert [progress.step for progress in seen] == [1, 2]
        assert "begins anew" in caplog.text


class Remembering(nn.Module):
    """A convolution whose bias follows what it sees, in a buffer that is replaced, not written to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * y.detach().float().mean(dim=(0, 2, 3))
        return y - self.seen[:, None, None]


PARTS: dict[str, Callable[[], nn.Module]] = {
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3, padding=1)),
    "spectral norm by a hook": lambda: nn.utils.spectral_norm(nn.Conv2d(3, 4, 3, padding=1)),
    "a moving buffer": Remembering,
    "a cumulative mean": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=None)),
}


@pytest.mark.filterwarnings("ignore:.*spectral_norm.*:FutureWarning")
@pytest.mark.parametrize("part", PARTS)
def test_buffers_that_move_survive_a_stop(
    samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute, tmp_path: Path, part: str
) -> None:
    torch.manual_seed(0)
    base = Passing(PARTS[part]()).eval()

    def run(**options: object) -> nn.Module:
        recipe = Recipe(epochs=3, batch_size=4, lr=0.1)
        return finetune(
            base, samples, problem, recipe, batchnorm_statistics="all", compute=fp32, **options  # type: ignore[arg-type]
        ).model  # fmt: skip

    whole, checkpoint = run(), tmp_path / "state.pt"
    stopped_after_one_epoch(run, checkpoint)
    steps: list[int] = []
    assert changed(whole, run(checkpoint=checkpoint, on_step=lambda p: steps.append(p.step))) == set()
    assert steps == [4, 5, 6, 7, 8, 9]


def test_a_buffer_that_no_adaptor_holds_is_put_back_and_named(
    samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    tuned = finetune(Passing(Remembering()), samples, problem, RECIPE, compute=fp32).model
    assert not tuned.part.seen.any()  # type: ignore[union-attr, operator]
    assert "part.seen moved while training and is as in the base again" in caplog.text
    caplog.clear()
    finetune(Passing(PARTS["spectral norm"]()), samples, problem, RECIPE, compute=fp32)
    assert caplog.text == ""  # its vectors stayed while the weights were fitted to them


class MakesTable(nn.Module):
    """A convolution plus a table that the first forward pass makes, as rotary embeddings do, and then follows."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.conv, self.persistent = nn.Conv2d(3, 4, 1), persistent

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if not hasattr(self, "table"):
            self.register_buffer("table", torch.linspace(0, 1, x.shape[-1]), persistent=self.persistent)
        if self.training:
            self.table.lerp_(y.detach().float().mean(dim=(0, 1, 2)), 0.1)  # type: ignore[operator]
        return y + self.table


class ResizesTable(nn.Module):
    """A convolution plus a table that follows the width of the frames."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.register_buffer("table", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if len(self.table) != x.shape[-1]:  # type: ignore[arg-type]
            self.table = torch.zeros(x.shape[-1])
        if self.training:
            self.table = 0.9 * self.table + 0.1 * y.detach().float().mean(dim=(0, 1, 2))
        return y + self.table


TABLES: dict[str, Callable[[], nn.Module]] = {
    "made": lambda: MakesTable(persistent=True),
    "made, in no file": lambda: MakesTable(persistent=False),
    "resized": ResizesTable,
}


@pytest.mark.parametrize("part", TABLES)
def test_buffers_that_the_base_lacks_end_no_training_and_survive_a_stop(
    samples: DistortedDataset,
    problem: SemanticSegmentation,
    fp32: Compute,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    part: str,
) -> None:
    torch.manual_seed(0)
    base = Passing(TABLES[part]()).eval()

    def run(**options: object) -> nn.Module:
        return finetune(base, samples, problem, RECIPE, compute=fp32, **options).model  # type: ignore[arg-type]

    whole, checkpoint = run(), tmp_path / "state.pt"
    told = "moved while training and is as in the base again" if part == "resized" else "made while training, so the"
    assert [record.getMessage().removeprefix("part.table").lstrip(": ")[: len(told)] for record in caplog.records] == [
        told
    ]
    stopped_after_one_epoch(run, checkpoint)
    steps: list[int] = []
    resumed = run(checkpoint=checkpoint, on_step=lambda p: steps.append(p.step))
    assert steps == [4, 5, 6, 7, 8, 9]
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    assert changed(whole, resumed) == set()
    assert torch.equal(whole.part.table, resumed.part.table)  # type: ignore[union-attr, arg-type]
    assert dict(base.named_buffers()).keys() == ({"part.table"} if part == "resized" else set())
    adaptor = Adaptor.extract(base, resumed, layers_of(base), "jpeg:quality=10")
    x = torch.randn(1, 3, 32, 48)
    assert adaptor.apply(base)(x).shape == resumed(x).shape


class Detour(nn.Module):
    """A convolution that takes no part, beside one that may be cut from its gradient."""

    def __init__(self, *, cut: bool = False) -> None:
        super().__init__()
        self.conv, self.unused, self.cut = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), cut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return y.detach() if self.cut else y


def test_chosen_layers_without_any_gradient_are_reported_and_others_are_no_matter(
    samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute, caplog: pytest.LogCaptureFixture
) -> None:
    base = Passing(Detour())
    assert "part.unused.weight" not in changed(base, finetune(base, samples, problem, RECIPE, compute=fp32).model)
    assert caplog.text == ""
    layers = named(layers_of(base), ["part.unused", "part.conv"])
    finetune(base, samples, problem, RECIPE, layers=layers, compute=fp32)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("chosen layers without any gradient in the first epoch: part.unused; the loss does not")


def test_a_loss_that_reaches_no_weight_that_is_trained_is_refused(
    samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    base = Passing(Detour(cut=True))
    layers = named(layers_of(base), ["part.conv"])
    with pytest.raises(PlanError, match=r"a loss that depends on one of 2 weights .* such as part.conv.weight, but it"):
        finetune(base, samples, problem, RECIPE, layers=layers, compute=fp32)
    elsewhere = nn.Parameter(torch.ones(()))
    with pytest.raises(PlanError, match=r"expected gradients for 2 weights .* but in the whole first epoch none came"):
        finetune(base, samples, problem, RECIPE, layers=layers, compute=fp32, loss=lambda model, batch: elsewhere * 2)


@pytest.mark.parametrize("policy", ["selected", "all"])
def test_a_batchnorm_under_two_names_keeps_its_moved_statistics(
    samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute, policy: str
) -> None:
    bn = nn.BatchNorm2d(4)
    base = Passing(nn.Sequential(nn.Conv2d(3, 4, 1), bn, nn.ReLU(), bn)).eval()
    layers = None if policy == "all" else named(layers_of(base, "layer", "selected"), ["part.1"])
    tuned = finetune(base, samples, problem, RECIPE, layers=layers, batchnorm_statistics=policy, compute=fp32).model  # type: ignore[arg-type]
    assert {"part.1.running_mean", "part.3.running_mean"} <= changed(base, tuned)
    assert tuned.part[1] is tuned.part[3]  # type: ignore[index]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_base_in_another_precision_is_trained_in_float32(
    tiny: nn.Module, samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute, dtype: torch.dtype
) -> None:
    other = copy.deepcopy(tiny).to(dtype)
    tuned = finetune(other, samples, problem, RECIPE, compute=fp32).model
    expected = finetune(copy.deepcopy(other).float(), samples, problem, RECIPE, compute=fp32).model
    assert {parameter.dtype for parameter in tuned.parameters()} == {torch.float32}
    assert changed(expected, tuned) == set()
    assert {parameter.dtype for parameter in other.parameters()} == {dtype}
    table = weight_change(other, tuned)
    reference = weight_change(copy.deepcopy(other).float(), expected)
    assert table["sensitivity"].tolist() == reference["sensitivity"].tolist()


def test_a_network_without_anything_to_learn_is_refused(tiny: nn.Module, run: Run) -> None:
    tiny.requires_grad_(False)
    with pytest.raises(PlanError, match="expected at least one weight that can learn in the network"):
        run()


def test_convolutions_in_time_and_parameters_of_no_values_are_trained(
    samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    class Cube(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.device_of = nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1)), nn.Parameter(torch.empty(0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x[:, :, None])[:, :, 0]

    base, recipe = Passing(Cube()).eval(), Recipe(epochs=1, batch_size=4, lr=0.01, relative=True)
    tuned = finetune(base, samples, problem, recipe, compute=fp32).model
    assert changed(base, tuned) == {"part.conv.weight", "part.conv.bias", "head.weight", "head.bias"}
    adaptor = Adaptor.extract(base, tuned, layers_of(base), "jpeg:quality=10")
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(adaptor.apply(base)(x), tuned(x))


def test_a_network_whose_copy_would_train_the_base_is_refused(
    samples: DistortedDataset, problem: SemanticSegmentation, fp32: Compute
) -> None:
    base = Passing(nn.Conv2d(3, 4, 1))
    base.run = lambda x: base.head(base.part(x))
    base.forward = lambda x: base.run(x)  # type: ignore[method-assign, operator]
    with pytest.raises(PlanError, match="attribute run of the network keeps a part of it"):
        finetune(base, samples, problem, RECIPE, compute=fp32)
    assert all(parameter.grad is None for parameter in base.parameters())


def test_weights_that_share_memory_are_trained_apart_and_that_is_logged(
    tiny: nn.Module, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    tiny.bn.bias = nn.Parameter(tiny.bn.weight.detach()[:])  # type: ignore[union-attr, index, operator]
    run()
    assert "bn.weight, bn.bias share memory in the base; they are trained apart" in caplog.text
