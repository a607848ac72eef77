"""Whole clips drawn anew or turned round: questions about one clip are not independent of each other.

Imported where it is used: unlike `stats` it needs numpy from the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

#: Resamples of a bootstrap, and the seed that makes them the same each time.
RESAMPLES, SEED = 10_000, 20
#: Numbers that a bootstrap draws at a time.
CHUNK = 2_000_000
#: A bootstrap needs so many clips beside the most frequent kind; with fewer it resamples next to nothing.
FEWEST_CLIPS = 10


def clips(keys: Sequence[str], changes: Sequence[float], videos: Mapping[str, str] | None) -> np.ndarray:
    """Rows (questions of the clip, sum of their changes), float "clips 2", in an order that no input order changes."""
    if videos is None:
        rows = [(1, change) for change in changes]
    else:
        sums: dict[str, list[float]] = {}
        for key, change in zip(keys, changes, strict=True):
            row = sums.setdefault(videos[key], [0, 0.0])
            row[0] += 1
            row[1] += change
        rows = [tuple(row) for row in sums.values()]
    return np.array(sorted(rows), dtype=float)


def can_resample(clips: np.ndarray) -> bool:
    """Whether FEWEST_CLIPS clips have another mean change than the most frequent one."""
    _, counts = np.unique(np.round(clips[:, 1] / clips[:, 0], 9), return_counts=True)
    return len(clips) - counts.max() >= FEWEST_CLIPS


def resampled(clips: np.ndarray) -> np.ndarray:
    """RESAMPLES means of as many clips drawn anew, sorted. Exchanging the models turns every sign.

    Clips that are alike are drawn together, by how often each kind comes.
    """
    mirrored = clips * (1, -1)
    mirrored = mirrored[np.lexsort(mirrored.T[::-1])]
    turned = tuple(mirrored.ravel()) > tuple(clips.ravel())
    kinds, counts = np.unique(mirrored if turned else clips, axis=0, return_counts=True)
    rng, total = np.random.default_rng(SEED), len(clips)
    means = []
    chunk = max(1, CHUNK // len(kinds))
    for start in range(0, RESAMPLES, chunk):
        drawn = rng.multinomial(total, counts / total, size=min(chunk, RESAMPLES - start)) @ kinds
        means.append(drawn[:, 1] / drawn[:, 0])
    found = np.concatenate(means) * (-1 if turned else 1)
    if np.array_equal(mirrored, clips):  # then the distribution is symmetric, and its estimate shall be
        found = np.concatenate([found, -found])
    return np.sort(found)


def bootstrap_interval(clips: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(resampled(clips), (0.025, 0.975))
    return float(low), float(high)


def bootstrap_outside(clips: np.ndarray, margin: float) -> float:
    """The larger share of resampled means that lie at the margin or beyond, on either side."""
    means = resampled(clips)
    beyond = max((means >= margin).sum(), (means <= -margin).sum())
    return float((beyond + 1) / (len(means) + 1))


def clip_variance(clips: np.ndarray) -> float:
    """The variance of the mean change, clips being independent: that of a ratio, linearised."""
    count, change = clips.T
    off = change - count * change.sum() / count.sum()
    return float((off**2).sum() / count.sum() ** 2 * len(clips) / max(1, len(clips) - 1))


def sign_flip_p(changes: Iterable[int]) -> float:
    """Exact two-sided p of the sum, if a coin chose the sign of each clip's change.

    A change is how many more of the clip's questions the first model got right. With one question a clip this is
    McNemar's exact test.
    """
    changes = [int(change) for change in changes if change]
    # chances[i] is the chance of the sum i - reach.
    chances, reach = np.ones(1), sum(map(abs, changes))
    for size in map(abs, changes):
        wider = np.zeros(len(chances) + 2 * size)
        wider[: len(chances)] += chances / 2
        wider[2 * size :] += chances / 2
        chances = wider
    sums = np.arange(-reach, reach + 1)
    return min(1.0, float(chances[np.abs(sums) >= abs(sum(changes))].sum()))
