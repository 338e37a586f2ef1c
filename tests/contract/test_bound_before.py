# SPDX-License-Identifier: MIT
"""A device is restored to its previous state, in whatever way it was bound before: a table of ways, on the mock and on real kernels."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

import pyvfio
from pyvfio import host
from pyvfio.kernel import as_default
from pyvfio.spaces.opening import Mode
from tests.contract import guest

pytestmark = pytest.mark.only(iommu="intel", mode="type1v2", device="edu")

IDS = "1b36 0010"
MISSING = "no-such-driver"


class Way(NamedTuple):
    """A way to bind a device: writes below /sys/bus/pci, and the resulting driver and driver_override."""

    writes: tuple[tuple[str, str], ...]
    driver: str | None
    override: str | None


def override(value: str) -> tuple[str, str]:
    return "devices/{address}/driver_override", f"{value}\n"


UNBIND = ("drivers/nvme/unbind", "{address}")
BIND = ("drivers/vfio-pci/bind", "{address}")
WAYS = {
    "native": Way((), "nvme", None),
    "native-by-override": Way((override("nvme"),), "nvme", "nvme"),
    "native-with-override-to-vfio": Way((override("vfio-pci"),), "nvme", "vfio-pci"),
    "native-with-override-to-a-missing-driver": Way((override(MISSING),), "nvme", MISSING),
    "nothing": Way((UNBIND,), None, None),
    "nothing-for-the-driver-was-missing": Way((override(MISSING), UNBIND, ("drivers_probe", "{address}")), None, MISSING),
    "nothing-with-override-to-vfio": Way((UNBIND, override("vfio-pci")), None, "vfio-pci"),
    "vfio-by-new-id": Way((UNBIND, ("drivers/vfio-pci/new_id", f"{IDS}\n")), "vfio-pci", None),
    "vfio-by-override": Way((override("vfio-pci"), UNBIND, BIND), "vfio-pci", "vfio-pci"),
    "vfio-as-driverctl": Way((UNBIND, override("vfio-pci"), ("drivers_probe", "{address}")), "vfio-pci", "vfio-pci"),
    "vfio-as-dpdk-devbind": Way((override("vfio-pci"), UNBIND, BIND, override("")), "vfio-pci", None),
    "vfio-with-override-to-native": Way(
        (override("vfio-pci"), UNBIND, BIND, override("nvme")), "vfio-pci", "nvme"
    ),
    "vfio-with-override-to-a-missing-driver": Way(
        (override("vfio-pci"), UNBIND, BIND, override(MISSING)), "vfio-pci", MISSING
    ),
}  # fmt: skip


class Disk:
    """The machine's nvme, bound to its driver in one of the ways."""

    def __init__(self, kernel: Any, way: Way) -> None:
        self._kernel = kernel
        self.address = guest.address_of("nvme")
        self.way = way

    def write(self, path: str, text: str) -> None:
        self._kernel.write_file(
            f"/sys/bus/pci/{path.format(address=self.address)}", text.format(address=self.address).encode()
        )

    @property
    def state(self) -> tuple[str | None, str | None]:
        """Its driver and driver_override."""
        found = host.device(self.address, self._kernel)
        return found.driver, found.driver_override

    def set_up(self) -> None:
        """Bind it in this way. It is bound to nvme, without an override, before."""
        for path, text in self.way.writes:
            self.write(path, text)

    def take_down(self) -> None:
        """Bind it to nvme again, without an override."""
        driver, _ = self.state
        if self.way is WAYS["vfio-by-new-id"]:
            self.write("drivers/vfio-pci/remove_id", f"{IDS}\n")
        self.write(*override(""))
        if driver not in (None, "nvme"):
            self.write(f"drivers/{driver}/unbind", "{address}")
        if driver != "nvme":
            self.write("drivers/nvme/bind", "{address}")


@pytest.fixture(params=WAYS)
def disk(request: pytest.FixtureRequest, kernel: Any) -> Iterator[Disk]:
    disk = Disk(kernel, WAYS[request.param])
    assert disk.state == ("nvme", None)
    disk.set_up()
    try:
        assert disk.state == (disk.way.driver, disk.way.override)
        yield disk
    finally:
        disk.take_down()
    assert disk.state == ("nvme", None)


def test_a_device_is_put_back_as_it_was(disk: Disk, kernel: Any) -> None:
    before = disk.state
    for driver in ("vfio-pci", "nvme"):
        with host.bind(disk.address, driver, kernel=kernel):
            assert disk.state[0] == driver
        assert disk.state == before
        # Without `with`, the device stays bound. restore() of any program puts it back.
        binding = host.bind(disk.address, driver, kernel=kernel)
        assert disk.state[0] == driver
        del binding
        assert host.restore(disk.address, kernel=kernel) == [disk.address]
        assert disk.state == before
    # After several bindings in a row, restore() brings back the state before the first.
    for driver in ("vfio-pci", "nvme", "vfio-pci"):
        host.bind(disk.address, driver, kernel=kernel)
    host.restore(kernel=kernel)
    assert disk.state == before
    assert disk.address not in {binding.address for binding in host.bindings(kernel)}


def test_a_bind_that_fails_leaves_nothing(disk: Disk, kernel: Any) -> None:
    before = disk.state
    for driver, error in (("e1000e", (errno.ENODEV, errno.ENOENT)), (MISSING, (errno.ENOENT,))):
        with pytest.raises(OSError, match=driver) as caught:
            host.bind([guest.address_of("e1000e"), disk.address], driver, kernel=kernel)
        assert caught.value.errno in error
        assert disk.state == before
        # Look for these two devices only: the cell's own device may be bound too.
        assert not {disk.address, guest.address_of("e1000e")} & {binding.address for binding in host.bindings(kernel)}


@pytest.mark.only(iommu="intel", mode=["type1v2", "iommufd"], device="edu")
@pytest.mark.parametrize("disk", [name for name, way in WAYS.items() if way.driver != "vfio-pci"], indirect=True)
def test_the_advice_of_a_failed_open_can_be_pasted(disk: Disk, mode: Mode, kernel: Any) -> None:
    before = disk.state
    with pytest.raises(OSError, match=disk.address) as caught:
        pyvfio.open(disk.address, mode=mode, kernel=kernel)
    told = "\n".join((str(caught.value), *getattr(caught.value, "__notes__", ())))
    calls = re.findall(r"pyvfio\.host\.bind\([^()]*\)", told)
    assert calls, told
    with as_default(kernel):
        exec(calls[0], {"pyvfio": pyvfio})
    with pyvfio.open(disk.address, mode=mode, kernel=kernel) as device:
        assert device.info.is_pci
    assert host.restore(disk.address, kernel=kernel) == [disk.address]
    assert disk.state == before
