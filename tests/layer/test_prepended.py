"""A model behind a layer, in the hands of timm, torchvision and Transformers."""

import warnings

import pytest
import timm
import torch
import torchvision
from timm.data import resolve_model_data_config
from timm.optim import create_optimizer_v2
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor
from transformers import AutoModelForImageClassification, ResNetConfig, Trainer, TrainingArguments, ViTConfig, pipeline

import jpegdl
from jpegdl import JpegLayer, parameter_groups, prepend
from jpegdl.errors import UsageError
from jpegdl.layer import FeatureJpegLayer

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
VIT = ViTConfig(
    image_size=64,
    patch_size=16,
    hidden_size=24,
    num_hidden_layers=1,
    num_attention_heads=3,
    intermediate_size=24,
    num_labels=4,
    id2label=dict(enumerate("abcd")),
)


def of_timm(name="resnet10t", **options):
    return prepend(timm.create_model(name, num_classes=8, **options), JpegLayer.from_quality(50))


def of_transformers():
    return prepend(AutoModelForImageClassification.from_config(VIT), JpegLayer(0.002, 0.002))


# ------------------------------------------------------------------------------------------------------------------ timm


def test_timm_is_told_the_backbones_size_and_not_to_normalise():
    model = of_timm()
    config, of_backbone = resolve_model_data_config(model), resolve_model_data_config(model.backbone)
    assert config["input_size"] == of_backbone["input_size"] == (3, 176, 176)
    assert {**config, "mean": None, "std": None} == {**of_backbone, "mean": None, "std": None}
    assert (config["mean"], config["std"]) == ((0, 0, 0), (1, 1, 1))  # that happens behind the layer
    assert model.mean.flatten().tolist() == pytest.approx(of_backbone["mean"])
    assert model.default_cfg == model.pretrained_cfg


@pytest.mark.parametrize("recorded", [{"pretrained_cfg": None}, {"default_cfg": {"mean": (0.4, 0.5, 0.6), "std": (0.1,) * 3}}])
def test_a_backbone_that_records_nothing_or_by_timms_older_name(recorded):
    backbone = nn.Flatten()
    for name, value in recorded.items():
        setattr(backbone, name, value)
    model = prepend(backbone, JpegLayer())
    for name in recorded:
        assert getattr(model, name) == {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    expected = (0.4, 0.5, 0.6) if "default_cfg" in recorded else (0.485, 0.456, 0.406)
    assert model.mean.flatten().tolist() == pytest.approx(expected)


def test_heads_and_features_are_the_backbones_with_the_layer_in_front():
    model = of_timm().eval()
    assert model.num_classes == 8
    assert model.get_classifier() is model.backbone.fc
    features = model.forward_features(IMAGES)
    assert torch.equal(model.forward_head(features), model(IMAGES))
    assert torch.equal(features, model.backbone.forward_features((model.layer(IMAGES) - model.mean) / model.std))
    model.reset_classifier(5)
    assert model(IMAGES).shape == (2, 5)
    assert model.num_classes == 5
    model.set_grad_checkpointing()
    assert model.backbone.grad_checkpointing
    vit = of_timm("vit_tiny_patch16_224", img_size=64).eval()
    assert vit.forward_intermediates(IMAGES, indices=1)[1][0].shape == (2, 192, 4, 4)


def test_what_the_backbone_does_not_have_the_model_does_not_have():
    model = prepend(nn.Conv2d(3, 2, 3), JpegLayer())
    for name in ("num_classes", "forward_features", "pretrained_cfg", "group_matcher", "config"):
        assert not hasattr(model, name)
    with pytest.raises(AttributeError, match=r"model\.backbone\.init_weights, which does not know of the layer"):
        of_timm().init_weights  # noqa: B018  it may take images


@pytest.mark.parametrize("layer_decay", [None, 0.75])
@pytest.mark.parametrize("options", [{}, {"name": "vit_tiny_patch16_224", "img_size": 64}])
def test_timms_optimizers_spare_the_tables(layer_decay, options):
    model = of_timm(**options)
    wrapped, bare = (
        create_optimizer_v2(part, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=layer_decay)
        for part in (model, model.backbone)
    )
    ours = {id(model.layer.luma), id(model.layer.chroma)}
    groups = [
        (group["weight_decay"], group.get("lr_scale"), {id(p) for p in group["params"]} - ours)
        for group in wrapped.param_groups
    ]
    expected = [(group["weight_decay"], group.get("lr_scale"), {id(p) for p in group["params"]}) for group in bare.param_groups]
    assert sorted(groups, key=str) == sorted(expected, key=str)
    (home,) = (group for group in wrapped.param_groups if any(id(p) in ours for p in group["params"]))
    assert home["weight_decay"] == 0
    assert home.get("lr_scale") == min(group.get("lr_scale", 1) for group in bare.param_groups) or layer_decay is None


# ----------------------------------------------------------------------------------------------------------- torchvision


@pytest.mark.parametrize("make", [lambda: timm.create_model("resnet10t"), lambda: torchvision.models.resnet18(num_classes=3)])
def test_graphs_of_torch_fx_keep_the_layer_whole(make):
    model = prepend(make(), JpegLayer.from_quality(30)).eval()
    found = create_feature_extractor(model, {"layer": "files", "backbone.layer4": "features"})(IMAGES)
    assert torch.equal(found["files"], model.layer(IMAGES))
    assert found["features"].shape == (2, 512, 2, 2)
    graph = torch.fx.symbolic_trace(model)
    assert torch.equal(graph(IMAGES), model(IMAGES))
    assert next(node.target for node in graph.graph.nodes if node.op == "call_module") == "layer"
    with pytest.raises(UsageError, match=r"trace a model .*nn.Sequential\(layer\)"):
        torch.fx.symbolic_trace(JpegLayer())
    feature = nn.Sequential(nn.Conv2d(3, 4, 3), FeatureJpegLayer(0.1, channels=4))
    assert torch.equal(torch.fx.symbolic_trace(feature)(IMAGES), feature(IMAGES))


# ---------------------------------------------------------------------------------------------------------- Transformers


def collate(items):
    return {"pixel_values": torch.stack([image for image, _ in items]), "labels": torch.tensor([label for _, label in items])}


def trainer(model, folder, **options):
    data = [(image, index % 4) for index, image in enumerate(torch.rand(8, 3, 64, 64))]
    arguments = TrainingArguments(
        str(folder),
        max_steps=3,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        weight_decay=0.05,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    return Trainer(model, arguments, data_collator=collate, train_dataset=data, eval_dataset=data, **options)


def test_the_trainer_takes_the_model_as_it_is(tmp_path):
    model = of_transformers()
    ours = trainer(model, tmp_path)
    decayed = ours.get_decay_parameter_names(model)
    assert not [name for name in decayed if name.startswith("layer")]
    assert "backbone.classifier.weight" in decayed
    ours.train()
    assert "eval_loss" in ours.evaluate()
    assert (model.layer.luma != torch.tensor(0.002)).any()
    assert ((model.layer.luma >= 1e-5) & (model.layer.luma <= 255)).all()
    groups = [g for g in ours.optimizer.param_groups if any(p is model.layer.luma for p in g["params"])]
    assert [g["weight_decay"] for g in groups] == [0]
    ours.save_model(tmp_path / "saved")
    fresh = of_transformers()
    state = next((tmp_path / "saved").glob("*.safetensors"))
    jpegdl.backbones  # noqa: B018
    from safetensors.torch import load_model

    load_model(fresh, state)
    assert torch.equal(fresh.layer.luma, model.layer.luma)


def test_a_trainer_imported_after_the_model_was_made_spares_the_tables_too(fresh):
    code = (
        "import torch; from torch import nn; from jpegdl import JpegLayer, prepend\n"
        "model = prepend(nn.Conv2d(3, 2, 3), JpegLayer())\n"
        "from transformers import Trainer, TrainingArguments\n"
        "arguments = TrainingArguments('.', report_to=[], use_cpu=True)\n"
        "print(Trainer(model, arguments).get_decay_parameter_names(model))\n"
    )
    done = fresh(f"import warnings; warnings.resetwarnings()\n{code}")  # transformers warns of itself
    assert done.stdout.splitlines()[-1] == "['backbone.weight']"


def test_a_pipeline_takes_the_model_as_it_is():
    from PIL import Image
    from transformers import ViTImageProcessor

    model = of_transformers().eval()
    processor = ViTImageProcessor(size={"height": 64, "width": 64}, do_normalize=False)
    classify = pipeline("image-classification", model=model, image_processor=processor, device=-1)
    image = Image.new("RGB", (64, 64), (200, 60, 20))
    expected = model(pixel_values=processor(image, return_tensors="pt")["pixel_values"]).logits.softmax(-1)[0]
    assert {answer["label"]: answer["score"] for answer in classify(image)} == pytest.approx(
        dict(zip("abcd", expected.tolist(), strict=True)), rel=1e-5
    )


def test_further_arguments_reach_the_backbone():
    model, labels = of_transformers().eval(), torch.tensor([0, 3])
    output = model(pixel_values=IMAGES, labels=labels, output_hidden_states=True)
    assert output.loss == nn.functional.cross_entropy(model(IMAGES).logits, labels)
    assert len(output.hidden_states) == 2
    resnet = AutoModelForImageClassification.from_config(ResNetConfig(num_labels=4))
    assert isinstance(prepend(resnet, JpegLayer())(IMAGES, return_dict=False), tuple)
    plain = of_timm()
    assert plain(IMAGES, labels=None).shape == (2, 8)
    for wrong in (lambda: plain(), lambda: plain(IMAGES, pixel_values=IMAGES), lambda: plain(IMAGES, labels=labels)):
        with pytest.raises(TypeError, match="images|labels"):
            wrong()


# -------------------------------------------------------------------------------------------------------- the first batch


@pytest.mark.parametrize("layer", [nn.Identity(), nn.Sequential(nn.Identity()), JpegLayer()])
def test_a_plain_model_looks_at_its_first_batch_too(layer):
    model = prepend(nn.Conv2d(3, 2, 3), layer)
    with pytest.warns(UserWarning, match="as if they were normalised already"):
        model((IMAGES - 0.5) / 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(IMAGES)
        prepend(nn.Conv2d(3, 2, 3), layer)(IMAGES)


# ------------------------------------------------------------------------------------------------------- parameter groups


def test_parameter_groups_give_layers_their_own_rate_and_no_decay():
    model = of_timm("vit_tiny_patch16_224", img_size=64)
    rest, spared, layer = parameter_groups(model, lr=1e-3, layer_lr=3e-3, weight_decay=0.05)
    assert [(group["lr"], group["weight_decay"]) for group in (rest, spared, layer)] == [(1e-3, 0.05), (1e-3, 0), (3e-3, 0)]
    assert {id(p) for p in layer["params"]} == {id(model.layer.luma), id(model.layer.chroma)}
    assert {id(p) for p in spared["params"]} == {id(model.backbone.pos_embed), id(model.backbone.cls_token)}
    assert len(rest["params"]) + 4 == len(list(model.parameters()))
    torch.optim.AdamW(parameter_groups(torch.nn.DataParallel(model), lr=1e-3, layer_lr=3e-3)).step()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: prepend(torch.compile(net), JpegLayer()),
        lambda net: torch.compile(prepend(net, JpegLayer())),
        lambda net: nn.Sequential(JpegLayer(), net),
    ],
)
def test_what_a_backbone_spares_is_spared_however_it_is_wrapped(wrap):
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=8, img_size=64)
    _, spared, _ = parameter_groups(wrap(backbone), lr=1.0, layer_lr=2.0, weight_decay=0.5)
    assert {id(p) for p in spared["params"]} == {id(backbone.pos_embed), id(backbone.cls_token)}


def test_parameter_groups_of_layers_inside_a_network_and_of_frozen_ones():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), FeatureJpegLayer(0.1, channels=4))
    rest, layer = parameter_groups(network, lr=1.0, layer_lr=2.0, weight_decay=0.5)
    assert len(rest["params"]) == 2
    assert layer == {"params": [network[1].table], "lr": 2.0, "weight_decay": 0.0}
    model = of_timm()
    model.layer.requires_grad_(False)
    assert [group["lr"] for group in parameter_groups(model, lr=1.0, layer_lr=2.0)] == [1.0]
    assert len(parameter_groups(prepend(nn.Conv2d(3, 2, 3), nn.Identity()), lr=1.0, layer_lr=2.0)) == 1


def test_parameter_groups_refuse_what_they_cannot_sort():
    with pytest.raises(UsageError, match="this Linear .*no layer"):
        parameter_groups(nn.Linear(2, 2), lr=1.0, layer_lr=1.0)
    for name in ("lr", "layer_lr", "weight_decay"):
        with pytest.raises(UsageError, match=f"{name} must be a number from 0 up, got -1"):
            parameter_groups(of_timm(), **{"lr": 1.0, "layer_lr": 1.0, name: -1})


# --------------------------------------------------------------------------------------------------------- from a quality


def test_a_layer_from_a_quality_is_that_file():
    layer = JpegLayer.from_quality(75, rounding="hard")
    assert torch.equal(layer.luma.detach(), jpegdl.tables.standard_tables(75)[0])
    assert (layer.bits, layer.rounding) == (None, "hard")
    black = JpegLayer.from_quality(100, rounding="hard")(torch.zeros(1, 3, 8, 8))
    torch.testing.assert_close(black, torch.zeros(1, 3, 8, 8), atol=1e-3, rtol=0)  # no cap holds its DC back
    assert "luma=5..61, chroma=9..50, alpha=5, bits=None" in repr(layer)
    with pytest.raises(UsageError, match="quality.*1 to 100, got 0"):
        JpegLayer.from_quality(0)
