"""Distillation: losses, tasks of teachers and students, and what is left to serve."""

from graphkit.train.distill.distillation_task import DistillationBatch, NodeDistillationTask
from graphkit.train.distill.export import export_student
from graphkit.train.distill.losses import distillation_kl, soft_code_kl
from graphkit.train.distill.tokenizer_task import GraphTokenizerTask

__all__ = [
    "DistillationBatch",
    "GraphTokenizerTask",
    "NodeDistillationTask",
    "distillation_kl",
    "export_student",
    "soft_code_kl",
]
