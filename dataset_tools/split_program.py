"""Integer programs that choose the videos of both splits, and the number of frames from each video.

Symbols: V groups (base videos), K classes, A AUs. t_v and w_v are 1 if group v is in train or in validation,
t_v + w_v <= 1. a_vk and b_vk are the numbers of frames of class k from group v in train and in validation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

Array = npt.NDArray[Any]

AU_RATE_TOLERANCE = 0.005
"""AU rates that differ by less count as equal; without a tolerance the solver spends minutes on the last decimals."""
SHARE_TOLERANCE = 0.02
"""The same for the share of a class or AU in an unbalanced validation split."""
OPTIMAL, INFEASIBLE = 0, 2  # of scipy's `status`
SOLVER_OPTIONS = {"mip_rel_gap": 0.01, "node_limit": 20_000}  # limits nodes, not time, so that runs are reproducible


@dataclass(frozen=True)
class Pool:
    """The frames to select from.

    Args:
        capacity: (V, K) int, number of frames by group and class.
        au_rates: (V, K, A) float, share of frames with the AU active.
        classes: the K names.
    """

    capacity: Array
    au_rates: Array
    classes: Sequence[str]


@dataclass(frozen=True)
class Request:
    """The sizes of a balanced selection; with None for both numbers of videos, any number is allowed."""

    train_per_class: int
    eval_per_class: int
    train_videos: int | None = None
    eval_videos: int | None = None
    min_frames: int = 20

    def __post_init__(self) -> None:
        for name in ("train_per_class", "eval_per_class", "train_videos", "eval_videos", "min_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more.")
        if (self.train_videos is None) != (self.eval_videos is None):
            raise ValueError("Give both train_videos and eval_videos, or neither.")


@dataclass(frozen=True)
class Amounts:
    """(V, K) int numbers of frames from each group; `proven` is True if the solution is proven optimal."""

    train: Array
    validation: Array
    proven: bool


class InfeasibleError(ValueError):
    """No selection meets the request; the message names the failing constraint and a feasible size."""


# ------------------------------------------------------------------------------------------------------ balanced
def solve_balanced(pool: Pool, request: Request) -> Amounts:
    """Choose groups and amounts with exact class sizes and numbers of videos, and the most similar AU rates.

    Raises:
        InfeasibleError: there is no such selection.
    """
    _check_supply(pool, request)
    solution = _solve(pool, request, scale=(1.0, 1.0))
    if solution.x is None:
        raise InfeasibleError(_explain(pool, request) if solution.status == INFEASIBLE else solution.message)
    first, size, shape = 2 * len(pool.capacity), pool.capacity.size, pool.capacity.shape
    train, validation = (solution.x[i : i + size].reshape(shape) for i in (first, first + size))
    return Amounts(
        train=_round_amounts(train, request.train_per_class, request.min_frames),
        validation=_round_amounts(validation, request.eval_per_class, request.min_frames),
        proven=solution.status == OPTIMAL,
    )


def largest_feasible(pool: Pool, request: Request) -> Request | None:
    """The feasible request with the largest class sizes in the same proportion; None if there is none."""
    solution = _solve(pool, request, scale=(0.0, np.inf))
    scale = 0.0 if solution.x is None else float(solution.x[-1])
    train, evaluation = (int(scale * size + 1e-6) for size in (request.train_per_class, request.eval_per_class))
    while train >= 1 and evaluation >= 1:
        smaller = replace(request, train_per_class=train, eval_per_class=evaluation)
        if _solve(pool, smaller, scale=(1.0, 1.0)).x is not None:
            return smaller
        train, evaluation = train - 1, min(evaluation, (train - 1) * request.eval_per_class // request.train_per_class)
    return None


def _solve(pool: Pool, request: Request, scale: tuple[float, float]) -> OptimizeResult:
    """Minimise sum_j max(tolerance, |train rate - validation rate of AU j|) or, with a free scale, maximise the scale.

    The variables are t, w, a, b, d (the rate difference of each AU) and the scale s of both class sizes, within
    `scale`.
    """
    matrix, bounds = _balanced_constraints(pool, request)
    num_binary, num_aus = 2 * len(pool.capacity), pool.au_rates.shape[2]
    cells = pool.capacity.ravel()
    zeros = np.zeros(num_binary + 2 * cells.size)
    is_fixed = scale[0] == scale[1]
    return milp(
        np.r_[zeros, np.full(num_aus, float(is_fixed)), is_fixed - 1.0],
        integrality=np.arange(matrix.shape[1]) < num_binary,
        bounds=Bounds(
            np.r_[zeros, np.full(num_aus, AU_RATE_TOLERANCE), scale[0]],
            np.r_[np.ones(num_binary), cells, cells, np.full(num_aus, np.inf), scale[1]],
        ),
        constraints=LinearConstraint(matrix, *bounds),
        options=SOLVER_OPTIONS,
    )


def _balanced_constraints(pool: Pool, request: Request) -> tuple[sparse.csr_array, tuple[Array, Array]]:
    num_groups, num_classes = pool.capacity.shape
    num_aus = pool.au_rates.shape[2]
    eye_v, eye_vk, eye_d = (sparse.eye_array(size) for size in (num_groups, pool.capacity.size, num_aus))
    all_v = np.ones((1, num_groups))
    sum_v, sum_k = _margins(num_groups, num_classes)
    cap = sparse.diags_array(pool.capacity.ravel().astype(float)) @ sum_v.T  # (VK, V)
    low = -request.min_frames * eye_v
    rates = pool.au_rates.reshape(-1, num_aus).T / num_classes  # (A, VK)
    rate_a, rate_b = rates / request.train_per_class, -rates / request.eval_per_class
    size_a, size_b = (np.full((num_classes, 1), -n) for n in (request.train_per_class, request.eval_per_class))
    num_t, num_w = ((n or 1, n or np.inf) for n in (request.train_videos, request.eval_videos))
    zero, inf = (0, 0), np.inf
    return _stack(
        [
            # t      w      a       b       d       s        bounds
            ([eye_v, eye_v, None, None, None, None], (-inf, 1)),  # no group in both
            ([-cap, None, eye_vk, None, None, None], (-inf, 0)),  # a <= capacity t
            ([None, -cap, None, eye_vk, None, None], (-inf, 0)),
            ([low, None, sum_v, None, None, None], (0, inf)),  # at least `min_frames` from a chosen group
            ([None, low, None, sum_v, None, None], (0, inf)),
            ([all_v, None, None, None, None, None], num_t),
            ([None, all_v, None, None, None, None], num_w),
            ([None, None, sum_k, None, None, size_a], zero),  # exact class sizes
            ([None, None, None, sum_k, None, size_b], zero),
            ([None, None, rate_a, rate_b, -eye_d, None], (-inf, 0)),  # |rate difference| <= d
            ([None, None, rate_a, rate_b, eye_d, None], (0, inf)),
        ]
    )


def _margins(num_groups: int, num_classes: int) -> tuple[sparse.coo_array, sparse.coo_array]:
    """(V, VK) and (K, VK) matrices that sum a flattened (V, K) matrix over its classes, and over its groups."""
    return (
        sparse.kron(sparse.eye_array(num_groups), np.ones((1, num_classes))),
        sparse.kron(np.ones((1, num_groups)), sparse.eye_array(num_classes)),
    )


def _stack(rows: Sequence[tuple[list[Any], tuple[float, float]]]) -> tuple[sparse.csr_array, tuple[Array, Array]]:
    """Stack rows of blocks into one matrix, and repeat the bounds for each of its rows."""
    heights = [next(block.shape[0] for block in blocks if block is not None) for blocks, _ in rows]
    matrix = sparse.block_array([blocks for blocks, _ in rows], format="csr")
    lower, upper = (np.repeat([bounds[side] for _, bounds in rows], heights) for side in (0, 1))
    return matrix, (lower, upper)


def _round_amounts(amounts: Array, per_class: int, min_frames: int) -> Array:
    """Round (V, K) amounts to integers with exact class sums and at least `min_frames` from each chosen group.

    The largest remainders are rounded up. A solution exists because this is a transportation problem, whose vertices
    are integral, and the fractional amounts are feasible.
    """
    floor = np.floor(amounts + 1e-6)
    remainder = np.clip(amounts - floor, 0, None).ravel()
    chosen = amounts.sum(axis=1) > 0.5
    sum_v, sum_k = _margins(*amounts.shape)
    missing = per_class - floor.sum(axis=0)  # (K,)
    min_missing = np.where(chosen, min_frames, 0) - floor.sum(axis=1)  # (V,)
    rounded_up = milp(
        -remainder,
        integrality=np.ones(amounts.size),
        bounds=Bounds(0, (remainder > 1e-6).astype(float)),
        constraints=[LinearConstraint(sum_k, missing, missing), LinearConstraint(sum_v, min_missing, np.inf)],
    )
    return (floor + rounded_up.x.reshape(amounts.shape)).round().astype(np.int64)


def _check_supply(pool: Pool, request: Request) -> None:
    """Raise an `InfeasibleError` for requests that are infeasible without solving the program."""
    sizes = f"{request.train_per_class:,} + {request.eval_per_class:,}"
    available = pool.capacity.sum(axis=0)
    needed = request.train_per_class + request.eval_per_class
    if short := [f"{name} has {n:,}" for name, n in zip(pool.classes, available, strict=True) if n < needed]:
        raise InfeasibleError(f"A class needs {sizes} frames, but {', '.join(short)}. {_suggest_size(pool, request)}")
    usable = int((pool.capacity.sum(axis=1) >= request.min_frames).sum())
    num_videos = (request.train_videos or 1) + (request.eval_videos or 1)
    if usable < num_videos:
        raise InfeasibleError(
            f"{num_videos} videos are wanted, but only {usable} of {len(pool.capacity)} have {request.min_frames} "
            "usable frames or more."
        )
    for split in ("train", "eval"):
        num_frames = getattr(request, f"{split}_per_class") * len(pool.classes)
        at_least = (getattr(request, f"{split}_videos") or 1) * request.min_frames
        if at_least > num_frames:
            raise InfeasibleError(
                f"{at_least:,} {split} frames would be needed to take {request.min_frames} from each video, but only "
                f"{num_frames:,} are wanted; ask for fewer videos or a smaller min_frames."
            )


def _explain(pool: Pool, request: Request) -> str:
    """Name the constraints without which the request is feasible, one at a time, and a feasible size."""
    relaxed = {f"{request.min_frames} frames from each video": replace(request, min_frames=1)}
    if request.train_videos is not None:
        exactly = f"exactly {request.train_videos} + {request.eval_videos} videos"
        relaxed[exactly] = replace(request, train_videos=None, eval_videos=None)
    blocking = [name for name, other in relaxed.items() if _solve(pool, other, (1.0, 1.0)).x is not None]
    return (
        f"No split of whole videos gives {request.train_per_class:,} + {request.eval_per_class:,} frames to each class"
        + (f"; there is one without the requirement of {' or of '.join(blocking)}. " if blocking else ". ")
        + _suggest_size(pool, request)
    )


def _suggest_size(pool: Pool, request: Request) -> str:
    best = largest_feasible(pool, request)
    if best is None:
        return "With the other numbers unchanged, no class size in this proportion is feasible."
    return f"Feasible with the other numbers unchanged: {best.train_per_class:,} + {best.eval_per_class:,} per class."


# ---------------------------------------------------------------------------------------------------- unbalanced
def solve_unbalanced(pool: Pool, eval_fraction: float, eval_videos: int | None = None) -> Amounts:
    """Split all frames by group so that each class and each AU has about `eval_fraction` of its frames in validation.

    Minimises the sum, over classes and AUs, of the distance between the share in validation and `eval_fraction`.

    Raises:
        ValueError: the fraction is not between 0 and 1, or there are fewer than two groups.
    """
    if not 0 < eval_fraction < 1:
        raise ValueError(f"eval_fraction is {eval_fraction}; it must lie between 0 and 1.")
    num_groups = len(pool.capacity)
    if not 1 <= (eval_videos or 1) < num_groups:
        raise ValueError(f"{num_groups} videos cannot be split with {eval_videos or 1} of them in validation.")
    active = (pool.capacity[:, :, None] * pool.au_rates).sum(axis=1)  # (V, A)
    amounts = np.concatenate([pool.capacity, active], axis=1).T  # (K + A, V)
    amounts = amounts[amounts.sum(axis=1) > 0]
    shares = amounts / amounts.sum(axis=1, keepdims=True)
    eye_d = sparse.eye_array(len(shares))
    num_w = (eval_videos or 1, eval_videos or num_groups - 1)
    matrix, bounds = _stack(
        [
            # w       d
            ([np.ones((1, num_groups)), None], num_w),
            ([shares, -eye_d], (-np.inf, eval_fraction)),
            ([shares, eye_d], (eval_fraction, np.inf)),
        ]
    )
    solution = milp(
        np.r_[np.zeros(num_groups), np.ones(len(shares))],
        integrality=np.arange(num_groups + len(shares)) < num_groups,
        bounds=Bounds(
            np.r_[np.zeros(num_groups), np.full(len(shares), SHARE_TOLERANCE)],
            np.r_[np.ones(num_groups), np.full(len(shares), np.inf)],
        ),
        constraints=LinearConstraint(matrix, *bounds),
        options=SOLVER_OPTIONS,
    )
    in_eval = solution.x[:num_groups].round()[:, None].astype(np.int64)
    return Amounts(pool.capacity * (1 - in_eval), pool.capacity * in_eval, proven=solution.status == OPTIMAL)
