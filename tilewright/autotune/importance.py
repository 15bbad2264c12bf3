"""Which dimensions of a space set its candidates apart."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from tilewright.autotune.history import Candidate
from tilewright.codegen.space import Value

LEAST: Final = 12
"""Of fewer measured candidates nothing is said."""
_BEST: Final = 5
"""How many candidates count as the best, at the least: what Optuna's documentation advises."""


def importances(candidates: Sequence[Candidate]) -> dict[str, float]:
    """Each dimension's share in what sets the best tenth apart from the rest, the largest first.

    Empty where fewer than `LEAST` were measured. Shares sum to 1, unless no dimension matters.

    Source: Watanabe, Bansal, Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance
    in Arbitrary Subspaces", IJCAI 2023, as Optuna has it; its other measures need scikit-learn.
    """
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    measured = of_one_space([c for c in candidates if c.ratio is not None])
    seen = {name: v for name, v in values(measured).items() if len(v) > 1}
    if len(measured) < LEAST or not seen:
        return {}
    spaces: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(found) for name, found in seen.items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize")
    for candidate in measured:
        params = {name: candidate.point[name] for name in spaces}
        study.add_trial(
            optuna.create_trial(params=params, distributions=spaces, value=candidate.ratio)
        )
    best = max(0.1, _BEST / len(measured))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the measure is new
        return get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(target_quantile=best)
        )


def of_one_space(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those with the dimensions that most of them have: records outlive a space."""
    spaces = Counter(frozenset(candidate.point) for candidate in candidates)
    return [c for c in candidates if frozenset(c.point) == spaces.most_common(1)[0][0]]


def values(candidates: Sequence[Candidate]) -> Mapping[str, tuple[Value, ...]]:
    """The values that each dimension has had, in order."""
    found: dict[str, set[Value]] = {}
    for candidate in candidates:
        for name, value in candidate.point.items():
            found.setdefault(name, set()).add(value)
    return {name: tuple(sorted(seen, key=_order)) for name, seen in found.items()}


def _order(value: Value) -> tuple[bool, float, str]:
    words = isinstance(value, str)
    return (words, 0.0 if words else float(value), str(value))
