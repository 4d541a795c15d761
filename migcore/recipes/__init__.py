"""What experiments do: clips and a preset in, logits of every split out. Each function is one row of a table."""

from migcore.recipes.baselines import dscnet_dense, dscnet_sparse, evl, hyperformer, stgcn, trn
from migcore.recipes.clip import linear_probe, zero_shot
from migcore.recipes.difficulty import difficulty_film, difficulty_skeleton
from migcore.recipes.fusion import even_fusion, ours
from migcore.recipes.job import Job, Made, SplitOutputs, measure
from migcore.recipes.skeleton import posec3d_joint, posec3d_joint_text, posec3d_limb, posec3d_limb_text
from migcore.recipes.student import froster, froster_decay, load_student, vclip

__all__ = [
    "Job",
    "Made",
    "SplitOutputs",
    "difficulty_film",
    "difficulty_skeleton",
    "dscnet_dense",
    "dscnet_sparse",
    "even_fusion",
    "evl",
    "froster",
    "froster_decay",
    "hyperformer",
    "linear_probe",
    "load_student",
    "measure",
    "ours",
    "posec3d_joint",
    "posec3d_joint_text",
    "posec3d_limb",
    "posec3d_limb_text",
    "stgcn",
    "trn",
    "vclip",
    "zero_shot",
]
