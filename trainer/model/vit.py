"""The blocks of DINOv2's vision transformer, with rotary positions and query-key norm where asked for.

Oquab et al., "DINOv2" (TMLR 2024). Modules carry the names of its published weights wherever they hold any.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - its name everywhere
from torch.utils.checkpoint import checkpoint

from trainer.model.config import BackboneConfig
from trainer.model.rotary import Rotation


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, heads: int, *, normalised: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // heads) if normalised else None
        self.k_norm = nn.LayerNorm(dim // heads) if normalised else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, rotation: Rotation | None) -> torch.Tensor:
        """Map (B, N, D) to (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotation.apply(q), rotation.apply(k)
        mixed = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear maps with a GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGlu(nn.Module):
    """A gated map (Shazeer, "GLU variants improve transformer", 2020); ViT-giant has it."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        # Two thirds, up to a multiple of 8: as many weights as the two maps of an ordinary block.
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, N, D) to (B, N, D)."""
        gate, value = self.w12(x).chunk(2, -1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """One learnt factor for each channel of a residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape (..., D)."""
        return x * self.gamma


class Block(nn.Module):
    """Attention and a two-layer map, each normalised first and added to its input.

    ``recomputed`` trades time for memory: what the block computes is not kept for the backward pass but computed again.
    """

    def __init__(self, config: BackboneConfig, *, normalised: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.attn = Attention(config.dim, config.heads, normalised=normalised)
        self.ls1 = LayerScale(config.dim)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        hidden = config.dim * config.mlp_ratio
        self.mlp = SwiGlu(config.dim, hidden) if config.mlp == "swiglu" else Mlp(config.dim, hidden)
        self.ls2 = LayerScale(config.dim)
        self.recomputed = False

    def forward(self, x: torch.Tensor, rotation: Rotation | None) -> torch.Tensor:
        """Map the tokens (B, N, D) to (B, N, D)."""
        if self.recomputed and torch.is_grad_enabled():
            kept: torch.Tensor = checkpoint(self._compute, x, rotation, use_reentrant=False)
            return kept
        return self._compute(x, rotation)

    def _compute(self, x: torch.Tensor, rotation: Rotation | None) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rotation))
        return x + self.ls2(self.mlp(self.norm2(x)))
