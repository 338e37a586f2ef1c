"""What can be worked out about a failed call.

The only place that makes :class:`OSError`\\ s and writes notes on them. The text of an error names the call, its arguments and, in one
line, the reason where it is known, since a log has only `str(e)`. Notes say what would work. Nothing in here may raise, hide
or replace the error: what cannot be found out is left out. It runs only after a failure.
"""

from __future__ import annotations

import errno
import itertools
import os
import resource
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from pyvfio.errors import Closed
from pyvfio.iova import IovaRange, IovaSet

if TYPE_CHECKING:
    from pyvfio._core.fd import Fd
    from pyvfio.guest import mapping
    from pyvfio.kernel import Kernel
    from pyvfio.spaces.base import AddressSpace

_LAST = 2**64 - 1
#: What makes an IOMMU leave a hole, by the hole. The x86 ones are fixed by the architecture.
HOLES = (
    (IovaRange(0xFD_0000_0000, 0xFF_FFFF_FFFF), "the AMD HyperTransport hole just below 1 TiB"),
    (IovaRange(0xFEE0_0000, 0xFEEF_FFFF), "the x86 interrupt window (MSI)"),
    (IovaRange(0x0800_0000, 0x080F_FFFF), "the Arm software MSI window"),
)


class Clue(Protocol):
    """Finds a reason for a failure: (one line for the text or None, notes)."""

    def __call__(self) -> tuple[str | None, list[str]]: ...


def failed(fd: Fd, error: int, call: str, arguments: str = "", clue: Clue | None = None) -> Exception:
    """The exception for a call that returned -errno.

    :param error: -errno, as the native functions return it
    :param call: the request's name
    :param clue: asked for a reason, unless the object has merely been closed
    """
    number = -error
    if fd.closed:
        return fd.closed_error()
    reason: str | None = None
    notes: list[str] = []
    if clue is not None:
        with suppress(Exception):
            reason, notes = clue()
    return os_error(number, f"{call} on {fd.name}", arguments, reason, notes)


def os_error(
    number: int, call: str, arguments: str = "", reason: str | None = None, notes: Iterable[str] = ()
) -> OSError:
    """An OSError whose text alone is enough to act on."""
    text = f"{call}{f' ({arguments})' if arguments else ''}: {os.strerror(number)}"
    if reason:
        text += f": {reason}"
    error = OSError(number, text)
    for note in notes:
        error.add_note(note)
    return error


def size(bytes_: int) -> str:
    """A size as people say it, where that is exact; hex otherwise."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if bytes_ >= 1 << shift and not bytes_ & ((1 << shift) - 1):
            return f"{bytes_ >> shift} {unit}"
    return f"{bytes_:#x} bytes"


def span(range_: IovaRange) -> str:
    """A range as messages show it, with its last address: `[0xfd00000000, 0xffffffffff]`."""
    return f"[{range_.start:#x}, {range_.last:#x}]"


def ranges(set_: Iterable[IovaRange], most: int = 8) -> str:
    """Ranges for a message, the first few of them."""
    all_ = list(set_)
    text = ", ".join(span(range_) for range_ in all_[:most]) or "none"
    return text + (f", and {len(all_) - most} more" if len(all_) > most else "")


def hole(unusable: IovaRange, usable: IovaSet) -> str:
    """What a range that an IOMMU cannot use is, in words."""
    for known, words in HOLES:
        if unusable == known:
            return f"the reserved region {span(unusable)}, {words}"
    if unusable.last == _LAST:
        highest = usable[len(usable) - 1].last
        return f"{span(unusable)}, beyond the IOMMU's address width of {highest.bit_length()} bits"
    within = [words for known, words in HOLES if known.start in unusable]
    return f"the reserved region {span(unusable)}" + (f", which holds {within[0]}" if within else "")


def unusable(wanted: IovaRange, usable: IovaSet, alignment: int) -> tuple[str | None, list[str]]:
    """Why an IOMMU refuses a range, and the nearest ones that it would take. (None, []) if it would take it.

    A mapping must lie in one usable range as a whole: Linux since 5.4 (before, a map into a hole succeeds).
    """
    if not usable or wanted in usable:
        return None, []
    holes = usable.complement()
    crossed = [h for h in holes if h.overlaps(wanted)]
    reason = f"{span(wanted)} is not usable for DMA here: it crosses " + " and ".join(hole(h, usable) for h in crossed)
    notes = [f"crosses {hole(h, usable)}" for h in crossed]
    nearest = usable.nearest(wanted, alignment)
    if nearest:
        notes.append(f"the nearest ranges of that size that work: {ranges(nearest)}")
    else:
        notes.append(f"no usable range holds {size(wanted.size)}")
    notes.append(f"usable: {ranges(usable)}")
    return reason, notes


def _wraps(iova: int, size_: int) -> str | None:
    if iova + size_ - 1 > _LAST:
        return f"{iova:#x} + {size_:#x} goes past the end of the 64-bit address space"
    return None


def _misaligned(page: int, **values: int) -> str | None:
    wrong = [f"{name}={value:#x}" for name, value in values.items() if value % page]
    return f"{' and '.join(wrong)}: no multiple of the page size {page:#x}" if wrong else None


def _first(*reasons: Callable[[], tuple[str | None, list[str]]]) -> tuple[str | None, list[str]]:
    for find in reasons:
        with suppress(Exception):
            reason, notes = find()
            if reason or notes:
                return reason, notes
    return None, []


def map_failed(
    space: AddressSpace,
    error: int,
    address: int,
    iova: int | None,
    size_: int,
    *,
    read: bool,
    write: bool,
    row: str | None = None,
    call: str | None = None,
) -> Exception:
    """The exception for a map that returned -errno, or because the address space has been closed.

    :param iova: None when the place was the kernel's to choose
    :param row: what else to say of the arguments
    :param call: the request, if it is not the space's own for mapping
    """
    if space.closed:
        return Closed(f"{space!r} has been closed")
    number = -error
    permission = ("r" if read else "") + ("w" if write else "") or "none"

    def clue() -> tuple[str | None, list[str]]:
        if (unready := space._unready()) is not None:
            return unready, []
        refused = _refusal(space, iova, size_, address, read=read, write=write)
        # Before Linux 7.0 a range that wraps is EINVAL in type1.
        if refused and number in (refused.errno, errno.EINVAL):
            return _because(space, refused.because, iova, size_, address)
        if call == "IOMMU_IOAS_MAP_FILE" and number == errno.EOPNOTSUPP:
            return "of dma-bufs only those that VFIO makes can be mapped, of one part each", []
        if call == "IOMMU_IOAS_MAP_FILE" and number == errno.ENODEV:
            return (
                "the BAR behind the dma-buf is not to be reached now: its device is closed, asleep, or does not decode memory",
                [],
            )
        if number == errno.EFAULT:
            notes = [
                "iommufd pins memory, and a mapped BAR is none: Region.dma_buf() and Ioas.map_file() let a device reach it"
            ]
            reason = f"the memory at address {address:#x} is not mapped, or not writable, in this process"
            return reason, notes if space.mode.startswith("iommufd") else []
        if number == errno.ENOTTY:
            return _IOMMUFD[number], []
        if number == errno.EEXIST:
            return "it overlaps what was mapped by other means than this object", []
        if number == errno.ENOMEM:
            return memlock(space._fd.kernel, size_)
        if number == errno.ENOSPC and iova is None:
            return "no free range of that size and alignment is left", [
                f"the usable ranges are {ranges(list(space.iova_ranges or ()))}",
                f"mapped through this object: {len(space.mapped_ranges)} ranges",
            ]
        if number == errno.ENOSPC:
            return "the limit on the number of mappings is reached", [
                "raise it with the module parameter vfio_iommu_type1.dma_entry_limit, or map fewer, larger pieces "
                "(/sys/module/vfio_iommu_type1/parameters/dma_entry_limit)",
                f"mapped through this object: {len(space.mapped_ranges)} ranges",
            ]
        return None, []

    place = "any" if iova is None else hex(iova)
    arguments = f"{row + ', ' if row else ''}iova={place}, size={size_:#x}, address={address:#x}, {permission}"
    return failed(space._fd, error, call or space._map_call, arguments, clue)


def _refusal(
    space: AddressSpace, iova: int | None, size_: int, address: int, *, read: bool, write: bool
) -> mapping.Refusal | None:
    """Why the kernel must refuse a map, by what is known of the address space."""
    from pyvfio.guest import mapping

    known = mapping.Space(page_sizes=_page(space))
    if iova is not None:
        known = known._replace(usable=space.iova_ranges, mapped=space.mapped_ranges)
    if space.mode.startswith("iommufd"):
        compat = space.mode != "iommufd"
        return mapping.iommufd_refusal(known, iova or 0, size_, address=address, read=read, write=write, compat=compat)
    return mapping.type1_refusal(known, iova or 0, size_, address=address, read=read, write=write)


def _because(
    space: AddressSpace, because: mapping.Because, iova: int | None, size_: int, address: int
) -> tuple[str | None, list[str]]:
    place = iova or 0
    match because.name:
        case "WRAPS":
            return _wraps(place, size_) or _wraps(address, size_), []
        case "MISALIGNED":
            return _misaligned(_page(space), iova=place, size=size_, address=address), []
        case "MAPPED":
            wanted = IovaRange.of(place, size_)
            there = [r for r in space.mapped_ranges if r.overlaps(wanted)]
            return f"overlaps what is mapped at {ranges(there)}", [
                "unmap that first, or leave iova out: then a free place is found"
            ]
        case "UNUSABLE":
            return unusable(IovaRange.of(place, size_), space.iova_ranges or IovaSet(), _page(space))
    return because.value, []


def unmap_failed(space: AddressSpace, error: int, iova: int, size_: int, *, row: str | None = None) -> Exception:
    """The exception for an unmap that returned -errno, or because the address space has been closed."""
    if space.closed:
        return Closed(f"{space!r} has been closed")
    number = -error
    page = _page(space)

    def clue() -> tuple[str | None, list[str]]:
        if (unready := space._unready()) is not None:
            return unready, []
        found = _first(
            lambda: ("the size is 0" if size_ == 0 else None, []),
            lambda: (_misaligned(page, iova=iova, size=size_), []),
            lambda: (_wraps(iova, size_), []),
        )
        if found != (None, []):
            return found
        wanted = IovaRange.of(iova, size_)
        split = [m.range for m in space.mappings if m.range.overlaps(wanted) and m.range not in IovaSet([wanted])]
        if split and number in (errno.EINVAL, errno.ENOENT):
            return f"it would split what is mapped at {ranges(split)}; mode {space.mode} unmaps whole mappings only", [
                "unmap whole mappings, or map in the pieces that are to be unmapped"
            ]
        if number == errno.ENOENT:
            return "nothing is mapped there", [f"mapped: {ranges(space.mapped_ranges)}"]
        return None, []

    arguments = f"{row + ', ' if row else ''}iova={iova:#x}, size={size_:#x}"
    return failed(space._fd, error, space._unmap_call, arguments, clue)


def _page(space: AddressSpace) -> int:
    """The smallest page that can be mapped, or 4 KiB where the kernel cannot be asked."""
    sizes = 0
    with suppress(Exception):
        sizes = space.page_sizes
    return sizes & -sizes or 4096


def memlock(kernel: Kernel, size_: int) -> tuple[str | None, list[str]]:
    """What is known of this process's limit on locked memory."""
    limit, _ = kernel.getrlimit(resource.RLIMIT_MEMLOCK)
    used = pinned = 0
    capabilities = 0
    for line in kernel.read_file("/proc/self/status").decode().splitlines():
        key, _, value = line.partition(":")
        if key == "VmLck":
            used = int(value.split()[0]) << 10
        elif key == "VmPin":
            pinned = int(value.split()[0]) << 10
        elif key == "CapEff":
            capabilities = int(value, 16)
    if limit == resource.RLIM_INFINITY or capabilities >> 14 & 1:
        return None, [f"locked {size(used)}, pinned {size(pinned)}; the limit on locked memory does not apply"]
    reason = (
        f"{size(size_)} more would exceed the limit on locked memory, {size(limit)} "
        f"(RLIMIT_MEMLOCK), of which {size(used)} are used"
    )
    return reason, [
        "raise it with `ulimit -l`, LimitMEMLOCK= of a service, or /etc/security/limits.conf; CAP_IPC_LOCK lifts it",
        f"locked {size(used)}, pinned {size(pinned)} by this process",
    ]


def logging_failed(address: str, error: OSError, logged: Sequence[IovaRange], page_size: int) -> OSError:
    """The exception for a DMA_LOGGING_START that a device, or the kernel before it, refused."""
    number = error.errno or errno.EIO
    total = sum(range_.size for range_ in logged)
    reason: str | None = None
    notes: list[str] = []
    with suppress(Exception):
        if number == errno.EINVAL:
            reason, notes = _bad_ranges(logged, page_size)
        elif number == errno.EOPNOTSUPP:
            reason = f"{len(logged)} ranges of {size(total)} in all (2^{(total - 1).bit_length()}) are more than the device can log"
            notes = [
                "devices limit the sum of the ranges (mlx5: often 2^42 bytes), and one that takes few ranges joins those that "
                "are close to each other, gaps included: leave out gaps, above all the one below 64-bit PCI BARs"
            ]
        elif number == errno.E2BIG:
            reason = f"{len(logged)} ranges are more than the kernel, or the device, takes"
            notes = [
                "the kernel takes a page of them, 256 where pages have 4 KiB; IovaSet.coalesce(limit) joins the nearest"
            ]
        elif number == errno.EOVERFLOW:
            reason = "a range reaches the last byte of the 64-bit address space, where its end cannot be expressed"
    return os_error(
        number,
        f"VFIO_DEVICE_FEATURE on {address}",
        f"SET DMA_LOGGING_START, {ranges(logged)}, page_size={page_size:#x}",
        reason,
        notes,
    )


def _bad_ranges(logged: Sequence[IovaRange], page_size: int) -> tuple[str | None, list[str]]:
    if not logged:
        return "there are no ranges to log", []
    if wrong := [range_ for range_ in logged if not range_.is_aligned(page_size)]:
        return f"{ranges(wrong)} not aligned to pages of {page_size:#x} bytes", []
    for one, other in itertools.pairwise(sorted(logged)):
        if one.overlaps(other):
            return f"{span(one)} and {span(other)} overlap", []
    return None, ["perhaps the device is being logged already, by a descriptor that was not opened here"]


def migration_failed(
    address: str, error: OSError, origin: str, way: Sequence[str], now: str | None, has_target: bool
) -> OSError:
    """The exception for a change of the migration state that a device refused, or could not finish.

    :param way: the states that it was to go through, the last the one asked for
    :param now: where it is, if that could be found out
    :param has_target: whether the device has the state asked for
    """
    number = error.errno or errno.EIO
    *between, target = way
    reasons: list[str] = []
    notes: list[str] = []
    if not has_target:
        reasons.append(f"the device has no {target}")
    elif origin == "RESUMING" and number == errno.EINVAL and now in ("RESUMING", "ERROR"):
        reasons.append("what was written to its stream is not whole, is damaged, or was not saved by a device like it")
    if now is not None and has_target:
        reasons.append(f"it is in {now} now" if now != origin else f"it is still in {now}")
    if now == "ERROR":
        notes.append("only a reset leads out of ERROR: Device.reset()")
    elif now == "RESUMING":
        notes.append("a load that cannot be finished is given up with a reset: Device.reset()")
    elif now is not None and has_target:
        notes.append(
            f"from {now} it can be asked for {target} again, or for {origin}"
            if now != origin
            else "nothing has changed"
        )
    return os_error(
        number,
        f"VFIO_DEVICE_FEATURE on {address}",
        f"SET MIG_DEVICE_STATE {target}, from {origin}{' by ' + ', '.join(between) if between else ''}",
        "; ".join(reasons) or None,
        notes,
    )


def stream_failed(name: str, call: str, count: int, error: OSError) -> OSError:
    """The exception for a read or write of a migration stream."""
    number = error.errno or errno.EIO
    reason: str | None = None
    notes: list[str] = []
    if number == errno.ENODEV:
        reason = "its session is over: the device has been reset, or has left the states that it belongs to"
    elif call == "write":
        reason = "the device does not take these data"
        notes = [
            "they are damaged, come twice, or were not saved by a device like it; a load is given up with a reset: Device.reset()"
        ]
    return os_error(number, f"{call} on {name}", size(count), reason, notes)


def precopy_info_failed(fd: Fd, error: int) -> Exception:
    """The exception for a VFIO_MIG_GET_PRECOPY_INFO that returned -errno."""

    def clue() -> tuple[str | None, list[str]]:
        reasons = {
            errno.EINVAL: "it is answered in PRE_COPY and PRE_COPY_P2P alone",
            errno.ENOTTY: "the device is loading its state, or has no pre-copy",
            errno.ENODEV: "its session is over",
        }
        return reasons.get(-error), []

    return failed(fd, error, "VFIO_MIG_GET_PRECOPY_INFO", "", clue)


#: what iommufd's refusals mean, whatever the request
_IOMMUFD = {
    errno.EOPNOTSUPP: "this IOMMU, or this kernel, does not have it",
    errno.ENOTTY: "this kernel does not know the request",
    errno.ENOENT: "there is no such object, or it is of another kind, or nothing is mapped there",
    errno.EBUSY: "something still uses the object",
    errno.EADDRINUSE: "what is mapped or allowed lies in a region that the device has reserved, or is not aligned for its IOMMU",
}


def iommufd_failed(fd: Fd, error: int, call: str, arguments: str) -> Exception:
    """The exception for an iommufd request that returned -errno."""
    return failed(fd, error, call, arguments, lambda: (_IOMMUFD.get(-error), []))


def token_refused(error: int, *, given: bool) -> str | None:
    """What a driver's answer to a vf_token, or to none, means."""
    if -error == errno.EACCES:
        return f"the vf_token is {'wrong' if given else 'missing'}: it is set by who has the physical function open"
    if -error == errno.EINVAL and given:
        return "nobody wants a vf_token for it: it is no virtual function, or its physical function is not vfio-pci's"
    return None


def bind_failed(fd: Fd, error: int, *, token: bool) -> Exception:
    """The exception for a VFIO_DEVICE_BIND_IOMMUFD that returned -errno.

    :param token: whether it was given a vf_token
    """

    def clue() -> tuple[str | None, list[str]]:
        if -error == errno.EPERM:
            return (
                "another program owns a device of its group, one has a driver that is not VFIO's, or this host's IOMMU does not isolate interrupts",
                [
                    "the kernel log says which; to allow the latter anyway: iommufd.allow_unsafe_interrupts=1 (a module "
                    "parameter, also on the kernel's command line)"
                ],
            )
        if (refused := token_refused(error, given=token)) is not None:
            note = "before Linux 6.18 no device that is opened by its own node is asked for a token, or takes one; by its group it is"
            return refused, [note] if -error == errno.EINVAL else []
        if -error == errno.EINVAL:
            return "it is bound already", []
        if -error == errno.EBUSY:
            return "its group is in use by a driver that is not VFIO's, or by VFIO through the group's file", []
        return None, []

    return failed(fd, error, "VFIO_DEVICE_BIND_IOMMUFD", "", clue)


def attach_failed(fd: Fd, error: int, call: str, what: str) -> Exception:
    """The exception for an attach or detach by cdev that returned -errno."""

    def clue() -> tuple[str | None, list[str]]:
        if -error == errno.EADDRINUSE:
            return "something is mapped in a region that this device has reserved, or not aligned for its IOMMU", [
                "attach devices before mapping, or unmap what is in the way; the address space is as it was"
            ]
        if -error == errno.ENOENT:
            return "there is no such object in its Iommufd, or it is of another kind", []
        return None, []

    return failed(fd, error, call, what, clue)
