"""The recurrent update of flow and uncertainty: FlowFace's equation 4, RAFT's update with a second head."""

from __future__ import annotations

import torch
from torch import nn

# Of a correlation's, a flow's and the motion's channels, as shares of the hidden ones: RAFT's for 128.
_CORRELATION, _FLOW = 1.5, 0.5


class UpdateBlock(nn.Module):
    """Looks at correlations, flow and uncertainty, remembers, and says how the flow changes and how sure it is.

    Parameters
    ----------
    looked_up : int
        Channels of what was looked up.
    hidden : int
        Channels of the hidden state, of the context, and of the motion's features.
    """

    def __init__(self, looked_up: int, hidden: int) -> None:
        super().__init__()
        self.motion = MotionEncoder(looked_up, hidden)
        self.gru = SeparableGRU(hidden, 2 * hidden)
        self.flow_head, self.sigma_head = _head(hidden, 2), _head(hidden, 1)

    def forward(
        self,
        looked_up: torch.Tensor,
        context: torch.Tensor,
        flow: torch.Tensor,
        log_sigma: torch.Tensor,
        hidden: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the changes of flow (B, 2, D, D) and log σ (B, 1, D, D), and the next hidden state."""
        motion = self.motion(looked_up, flow, log_sigma)
        hidden = self.gru(hidden, torch.cat([motion, context], 1))
        return self.flow_head(hidden), self.sigma_head(hidden), hidden


class MotionEncoder(nn.Module):
    """Features of what was looked up together with flow and uncertainty; these two pass as they are, beside."""

    def __init__(self, looked_up: int, hidden: int) -> None:
        super().__init__()
        wide, narrow = int(_CORRELATION * hidden), int(_FLOW * hidden)
        self.correlation = nn.Sequential(
            nn.Conv2d(looked_up, 2 * hidden, 1), nn.ReLU(), nn.Conv2d(2 * hidden, wide, 3, padding=1), nn.ReLU()
        )
        self.flow = nn.Sequential(
            nn.Conv2d(3, hidden, 7, padding=3), nn.ReLU(), nn.Conv2d(hidden, narrow, 3, padding=1), nn.ReLU()
        )
        self.together = nn.Conv2d(wide + narrow, hidden - 3, 3, padding=1)

    def forward(self, looked_up: torch.Tensor, flow: torch.Tensor, log_sigma: torch.Tensor) -> torch.Tensor:
        """Return (B, hidden, D, D)."""
        state = torch.cat([flow, log_sigma], 1)
        both = torch.cat([self.correlation(looked_up), self.flow(state)], 1)
        return torch.cat([self.together(both).relu(), state], 1)


class SeparableGRU(nn.Module):
    """A convolutional GRU: first along rows (1 × 5), then along columns (5 × 1), as in RAFT's larger network."""

    def __init__(self, hidden: int, given: int) -> None:
        super().__init__()
        shapes: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = (((1, 5), (0, 2)), ((5, 1), (2, 0)))
        self.gates = nn.ModuleList(nn.Conv2d(hidden + given, 2 * hidden, k, padding=p) for k, p in shapes)
        self.candidates = nn.ModuleList(nn.Conv2d(hidden + given, hidden, k, padding=p) for k, p in shapes)

    def forward(self, hidden: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Return the next hidden state."""
        for gate, candidate in zip(self.gates, self.candidates, strict=True):
            update, reset = gate(torch.cat([hidden, given], 1)).sigmoid().chunk(2, 1)
            proposed = candidate(torch.cat([reset * hidden, given], 1)).tanh()
            hidden = (1 - update) * hidden + update * proposed
        return hidden


def _head(hidden: int, channels: int) -> nn.Sequential:
    last = nn.Conv2d(2 * hidden, channels, 3, padding=1)
    # The first guess stays until there is something better to say.
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # type: ignore[arg-type]
    return nn.Sequential(nn.Conv2d(hidden, 2 * hidden, 3, padding=1), nn.ReLU(), last)
