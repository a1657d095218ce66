"""Contrastive learning on graphs: methods, POT and the task."""

from graphkit.train.contrastive.costa import COSTA
from graphkit.train.contrastive.gca import GCA
from graphkit.train.contrastive.grace import GRACE
from graphkit.train.contrastive.info_nce import info_nce
from graphkit.train.contrastive.pot import POTLoss
from graphkit.train.contrastive.progcl import ProGCL
from graphkit.train.contrastive.task import ContrastiveTask

__all__ = ["COSTA", "GCA", "GRACE", "ContrastiveTask", "POTLoss", "ProGCL", "info_nce"]
