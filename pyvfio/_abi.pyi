"""The extension's types. Written by scripts/build_abi.py: do not edit."""

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, final, overload

from typing_extensions import Buffer

_F = TypeVar("_F", bound=Callable[..., Any])

@final
class CData:
    """A C value. The names and types of a struct's fields are cffi's to check, at run time."""

    def __getattr__(self, name: str, /) -> Any: ...
    def __setattr__(self, name: str, value: Any, /) -> None: ...
    def __getitem__(self, index: Any, /) -> Any: ...
    def __setitem__(self, index: Any, value: Any, /) -> None: ...
    def __call__(self, *args: Any) -> Any: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __bool__(self) -> bool: ...
    def __int__(self) -> int: ...
    def __add__(self, count: int, /) -> CData: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __enter__(self) -> CData: ...
    def __exit__(self, *error: object) -> None: ...

@final
class CType:
    cname: Final[str]
    kind: Final[str]
    item: Final[CType]
    length: Final[int | None]
    fields: Final[list[tuple[str, Any]] | None]
    elements: Final[dict[int, str]]
    relements: Final[dict[str, int]]
    args: Final[tuple[CType, ...]]
    result: Final[CType]

@final
class CBuffer:
    """What `ffi.buffer` returns: a view of C memory, which it does not keep alive."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int | slice, /) -> bytes: ...
    def __setitem__(self, index: int | slice, value: Buffer, /) -> None: ...

@final
class _FFI:
    NULL: Final[CData]
    buffer: Final[Callable[..., CBuffer]]
    error: Final[type[Exception]]
    errno: int

    def new(self, cdecl: str | CType, init: Any = ..., /) -> CData: ...
    def cast(self, cdecl: str | CType, value: Any, /) -> CData: ...
    def typeof(self, of: Any, /) -> CType: ...
    def sizeof(self, of: str | CType | CData, /) -> int: ...
    def alignof(self, of: str | CType, /) -> int: ...
    def offsetof(self, of: str | CType, /, *path: str | int) -> int: ...
    def addressof(self, of: CData, /, *path: str | int) -> CData: ...
    def getctype(self, of: str | CType, extra: str = "", /) -> str: ...
    def list_types(self) -> tuple[list[str], list[str], list[str]]: ...
    @overload
    def from_buffer(self, of: Buffer, /, require_writable: bool = False) -> CData: ...
    @overload
    def from_buffer(self, cdecl: str | CType, of: Buffer, /, require_writable: bool = False) -> CData: ...
    def memmove(self, dest: CData | Buffer, src: CData | Buffer, n: int) -> None: ...
    def string(self, of: CData, maxlen: int = -1) -> bytes: ...
    def unpack(self, of: CData, length: int) -> Any: ...
    def gc(self, of: CData, destructor: Callable[[CData], object] | None, size: int = 0) -> CData: ...
    def release(self, of: CData, /) -> None: ...
    def new_handle(self, value: object, /) -> CData: ...
    def from_handle(self, handle: CData, /) -> Any: ...
    def def_extern(
        self, name: str = ..., error: Any = None, onerror: Callable[..., object] | None = None
    ) -> Callable[[_F], _F]: ...

@final
class _Lib:
    IOMMUFD_CMD_BASE: Final[int]
    IOMMUFD_CMD_DESTROY: Final[int]
    IOMMUFD_CMD_FAULT_QUEUE_ALLOC: Final[int]
    IOMMUFD_CMD_GET_HW_INFO: Final[int]
    IOMMUFD_CMD_HWPT_ALLOC: Final[int]
    IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP: Final[int]
    IOMMUFD_CMD_HWPT_INVALIDATE: Final[int]
    IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING: Final[int]
    IOMMUFD_CMD_HW_QUEUE_ALLOC: Final[int]
    IOMMUFD_CMD_IOAS_ALLOC: Final[int]
    IOMMUFD_CMD_IOAS_ALLOW_IOVAS: Final[int]
    IOMMUFD_CMD_IOAS_CHANGE_PROCESS: Final[int]
    IOMMUFD_CMD_IOAS_COPY: Final[int]
    IOMMUFD_CMD_IOAS_IOVA_RANGES: Final[int]
    IOMMUFD_CMD_IOAS_MAP: Final[int]
    IOMMUFD_CMD_IOAS_MAP_FILE: Final[int]
    IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA: Final[int]
    IOMMUFD_CMD_IOAS_UNMAP: Final[int]
    IOMMUFD_CMD_OPTION: Final[int]
    IOMMUFD_CMD_VDEVICE_ALLOC: Final[int]
    IOMMUFD_CMD_VEVENTQ_ALLOC: Final[int]
    IOMMUFD_CMD_VFIO_IOAS: Final[int]
    IOMMUFD_CMD_VIOMMU_ALLOC: Final[int]
    IOMMUFD_PAGE_RESP_INVALID: Final[int]
    IOMMUFD_PAGE_RESP_SUCCESS: Final[int]
    IOMMUFD_TYPE: Final[int]
    IOMMU_DESTROY: Final[int]
    IOMMU_FAULT_QUEUE_ALLOC: Final[int]
    IOMMU_GET_HW_INFO: Final[int]
    IOMMU_HWPT_ALLOC: Final[int]
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING: Final[int]
    IOMMU_HWPT_ALLOC_NEST_PARENT: Final[int]
    IOMMU_HWPT_ALLOC_PASID: Final[int]
    IOMMU_HWPT_DATA_AMD_GUEST: Final[int]
    IOMMU_HWPT_DATA_ARM_SMMUV3: Final[int]
    IOMMU_HWPT_DATA_NONE: Final[int]
    IOMMU_HWPT_DATA_VTD_S1: Final[int]
    IOMMU_HWPT_DIRTY_TRACKING_ENABLE: Final[int]
    IOMMU_HWPT_FAULT_ID_VALID: Final[int]
    IOMMU_HWPT_GET_DIRTY_BITMAP: Final[int]
    IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR: Final[int]
    IOMMU_HWPT_INVALIDATE: Final[int]
    IOMMU_HWPT_INVALIDATE_DATA_VTD_S1: Final[int]
    IOMMU_HWPT_SET_DIRTY_TRACKING: Final[int]
    IOMMU_HW_CAP_DIRTY_TRACKING: Final[int]
    IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED: Final[int]
    IOMMU_HW_CAP_PCI_PASID_EXEC: Final[int]
    IOMMU_HW_CAP_PCI_PASID_PRIV: Final[int]
    IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI: Final[int]
    IOMMU_HW_INFO_FLAG_INPUT_TYPE: Final[int]
    IOMMU_HW_INFO_TYPE_AMD: Final[int]
    IOMMU_HW_INFO_TYPE_ARM_SMMUV3: Final[int]
    IOMMU_HW_INFO_TYPE_DEFAULT: Final[int]
    IOMMU_HW_INFO_TYPE_INTEL_VTD: Final[int]
    IOMMU_HW_INFO_TYPE_NONE: Final[int]
    IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV: Final[int]
    IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17: Final[int]
    IOMMU_HW_QUEUE_ALLOC: Final[int]
    IOMMU_HW_QUEUE_TYPE_DEFAULT: Final[int]
    IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV: Final[int]
    IOMMU_IOAS_ALLOC: Final[int]
    IOMMU_IOAS_ALLOW_IOVAS: Final[int]
    IOMMU_IOAS_CHANGE_PROCESS: Final[int]
    IOMMU_IOAS_COPY: Final[int]
    IOMMU_IOAS_IOVA_RANGES: Final[int]
    IOMMU_IOAS_MAP: Final[int]
    IOMMU_IOAS_MAP_FILE: Final[int]
    IOMMU_IOAS_MAP_FIXED_IOVA: Final[int]
    IOMMU_IOAS_MAP_READABLE: Final[int]
    IOMMU_IOAS_MAP_WRITEABLE: Final[int]
    IOMMU_IOAS_NOIOMMU_GET_PA: Final[int]
    IOMMU_IOAS_UNMAP: Final[int]
    IOMMU_OPTION: Final[int]
    IOMMU_OPTION_HUGE_PAGES: Final[int]
    IOMMU_OPTION_OP_GET: Final[int]
    IOMMU_OPTION_OP_SET: Final[int]
    IOMMU_OPTION_RLIMIT_MODE: Final[int]
    IOMMU_PGFAULT_FLAGS_LAST_PAGE: Final[int]
    IOMMU_PGFAULT_FLAGS_PASID_VALID: Final[int]
    IOMMU_PGFAULT_PERM_EXEC: Final[int]
    IOMMU_PGFAULT_PERM_PRIV: Final[int]
    IOMMU_PGFAULT_PERM_READ: Final[int]
    IOMMU_PGFAULT_PERM_WRITE: Final[int]
    IOMMU_VDEVICE_ALLOC: Final[int]
    IOMMU_VEVENTQ_ALLOC: Final[int]
    IOMMU_VEVENTQ_FLAG_LOST_EVENTS: Final[int]
    IOMMU_VEVENTQ_TYPE_ARM_SMMUV3: Final[int]
    IOMMU_VEVENTQ_TYPE_DEFAULT: Final[int]
    IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV: Final[int]
    IOMMU_VFIO_IOAS: Final[int]
    IOMMU_VFIO_IOAS_CLEAR: Final[int]
    IOMMU_VFIO_IOAS_GET: Final[int]
    IOMMU_VFIO_IOAS_SET: Final[int]
    IOMMU_VIOMMU_ALLOC: Final[int]
    IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3: Final[int]
    IOMMU_VIOMMU_TYPE_ARM_SMMUV3: Final[int]
    IOMMU_VIOMMU_TYPE_DEFAULT: Final[int]
    IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV: Final[int]
    IOMMU_VTD_INV_FLAGS_LEAF: Final[int]
    IOMMU_VTD_S1_EAFE: Final[int]
    IOMMU_VTD_S1_SRE: Final[int]
    IOMMU_VTD_S1_WPE: Final[int]
    PYVFIO_PROT_READ: Final[int]
    PYVFIO_PROT_WRITE: Final[int]
    VFIO_API_VERSION: Final[int]
    VFIO_AP_CFG_CHG_IRQ_INDEX: Final[int]
    VFIO_AP_NUM_IRQS: Final[int]
    VFIO_AP_REQ_IRQ_INDEX: Final[int]
    VFIO_BASE: Final[int]
    VFIO_CHECK_EXTENSION: Final[int]
    VFIO_DEVICE_API_AMBA_STRING: Final[CData]
    VFIO_DEVICE_API_AP_STRING: Final[CData]
    VFIO_DEVICE_API_PCI_STRING: Final[CData]
    VFIO_DEVICE_API_PLATFORM_STRING: Final[CData]
    VFIO_DEVICE_ATTACH_IOMMUFD_PT: Final[int]
    VFIO_DEVICE_ATTACH_PASID: Final[int]
    VFIO_DEVICE_BIND_FLAG_TOKEN: Final[int]
    VFIO_DEVICE_BIND_IOMMUFD: Final[int]
    VFIO_DEVICE_DETACH_IOMMUFD_PT: Final[int]
    VFIO_DEVICE_DETACH_PASID: Final[int]
    VFIO_DEVICE_FEATURE: Final[int]
    VFIO_DEVICE_FEATURE_BUS_MASTER: Final[int]
    VFIO_DEVICE_FEATURE_CLEAR_MASTER: Final[int]
    VFIO_DEVICE_FEATURE_DMA_BUF: Final[int]
    VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT: Final[int]
    VFIO_DEVICE_FEATURE_DMA_LOGGING_START: Final[int]
    VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP: Final[int]
    VFIO_DEVICE_FEATURE_GET: Final[int]
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY: Final[int]
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP: Final[int]
    VFIO_DEVICE_FEATURE_LOW_POWER_EXIT: Final[int]
    VFIO_DEVICE_FEATURE_MASK: Final[int]
    VFIO_DEVICE_FEATURE_MIGRATION: Final[int]
    VFIO_DEVICE_FEATURE_MIG_DATA_SIZE: Final[int]
    VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE: Final[int]
    VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2: Final[int]
    VFIO_DEVICE_FEATURE_PCI_VF_TOKEN: Final[int]
    VFIO_DEVICE_FEATURE_PROBE: Final[int]
    VFIO_DEVICE_FEATURE_SET: Final[int]
    VFIO_DEVICE_FEATURE_SET_MASTER: Final[int]
    VFIO_DEVICE_FEATURE_ZPCI_ERROR: Final[int]
    VFIO_DEVICE_FLAGS_AMBA: Final[int]
    VFIO_DEVICE_FLAGS_AP: Final[int]
    VFIO_DEVICE_FLAGS_CAPS: Final[int]
    VFIO_DEVICE_FLAGS_CDX: Final[int]
    VFIO_DEVICE_FLAGS_FSL_MC: Final[int]
    VFIO_DEVICE_FLAGS_PCI: Final[int]
    VFIO_DEVICE_FLAGS_PLATFORM: Final[int]
    VFIO_DEVICE_FLAGS_RESET: Final[int]
    VFIO_DEVICE_GET_INFO: Final[int]
    VFIO_DEVICE_GET_IRQ_INFO: Final[int]
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: Final[int]
    VFIO_DEVICE_GET_REGION_INFO: Final[int]
    VFIO_DEVICE_GFX_LINK_STATE_DOWN: Final[int]
    VFIO_DEVICE_GFX_LINK_STATE_UP: Final[int]
    VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP: Final[int]
    VFIO_DEVICE_INFO_CAP_ZPCI_BASE: Final[int]
    VFIO_DEVICE_INFO_CAP_ZPCI_GROUP: Final[int]
    VFIO_DEVICE_INFO_CAP_ZPCI_PFIP: Final[int]
    VFIO_DEVICE_INFO_CAP_ZPCI_UTIL: Final[int]
    VFIO_DEVICE_INFO_ZPCI_FLAG_REFRESH: Final[int]
    VFIO_DEVICE_IOEVENTFD: Final[int]
    VFIO_DEVICE_IOEVENTFD_16: Final[int]
    VFIO_DEVICE_IOEVENTFD_32: Final[int]
    VFIO_DEVICE_IOEVENTFD_64: Final[int]
    VFIO_DEVICE_IOEVENTFD_8: Final[int]
    VFIO_DEVICE_IOEVENTFD_SIZE_MASK: Final[int]
    VFIO_DEVICE_PCI_HOT_RESET: Final[int]
    VFIO_DEVICE_RESET: Final[int]
    VFIO_DEVICE_SET_IRQS: Final[int]
    VFIO_DEVICE_STATE_ERROR: Final[int]
    VFIO_DEVICE_STATE_MASK: Final[int]
    VFIO_DEVICE_STATE_NR: Final[int]
    VFIO_DEVICE_STATE_PRE_COPY: Final[int]
    VFIO_DEVICE_STATE_PRE_COPY_P2P: Final[int]
    VFIO_DEVICE_STATE_RESUMING: Final[int]
    VFIO_DEVICE_STATE_RUNNING: Final[int]
    VFIO_DEVICE_STATE_RUNNING_P2P: Final[int]
    VFIO_DEVICE_STATE_STOP: Final[int]
    VFIO_DEVICE_STATE_STOP_COPY: Final[int]
    VFIO_DEVICE_STATE_V1_RESUMING: Final[int]
    VFIO_DEVICE_STATE_V1_RUNNING: Final[int]
    VFIO_DEVICE_STATE_V1_SAVING: Final[int]
    VFIO_DEVICE_STATE_V1_STOP: Final[int]
    VFIO_DMA_CC_IOMMU: Final[int]
    VFIO_DMA_MAP_FLAG_READ: Final[int]
    VFIO_DMA_MAP_FLAG_VADDR: Final[int]
    VFIO_DMA_MAP_FLAG_WRITE: Final[int]
    VFIO_DMA_UNMAP_FLAG_ALL: Final[int]
    VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP: Final[int]
    VFIO_DMA_UNMAP_FLAG_VADDR: Final[int]
    VFIO_GET_API_VERSION: Final[int]
    VFIO_GROUP_FLAGS_CONTAINER_SET: Final[int]
    VFIO_GROUP_FLAGS_VIABLE: Final[int]
    VFIO_GROUP_GET_DEVICE_FD: Final[int]
    VFIO_GROUP_GET_STATUS: Final[int]
    VFIO_GROUP_SET_CONTAINER: Final[int]
    VFIO_GROUP_UNSET_CONTAINER: Final[int]
    VFIO_IOMMU_DIRTY_PAGES: Final[int]
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP: Final[int]
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START: Final[int]
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP: Final[int]
    VFIO_IOMMU_GET_INFO: Final[int]
    VFIO_IOMMU_INFO_CAPS: Final[int]
    VFIO_IOMMU_INFO_PGSIZES: Final[int]
    VFIO_IOMMU_MAP_DMA: Final[int]
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE: Final[int]
    VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION: Final[int]
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL: Final[int]
    VFIO_IOMMU_UNMAP_DMA: Final[int]
    VFIO_IRQ_INFO_AUTOMASKED: Final[int]
    VFIO_IRQ_INFO_EVENTFD: Final[int]
    VFIO_IRQ_INFO_MASKABLE: Final[int]
    VFIO_IRQ_INFO_NORESIZE: Final[int]
    VFIO_IRQ_SET_ACTION_MASK: Final[int]
    VFIO_IRQ_SET_ACTION_TRIGGER: Final[int]
    VFIO_IRQ_SET_ACTION_TYPE_MASK: Final[int]
    VFIO_IRQ_SET_ACTION_UNMASK: Final[int]
    VFIO_IRQ_SET_DATA_BOOL: Final[int]
    VFIO_IRQ_SET_DATA_EVENTFD: Final[int]
    VFIO_IRQ_SET_DATA_NONE: Final[int]
    VFIO_IRQ_SET_DATA_TYPE_MASK: Final[int]
    VFIO_MIGRATION_P2P: Final[int]
    VFIO_MIGRATION_PRE_COPY: Final[int]
    VFIO_MIGRATION_STOP_COPY: Final[int]
    VFIO_MIG_GET_PRECOPY_INFO: Final[int]
    VFIO_NOIOMMU_IOMMU: Final[int]
    VFIO_PCI_ATOMIC_COMP128: Final[int]
    VFIO_PCI_ATOMIC_COMP32: Final[int]
    VFIO_PCI_ATOMIC_COMP64: Final[int]
    VFIO_PCI_BAR0_REGION_INDEX: Final[int]
    VFIO_PCI_BAR1_REGION_INDEX: Final[int]
    VFIO_PCI_BAR2_REGION_INDEX: Final[int]
    VFIO_PCI_BAR3_REGION_INDEX: Final[int]
    VFIO_PCI_BAR4_REGION_INDEX: Final[int]
    VFIO_PCI_BAR5_REGION_INDEX: Final[int]
    VFIO_PCI_CONFIG_REGION_INDEX: Final[int]
    VFIO_PCI_DEVID_NOT_OWNED: Final[int]
    VFIO_PCI_DEVID_OWNED: Final[int]
    VFIO_PCI_ERR_IRQ_INDEX: Final[int]
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID: Final[int]
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED: Final[int]
    VFIO_PCI_INTX_IRQ_INDEX: Final[int]
    VFIO_PCI_MSIX_IRQ_INDEX: Final[int]
    VFIO_PCI_MSI_IRQ_INDEX: Final[int]
    VFIO_PCI_NUM_IRQS: Final[int]
    VFIO_PCI_NUM_REGIONS: Final[int]
    VFIO_PCI_REQ_IRQ_INDEX: Final[int]
    VFIO_PCI_ROM_REGION_INDEX: Final[int]
    VFIO_PCI_VGA_REGION_INDEX: Final[int]
    VFIO_PRECOPY_INFO_REINIT: Final[int]
    VFIO_REGION_INFO_CAP_MSIX_MAPPABLE: Final[int]
    VFIO_REGION_INFO_CAP_NVLINK2_LNKSPD: Final[int]
    VFIO_REGION_INFO_CAP_NVLINK2_SSATGT: Final[int]
    VFIO_REGION_INFO_CAP_SPARSE_MMAP: Final[int]
    VFIO_REGION_INFO_CAP_TYPE: Final[int]
    VFIO_REGION_INFO_FLAG_CAPS: Final[int]
    VFIO_REGION_INFO_FLAG_MMAP: Final[int]
    VFIO_REGION_INFO_FLAG_READ: Final[int]
    VFIO_REGION_INFO_FLAG_WRITE: Final[int]
    VFIO_REGION_SUBTYPE_GFX_EDID: Final[int]
    VFIO_REGION_SUBTYPE_IBM_NVLINK2_ATSD: Final[int]
    VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG: Final[int]
    VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG: Final[int]
    VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION: Final[int]
    VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED: Final[int]
    VFIO_REGION_SUBTYPE_NVIDIA_NVLINK2_RAM: Final[int]
    VFIO_REGION_TYPE_GFX: Final[int]
    VFIO_REGION_TYPE_MIGRATION_DEPRECATED: Final[int]
    VFIO_REGION_TYPE_PCI_VENDOR_MASK: Final[int]
    VFIO_REGION_TYPE_PCI_VENDOR_TYPE: Final[int]
    VFIO_SET_IOMMU: Final[int]
    VFIO_TYPE: Final[int]
    VFIO_TYPE1_IOMMU: Final[int]
    VFIO_TYPE1v2_IOMMU: Final[int]
    VFIO_UNMAP_ALL: Final[int]
    VFIO_UPDATE_VADDR: Final[int]
    __VFIO_RESERVED_TYPE1_NESTING_IOMMU: Final[int]
    def calloc(self, a0: int, a1: int, /) -> CData: ...
    def free(self, a0: CData | bytes, /) -> None: ...
    def pyvfio_array_free(self, a0: CData, /) -> None: ...
    def pyvfio_array_trim(self, a0: CData, /) -> None: ...
    def pyvfio_bitmap_any(self, a0: CData, a1: int, /) -> bool: ...
    def pyvfio_bitmap_clear(self, a0: CData, a1: int, /) -> None: ...
    def pyvfio_bitmap_count(self, a0: CData, a1: int, /) -> int: ...
    def pyvfio_bitmap_equal(self, a0: CData, a1: CData, a2: int, /) -> bool: ...
    def pyvfio_bitmap_or(self, a0: CData, a1: int, a2: CData, a3: int, a4: int, /) -> None: ...
    def pyvfio_bitmap_pages(self, a0: CData, a1: CData, a2: int, a3: int, a4: int, /) -> int: ...
    def pyvfio_bitmap_runs(self, a0: CData, a1: CData, a2: int, a3: int, a4: int, /) -> int: ...
    def pyvfio_ioctl(self, a0: CData, a1: int, a2: CData | bytes, /) -> int: ...
    def pyvfio_linux_ioctl(self, a0: CData | bytes, a1: int, a2: int, a3: CData | bytes, /) -> int: ...
    def pyvfio_map(self, a0: CData, a1: int, a2: int, a3: int, a4: int, /) -> int: ...
    def pyvfio_map_many(self, a0: CData, a1: CData, a2: int, a3: int, a4: CData, /) -> int: ...
    def pyvfio_map_over(self, a0: CData | bytes, a1: int, a2: int, a3: int, a4: int, /) -> int: ...
    def pyvfio_peek(self, a0: int, a1: CData | bytes, a2: int, /) -> int: ...
    def pyvfio_pinnable(self, a0: int, a1: int, a2: int, /) -> int: ...
    def pyvfio_poke(self, a0: int, a1: CData | bytes, a2: int, /) -> int: ...
    def pyvfio_python_ioctl(self, a0: CData | bytes, a1: int, a2: int, a3: CData | bytes, /) -> int: ...
    def pyvfio_ranges_coalesce(self, a0: CData, a1: int, a2: int, /) -> int: ...
    def pyvfio_ranges_complement(self, a0: CData, a1: CData, a2: int, a3: int, a4: int, /) -> int: ...
    def pyvfio_ranges_intersect(self, a0: CData, a1: CData, a2: int, a3: CData, a4: int, /) -> int: ...
    def pyvfio_ranges_normalise(self, a0: CData, a1: CData, /) -> int: ...
    def pyvfio_row_at_the_end(self, a0: CData, a1: int, /) -> int: ...
    def pyvfio_unmap(self, a0: CData, a1: int, a2: int, /) -> int: ...
    def pyvfio_unmap_many(self, a0: CData, a1: CData, a2: int, a3: CData, a4: CData, /) -> int: ...
    def pyvfio_wait(self, a0: int, a1: float, /) -> int: ...

ffi: Final[_FFI]
lib: Final[_Lib]
