"""A Plan answers the choices that passes meet; what it does not answer takes its default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from tilewright.dsl.errors import PlanError


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice that was met: its id, its options and the one that was taken."""

    id: str
    options: tuple[str, ...]
    default: str
    taken: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Option by id; an id may be a pattern such as `fuse_epilogue:layers.*`.

    An exact id wins over a pattern, a longer pattern over a shorter one.
    """

    entries: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(entries: Mapping[str, str]) -> Plan:
        """From a mapping, in its order made canonical."""
        return Plan(tuple(sorted(entries.items())))

    def find(self, choice_id: str) -> tuple[str, str] | None:
        """The entry that answers an id: (pattern, option)."""
        matching = [e for e in self.entries if e[0] == choice_id or fnmatchcase(choice_id, e[0])]
        return max(matching, key=lambda e: (e[0] == choice_id, len(e[0])), default=None)


@dataclass
class Choices:
    """The choices met in one compilation, and which entries of the plan were used."""

    plan: Plan = field(default_factory=Plan)
    met: dict[str, Choice] = field(default_factory=dict[str, Choice])
    _used: set[str] = field(default_factory=set[str])

    def choose(self, choice_id: str, options: Sequence[str], default: str) -> str:
        """The plan's option for this id, else the default.

        Raises PlanError where the plan names an option that does not exist, or where one id is met
        with two sets of options.
        """
        if default not in options:
            raise PlanError(f"choice {choice_id}: default {default!r} is not among its options")
        known = self.met.get(choice_id)
        if known is not None:
            if known.options != tuple(options):
                raise PlanError(f"choice {choice_id} was met with two sets of options")
            return known.taken
        entry = self.plan.find(choice_id)
        taken = default if entry is None else entry[1]
        if entry is not None:
            self._used.add(entry[0])
            if taken not in options:
                raise PlanError(
                    f"the plan wants {taken!r} for {entry[0]}, which {choice_id} does not offer",
                    fix=f"its options are: {', '.join(options)}",
                )
        self.met[choice_id] = Choice(choice_id, tuple(options), default, taken)
        return taken

    def unused(self) -> tuple[str, ...]:
        """Entries of the plan that answered nothing."""
        return tuple(key for key, _ in self.plan.entries if key not in self._used)
