"""Chips and systems, found through entry points only; ours come through the same door.

A package adds a chip with an entry point in group `anychip.chips` whose name is the chip's name and
whose object is a `Chip`. A broken package is listed as broken and raises when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from anychip.core.errors import AnychipError, PluginError, UsageError, unknown
from anychip.core.spec import ChipSpec, SystemSpec, read_chip, read_system
from anychip.core.target import Target, TargetName, check_target

GROUP = "anychip.chips"

TargetFactory = Callable[["Chip"], Target]
"""Makes a Target for a chip. Called only when the target is asked for."""


@dataclass(frozen=True)
class Chip:
    """A chip as its package declares it.

    `read_spec` is called once, when first needed: compiling need not know the chip's figures.
    `targets` maps `how` to a factory. `absent` says, per toolchain that cannot be had, in one line
    what is missing, where it comes from, and what anychip does instead. `folder` is where `*.toml`
    files other than spec.toml are systems. `name` is that of the entry point, set by the registry.
    """

    read_spec: Callable[[], ChipSpec]
    targets: Mapping[str, TargetFactory]
    absent: Mapping[str, str] = field(default_factory=dict[str, str])
    folder: Path | None = None
    name: str = ""

    @staticmethod
    def beside(
        init_file: str,
        targets: Mapping[str, TargetFactory],
        absent: Mapping[str, str] | None = None,
    ) -> Chip:
        """The chip whose spec.toml lies beside `init_file` (pass `__file__`)."""
        folder = Path(init_file).parent
        return Chip(lambda: read_chip(folder / "spec.toml"), targets, absent or {}, folder)

    @cached_property
    def spec(self) -> ChipSpec:
        return self.read_spec()

    def target(self, how: str) -> Target:
        """The target `how` of this chip. Raises UsageError for one it does not have."""
        name = self.name or self.spec.name
        if how in self.absent and how not in self.targets:
            raise UsageError(f"{name}:{how} cannot be had: {self.absent[how]}")
        if how not in self.targets:
            raise unknown(f"way to target {name}", how, self.targets)
        return check_target(self.targets[how](self), f"{name}:{how}")


@dataclass(frozen=True)
class Registry:
    """All installed chips by name, and the packages that could not be used with the reason."""

    chips: Mapping[str, Callable[[], Chip]]
    owners: Mapping[str, str]

    def chip(self, name: str) -> Chip:
        """The chip. Raises UsageError for an unknown name, PluginError for a broken package."""
        if name not in self.chips:
            raise unknown("chip", name, self.chips)
        return self.chips[name]()

    def target(self, name: str | TargetName) -> Target:
        """The target `chip:how`. Raises UsageError when `how` is left out."""
        parsed = TargetName.parse(name) if isinstance(name, str) else name
        chip = self.chip(parsed.chip)
        if not parsed.how:
            raise UsageError(
                f"{parsed.chip} is a chip; say how: "
                + ", ".join(f"{parsed.chip}:{how}" for how in sorted(chip.targets))
            )
        return chip.target(parsed.how)

    def systems(self, chip: str) -> tuple[SystemSpec, ...]:
        """The systems of a chip: ours, and those its package ships; without any, a lone chip."""
        folders = [Path(__file__).parent.parent / "systems"]
        own = self.chip(chip).folder
        if own is not None:
            folders.append(own)
        found = tuple(
            spec for folder in folders for spec in _systems_in(folder) if spec.chip == chip
        )
        if found:
            return found
        title = self.chip(chip).spec.title
        return (SystemSpec(name=chip, title=f"one {title}", chip=chip, counts=(1,)),)

    def broken(self) -> dict[str, str]:
        """Name → reason for every chip package that does not load."""
        reasons: dict[str, str] = {}
        for name in self.chips:
            try:
                self.chip(name).spec  # noqa: B018
            except AnychipError as error:
                reasons[name] = str(error)
        return reasons


@lru_cache
def _systems_in(folder: Path) -> tuple[SystemSpec, ...]:
    """Every system of a folder, read once a process."""
    paths = sorted(folder.glob("*.toml"))
    return tuple(read_system(path) for path in paths if path.name != "spec.toml")


def discover(points: Iterable[EntryPoint] | None = None) -> Registry:
    """Read the entry points; nothing is imported until a chip is asked for.

    Raises PluginError when two packages claim one name.
    """
    chips: dict[str, Callable[[], Chip]] = {}
    owners: dict[str, str] = {}
    packages: dict[int, str] = {}  # of one package all points hold the same object
    for point in entry_points(group=GROUP) if points is None else points:
        owner = point.value
        if point.dist:
            owner = packages.get(id(point.dist)) or f"{point.dist.name} {point.dist.version}"
            packages[id(point.dist)] = owner
        if point.name in chips and owners[point.name] != owner:
            raise PluginError(
                f"chip {point.name!r} is claimed by both {owners[point.name]} and {owner}; "
                "uninstall one of them"
            )
        chips[point.name] = _loader(point, owner)
        owners[point.name] = owner
    if not chips:
        raise PluginError(
            "no chips are installed; anychip finds them by entry point, so install the package "
            "(pip install -e .) instead of running from a source folder"
        )
    return Registry(dict(sorted(chips.items())), owners)


def _loader(point: EntryPoint, owner: str) -> Callable[[], Chip]:
    loaded: list[Chip] = []

    def load() -> Chip:
        if loaded:
            return loaded[0]
        try:
            chip = point.load()
        except AnychipError:
            raise
        except Exception as error:  # a plug-in may raise anything; it becomes a named error
            raise PluginError(
                f"chip {point.name!r} of {owner} does not load: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(chip, Chip):
            raise PluginError(
                f"chip {point.name!r} of {owner}: {point.value} is a {type(chip).__name__}, "
                "not an anychip.core.Chip"
            )
        loaded.append(replace(chip, name=point.name, read_spec=lambda: _checked(chip)))
        return loaded[0]

    def _checked(chip: Chip) -> ChipSpec:
        try:
            chip.spec  # noqa: B018
        except AnychipError:
            raise
        except Exception as error:  # as above
            raise PluginError(
                f"chip {point.name!r} of {owner} has no spec: {type(error).__name__}: {error}"
            ) from error
        if chip.spec.name != point.name:
            raise PluginError(
                f"chip {point.name!r} of {owner} calls itself {chip.spec.name!r} in its spec"
            )
        return chip.spec

    return load
