"""Thirty-odd layouts of public data sets, rebuilt with small images: each is read rightly or refused with advice."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from regraft.data.scan import scan
from regraft.errors import RegraftError

CAT_DOG = ("cat", "dog")


@dataclass
class Case:
    """Files of a data set; `counts` are images by (part, class), or `error` is what the refusal says."""

    images: Sequence[str]
    texts: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    counts: Mapping[tuple[str | None, str], int] | None = None
    notes: Sequence[str] = ()
    error: Sequence[str] = ()
    layout: str = "auto"


def grid(pattern: str, classes: Sequence[str] = CAT_DOG, count: int = 2) -> list[str]:
    return [pattern.format(c=c, i=i) for c in classes for i in range(count)]


def counts(*parts: str | None, classes: Sequence[str] = CAT_DOG, count: int = 2) -> dict[tuple[str | None, str], int]:
    return {(part, name): count for part in parts for name in classes}


VEHICLES = ("bus", "car", "train")
SYNSETS = ("n01440764", "n01443537")
DISEASES = ("Apple___scab", "Apple___healthy")
ONE_HOT = "filename, cat, dog\ncat_0.rf.1.jpg, 1, 0\ncat_1.rf.1.jpg, 1, 0\ndog_0.rf.1.jpg, 0, 1\ndog_1.rf.1.jpg, 0, 1\n"
CONVERT = "write such a CSV"
ASK = "--layout classes"

# fmt: off
CASES = {
    # Class folders in parts
    "ImageNet, val in folders": Case(
        [*grid("train/{c}/{c}_{i}.JPEG", SYNSETS), *grid("val/{c}/v{c}{i}.JPEG", SYNSETS)],
        counts=counts("train", "val", classes=SYNSETS),
    ),
    "ImageNet, flat val, labels by numbers": Case(
        [*grid("train/{c}/{c}_{i}.JPEG", SYNSETS), "val/ILSVRC2012_val_00000001.JPEG"],
        {"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": "490\n"},
        error=["val has 1 image but neither class folders nor a table", CONVERT],
    ),
    "ImageNet of Kaggle, flat val and LOC_val_solution.csv": Case(
        [*grid("train/{c}/{c}_{i}.JPEG", SYNSETS), "val/ILSVRC2012_val_1.JPEG", "val/ILSVRC2012_val_2.JPEG"],
        {"LOC_val_solution.csv": "ImageId,PredictionString\nILSVRC2012_val_1,n01440764 1 2 3 4 n01440764 5 6 7 8\n"
                                 "ILSVRC2012_val_2,n01443537 1 2 3 4\n"},
        counts={**counts("train", classes=SYNSETS), ("val", SYNSETS[0]): 1, ("val", SYNSETS[1]): 1},
        notes=["Labels of val from LOC_val_solution.csv."],
    ),
    "Tiny ImageNet": Case(
        [*grid("train/{c}/images/{c}_{i}.JPEG", SYNSETS), "val/images/val_0.JPEG", "val/images/val_1.JPEG",
         "test/images/test_0.JPEG"],
        {"val/val_annotations.txt": "val_0.JPEG\tn01440764\t0\t32\t44\t62\nval_1.JPEG\tn01443537\t0\t0\t1\t1\n",
         **{f"train/{c}/{c}_boxes.txt": "x" for c in SYNSETS}, "wnids.txt": "\n".join(SYNSETS)},
        counts={**counts("train", classes=SYNSETS), ("val", SYNSETS[0]): 1, ("val", SYNSETS[1]): 1},
        notes=["Labels of val from val/val_annotations.txt.", "1 image in test without class folders or labels"],
    ),
    "Imagenette": Case(
        [*grid("train/{c}/{c}_{i}.JPEG", SYNSETS), *grid("val/{c}/v{c}{i}.JPEG", SYNSETS)],
        {"noisy_imagenette.csv": "path,noisy_labels_0\ntrain/n01440764/n01440764_0.JPEG,n01440764\n"},
        counts=counts("train", "val", classes=SYNSETS),
    ),
    "chest X-rays": Case(
        [*grid("chest_xray/{c}/NORMAL/{c}_{i}.jpeg", ("train", "val", "test")),
         *grid("chest_xray/{c}/PNEUMONIA/p{c}_{i}.jpeg", ("train", "val", "test")),
         "chest_xray/__MACOSX/train/NORMAL/._train_0.jpeg", "chest_xray/train/NORMAL/._train_0.jpeg",
         "chest_xray/train/.DS_Store.jpg"],
        {"chest_xray/Thumbs.db": "x"},
        path="chest_xray",
        counts=counts("train", "val", "test", classes=("NORMAL", "PNEUMONIA")),
    ),
    "Intel scenes": Case(
        [*grid("seg_train/seg_train/{c}/{c}{i}.jpg"), *grid("seg_test/seg_test/{c}/t{c}{i}.jpg"),
         "seg_pred/seg_pred/3.jpg"],
        counts=counts("train", "test"),
        notes=["1 image outside any class folder ignored"],
    ),
    "cats and dogs of a course": Case(
        [*grid("training_set/{c}s/{c}.{i}.jpg"), *grid("test_set/{c}s/{c}.4{i}.jpg")],
        counts=counts("train", "test", classes=("cats", "dogs")),
    ),
    "parts in any spelling": Case(
        [*grid("Train/{c}/{i}.jpg"), *grid("TEST/{c}/t{i}.jpg"), *grid("validation-set/{c}/v{i}.jpg")],
        counts=counts("train", "val", "test"),
    ),
    "parts with the data's name": Case(
        [*grid("flowers_train/{c}/{i}.jpg"), *grid("flowers_valid/{c}/t{i}.jpg")], counts=counts("train", "val")
    ),
    "CIFAR-10 as PNG": Case(
        [*grid("train/{c}/{i}.png"), *grid("test/{c}/t{i}.png")], counts=counts("train", "test")
    ),
    "CIFAR-100 as PNG has a class train": Case(
        [*grid("train/{c}/{i}.png", ("bus", "train")), *grid("test/{c}/t{i}.png", ("bus", "train"))],
        error=["has train in train, named like a part", "--layout parts"],
    ),
    "CIFAR-100, asked for": Case(
        [*grid("train/{c}/{i}.png", ("bus", "train")), *grid("test/{c}/t{i}.png", ("bus", "train"))],
        layout="parts",
        counts=counts("train", "test", classes=("bus", "train")),
    ),
    "GTSRB of Kaggle": Case(
        [*grid("Train/{c}/{c}_{i}.png", ("0", "1")), "Test/00000.png", "Test/00001.png", "Meta/0.png"],
        {"Test.csv": "Width,Height,Roi.X1,ClassId,Path\n9,8,1,1,Test/00000.png\n9,8,1,0,Test/00001.png\n",
         "Train.csv": "Width,Height,ClassId,Path\n9,8,0,Train/0/0_0.png\n"},
        counts={**counts("train", classes=("0", "1")), ("test", "0"): 1, ("test", "1"): 1},
        notes=["Labels of test from Test.csv.", "1 image outside any class folder ignored"],
    ),
    "GTSRB with a CSV for each class": Case(
        grid("Final_Training/Images/{c}/00000_{i}.ppm", ("00000", "00001")),
        {f"Final_Training/Images/{c}/GT-{c}.csv": "Filename;Width;ClassId\n" for c in ("00000", "00001")},
        counts=counts("train", classes=("00000", "00001")),
    ),
    "YOLO classification": Case(
        [*grid("train/{c}/{i}.jpg"), *grid("val/{c}/v{i}.jpg"), *grid("test/{c}/t{i}.jpg")],
        {"data.yaml": "names: [cat, dog]"}, counts=counts("train", "val", "test"),
    ),
    "Roboflow, folders": Case(
        [*grid("train/{c}/{i}_jpg.rf.a.jpg"), *grid("valid/{c}/v{i}.jpg"), *grid("test/{c}/t{i}.jpg")],
        {"README.roboflow.txt": "x"}, counts=counts("train", "val", "test"),
    ),
    # Parts without class folders
    "Roboflow, _classes.csv": Case(
        [image for part in ("train", "valid", "test") for image in grid(part + "/{c}_{i}.rf.1.jpg")],
        {f"{part}/_classes.csv": ONE_HOT for part in ("train", "valid", "test")} | {"README.dataset.txt": "x"},
        counts=counts("train", "val", "test"),
        notes=["Roboflow export: labels from _classes.csv."],
    ),
    "Roboflow, several classes in one image": Case(
        grid("train/{c}_{i}.rf.1.jpg"), {"train/_classes.csv": ONE_HOT.replace("g_0.rf.1.jpg, 0", "g_0.rf.1.jpg, 1")},
        error=["line 4: 2 labels: cat, dog", "one class for an image", "--task multilabel"],
    ),
    "Roboflow, several classes in an image": Case(
        grid("train/{c}_{i}.rf.1.jpg"), {"train/_classes.csv": ONE_HOT.replace("jpg, 0, 1", "jpg, 1, 1")},
        counts={("train", "cat"): 2, ("train", "cat|dog"): 2},
        notes=["several labels an image: 2 of 4 have more than one, and 0 none"],
    ),
    "Roboflow, COCO boxes": Case(
        ["train/1.rf.1.jpg", "valid/2.rf.1.jpg"], {"train/_annotations.coco.json": "{}"},
        error=["train has 1 image but neither class folders nor a table", "COCO", CONVERT, ASK],
    ),
    "Kaggle dog breeds": Case(
        ["train/a1.jpg", "train/b2.jpg", "test/c3.jpg"],
        {"labels.csv": "id,breed\na1,boxer\nb2,collie\n", "sample_submission.csv": "id,boxer,collie\nc3,0.5,0.5\n"},
        counts={("train", "boxer"): 1, ("train", "collie"): 1},
        notes=["Labels of train from ", "1 image in test without class folders or labels ignored"],
    ),
    "Kaggle, train.csv and test.csv": Case(
        ["train/1.jpg", "train/2.jpg", "train/3.jpg", "test/9.jpg"],
        {"train.csv": "image_id,label\n1.jpg,0\n2.jpg,1\n", "test.csv": "image_id\n9.jpg\n"},
        counts={("train", "0"): 1, ("train", "1"): 1},
        notes=["Labels of train from train.csv. It does not name 1 image."],
    ),
    "one folder of images and a table": Case(
        ["images/Train_0.jpg", "images/Train_1.jpg", "images/Test_0.jpg"],
        {"train.csv": "image_id,healthy,rust\nTrain_0,1,0\nTrain_1,0,1\n", "test.csv": "image_id\nTest_0\n"},
        counts={(None, "healthy"): 1, (None, "rust"): 1},
        notes=["Labels from train.csv. It does not name 1 image."],
    ),
    "cats and dogs of Kaggle": Case(
        [*grid("train/{c}.{i}.jpg"), "test1/1.jpg"], {"sampleSubmission.csv": "id,label\n1,0\n"},
        error=["train has 4 images", "begin with cat, dog: if these are the labels", CONVERT, ASK],
    ),
    "SVHN": Case(
        ["train/1.png", "test/1.png"], {"train/digitStruct.mat": "x"},
        error=["train has 1 image", "digitStruct.mat (MATLAB)", CONVERT],
    ),
    "COCO": Case(
        ["train2017/1.jpg", "val2017/2.jpg"], {"annotations/instances_train2017.json": "{}"},
        error=["train2017 has 1 image", "COCO's boxes of objects", CONVERT],
    ),
    "YOLO boxes": Case(
        ["images/train/1.jpg", "images/val/2.jpg"], {f"labels/{n}.txt": "0 .5 .5 1 1" for n in ("train/1", "val/2")},
        error=["has images in images only", "YOLO's boxes of objects", CONVERT],
    ),
    "YOLO boxes by part": Case(
        ["train/images/1.jpg", "train/images/2.jpg"], {"train/labels/1.txt": "0 .5 .5 1 1"},
        error=["has images in train in images only", "YOLO's boxes of objects", CONVERT],
    ),
    "vehicles, one of them a train": Case(
        grid("{c}/{i}.jpg", VEHICLES), error=["has train, named like a part", "beside bus, car", ASK]
    ),
    "vehicles, asked for": Case(
        grid("{c}/{i}.jpg", VEHICLES), layout="classes", counts=counts(None, classes=VEHICLES)
    ),
    "a part beside classes": Case(
        [*grid("{c}/{i}.jpg"), *grid("test/{c}/t{i}.jpg")], error=["has test, named like a part", "beside cat, dog"],
    ),
    # Class folders without parts
    "Caltech-101": Case(
        grid("{c}/image_{i}.jpg", ("BACKGROUND_Google", "accordion")),
        counts=counts(None, classes=("BACKGROUND_Google", "accordion")),
        notes=["The class 'BACKGROUND_Google' is named like a background"],
    ),
    "EuroSAT": Case(grid("2750/{c}/{c}_{i}.jpg"), path="2750", counts=counts(None)),
    "Dogs vs. cats, PetImages": Case(
        grid("PetImages/{c}/{i}.jpg"), {"readme[1].txt": "x", "MSR-LA - 3467.docx": "x"},
        error=["has one class, 'PetImages'", "PetImages? It contains cat, dog."],
    ),
    "nested folders in classes": Case(
        [*grid("cat/2019/{i}.jpg"), *grid("cat/2020/{i}.jpg"), *grid("dog/2019/d{i}.jpg"), *grid("dog/2020/d{i}.jpg")],
        counts=counts(None, count=4),
        notes=["8 images in folders inside a class folder"],
    ),
    "PlantVillage": Case(
        [image for kind in ("color", "grayscale", "segmented") for image in grid(kind + "/{c}/{i}.jpg", DISEASES)],
        error=["color, grayscale, segmented have no images but folders", "either may be the classes", ASK],
    ),
    "iNaturalist": Case(
        [f"train_val2018/{folder}/{i}.jpg" for folder in ("Aves/2761", "Aves/2762", "Plantae/55") for i in range(2)],
        {"train2018.json": "{}"},
        error=["has one class, 'train_val2018'|has images in train_val2018 only"],
    ),
    "iNaturalist 2017": Case(
        ["Aves/Ardea alba/1.jpg", "Aves/Ardea cinerea/1.jpg", "Plantae/Acer rubrum/1.jpg", "Plantae/Acer nigrum/1.jpg"],
        error=["either may be the classes"],
    ),
    "Places365": Case(
        ["a/airfield/1.jpg", "a/alley/1.jpg", "b/bar/1.jpg", "b/beach/1.jpg"],
        error=["a, b have no images but folders, airfield, alley, bar, beach"],
    ),
    "CUB-200": Case(
        grid("images/{c}/{c}_{i}.jpg", ("001.Albatross", "002.Auklet")),
        {"images.txt": "1 001.Albatross/x.jpg", "image_class_labels.txt": "1 1", "train_test_split.txt": "1 1",
         "parts/parts.txt": "1 back", "attributes/certainties.txt": "1"},
        error=["has images in images only", "Did you mean", "(a table or list)", "path, label and split"],
    ),
    "CUB-200, images": Case(
        grid("images/{c}/{c}_{i}.jpg", ("001.Albatross", "002.Auklet")), path="images",
        counts=counts(None, classes=("001.Albatross", "002.Auklet")),
    ),
    "Food-101": Case(
        grid("images/{c}/{i}.jpg", ("apple_pie", "baklava")),
        {"meta/train.txt": "apple_pie/0\n", "meta/test.txt": "baklava/1\n", "meta/train.json": "{}"},
        error=["has images in images only", "images? It contains apple_pie, baklava.", "path, label and split"],
    ),
    "DTD": Case(
        grid("images/{c}/{c}_{i}.jpg", ("banded", "dotted")),
        {"labels/train1.txt": "banded/banded_0.jpg\n", "imdb/imdb.mat": "x"},
        error=["has images in images only", "Did you mean"],
    ),
    "Stanford Dogs": Case(
        grid("Images/{c}/{c}_{i}.jpg", ("n02085620-Chihuahua", "n02085782-Japanese_spaniel")),
        {"Annotation/n02085620-Chihuahua/n02085620_7": "<xml>", "lists/train_list.mat": "x"},
        error=["has images in Images only", "Did you mean"],
    ),
    "Oxford Pets": Case(
        grid("images/{c}_{i}.jpg", ("Abyssinian", "beagle")),
        {"annotations/list.txt": "Abyssinian_0 1 1 1\n", "annotations/trimaps/Abyssinian_0.txt": "x"},
        error=["has images in images only", "begin with Abyssinian, beagle", CONVERT],
    ),
    "Flowers-102": Case(
        ["jpg/image_00001.jpg", "jpg/image_00002.jpg"], {"imagelabels.mat": "x", "setid.mat": "x"},
        error=["has images in jpg only", "imagelabels.mat (MATLAB)", CONVERT],
    ),
    "VOC": Case(
        ["JPEGImages/1.jpg", "JPEGImages/2.jpg"],
        {"Annotations/1.xml": "<a/>", "ImageSets/Main/cat_train.txt": "1 1\n"},
        error=["has images in JPEGImages only", "VOC's boxes of objects", CONVERT],
    ),
    "NIH chest X-rays": Case(
        ["images_001/images/0.png", "images_002/images/1.png"], {"Data_Entry_2017.csv": "Image Index,Finding Labels\n"},
        error=["has images_001, images_002, named like pieces", CONVERT, ASK],
    ),
    "HAM10000": Case(
        ["HAM10000_images_part_1/0.jpg", "HAM10000_images_part_2/1.jpg"], {"HAM10000_metadata.csv": "image_id,dx\n"},
        error=["named like pieces", CONVERT],
    ),
    "images and masks": Case(
        ["train/images/0.png", "train/masks/0.png"], error=["has images, masks in train, named like pieces"]
    ),
    "masks in the classes": Case(
        grid("{c}/images/{i}.png") + grid("{c}/masks/{i}.png"), error=["cat, dog contain masks", CONVERT, ASK]
    ),
    "Office-31": Case(
        grid("amazon/images/{c}/{i}.jpg") + grid("dslr/images/{c}/d{i}.jpg"),
        error=["amazon, dslr have no images but folders, cat, dog"],
    ),
    "CycleGAN": Case(
        ["trainA/1.jpg", "trainB/2.jpg", "testA/3.jpg", "testB/4.jpg"], error=["several folders for one part"]
    ),
    "ISIC 2019": Case(
        ["ISIC_2019_Training_Input/I_1.jpg", "ISIC_2019_Training_Input/I_2.jpg", "ISIC_2019_Test_Input/I_3.jpg"],
        {"ISIC_2019_Training_GroundTruth.csv": "image,MEL,NV\nI_1,1.0,0.0\nI_2,0.0,1.0\n"},
        counts={("train", "MEL"): 1, ("train", "NV"): 1},
        notes=["Labels of train from ISIC_2019_Training_GroundTruth.csv."],
    ),
    "parts in a folder of images": Case(
        [*grid("images/train/{c}/{i}.jpg"), *grid("images/val/{c}/v{i}.jpg")], {"classes.txt": "cat\ndog"},
        error=["images in images only", "images? It contains train, val."],
    ),
    # No image files
    "MNIST": Case([], {"train-images-idx3-ubyte.gz": "x"}, error=["MNIST's IDX", CONVERT]),
    "SVHN, cropped": Case([], {"train_32x32.mat": "x", "test_32x32.mat": "x"}, error=["no images", "MATLAB", CONVERT]),
    "TFRecord": Case([], {"flowers-train.tfrecord-00000-of-00002": "x"}, error=["no images", "TFRecord", CONVERT]),
    "CIFAR-10 of Python": Case([], {"data_batch_1": "x", "batches.meta": "x"}, error=["no images", "arrays", CONVERT]),
    "Fashion-MNIST, pixels in a CSV": Case([], {"fashion-mnist_train.csv": "label,pixel1\n2,0\n"}, error=["no images"]),
    "Fashion-MNIST, the CSV": Case(
        [], {"fashion-mnist_train.csv": "label,pixel1,pixel2\n2,0,0\n"}, path="fashion-mnist_train.csv", error=["path"]
    ),
    "Label Studio, CSV": Case(
        ["1.jpg", "images/2.jpg"],
        {"project.csv": "image,id,choice\n/data/upload/1/1a2b3c4d-1.jpg,1,cat\n/data/upload/1/2.jpg,2,dog\n"},
        path="project.csv", counts=counts(None, count=1),
    ),
    "Label Studio, JSON": Case(
        ["1.jpg"], {"a.json": "[]"}, path="a.json", error=["is no list of records and no annotations of COCO"]
    ),
    # Other
    "Hugging Face, metadata.csv": Case(
        ["train/1.jpg", "train/2.jpg"], {"train/metadata.csv": "file_name,label\n1.jpg,cat\n2.jpg,dog\n"},
        counts={("train", "cat"): 1, ("train", "dog"): 1},
    ),
    "Hugging Face, metadata.jsonl": Case(
        ["1.jpg", "2.jpg"],
        {"metadata.jsonl": '{"file_name": "1.jpg", "label": "cat"}\n{"file_name": "2.jpg", "label": "dog"}\n'},
        counts={(None, "cat"): 1, (None, "dog"): 1},
    ),
    "Label Studio, classes in folders beside our runs": Case(
        [*grid("{c}/{i}.jpg"), "runs/r/plots/confusion.png", "runs/r/explanations/1.png", "cat/out/plots/a.png"],
        {file: "" for folder in ("runs/r", "cat/out") for file in (f"{folder}/config.toml", f"{folder}/source.json")},
        counts=counts(None),
    ),
}
# fmt: on


def build(root: Path, case: Case, png) -> Path:
    for name in case.images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(name))
    for name, text in case.texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root / case.path


def check(path: Path, case: Case) -> None:
    if case.error:
        with pytest.raises(RegraftError) as caught:
            scan(path, layout=case.layout)
        for text in case.error:
            assert any(words in str(caught.value) for words in text.split("|")), caught.value
        return
    dataset = scan(path, layout=case.layout)
    assert Counter((s.part, s.label) for s in dataset.samples) == case.counts
    assert not dataset.bad
    shown = " ".join(dataset.notes)
    assert all(note in shown for note in case.notes), shown


@pytest.mark.parametrize("name", CASES)
def test_public_layout(tmp_path, png, name):
    root = tmp_path / "data"
    root.mkdir()
    check(build(root, CASES[name], png), CASES[name])


ARCHIVED = ("chest X-rays", "Intel scenes", "Roboflow, _classes.csv", "Kaggle dog breeds", "PlantVillage", "COCO")


@pytest.mark.parametrize("name", ARCHIVED)
def test_the_same_in_an_archive(tmp_path, png, name):
    root, case = tmp_path / "data", CASES[name]
    root.mkdir()
    build(root, case, png)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(tmp_path))
    check(tmp_path / "data.zip", case)


def test_a_model_that_knows_the_classes_asks_nothing(tmp_path, png):
    case = CASES["vehicles, one of them a train"]
    root = tmp_path / "data"
    root.mkdir()
    dataset = scan(build(root, case, png), classes=("bus", "car", "train"))
    assert Counter(s.label for s in dataset.samples) == {"bus": 2, "car": 2, "train": 2}


def test_a_teachable_machine_archive_has_no_folders(tmp_path, png):
    with zipfile.ZipFile(tmp_path / "project.zip", "w") as archive:
        for name in grid("{c}-!-{i}.jpg"):
            archive.writestr(name, png(name))
        archive.writestr("manifest.json", "{}")
    with pytest.raises(RegraftError, match="begin with cat, dog"):
        scan(tmp_path / "project.zip")


def test_archives_of_single_classes_are_to_be_unpacked(tmp_path, png):
    for name in CAT_DOG:
        with zipfile.ZipFile(tmp_path / f"{name}-samples.zip", "w") as archive:
            archive.writestr("0.jpg", png(name))
    with pytest.raises(RegraftError, match="an archive, which is to be unpacked first"):
        scan(tmp_path)
