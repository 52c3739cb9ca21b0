"""Words of Keras, fastai, timm and ultralytics for what regraft calls by another name.

Input: a name or a value as another tool spells it. Output: regraft's own, or the settings that mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any, get_args

from regraft.text import nearest

#: Settings -> the words of other tools for them, in lower case without underscores. Exact names need no row.
_SAME_SETTINGS: dict[tuple[str, ...], str] = {
    ("run.data",): "path datapath datadir datasetdir directory folder root dataset input inputdir traindir",
    ("run.out",): "output outputpath outputdir outdir savedir saveto exportdir modeldir logdir checkpointdir project",
    ("training.finetune_epochs", "training.head_epochs"): "epochs epoch nepoch nbepoch numepochs maxepochs",
    ("training.head_epochs",): "freezeepochs",
    ("training.finetune_lr", "training.head_lr"): "lr learningrate lr0 lrmax baselr initiallearningrate",
    ("training.finetune_from",): "freeze freezeto finetuneat unfreeze trainable freezelayers",
    ("training.batch_size",): "bs batch",
    ("training.early_stopping",): "patience earlystop earlystoppingpatience",
    ("training.early_stopping", "training.reduce_on_plateau", "training.keep_epoch"): "callbacks callback",
    ("training.reduce_on_plateau",): "reducelronplateau reducelr lrpatience",
    ("training.plateau_factor",): "factor decayrate",
    ("training.optimizer", "training.head_optimizer"): "opt optfunc optim",
    ("training.weight_decay",): "wd decay l2 regularizer kernelregularizer",
    ("training.label_smoothing",): "smoothing",
    ("training.class_weights",): "classweight clsweight",
    ("training.loss",): "lossfunc lossfn criterion objective",
    ("training.schedule",): "sched scheduler lrschedule coslr",
    ("training.warmup",): "warmupepochs warmupratio warmupproportion pctstart",
    ("training.ema_epochs",): "ema modelema emadecay useema swa",
    ("training.precision",): "amp mixedprecision fp16 tofp16 half dtype",
    ("training.monitor",): "metric metrics evalmetric",
    ("training.keep_epoch",): "savebestonly restorebestweights savebest",
    ("training.device",): "gpu cuda",
    ("training.budget",): "time maxtime",
    ("training.cache_gb",): "cache",
    ("training.seed",): "randomstate randomseed",
    ("model.backbone",): "model models modelname arch architecture basemodel network encoder",
    ("model.weights",): "pretrained checkpoint initialcheckpoint",
    ("model.image_size",): "imgsz imgsize imgheight inputsize inputshape targetsize size resolution",
    ("model.pooling",): "gp globalpool pool",
    ("model.head_widths",): "units hidden denseunits linftrs lin",
    ("model.head_activation",): "activation act actlayer",
    ("model.dropout",): "drop droprate dropoutrate ps",
    ("data.val",): "validationsplit valsplit validpct valid",
    ("data.test",): "testsplit testsize",
    ("data.on_unreadable",): "ignoreerrors",
    ("augmentation.flip",): "horizontalflip hflip fliplr doflip randomflip",
    ("augmentation.vertical_flip",): "vflip flipud flipvert",
    ("augmentation.rotation",): "rotationrange degrees maxrotate randomrotation",
    ("augmentation.shear",): "shearrange",
    ("augmentation.zoom", "augmentation.random_crop"): "zoomrange scale maxzoom randomzoom randomresizedcrop",
    ("augmentation.width_shift", "augmentation.height_shift"): "translate shift randomtranslation",
    ("augmentation.width_shift",): "widthshiftrange",
    ("augmentation.height_shift",): "heightshiftrange",
    ("augmentation.brightness", "augmentation.color_jitter"): "brightnessrange jitter maxlighting hsvv contrast",
    ("augmentation.policy",): "aa autoaugment",
    ("augmentation.rotation", "augmentation.zoom", "augmentation.policy"): "augment augmentations dataaugmentation",
    ("distillation.teacher",): "teachermodel teachername kdmodel kdmodelname",
    ("distillation.soft_share",): "alpha kdlossalpha distillalpha kdalpha",
    ("distillation.temperature",): "kdtemperature distilltemperature tau",
    ("tracking.to",): "logger tensorboard wandb",
}
_SETTINGS_BY_WORD = {word: settings for settings, words in _SAME_SETTINGS.items() for word in words.split()}


#: What other tools have a setting for and regraft does by itself -> how.
_NEEDLESS = {
    "rescale rescaling normalize normalization preprocessingfunction preprocessinput": (
        "normalization is inside the network, which takes pixels from 0 to 255, and exports contain it"
    ),
    "featurewisecenter featurewisestdnormalization samplewisecenter samplewisestdnormalization zcawhitening": (
        "normalization is inside the network, by the mean and standard deviation of its pretrained weights"
    ),
    "classmode labelmode labels": "labels are the names of the folders, or a column of the manifest",
    "colormode grayscale": "images of any color mode are read as RGB",
    "shuffle": "training images are shuffled in each epoch, and others never",
    "workers numworkers maxqueuesize usemultiprocessing": "all CPUs are used; `regraft --threads N` limits them",
}
_ADVICE_BY_WORD = {word: advice for words, advice in _NEEDLESS.items() for word in words.split()}


def plain(word: str) -> str:
    """Lower case without spaces, hyphens and underscores: how names are compared."""
    return re.sub(r"[\s_-]", "", word).lower()


def settings_like(key: str, known: Collection[str]) -> list[str]:
    """The known settings `section.key` that an unknown one may mean, best first: by name, meaning, then spelling."""
    name = key.rpartition(".")[2]
    by_name = {setting.rpartition(".")[2]: setting for setting in known}
    if name in by_name:
        return [by_name[name]]
    same = [setting for setting in _SETTINGS_BY_WORD.get(plain(name), ()) if setting in known]
    return same or nearest(key, known) or [by_name[near] for near in nearest(name, by_name)]


def advice_on(key: str) -> str:
    """Why regraft has no such setting, where it does by itself what other tools have it for; else an empty text."""
    return _ADVICE_BY_WORD.get(plain(key.rpartition(".")[2]), "")


def setting_names_like(word: str) -> list[str]:
    """The settings `section.key` of the table that a word is or means, in its order; [] for any other word."""
    own = [setting for settings in _SAME_SETTINGS for setting in settings]
    exact = [setting for setting in own if setting.rpartition(".")[2] == word][:1]
    return exact or list(_SETTINGS_BY_WORD.get(plain(word), ()))


def names_like(word: str, known: Collection[str]) -> list[str]:
    """The known options of a function or class that an unknown one may mean, by meaning or else by spelling."""
    same = [setting.rpartition(".")[2] for setting in _SETTINGS_BY_WORD.get(plain(word), ())]
    return [name for name in same if name in known] or nearest(word, known)


def canonical(value: Any, known: Iterable[str], others: Mapping[str, str] | None = None) -> Any:
    """The known name that a text spells in any case, or means by `others` (plain words); else the value itself."""
    if not isinstance(value, str):
        return value
    return ({plain(name): name for name in known} | dict(others or {})).get(plain(value), value)


def spelled_like(literal: Any, **others: str) -> Any:
    """A function for pydantic's `BeforeValidator` that makes a value one of a `Literal`, as `canonical` does."""
    return partial(canonical, known=get_args(literal), others=others)
