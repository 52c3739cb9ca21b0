from collections.abc import Callable

import numpy as np

from regraft.report.record import FEWER, SHOWN, ClassificationRecord

Make = Callable[..., ClassificationRecord]


def test_worst_best_and_least_confident_predictions(make_record: Make) -> None:
    record = make_record(("ant", "bee", "cat"), each=60)
    predictions = record.reported
    assert predictions is not None
    right = predictions.predicted == predictions.labels
    worst, best, least = record.worst(), record.best(), record.least_confident()
    assert not right[worst].any()
    assert right[best].all()
    assert len(worst) == min(SHOWN, int((~right).sum()))
    assert len(best) == len(least) == FEWER
    assert list(predictions.confidence[worst]) == sorted(predictions.confidence[~right], reverse=True)[:SHOWN]
    assert predictions.confidence[least].max() <= np.sort(predictions.confidence)[FEWER - 1]
    assert {predictions.labels[i] for i in best[:3]} == {0, 1, 2}


def test_the_common_folder_of_the_images_is_left_out(make_record: Make) -> None:
    record = make_record(("ant", "bee"))
    assert record.short("set/ant/0.png") == "ant/0.png"
    assert record.short("elsewhere/0.png") == "elsewhere/0.png"
    assert make_record(("ant", "bee"), predictions=None).short("set/ant/0.png") == "set/ant/0.png"
