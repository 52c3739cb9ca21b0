"""Evaluate a model on labeled images, from files through the same decoder and network as in `predict`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from regraft.cache import Cache
from regraft.cluster.executor import Cluster
from regraft.data.band_values import check_bands, format_numbers
from regraft.data.dataset import Dataset, Split
from regraft.data.labels import classes_in
from regraft.data.pooling import pooled_by
from regraft.data.samples import PARTS, Part
from regraft.data.scan import OnUnreadable, scan
from regraft.data.sources.groups import UngroupedError
from regraft.data.subgroups import values_of_answers, with_subgroups
from regraft.errors import DataError, UsageError, suggest_names
from regraft.evaluation.compare_subgroups import compare_subgroups
from regraft.evaluation.hierarchy import check_tree, measure_hierarchy, target_confidence
from regraft.evaluation.metrics import Evaluation
from regraft.evaluation.predictions import Predictions
from regraft.evaluation.stored_predictions import find_predictions
from regraft.evaluation.tasks import AnyEvaluation, AnyPredictions, evaluate_any
from regraft.evaluation.training_overlap import TrainingOverlap
from regraft.models.classifier import Classifier
from regraft.models.inference import Predictor, Tta, order_temperature_of, pooling_of, tree_of
from regraft.runs.run import Run, classifier_of, open_model
from regraft.runs.sample_predictions import predict_samples
from regraft.runs.subgroups import evaluate_stored, names_of
from regraft.runs.training_overlap import overlap_with_run


@suggest_names
def evaluate(
    model: Run | Path | str | Classifier | Predictor | AnyPredictions,
    data: Dataset | Split | Path | str | None = None,
    *,
    part: Part | None = None,
    min_confidence: float | None = None,
    pool_by: str | None = None,
    by: str | Sequence[str] = (),
    out: Path | str | None = None,
    cluster: Cluster | str | None = None,
) -> AnyEvaluation:
    """Evaluate on labeled images, as the task of the model needs it: classes, any number of them, or a number.

    Images that a run knows from its training are counted in `Evaluation.overlap`, with the accuracy without them.

    Args:
        model: A run or its folder, a model, an export, or predictions.
        data: Labeled images, or a path that `scan` takes. Default: the stored predictions of the run.
        part: Part of the data. Default: test if there is one, else everything (val, for stored predictions).
        min_confidence: Under a tree of classes, the confidence of answers that `Evaluation.hierarchy` has beside the
            classes. Default: for a run the lowest with 95 % accuracy on its validation images, if there is one.
        pool_by: What groups of images get one answer each, as in `scan`; "": each image has its own. Default: that of
            the model.
        by: Column of a table, or pattern on paths, or several: the images of each of its values, such as of each
            camera, are measured, too, and compared with the others (`Evaluation.subgroups`). Of a data set, or without
            data, the table is where it was scanned.
        out: Folder for the predictions of the data; a later call computes only what is missing in it. Needs a run.
        cluster: Address of a Ray cluster that predicts (`ray://HOST:10001`, `auto` or `local`), whose nodes see the
            model, the data and `out` at the same paths. Needs `out`.

    Raises:
        UsageError: There is a model, but no data; or `min_confidence`, `out` or `cluster` without what it needs.
        DataError: There are no images, or a label is unknown to the model.

    Examples:
        >>> evaluation = regraft.evaluate("runs/photos")
        >>> evaluation.count
        9
    """
    if isinstance(model, AnyPredictions):
        if by:
            raise UsageError(f"by={by!r} needs a run, or a model and images: predictions have no columns.")
        if min_confidence is not None:
            check_tree(None, "A set of predictions")
        return evaluate_any(model.part(part) if part else model)
    model = open_model(model)
    if (out is not None and (data is None or not isinstance(model, Run))) or (cluster is not None and out is None):
        raise UsageError("cluster= needs out=, and out= needs the folder of a run and data.")
    if data is None:
        if not isinstance(model, Run):
            raise UsageError("evaluate(model) needs labeled data: evaluate(model, dataset).")
        return evaluate_stored(model, part, by=names_of(by), min_confidence=min_confidence)
    classifier = classifier_of(model)
    dataset = select_labeled(data, classifier, part, pool_by=pool_by, by=names_of(by))
    if out is not None and dataset.pool_by:
        raise UsageError("out= keeps the answers for single images, and groups get one answer each. Leave out out=.")
    known: Run | Predictor = model if isinstance(model, Run) else classifier
    if out is not None and classifier.task == "regression":
        raise UsageError("out= is for models that give classes, and this one gives numbers.")
    if out is not None and isinstance(model, Run):
        from regraft.runs.prediction_parts.dataset import predict_dataset_parts

        predictions = predict_dataset_parts(model.path, dataset, out, thresholds=classifier.thresholds, cluster=cluster)
        return evaluate_images(model, dataset, predictions, min_confidence=min_confidence)
    return evaluate_images(known, dataset, predict_dataset(classifier, dataset), min_confidence=min_confidence)


def evaluate_images(
    model: Run | Classifier | Predictor,
    dataset: Dataset,
    predictions: AnyPredictions,
    *,
    min_confidence: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AnyEvaluation:
    """Evaluate predictions of a data set, in its order, and say what of it the model knows from its training.

    `min_confidence` is that of answers under a tree; None: for a run the `target_confidence`. `progress` is called with
    (candidates compared, all candidates) during the search for near duplicates.
    """
    evaluation, tree = evaluate_any(predictions), tree_of(model)
    if dataset.subgroups:
        subgroups = compare_subgroups(predictions, values_of_answers(dataset))
        evaluation = replace(evaluation, subgroups=subgroups)
    if min_confidence is not None:
        check_tree(tree, "The model")
    if tree is not None and isinstance(predictions, Predictions) and isinstance(evaluation, Evaluation):
        if min_confidence is None and isinstance(model, Run) and find_predictions(model.path):
            min_confidence = target_confidence(model.predictions.part("val"), tree)
        evaluation = replace(evaluation, hierarchy=measure_hierarchy(predictions, tree, min_confidence))
    if isinstance(model, Run):
        return replace(evaluation, overlap=overlap_with_run(model, dataset, predictions, progress=progress))
    if isinstance(model, Classifier):  # in memory: nothing is known about its training
        return evaluation
    unchecked = "Whether the model was trained on these images could not be checked: an export has no list of them."
    interval = evaluation.accuracy_interval
    return replace(
        evaluation, overlap=TrainingOverlap(0, 0, evaluation.count, evaluation.accuracy, interval, unchecked)
    )


def select_labeled(
    data: Dataset | Split | Path | str,
    classifier: Classifier | Predictor,
    part: Part | None = None,
    *,
    on_unreadable: OnUnreadable = "skip",
    remote: bool = False,
    image_column: str = "",
    label_column: str = "",
    label_separator: str = "",
    pool_by: str | None = None,
    by: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Scan a path, and select a part as `evaluate` does; `DataError` without images, or if the model lacks a label.

    `pool_by` is that of `scan`, default: that of the model. `by` are columns or patterns of subgroups.
    """
    place = data if isinstance(data, (str, Path)) else None
    own, pooling = classifier.preprocessing.bands, pooling_of(classifier) if pool_by is None else pool_by
    if not isinstance(data, (Dataset, Split)):
        try:
            data = scan(
                data, on_unreadable=on_unreadable, remote=remote, image_column=image_column, label_column=label_column,
                bands="" if own is None else format_numbers(own.numbers), classes=classifier.classes,
                taxonomy=tree_of(classifier), near_duplicates=False, cache=Cache(), progress=progress,
                task=classifier.task, label_separator=label_separator,
                pool_by=pooling,
            )  # fmt: skip
        except UngroupedError as error:
            if pool_by is not None:
                raise
            raise _ungrouped(pooling) from error
    if isinstance(data, Split):
        data = data.dataset
    if pooling and not data.pool_by:
        if pool_by is None and not any(data.table.groups.used()):
            raise _ungrouped(pooling)
        data = pooled_by(data, pooling)
    elif pool_by == "":
        data = replace(data, pool_by="")
    place = place or data.scanned or None
    data = with_subgroups(data, place, by, remote=remote, image_column=image_column)
    check_bands(own, data.band_numbers)
    table = data.table
    wanted = part or ("test" if "test" in table.parts_present() else None)
    chosen = data if wanted is None else data.with_samples(table.take(table.parts == PARTS.index(wanted)))
    if data.task != classifier.task:
        given = {"multilabel": "any number of classes", "regression": "a number"}.get(classifier.task, "one class")
        raise UsageError(f"The data's task is {data.task}, and the model gives an image {given}. Scan it accordingly.")
    is_number = data.task == "regression"
    unknown = [] if is_number else sorted(classes_in(chosen.table.labels, data.task) - set(classifier.classes))
    if unknown:
        raise DataError(
            f"The model does not know these labels of the data: {', '.join(unknown)}. "
            f"Its classes are {', '.join(classifier.classes)}."
        )
    if not len(chosen):
        raise DataError(f"There are no images to evaluate{f' in the part {wanted}' if wanted else ''}.")
    return chosen


def _ungrouped(pooling: str) -> DataError:
    return DataError(
        f"The model was trained on groups of images ({pooling!r}), and the data has none by this name or pattern. Say "
        "what the groups are here, by --pool-by COLUMN or a pattern on the paths, or give --pool-by '' for an answer "
        "for each image (pool_by= in Python)."
    )


def predict_dataset(
    classifier: Classifier | Predictor,
    dataset: Dataset,
    *,
    batch_size: int = 32,
    tta: Tta = "none",
    progress: Callable[[int, int], None] | None = None,
) -> AnyPredictions:
    """Predict every image of a data set, in order, or every group, where groups get one answer each (`pool_by`).

    `tta` is as in `predict`. Raises as `predict_samples` does.
    """
    predicted = predict_samples(classifier, dataset, batch_size=batch_size, tta=tta, progress=progress)
    return predicted.pooled(classifier.task, order_temperature_of(classifier)).of_task()
