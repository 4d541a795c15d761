"""Naive versions of what migcore computes: loops, one thing at a time, slow and obviously right.

Tests and ``migcore bench`` compare the fast versions with these. Nothing else uses them. They are written from the
published definitions and share no code with what they check: networks are evaluated from a state dict, without modules.
The method's own stand here; those of Table 1's other systems are in the modules of this package.
"""

from migcore.reference.method import (
    classification,
    clip_image,
    clip_text,
    distillation,
    froster_logits,
    fuse,
    joint_heatmaps,
    limb_heatmaps,
    posec3d,
    posec3d_alignment,
    vclip_tower,
)

__all__ = [
    "classification",
    "clip_image",
    "clip_text",
    "distillation",
    "froster_logits",
    "fuse",
    "joint_heatmaps",
    "limb_heatmaps",
    "posec3d",
    "posec3d_alignment",
    "vclip_tower",
]
