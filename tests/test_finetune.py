import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gearnn.compute import Compute
from gearnn.datasets import DistortedDataset
from gearnn.errors import DataError, DivergedError
from gearnn.finetune import Progress, finetune
from gearnn.layers import fingerprint, layers_of, named
from gearnn.problem import SemanticSegmentation
from gearnn.recipe import Recipe, learning_rate

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
    moved = changed(tiny, run())
    assert moved == {name for name, p in tiny.named_parameters() if p.requires_grad}
    assert fingerprint(tiny) == print_


@pytest.mark.parametrize(
    ("policy", "statistics"),
    [
        ("frozen", set()),
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
    assert changed(tiny, run(layers=head, batchnorm_statistics="selected")) == {"head.weight", "head.bias"}


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
    tuned = finetune(tiny, samples, problem, recipe, compute=fp32).model
    reference = copy.deepcopy(tiny)
    batch = problem.collate([samples[i] for i in range(len(samples))])
    problem.loss(reference, batch).backward()
    for name, parameter in reference.named_parameters():
        if parameter.requires_grad:
            expected = parameter.detach() - 0.1 * parameter.grad
            assert torch.allclose(tuned.get_parameter(name), expected, atol=1e-6), name
