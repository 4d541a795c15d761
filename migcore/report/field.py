"""The systems of Table 1 in words and numbers: what they read and how, from what start, how large (chapter 10)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import nn

from migcore.baselines import with_drawn_weights
from migcore.models.cost import tower_cost
from migcore.models.evl import EVL
from migcore.models.posec3d import PoseC3D
from migcore.presets import preset
from migcore.recipes import baselines
from migcore.report.plots import GREY, MARKERS, PALETTE, finish, style
from migcore.report.tables import VIT, Table


@dataclass(frozen=True)
class System:
    """A row of Table 1, in words.

    Attributes:
        name: as in the table; both rows of PoseC3D are one system.
        year: of the publication that the paper cites.
        film, keypoints: what it reads.
        space, time: how it looks at a frame, and across frames; film before keypoints.
        start: what its weights start from, as published.
    """

    name: str
    year: int
    film: bool
    keypoints: bool
    space: str
    time: str
    start: str

    @property
    def reads(self) -> str:
        """What it reads, in words."""
        return " and ".join(w for w, has in (("film", self.film), ("keypoints", self.keypoints)) if has)


FIELD: tuple[System, ...] = (
    System("ST-GCN", 2018, False, True, "convolution over bones", "convolution over 9", "nothing"),
    System("Hyperformer", 2023, False, True, "attention, by parts", "convolutions over 5", "nothing"),
    System("PoseC3D", 2022, False, True, "convolution over heat-maps", "the same, in 3-D", "nothing"),
    System("TRN", 2018, True, False, "ResNet", "ordered sets", "ImageNet"),
    System("Frozen clip", 2022, True, False, "CLIP", "a decoder over all", "CLIP, frozen"),
    System("Froster clip", 2024, True, False, "CLIP", "attention to neighbours", "CLIP"),
    System("DSCNet", 2024, True, True, "ResNet; convolution", "windows, shifts; convolution", "ImageNet"),
    System("Ours", 2024, True, True, "CLIP; PoseC3D", "neighbours; convolution", "CLIP; nothing"),
)
"""The systems of Table 1. "Ours" is the paper's."""


def parameters() -> dict[str, tuple[int, int]]:
    """System → (parameters needed to judge a clip, those of them that are trained), at the published sizes.

    A CLIP's text tower is not needed: its class embeddings are computed once.
    """
    config = preset("imigue")
    config = dataclasses.replace(config, baselines=with_drawn_weights(config.baselines))
    tower = tower_cost(VIT).parameter_bytes // 4  # float32
    evl = EVL(config.baselines.evl, 768, (14, 14))  # ViT-B/16
    pose = PoseC3D(config.posec3d)
    aligned = PoseC3D(dataclasses.replace(config.posec3d, embed_dim=512))
    made: dict[str, tuple[nn.Module, ...]] = {
        "ST-GCN": (baselines.make_stgcn(config, 0),),
        "Hyperformer": (baselines.make_hyperformer(config, 0),),
        "PoseC3D": (pose,),
        "TRN": (baselines.make_trn(config, 0),),
        "Frozen clip": (evl,),
        "Froster clip": (),
        "DSCNet": (baselines.make_dense(config, 0), baselines.make_sparse(config, 0)),
        "Ours": (aligned, aligned),  # joints and limbs: one bone less than keypoints, which is next to nothing
    }
    found = {}
    for name, modules in made.items():
        own = sum(p.numel() for module in modules for p in module.parameters())
        tuned = tower if name in ("Froster clip", "Ours") else 0
        found[name] = own + tuned + (tower if name == "Frozen clip" else 0), own + tuned
    return found


def overview(sizes: Mapping[str, tuple[int, int]]) -> Table:
    """What each system reads, how, from which start, and how large it is.

    Args:
        sizes: of :func:`parameters`.
    """
    columns = ["System", "year", "reads", "in a frame", "across frames", "starts from", "size (M)"]
    rows = []
    for each in FIELD:
        whole, trained = (f"{n / 1e6:.1f}" for n in sizes[each.name])
        size = whole if whole == trained else f"{whole} ({trained} trained)"
        rows.append([each.name, str(each.year), each.reads, each.space, each.time, each.start, size])
    notes = [
        "Sizes are millions of parameters of the networks that judge a clip, counted on ours at the published widths."
        " TRN is counted with a ResNet-50. DSCNet's and Hyperformer's published results fuse four skeleton streams;"
        " here and in our rows of Table 1 there is one, of joints."
    ]
    return Table("tab-field", "What the systems of Table 1 are", columns, rows, notes=notes)


def landscape(sizes: Mapping[str, tuple[int, int]]) -> Figure:
    """How large each system is, with the sign of what it reads; a ring is what is trained of one that is partly frozen.

    Args:
        sizes: of :func:`parameters`.
    """
    kinds = {"keypoints": 0, "film": 1, "film and keypoints": 2}
    with style():
        figure, axes = plt.subplots(figsize=(7, 3.1), layout="constrained")
        for y, each in enumerate(FIELD):
            whole, trained = (n / 1e6 for n in sizes[each.name])
            kind = kinds[each.reads]
            axes.hlines(y, 1, whole, color=GREY, linewidth=0.8, alpha=0.5)
            axes.scatter(whole, y, s=64, marker=MARKERS[kind], color=PALETTE[kind], zorder=2)
            if trained != whole:
                axes.scatter(
                    trained, y, s=64, marker=MARKERS[kind], facecolors="none", edgecolors=PALETTE[kind], linewidths=1.6
                )
            axes.annotate(f"{whole:.1f}", (whole, y), (9, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_yticks(range(len(FIELD)), [f"{each.name}, {each.year}" for each in FIELD])
        axes.set_ylim(len(FIELD) - 0.5, -0.5)
        axes.set_xscale("log")
        axes.set_xlim(1, 300)
        axes.set_xticks([1, 10, 100], ["1", "10", "100"])
        axes.set_xlabel("parameters, in millions")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        handles = [
            Line2D([], [], linestyle="", marker=MARKERS[k], color=PALETTE[k], label=name) for name, k in kinds.items()
        ]
        ring = Line2D([], [], linestyle="", marker="s", markerfacecolor="none", markeredgecolor=GREY)
        ring.set(markeredgewidth=1.6, label="what is trained")
        handles.append(ring)
        figure.legend(handles=handles, loc="outside upper center", ncols=4)
        return finish(figure)
