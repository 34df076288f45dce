"""The contrast where every seed draws its own split of one data set.

Test sets of such seeds overlap, and so do training sets, so that their differences depend on each other and a plain
paired t test finds far too many effects.
"""

from __future__ import annotations

from core.study.stats.contrast import Contrast, measure
from core.study.stats.scores import Scores, positive


def nadeau_bengio(
    base_S: Scores, arm_S: Scores, *, n_test: float, n_train: float, larger_is_better: bool, alpha: float = 0.05
) -> Contrast:
    """The corrected resampled t test (Nadeau & Bengio 2003, Mach Learn 52:239, section 3.2).

    The variance of the mean difference is sd^2 (1/n + n_test/n_train) over n seeds, with n - 1 degrees of freedom, for
    `n_test` and `n_train` items (or shares of items) in each split. `judge` takes the result like any other contrast.
    It has no sign-flip test, as dependent pairs may not be flipped one by one; so where all
    differences are one number p is 1. More seeds narrow the interval only down to
    what one data set can say.

    Raises ValueError as `paired` does, and for sizes that are not above 0.
    """
    overlap = positive("n_test", n_test) / positive("n_train", n_train)
    return measure(base_S, arm_S, larger_is_better=larger_is_better, alpha=alpha, overlap=overlap)
