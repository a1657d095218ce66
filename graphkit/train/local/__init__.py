"""Local learning: layers with losses of their own, so that no gradient crosses from one to the next."""

from graphkit.train.local.forward_forward import ForwardForwardTask
from graphkit.train.local.layerwise import layer_by_layer
from graphkit.train.local.links import ForwardLinkTask, TopDownLinkTask
from graphkit.train.local.local_task import LocalTask
from graphkit.train.local.losses import forward_forward_loss, goodness, virtual_node_logits
from graphkit.train.local.single_forward import SingleForwardTask
from graphkit.train.local.top_down import TopDownTask

__all__ = [
    "ForwardForwardTask",
    "ForwardLinkTask",
    "LocalTask",
    "SingleForwardTask",
    "TopDownLinkTask",
    "TopDownTask",
    "forward_forward_loss",
    "goodness",
    "layer_by_layer",
    "virtual_node_logits",
]
