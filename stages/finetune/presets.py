"""The papers' values by name. What a user says wins over what a preset says.

Each preset is what its paper says of training. Where a paper is silent, a comment says what was chosen. `start:
finetune:` is to be completed with a name: the paper goes on from another fine-tune there. Backbones and devices can be
changed like every other value: `tan-global` with `backbone: bn_inception` is the slides' third network.

SGD with momentum 0.9 is Gupta's (in the authors' code) and Meen's, and was chosen for Tan, Aminbeidokhti (who name no
number) and DAG-Net (who name no optimiser).
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from stages.errors import SettingError

_GROUPED_BY = "kind"
_EITHER = (("epochs", "iterations"), ("every", "at"))
"""Pairs of which one rules out the other."""

Values = dict[str, object]

# Gupta et al. 2018, section 3.2.1. The text names no number of epochs: three steps each. Flips are the authors' code's;
# the text has random crops of 224 px of photos whose shortest side is 256 px, which is kept (the code resizes parts).
_GUPTA_GLOBAL: Values = {
    "backbone": "torchvision:densenet161",
    "unit": "photo",
    "epochs": 21,
    "batch_size": 32,
    "learning_rate": 0.001,
    "schedule": {"kind": "steps", "every": 7},
    "augment": {"flip": True, "crop": "random", "short_side": 256},
}
# Gupta et al. 2018, section 3.2.2, Local: SphereFace-20 on single faces with the photo's label.
_GUPTA_LOCAL: Values = {
    "backbone": "sphereface:20",
    "unit": "face",
    "epochs": 25,
    "batch_size": 60,
    "learning_rate": 0.01,
    "schedule": {"kind": "steps", "every": 7},
    "answer": {"of": "logits"},
}
# As above, Local_FineTune: the loss on the mean of a photo's outputs; at most 15 faces in the authors' code.
_GUPTA_LOCAL_FINETUNE: Values = {
    "backbone": "sphereface:20",
    "start": "finetune:",  # a gupta-local
    "unit": "faces",
    "max_faces": 15,
    "epochs": 12,
    "batch_size": 32,
    "learning_rate": 0.001,
    "schedule": {"kind": "steps", "every": 4},
    "answer": {"of": "logits"},
}
# Gupta et al. 2018, section 3.2.3: "pre-trained weights of Local as the local branch and either Global_Simple or
# Global_EmotiC as the global branch", trained end to end. Attention C is their best; others with --head gupta2018:NAME.
# No word on random views: those of the two branches (the authors' code resizes whole photos to 224x224 here). At most
# 15 faces in the code.
_GUPTA_ATTENTION: Values = {
    "backbone": "sphereface:20",
    "start": "finetune:",  # a gupta-local
    "unit": "faces",
    "head": {"kind": "gupta2018:attention_c", "dropout": 0.5},
    "photos": {
        "backbone": "torchvision:densenet161",
        "start": "finetune:",  # a gupta-global
        "augment": _GUPTA_GLOBAL["augment"],
    },
    "max_faces": 15,
    "epochs": 27,
    "batch_size": 32,
    "learning_rate": 0.001,
    "schedule": {"kind": "steps", "every": 9},
}
# Tan et al. 2017, slides "Aligned Facial Emotion CNNs". No batch size: 60, Gupta's for single faces. No margin: 4,
# SphereFace's.
_TAN_ALIGNED: Values = {
    "backbone": "sphereface:64",
    "unit": "face",
    "classifier": {"kind": "l_softmax", "margin": 4},
    "dropout": 0.0,
    "iterations": 2200,
    "batch_size": 60,
    "learning_rate": 0.01,
    "schedule": {"kind": "steps", "unit": "iteration", "at": (1200, 1800)},
}
# Tan et al. 2017, slides "Non-aligned Facial Emotion CNNs". No batch size: 128, Meen's for faces of this size.
_TAN_NONALIGNED: Values = {
    "backbone": "resnet_small:34",
    "unit": "face",
    "dropout": 0.9,
    "epochs": 10,
    "batch_size": 128,
    "schedule": {"kind": "steps", "every": 4},
}
# Tan et al. 2017, slides on the global CNNs. No batch size, rate or length: 32, Gupta's for photos, and the rate and
# length of their own other fine-tuning.
_TAN_GLOBAL: Values = {
    "unit": "photo",
    "freeze_norm": True,
    "epochs": 10,
    "batch_size": 32,
    "learning_rate": 0.001,
    "schedule": {"kind": "steps", "every": 4},
    "augment": {"crop": "random", "short_side": 256},
    "answer": {"mirrored": True},  # "we average the scores of the center crop and its horizontal flipping"
}
# Meen, section 4.2. 150 to 300 epochs "depending on the model": 200, so that all steps come at the end of an epoch.
_MEEN: Values = {
    "backbone": "vgg19_44:emotion",
    "start": "random",
    "unit": "face",
    "epochs": 200,
    "batch_size": 128,
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": {"kind": "steps", "at": (0.5, 0.75, 0.9)},
    "augment": {"flip": True, "crop": "random"},  # 44 of 48 px
}
# With a head, in which the emotion network is, over the face network, or over pixels alone. Section 4.3 says which ways
# of joining the table has. No dropout is mentioned: none. Batches of 16 in model 3, "because of memory limitations".
_MEEN_PIXELS: Values = _MEEN | {"start": "none", "unit": "faces", "max_faces": 1}
_MEEN_FACIAL: Values = _MEEN_PIXELS | {"backbone": "vgg19_44:face", "start": "finetune:", "freeze": True}


def _meen(below: Values, kind: str, **options: str) -> Values:
    return below | {"head": {"kind": f"meen:{kind}", "dropout": 0.0, "options": options}}


PRESETS: dict[str, Values] = {
    "gupta-global": _GUPTA_GLOBAL,  # Global_Simple; Global_EmotiC with start: finetune:NAME of the next one
    "gupta-global-emotic": _GUPTA_GLOBAL | {"epochs": 18, "schedule": {"kind": "steps", "every": 6}},
    "gupta-local": _GUPTA_LOCAL,
    "gupta-local-finetune": _GUPTA_LOCAL_FINETUNE,
    # Local_FineTune_LSoftmax: the margin is that of the authors' code, whose layer returns plain logits in the end, so
    # that it trains a softmax without bias (margin 1 is that). Here the margin counts, for each face.
    "gupta-local-lsoftmax": _GUPTA_LOCAL_FINETUNE | {"classifier": {"kind": "l_softmax", "margin": 4}},
    "gupta-attention": _GUPTA_ATTENTION,
    # Average, as the text has it; the authors' code trains the last layer alone.
    "gupta-average": _GUPTA_ATTENTION
    | {
        "head": {"kind": "gupta2018:average", "dropout": 0.5},
        "epochs": 16,
        "schedule": {"kind": "steps", "every": 5},
    },
    # Liu et al. 2017 (SphereFace), section 4.1 and the authors' solver: the pre-training of Gupta's and Tan's networks.
    "sphereface": {
        "backbone": "sphereface:64",
        "start": "random",
        "unit": "face",
        "classifier": {"kind": "a_softmax", "margin": 4},
        "iterations": 28_000,
        "batch_size": 128,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": {"kind": "steps", "unit": "iteration", "at": (16_000, 24_000)},
        "augment": {"flip": True},
    },
    "tan-aligned-expw": _TAN_ALIGNED,  # from a network trained with A-Softmax, see `sphereface`
    "tan-aligned": _TAN_ALIGNED | {"start": "finetune:"},  # a tan-aligned-expw
    "tan-nonaligned-scratch": _TAN_NONALIGNED | {"start": "random", "learning_rate": 0.01},  # on FERPlus
    "tan-nonaligned": _TAN_NONALIGNED | {"start": "finetune:", "learning_rate": 0.001},  # a tan-nonaligned-scratch
    "tan-global": _TAN_GLOBAL | {"backbone": "torchvision:resnet101", "dropout": 0.9},
    # The dropout of 0.5 after FC6 and FC7 is part of torchvision's VGG-19 and works while it is trained: none is added
    # here. L-Softmax is the slides' better row. They start from Places; the catalogue has ImageNet.
    "tan-global-vgg19": _TAN_GLOBAL
    | {"backbone": "torchvision:vgg19", "dropout": 0.0, "classifier": {"kind": "l_softmax", "margin": 4}},
    # Aminbeidokhti et al. 2019, section 4: a clip's 16 frames are its faces. No batch size: 4 clips at once, and 2 of
    # those a step. No periods: 10 and 20 epochs, from Loshchilov & Hutter's settings, so that training ends with one.
    # "Random cropping" without a size: parts of at least 80 % of the crop.
    "aminbeidokhti": {
        "backbone": "vgg_face",
        "tap": "conv5_3",
        "unit": "faces",
        "max_faces": 1,
        "frames": 16,  # "we sampled 16 random frames from the video clips"
        "epochs": 30,
        "batch_size": 4,
        "accumulate": 2,
        "learning_rate": 1e-5,
        "head_learning_rate": 0.1,
        "weight_decay": 5e-5,
        "schedule": {"kind": "restarts", "first": 10, "multiply": 2},
        "augment": {"flip": True, "crop": "resized", "area": (0.8, 1.0)},
    },
    "meen": _MEEN,  # the emotion network as a backbone below a last layer
    "meen-face": _MEEN | {"backbone": "vgg19_44:face"},  # on faces and other images
    "meen-vgg19": _meen(_MEEN_PIXELS, "vgg19"),
    "meen-model1-all": _meen(_MEEN_FACIAL, "model1", features="all", combine="weighted"),
    "meen-model1-averaged": _meen(_MEEN_FACIAL, "model1", features="averaged", combine="weighted"),
    "meen-model2-all": _meen(_MEEN_FACIAL, "model2", features="all", combine="concatenate"),
    "meen-model2-averaged": _meen(_MEEN_FACIAL, "model2", features="averaged", combine="weighted"),
    "meen-model3-facial": _meen(_MEEN_FACIAL, "model3_facial", combine="product") | {"batch_size": 16},
    "meen-model3-emotion": _meen(_MEEN_PIXELS, "model3_emotion", combine="product") | {"batch_size": 16},
    "meen-model3-combination": _meen(_MEEN_FACIAL, "model3_combination", combine="product", join="product")
    | {"batch_size": 16},
    "meen-model3-separately": _meen(_MEEN_FACIAL, "model3_separately", combine="product") | {"batch_size": 16},
    # DAG-Net, section 3.2: the context stream's network; the body stream's is torchvision:resnet50. Its loss is the
    # Kullback-Leibler divergence from the labels, which is cross entropy where a photo has one class. No length: 30.
    # They stretch pictures to 224x224; here the backbone's own resizing counts.
    "dagnet": {
        "backbone": "torchvision:resnet18",
        "unit": "photo",
        "epochs": 30,
        "batch_size": 32,
        "learning_rate": 1e-4,
        "augment": {"flip": True, "jitter": 0.4},
    },
}


def fill(said: Mapping[str, object]) -> Values:
    """What is said, with the rest from the preset it names.

    Parts such as `schedule` are filled key by key, unless they say another `kind` than the preset. `epochs` rules out
    the preset's `iterations`, and so on.

    Raises:
        SettingError: there is no such preset.
    """
    name = said.get("preset")
    if name is None:
        return dict(said)
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        raise SettingError(f"preset {name!r} is unknown: choose one of {', '.join(sorted(PRESETS))}")
    return _merged(said, preset)


def _merged(said: Mapping[str, object], preset: Mapping[str, object]) -> Values:
    if said.get(_GROUPED_BY, preset.get(_GROUPED_BY)) != preset.get(_GROUPED_BY):
        return dict(said)
    out = dict(preset)
    for pair in _EITHER:
        if any(said.get(name) for name in pair):
            for name in pair:
                out.pop(name, None)
    for name, value in said.items():
        before = preset.get(name)
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_unset=True)
        out[name] = _merged(value, before) if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    return out
