"""The rule of decoding from a draft, the source image's codes: speculative sampling without a draft model.

Most codes of a target image equal the source's at the same place of the grid. Each pass of the model checks a window of
expected codes at once and keeps those that it draws itself, and one more. The draft is deterministic, so the rule of
speculative sampling (Leviathan et al., 2023; Chen et al., 2023) becomes: take the drafted code x with probability p(x),
else draw from p with x removed and renormalised.

One uniform number a place decides, so a place's code is a function of that number and of the codes before it. A pass
may therefore expect any codes, also those that the pass before drew after a code which proved wrong (Jacobi decoding,
Song et al., 2021; of image tokens Teng et al., 2024): whatever is expected, what is kept is the same, and wrong
expectations cost passes only.
"""

from __future__ import annotations

import torch

from visdyn.models.token.decoding import draw


def accept_or_redraw(
    probabilities: torch.Tensor, drafts: torch.Tensor, uniforms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Accept each drafted code with its probability, else draw from the others.

    One uniform number u serves both decisions: u < p(x) accepts, and (u - p(x)) / (1 - p(x)), which is uniform again
    given a rejection, inverts the distribution of the rest.

    Args:
        probabilities: float (B, V), rows sum to 1.
        drafts: int64 (B,).
        uniforms: float64 (B,) in [0, 1).

    Returns:
        codes int64 (B,) and which of them are the draft, bool (B,).
    """
    drafted = _gather_probabilities(probabilities, drafts)  # p(x), (B,)
    accepted = uniforms < drafted
    left = (uniforms - drafted) / (1 - drafted).clamp_min(torch.finfo(torch.float64).tiny)
    rest = probabilities.scatter(-1, drafts[:, None], 0.0)  # (B, V), not renormalised: `draw` scales by the sum
    return torch.where(accepted, drafts, draw(rest, left.clamp(0, 1 - 2**-53))), accepted


def _gather_probabilities(probabilities: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return float64 (B,), rounding of the rows' sums divided out: a certain code is accepted whatever the number."""
    chosen = probabilities.gather(-1, codes[:, None]).squeeze(1).double()
    return chosen / probabilities.sum(-1, dtype=torch.float64)
