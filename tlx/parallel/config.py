"""Config of the mesh, and its check against a number of devices."""

import dataclasses
import math

from tlx.base.errors import ConfigError, one_of
from tlx.parallel.presets import AXES, PRESETS, ShardingRules, used_axes


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Number of devices along each mesh axis; one axis may be -1, the remaining devices."""

    data: int = -1
    """Number of data-parallel replicas: the batch is sharded, parameters are replicated."""
    fsdp: int = 1
    """Shards of the batch, of the parameters and of the optimizer state (fully sharded data parallelism)."""
    tensor: int = 1
    """Shards of heads, feed-forward dims and vocabulary (tensor parallelism)."""
    context: int = 1
    """Shards of the sequence (context parallelism)."""
    expert: int = 1
    """Shards of the experts of a mixture, and of the batch (expert parallelism)."""
    num_slices: int = 1
    """Groups of devices joined by the slow network only (TPU slices, GPU hosts): along data first, then fsdp."""
    rules: str = "fsdp_tp_cp"
    """Preset of rules from logical names to mesh axes: dp, fsdp, tp, fsdp_tp or fsdp_tp_cp."""

    def validate(self) -> None:
        """Raise ConfigError for what is wrong with any number of devices."""
        if self.rules not in PRESETS:
            raise ConfigError(one_of("mesh.rules", self.rules, PRESETS))
        for axis, size in self._axes().items():
            if size < 1 and size != -1:
                raise ConfigError(f"mesh.{axis} = {size} must be 1 or more, or -1 for the remaining devices")
            if size > 1:
                self._check_used(axis, size)
        open_axes = [axis for axis, size in self._axes().items() if size == -1]
        if len(open_axes) > 1:
            raise ConfigError(f"mesh.{' and mesh.'.join(open_axes)} are both -1; only one axis can be")
        if self.num_slices < 1:
            raise ConfigError(f"mesh.num_slices = {self.num_slices} must be 1 or more")

    def sizes(self, num_devices: int) -> dict[str, int]:
        """Return devices by axis, in the order of AXES, with -1 resolved; ConfigError where they do not fit."""
        self.validate()
        sizes = self._axes()
        fixed = math.prod(size for size in sizes.values() if size != -1)
        shown = " x ".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1) or "data=1"
        open_axis = next((axis for axis, size in sizes.items() if size == -1), None)
        if num_devices % fixed:
            self._raise_indivisible(sizes, num_devices, shown)
        if open_axis is None and fixed != num_devices:
            raise ConfigError(
                f"mesh {shown} uses {fixed} of {num_devices} devices; set one axis to -1 (the remaining devices), "
                f"or mesh.data = {sizes['data'] * num_devices // fixed}"
            )
        if open_axis is not None:
            sizes[open_axis] = num_devices // fixed
            self._check_used(open_axis, sizes[open_axis])
        self._slices(sizes)
        return sizes

    def slices(self, num_devices: int) -> dict[str, int]:
        """Return slices by axis; their product is num_slices."""
        return self._slices(self.sizes(num_devices))

    def _slices(self, sizes: dict[str, int]) -> dict[str, int]:
        data = math.gcd(sizes["data"], self.num_slices)
        fsdp = math.gcd(sizes["fsdp"], self.num_slices // data)
        if data * fsdp != self.num_slices:
            legal = _divisors(sizes["data"] * sizes["fsdp"])
            raise ConfigError(
                f"mesh.num_slices = {self.num_slices} must divide data={sizes['data']} x "
                f"fsdp={sizes['fsdp']}, the axes that can cross the slow network: one of {legal}"
            )
        return {axis: {"data": data, "fsdp": fsdp}.get(axis, 1) for axis in AXES}

    def _axes(self) -> dict[str, int]:
        return {axis: getattr(self, axis) for axis in AXES}

    def _check_used(self, axis: str, size: int) -> None:
        if size > 1 and axis not in used_axes(PRESETS[self.rules]):
            able = [name for name, rules in PRESETS.items() if axis in used_axes(rules)]
            raise ConfigError(
                f"mesh.{axis} = {size} would repeat the same work {size} times: mesh.rules = {self.rules!r} "
                f"shard nothing over it; rules that do: {', '.join(able)}"
            )

    def _raise_indivisible(self, sizes: dict[str, int], num_devices: int, shown: str) -> None:
        for axis, size in sizes.items():
            others = math.prod(other for name, other in sizes.items() if other != -1 and name != axis)
            if size > 1 and num_devices % others == 0:
                legal = _divisors(num_devices // others)
                raise ConfigError(
                    f"mesh.{axis} = {size} does not fit: mesh {shown} does not divide {num_devices} devices; "
                    f"with the other axes as they are, mesh.{axis} can be one of {legal}"
                )
        raise ConfigError(
            f"mesh {shown} does not divide {num_devices} devices; "
            f"the product of its axes must be one of {_divisors(num_devices)}"
        )


def rules(config: MeshConfig) -> ShardingRules:
    """Return the preset of rules that the config names."""
    if config.rules not in PRESETS:
        raise ConfigError(one_of("mesh.rules", config.rules, PRESETS))
    return PRESETS[config.rules]


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
