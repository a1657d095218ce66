"""Predictions for nodes of a stream at a time, from the embeddings of any temporal encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphkit.nn.temporal.state import StreamingModule, TemporalModel
from graphkit.utils.checks import check_int, check_probabilities


class TemporalNodeModel(StreamingModule):
    """A model of a stream that predicts something of nodes at any time from the events seen so far.

    What :class:`~graphkit.nn.temporal.state.TemporalModel` is for links; times, messages and state are as there.

    Attributes:
        next_event: the first event that was not shown yet.
    """

    next_event: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_state("next_event", dtype=torch.int64)

    def forward(self, n_id: Tensor, t: Tensor, msg: Tensor | None = None, event_msg: Tensor | None = None) -> Tensor:
        """Logits of nodes ``n_id`` at times ``t``; changes no state.

        Args:
            n_id: nodes.
            t: times, int64.
            msg: messages of the whole stream, of which the rows of shown events are read.
            event_msg: messages of the events that the predictions are about, where these are known at ``t``.

        Shapes:
            - ``n_id``, ``t`` ``[B]``; ``msg`` ``[E, D]``, ``event_msg`` ``[B, D]``
            - output ``[B, out_channels]``
        """
        raise NotImplementedError

    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        """Show the model a batch of events (all ``[B]``), in order of time; a subclass does its part and calls this."""
        if e_id.numel():
            self.next_event.copy_(e_id[-1] + 1)

    def update_targets(self, n_id: Tensor, t: Tensor, y: Tensor) -> None:
        """Show the model what was to be predicted of distinct nodes ``[n]`` at ``t`` ``[n]``, once it is known.

        Called by :class:`~graphkit.train.TemporalNodePropertyTask` in order of time; most models have no use for it.
        """

    def auxiliary_loss(self) -> Tensor | None:
        """A term that the last ``forward`` adds to the loss, or None."""
        return None


class TemporalNodeClassifier(TemporalNodeModel):
    r"""An MLP on a node's embedding at a time: dynamic node classification as in `"Predicting Dynamic Embedding
    Trajectory in Temporal Interaction Networks" <https://arxiv.org/abs/1908.01207>`_ and `"Temporal Graph Networks for
    Deep Learning on Dynamic Graphs" <https://arxiv.org/abs/2006.10637>`_.

    .. math:: W_2 \, \mathrm{ReLU}(W_1 [z_u(t) \,\|\, m] + b_1) + b_2

    The papers train an encoder by link prediction first and then the head alone, with ``freeze``. Without it encoder
    and head are trained together. A frozen encoder still sees the stream: its state changes, its weights do not.

    Args:
        encoder: embeds nodes at times.
        in_channels: width of its embeddings.
        out_channels: number of classes.
        hidden_channels: width of the hidden layer.
        event_dim: width of the messages ``m`` of the events in question; 0 if the head is not given them.
        dropout: of the hidden layer.
        freeze: no gradient reaches the encoder, and it stays in evaluation mode.

    Shapes:
        - as :class:`TemporalNodeModel`, with ``event_msg`` ``[B, event_dim]``

    Raises:
        TypeError: ``encoder`` is no temporal model.
        ValueError: a width or probability out of range; in a call, ``event_msg`` of another shape, or what the encoder
            refuses.

    Example:
        >>> from graphkit.nn import MemoryDGNN
        >>> model = TemporalNodeClassifier(MemoryDGNN(num_nodes=10, msg_dim=0), 100, out_channels=2)
        >>> src, dst, t, e_id = torch.tensor([[0, 1], [2, 3], [5, 6], [0, 1]])
        >>> model.update_state(src, dst, t, e_id)
        >>> model(torch.tensor([0, 3]), torch.tensor([7, 7])).shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        encoder: TemporalModel,
        in_channels: int,
        out_channels: int,
        hidden_channels: int = 80,
        event_dim: int = 0,
        dropout: float = 0.1,
        freeze: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(encoder, TemporalModel):
            raise TypeError(f"encoder must be a graphkit.nn.TemporalModel (got {type(encoder).__name__})")
        self.in_channels = check_int(in_channels, "in_channels", 1)
        self.out_channels = check_int(out_channels, "out_channels", 1)
        self.event_dim = check_int(event_dim, "event_dim", 0)
        check_probabilities(dropout=dropout)
        self.freeze = freeze
        self.encoder = encoder
        self.lin_hidden = nn.Linear(in_channels + event_dim, check_int(hidden_channels, "hidden_channels", 1))
        self.dropout = nn.Dropout(dropout)
        self.lin_out = nn.Linear(hidden_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw the parameters of the head anew."""
        self.lin_hidden.reset_parameters()
        self.lin_out.reset_parameters()

    def train(self, mode: bool = True) -> TemporalNodeClassifier:
        super().train(mode)
        if self.freeze:
            self.encoder.eval()
        return self

    def forward(self, n_id: Tensor, t: Tensor, msg: Tensor | None = None, event_msg: Tensor | None = None) -> Tensor:
        got = [n_id.numel(), 0] if event_msg is None else list(event_msg.shape)
        if got != [n_id.numel(), self.event_dim]:
            raise ValueError(f"event_msg must have shape [{n_id.numel()}, event_dim={self.event_dim}] (got {got})")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            z = self.encoder.embed(n_id, t, msg)
        if event_msg is not None:
            z = torch.cat([z, event_msg.to(z.dtype)], 1)
        return self.lin_out(self.dropout(self.lin_hidden(z).relu()))

    def update_state(self, src: Tensor, dst: Tensor, t: Tensor, e_id: Tensor, msg: Tensor | None = None) -> None:
        self.encoder.update_state(src, dst, t, e_id, msg)
        super().update_state(src, dst, t, e_id, msg)

    def auxiliary_loss(self) -> Tensor | None:
        return None if self.freeze else self.encoder.auxiliary_loss()
