"""The plan for many images, processes and GPUs: plain arithmetic, checked against other ways to count."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from regraft.errors import UsageError
from regraft.models.classifier import Classifier, build
from regraft.training import lora
from regraft.training.budget import Room, make_plan
from regraft.training.options import TrainingOptions
from regraft.training.scaling import Cluster, Rates, plan_scale

CPU = Rates(
    device="cpu", precision="float32", backbone="test_efficientnet", image_size=64, boundary="blocks.3.0", cpus=2,
    decode=500, prefix=200, features=400, tail=50, predict=150, head=1e9, image_bytes=2e5, activation_bytes=4e6,
    peak_layer_bytes=2e6,
)  # fmt: skip
GPU = replace(CPU, device="cuda", prefix=4000, features=8000, tail=1500, predict=3000, head=2e11, read_bytes=2e9,
              network_bytes=1e10)  # fmt: skip
IMAGES = {"train": 80_000, "val": 10_000, "test": 10_000}


@pytest.fixture(scope="module")
def model() -> Classifier:
    built = build("test_efficientnet", classes=tuple("abcd"), image_size=64, weights="none")
    built.weights = replace(built.weights, source="wheel")  # as if pretrained: parts of it stay frozen
    return built


def test_the_steps_of_a_head_alone(model: Classifier) -> None:
    plan = plan_scale(model, IMAGES, TrainingOptions(finetune_epochs=0, precision="off"), CPU, Cluster(cpus=2))
    assert plan.seconds["decode"] == pytest.approx(90_000 / 1000)
    assert plan.seconds["prefix"] == pytest.approx(90_000 / 200 + 90_000 / 400), "to the boundary, and on to the head"
    assert plan.disk == 90_000 * model.head.features * 4
    assert (plan.step_bytes, plan.steps, plan.views, plan.boundary) == (0, 0, 1, "head")
    assert "finetune" not in plan.seconds
    assert "network" not in plan.seconds
    assert plan.bottleneck == "prefix"
    assert plan.total == pytest.approx(sum(plan.seconds.values()))
    assert plan.unmeasured == ("read_bytes",)


def test_twice_the_processes_take_half_the_time_and_send_the_gradients(model: Classifier) -> None:
    options = TrainingOptions(finetune_epochs=3, batch_size=64)
    one, two = (plan_scale(model, IMAGES, options, CPU, Cluster(n, cpus=2 * n)) for n in (1, 2))
    for step, fixed in (("decode", 0), ("prefix", 0), ("head", 1), ("finetune", 0), ("evaluate", 2)):
        assert two.seconds[step] - fixed == pytest.approx((one.seconds[step] - fixed) / 2), step
    trained = [p for stage in model.stages[model.resolve(options.finetune_from) :] for p in stage.parameters()]
    count = sum(p.numel() for p in [*trained, *model.head.parameters()])
    assert (one.step_bytes, two.step_bytes) == (0, 4 * count)  # a ring of two sends everything once
    assert one.steps == two.steps == 3 * 80_000 // 64
    assert two.unmeasured == ("read_bytes", "network_bytes")


def test_gpus_overlap_with_reading_and_decoding_which_become_the_bottleneck(model: Classifier) -> None:
    plan = plan_scale(model, IMAGES, TrainingOptions(finetune_epochs=0), GPU, Cluster(8, 8, cpus=16))
    assert plan.bottleneck == "decode"
    assert plan.seconds["decode"] > plan.seconds["prefix"] + plan.seconds["evaluate"]
    assert plan.total == pytest.approx(plan.seconds["decode"] + plan.seconds["head"] + plan.seconds["network"])
    assert plan.unmeasured == ()
    assert plan.gpu_memory > 0


def test_where_the_disk_is_too_small_the_frozen_layers_run_in_every_step(model: Classifier) -> None:
    options = TrainingOptions(finetune_epochs=2)
    cached, live = (plan_scale(model, IMAGES, options, CPU, Cluster(), room=Room(disk, 0)) for disk in (10**13, 10**6))
    forced = plan_scale(model, IMAGES, replace(options, feature_cache="none"), CPU, Cluster(), room=Room(10**13, 0))
    assert [plan.live_prefix for plan in (cached, live, forced)] == [False, True, True]
    assert live.disk < cached.disk
    assert live.seconds["finetune"] - cached.seconds["finetune"] == pytest.approx(2 * 90_000 / 100)
    assert live.seconds["decode"] > 2 * cached.seconds["decode"], "pixels have no room either"


def test_on_this_machine_it_is_the_plan_of_the_training(model: Classifier) -> None:
    options, room = TrainingOptions(finetune_epochs=3), Room(10**9, 10**9)
    rates = replace(CPU, decode=2.0, cpus=2)  # decoding is what takes the time
    here = make_plan(model, IMAGES, options, rates.on(Cluster(cpus=2)), room=room)
    scaled = plan_scale(model, IMAGES, options, rates, Cluster(cpus=2), room=room)
    assert scaled.total == pytest.approx(here.total)
    assert (scaled.disk, scaled.memory, scaled.live_prefix) == (here.disk, here.memory, here.is_live)


def test_rates_of_another_size_are_scaled_by_the_pixels(model: Classifier) -> None:
    options = TrainingOptions(finetune_epochs=3)
    at_64, at_32 = (plan_scale(model, IMAGES, options, replace(CPU, image_size=size), Cluster()) for size in (64, 32))
    assert (at_64.measured_at, at_32.measured_at) == (0, 32)
    assert at_32.seconds["finetune"] == pytest.approx(4 * at_64.seconds["finetune"])
    assert at_32.seconds["decode"] == pytest.approx(at_64.seconds["decode"])
    wide = plan_scale(model, IMAGES, options, replace(CPU, image_size="32x128"), Cluster())
    assert wide.measured_at == "32x128"
    assert wide.seconds["finetune"] == pytest.approx(at_64.seconds["finetune"]), "as many pixels"
    batches = options.batch_size * CPU.activation_bytes + 64 * CPU.peak_layer_bytes
    assert at_32.memory - at_64.memory == pytest.approx(3 * batches)


def test_memory_is_that_of_one_of_the_processes_on_its_device(model: Classifier) -> None:
    options = TrainingOptions(finetune_epochs=0, precision="off")
    one, four = (plan_scale(model, IMAGES, options, CPU, Cluster(n, cpus=4)).memory for n in (1, 4))
    row = 12 * model.head.features + 4 * len(model.classes)
    # The 16 shards of the training images, and the three of the validation images, belong to four processes.
    assert one - four == 60_000 * row + (10_000 - 3334) * 4 * model.head.features
    gpu = replace(GPU, precision="float32")
    assert one - plan_scale(model, IMAGES, TrainingOptions(finetune_epochs=0), gpu, Cluster(1, 1, 4)).memory == (
        pytest.approx(64 * CPU.peak_layer_bytes)
    ), "batches are in the memory of the GPU"


def test_lora_sends_and_keeps_only_what_it_trains() -> None:
    network = build("test_vit", classes=tuple("abcd"), image_size=64, weights="none")
    network.weights = replace(network.weights, source="wheel")
    boundary = network.resolve("auto")
    rates = replace(GPU, backbone="test_vit", boundary=network.stages[boundary].name, precision="float32")
    cluster = Cluster(2, 2, cpus=2)
    full, adapted = (
        plan_scale(network, IMAGES, TrainingOptions(finetune_method=method, lora_rank=4), rates, cluster)
        for method in ("full", "lora")
    )
    lora.attach(network, boundary, rank=4, alpha=4, seed=0)
    adapters = sum(p.numel() for _, p in network.trainable_parameters())
    assert adapted.step_bytes == 4 * adapters, "a ring of two sends everything once"
    saved = full.step_bytes - adapted.step_bytes  # gradients, two moments and an average
    assert full.gpu_memory - adapted.gpu_memory == pytest.approx(4 * saved, abs=2)


def test_fsdp_sends_more_and_keeps_less(model: Classifier) -> None:
    whole, divided = (
        plan_scale(model, IMAGES, TrainingOptions(sharding=sharding, precision="off"),
                   replace(GPU, precision="float32"), Cluster(8, 8, cpus=8))
        for sharding in ("none", "fsdp")
    )  # fmt: skip
    assert divided.step_bytes == pytest.approx(1.5 * whole.step_bytes, abs=2)
    assert divided.seconds["network"] > whole.seconds["network"]
    assert divided.gpu_memory < whole.gpu_memory
    with pytest.raises(UsageError, match="fsdp has nothing to divide"):
        plan_scale(model, IMAGES, TrainingOptions(sharding="fsdp", finetune_method="lora"), CPU, Cluster(2, cpus=2))
    with pytest.raises(UsageError, match="adapts the linear layers of a transformer"):
        plan_scale(model, IMAGES, TrainingOptions(finetune_method="lora"), CPU, Cluster())
    alone = plan_scale(model, IMAGES, TrainingOptions(sharding="fsdp"), CPU, Cluster())
    assert alone.step_bytes == 0, "one process divides nothing"


def test_the_l2_strength_is_searched_on_at_most_200_000_images(model: Classifier) -> None:
    options, features = TrainingOptions(finetune_epochs=0, precision="off"), model.head.features
    rates = replace(CPU, network_bytes=1e9)

    def plan(train: int, views: int = 1) -> tuple[float, float]:
        images, own = {"train": train, "val": 10_000}, replace(options, views=views)
        of_one, of_two = (plan_scale(model, images, own, rates, Cluster(n, cpus=2)) for n in (1, 2))
        return (of_one.seconds["head"] - 1) * rates.head / features, of_two.seconds["network"] * rates.network_bytes

    # 250 evaluations over a path of eleven strengths; then two strengths for all rows.
    again = 250 * 2 / 11
    assert plan(200_000)[0] == pytest.approx(250 * 200_000)
    assert plan(1_000_000)[0] == pytest.approx(250 * 200_000 + again * 1_000_000)
    assert plan(50_000, views=4)[0] == pytest.approx(250 * 50_000 + again * 200_000)
    # Two processes exchange sixteen shards of float64: gradients at each evaluation, and the second moments of a fit.
    gradient, moments = 16 * 8 * 4 * (features + 1), 16 * 8 * features**2
    assert plan(200_000)[1] == pytest.approx(250 * gradient + moments, rel=1e-6)
    assert plan(1_000_000)[1] == pytest.approx((250 + again) * gradient + 2 * moments, rel=1e-6)


def test_activations_have_the_precision_of_the_rates(model: Classifier) -> None:
    whole, half = (
        plan_scale(model, IMAGES, TrainingOptions(finetune_epochs=0), replace(CPU, precision=precision), Cluster())
        for precision in ("float32", "bfloat16")
    )
    assert whole.disk == 2 * half.disk


def test_rates_of_another_training_are_refused(model: Classifier) -> None:
    options = TrainingOptions(finetune_epochs=3, precision="off")
    for change, words in (
        ({"backbone": "resnet18"}, "rates are those of resnet18, and the plan is for test_efficientnet"),
        ({"boundary": "blocks.1.0"}, r"from blocks\.1\.0, and the plan fine-tunes from blocks\.3\.0\. Plan with"),
        ({"precision": "bfloat16"}, "measured in bfloat16, and the plan is for float32"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            plan_scale(model, IMAGES, options, replace(CPU, **change), Cluster())
    head_alone = replace(options, finetune_epochs=0)
    assert plan_scale(model, IMAGES, head_alone, replace(CPU, boundary="blocks.1.0"), Cluster()).total > 0
    network = build("test_efficientnet", classes=tuple("abcd"), image_size=64, weights="none")  # all of it trains
    own = replace(CPU, boundary=network.stages[0].name)
    assert plan_scale(network, IMAGES, options, own, Cluster()).total > 0
    with pytest.raises(UsageError, match=r"in 2 .* takes its statistics from the images of one process\. Train it"):
        plan_scale(network, IMAGES, options, own, Cluster(2, cpus=2))
    with pytest.raises(UsageError, match="feature_cache = memory works in one process"):
        plan_scale(model, IMAGES, replace(options, feature_cache="memory"), CPU, Cluster(2, cpus=2))


def test_impossible_clusters_and_rates_of_other_devices_are_refused(model: Classifier) -> None:
    for arguments in ((0, 0, 1), (1, -1, 1), (8, 4, 8), (4, 0, 3)):
        with pytest.raises(UsageError, match="expected"):
            Cluster(*arguments)
    with pytest.raises(UsageError, match="measured on cpu"):
        plan_scale(model, IMAGES, TrainingOptions(), CPU, Cluster(8, 8, 64))


def test_rates_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rates.json"
    file.write_text(json.dumps(GPU.to_json()))
    assert Rates.load(file) == GPU
    for size, read in (("384x128", "384x128"), (160.0, 160)):
        file.write_text(json.dumps(GPU.to_json() | {"image_size": size}))
        assert Rates.load(file) == replace(GPU, image_size=read)
    for change, words in (
        ({"image_size": "384x"}, "image_size is '384x'"),
        ({"device": "tpu"}, "expected cpu or cuda"), ({"prefix": 0}, "prefix is 0"), ({"tail": True}, "tail is True"),
        ({"boundary": 3}, "boundary is 3; expected a name"), ({"precision": "int8"}, "expected float32 or bfloat16"),
        ({"speed": 1.0}, "--save-rates"), ({"decode": "fast"}, "decode is 'fast'"),
    ):  # fmt: skip
        file.write_text(json.dumps(GPU.to_json() | change))
        with pytest.raises(UsageError, match=words):
            Rates.load(file)
    for text in ("[]", "{}", "no JSON"):
        file.write_text(text)
        with pytest.raises(UsageError, match=r"rates\.json"):
            Rates.load(file)
    with pytest.raises(UsageError, match="cannot be read"):
        Rates.load(tmp_path / "missing.json")
