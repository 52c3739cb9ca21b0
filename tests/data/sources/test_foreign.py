from regraft.data.sources.foreign import describe_foreign, names_with_labels


def test_each_format_is_named_once_with_an_example():
    files = ["a/labels.mat", "b.mat", "t10k-images-idx3-ubyte.gz", "x.tfrecord", "labels/1.txt", "README.txt", "note"]
    text = describe_foreign(files)
    assert text.startswith(" It has a/labels.mat (MATLAB), t10k-images-idx3-ubyte.gz (MNIST's IDX format)")
    assert "x.tfrecord (TFRecord)" in text
    assert "YOLO" in text
    assert "README" not in text
    assert describe_foreign(["note", "README.md"]) == ""


def test_names_that_begin_with_labels():
    assert "begin with cat, dog" in names_with_labels(["train/cat.0.jpg", "train/cat.1.jpg", "dog_7.jpg"])
    assert names_with_labels(["1.jpg", "2.jpg"]) == ""
    assert names_with_labels(["IMG_1.jpg", "IMG_2.jpg"]) == ""
    assert names_with_labels([f"{name}1.jpg" for name in "abcdef"]) == ""
