# SPDX-License-Identifier: MIT
"""The extension's types. Written by scripts/build_abi.py: do not edit."""

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, Self, TypeVar, final, overload

from typing_extensions import Buffer

_F = TypeVar("_F", bound=Callable[..., Any])

class CValue:
    """A C value."""

    def __bool__(self) -> bool: ...

class CData(CValue):
    """A C value whose type is only known at run time; cffi then checks names and types of its fields."""

    def __getattr__(self, name: str, /) -> Any: ...
    def __setattr__(self, name: str, value: Any, /) -> None: ...
    def __getitem__(self, index: Any, /) -> Any: ...
    def __setitem__(self, index: Any, value: Any, /) -> None: ...
    def __call__(self, *args: Any) -> Any: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
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
    """The result of `ffi.buffer`: a view of C memory, which it does not keep alive."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int | slice, /) -> bytes: ...
    def __setitem__(self, index: int | slice, value: Buffer, /) -> None: ...

@final
class iommu_destroy(CValue):
    size: int
    id: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_fault_alloc(CValue):
    size: int
    flags: int
    out_fault_id: int
    out_fault_fd: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hw_info(CValue):
    size: int
    flags: int
    dev_id: int
    data_len: int
    data_uptr: int
    in_data_type: int
    out_data_type: int
    out_max_pasid_log2: int
    __reserved: CData
    out_capabilities: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hw_info_amd(CValue):
    efr: int
    efr2: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hw_info_arm_smmuv3(CValue):
    flags: int
    __reserved: int
    idr: CData
    iidr: int
    aidr: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hw_info_tegra241_cmdqv(CValue):
    flags: int
    version: int
    log2vcmdqs: int
    log2vsids: int
    __reserved: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hw_info_vtd(CValue):
    flags: int
    __reserved: int
    cap_reg: int
    ecap_reg: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hw_queue_alloc(CValue):
    size: int
    flags: int
    viommu_id: int
    type: int
    index: int
    out_hw_queue_id: int
    nesting_parent_iova: int
    length: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hwpt_alloc(CValue):
    size: int
    flags: int
    dev_id: int
    pt_id: int
    out_hwpt_id: int
    __reserved: int
    data_type: int
    data_len: int
    data_uptr: int
    fault_id: int
    __reserved2: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hwpt_amd_guest(CValue):
    dte: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hwpt_arm_smmuv3(CValue):
    ste: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hwpt_get_dirty_bitmap(CValue):
    size: int
    hwpt_id: int
    flags: int
    __reserved: int
    iova: int
    length: int
    page_size: int
    data: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hwpt_invalidate(CValue):
    size: int
    hwpt_id: int
    data_uptr: int
    data_type: int
    entry_len: int
    entry_num: int
    __reserved: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hwpt_page_response(CValue):
    cookie: int
    code: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hwpt_pgfault(CValue):
    flags: int
    dev_id: int
    pasid: int
    grpid: int
    perm: int
    __reserved: int
    addr: int
    length: int
    cookie: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hwpt_set_dirty_tracking(CValue):
    size: int
    flags: int
    hwpt_id: int
    __reserved: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hwpt_vtd_s1(CValue):
    flags: int
    pgtbl_addr: int
    addr_width: int
    __reserved: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_hwpt_vtd_s1_invalidate(CValue):
    addr: int
    npages: int
    flags: int
    __reserved: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_ioas_alloc(CValue):
    size: int
    flags: int
    out_ioas_id: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_ioas_allow_iovas(CValue):
    size: int
    ioas_id: int
    num_iovas: int
    __reserved: int
    allowed_iovas: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_ioas_change_process(CValue):
    size: int
    __reserved: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_ioas_copy(CValue):
    size: int
    flags: int
    dst_ioas_id: int
    src_ioas_id: int
    length: int
    dst_iova: int
    src_iova: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_ioas_iova_ranges(CValue):
    size: int
    ioas_id: int
    num_iovas: int
    __reserved: int
    allowed_iovas: int
    out_iova_alignment: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_ioas_map(CValue):
    size: int
    flags: int
    ioas_id: int
    __reserved: int
    user_va: int
    length: int
    iova: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_ioas_map_file(CValue):
    size: int
    flags: int
    ioas_id: int
    fd: int
    start: int
    length: int
    iova: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_ioas_noiommu_get_pa(CValue):
    size: int
    flags: int
    ioas_id: int
    __reserved: int
    iova: int
    length: int
    out_phys: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_ioas_unmap(CValue):
    size: int
    ioas_id: int
    iova: int
    length: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_iova_range(CValue):
    start: int
    last: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_option(CValue):
    size: int
    option_id: int
    op: int
    __reserved: int
    object_id: int
    val64: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_vdevice_alloc(CValue):
    size: int
    viommu_id: int
    dev_id: int
    out_vdevice_id: int
    virt_id: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_vevent_arm_smmuv3(CValue):
    evt: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_vevent_tegra241_cmdqv(CValue):
    lvcmdq_err_map: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_veventq_alloc(CValue):
    size: int
    flags: int
    viommu_id: int
    type: int
    veventq_depth: int
    out_veventq_id: int
    out_veventq_fd: int
    __reserved: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_vfio_ioas(CValue):
    size: int
    ioas_id: int
    op: int
    __reserved: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_viommu_alloc(CValue):
    size: int
    flags: int
    type: int
    dev_id: int
    hwpt_id: int
    out_viommu_id: int
    data_len: int
    __reserved: int
    data_uptr: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_viommu_arm_smmuv3_invalidate(CValue):
    cmd: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommu_viommu_tegra241_cmdqv(CValue):
    out_vintf_mmap_offset: int
    out_vintf_mmap_length: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class iommufd_vevent_header(CValue):
    flags: int
    sequence: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_bitmap(CValue):
    pgsize: int
    size: int
    data: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_attach_iommufd_pt(CValue):
    argsz: int
    flags: int
    pt_id: int
    pasid: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_bind_iommufd(CValue):
    argsz: int
    flags: int
    iommufd: int
    out_devid: int
    token_uuid_ptr: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_detach_iommufd_pt(CValue):
    argsz: int
    flags: int
    pasid: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_feature(CValue):
    argsz: int
    flags: int
    data: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_feature_bus_master(CValue):
    op: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_feature_dma_buf(CValue):
    region_index: int
    open_flags: int
    flags: int
    nr_ranges: int
    dma_ranges: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_feature_dma_logging_control(CValue):
    page_size: int
    num_ranges: int
    __reserved: int
    ranges: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_feature_dma_logging_range(CValue):
    iova: int
    length: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_feature_dma_logging_report(CValue):
    iova: int
    length: int
    page_size: int
    bitmap: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_feature_mig_data_size(CValue):
    stop_copy_length: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_feature_mig_state(CValue):
    device_state: int
    data_fd: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_feature_migration(CValue):
    flags: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_feature_zpci_err(CValue):
    data: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_info(CValue):
    argsz: int
    flags: int
    num_regions: int
    num_irqs: int
    cap_offset: int
    pad: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_info_cap_pci_atomic_comp(CValue):
    header: vfio_info_cap_header
    flags: int
    reserved: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_info_cap_zpci_base(CValue):
    header: vfio_info_cap_header
    start_dma: int
    end_dma: int
    pchid: int
    vfn: int
    fmb_length: int
    pft: int
    gid: int
    fh: int
    ccdf_err_length: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_info_cap_zpci_group(CValue):
    header: vfio_info_cap_header
    dasm: int
    msi_addr: int
    flags: int
    mui: int
    noi: int
    maxstbl: int
    version: int
    reserved: int
    imaxstbl: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_info_cap_zpci_pfip(CValue):
    header: vfio_info_cap_header
    size: int
    pfip: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_info_cap_zpci_util(CValue):
    header: vfio_info_cap_header
    size: int
    util_str: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_ioeventfd(CValue):
    argsz: int
    flags: int
    offset: int
    data: int
    fd: int
    reserved: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_low_power_entry_with_wakeup(CValue):
    wakeup_eventfd: int
    reserved: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_device_migration_info(CValue):
    device_state: int
    reserved: int
    pending_bytes: int
    data_offset: int
    data_size: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_group_status(CValue):
    argsz: int
    flags: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_info_cap_header(CValue):
    id: int
    version: int
    next: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_iommu_type1_dirty_bitmap(CValue):
    argsz: int
    flags: int
    data: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_iommu_type1_dirty_bitmap_get(CValue):
    iova: int
    size: int
    bitmap: vfio_bitmap
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_iommu_type1_dma_map(CValue):
    argsz: int
    flags: int
    vaddr: int
    iova: int
    size: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_iommu_type1_dma_unmap(CValue):
    argsz: int
    flags: int
    iova: int
    size: int
    data: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_iommu_type1_info(CValue):
    argsz: int
    flags: int
    iova_pgsizes: int
    cap_offset: int
    pad: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_iommu_type1_info_cap_iova_range(CValue):
    header: vfio_info_cap_header
    nr_iovas: int
    reserved: int
    iova_ranges: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_iommu_type1_info_cap_migration(CValue):
    header: vfio_info_cap_header
    flags: int
    pgsize_bitmap: int
    max_dirty_bitmap_size: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_iommu_type1_info_dma_avail(CValue):
    header: vfio_info_cap_header
    avail: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_iova_range(CValue):
    start: int
    end: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_irq_info(CValue):
    argsz: int
    flags: int
    index: int
    count: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_irq_set(CValue):
    argsz: int
    flags: int
    index: int
    start: int
    count: int
    data: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_pci_dependent_device(CValue):
    group_id: int
    devid: int
    segment: int
    bus: int
    devfn: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_pci_hot_reset(CValue):
    argsz: int
    flags: int
    count: int
    group_fds: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_pci_hot_reset_info(CValue):
    argsz: int
    flags: int
    count: int
    devices: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_precopy_info(CValue):
    argsz: int
    flags: int
    initial_bytes: int
    dirty_bytes: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_region_dma_range(CValue):
    offset: int
    length: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_region_gfx_edid(CValue):
    edid_offset: int
    edid_max_size: int
    edid_size: int
    max_xres: int
    max_yres: int
    link_state: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_region_info(CValue):
    argsz: int
    flags: int
    index: int
    cap_offset: int
    size: int
    offset: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_region_info_cap_nvlink2_lnkspd(CValue):
    header: vfio_info_cap_header
    link_speed: int
    __pad: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_region_info_cap_nvlink2_ssatgt(CValue):
    header: vfio_info_cap_header
    tgt: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_region_info_cap_sparse_mmap(CValue):
    header: vfio_info_cap_header
    nr_areas: int
    reserved: int
    areas: CData
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_region_info_cap_type(CValue):
    header: vfio_info_cap_header
    type: int
    subtype: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class vfio_region_sparse_mmap_area(CValue):
    offset: int
    size: int
    def __getitem__(self, index: int, /) -> Self: ...

@final
class _FFI:
    NULL: Final[CData]
    buffer: Final[Callable[..., CBuffer]]
    error: Final[type[Exception]]
    errno: int

    @overload
    def new(self, cdecl: Literal["struct iommu_destroy *"], init: Any = ..., /) -> iommu_destroy: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_fault_alloc *"], init: Any = ..., /) -> iommu_fault_alloc: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_hw_info *"], init: Any = ..., /) -> iommu_hw_info: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_hw_info_amd *"], init: Any = ..., /) -> iommu_hw_info_amd: ...
    @overload
    def new(
        self, cdecl: Literal["struct iommu_hw_info_arm_smmuv3 *"], init: Any = ..., /
    ) -> iommu_hw_info_arm_smmuv3: ...
    @overload
    def new(
        self, cdecl: Literal["struct iommu_hw_info_tegra241_cmdqv *"], init: Any = ..., /
    ) -> iommu_hw_info_tegra241_cmdqv: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_hw_info_vtd *"], init: Any = ..., /) -> iommu_hw_info_vtd: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_hw_queue_alloc *"], init: Any = ..., /) -> iommu_hw_queue_alloc: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_hwpt_alloc *"], init: Any = ..., /) -> iommu_hwpt_alloc: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_hwpt_amd_guest *"], init: Any = ..., /) -> iommu_hwpt_amd_guest: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_hwpt_arm_smmuv3 *"], init: Any = ..., /) -> iommu_hwpt_arm_smmuv3: ...
    @overload
    def new(
        self, cdecl: Literal["struct iommu_hwpt_get_dirty_bitmap *"], init: Any = ..., /
    ) -> iommu_hwpt_get_dirty_bitmap: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_hwpt_invalidate *"], init: Any = ..., /) -> iommu_hwpt_invalidate: ...
    @overload
    def new(
        self, cdecl: Literal["struct iommu_hwpt_page_response *"], init: Any = ..., /
    ) -> iommu_hwpt_page_response: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_hwpt_pgfault *"], init: Any = ..., /) -> iommu_hwpt_pgfault: ...
    @overload
    def new(
        self, cdecl: Literal["struct iommu_hwpt_set_dirty_tracking *"], init: Any = ..., /
    ) -> iommu_hwpt_set_dirty_tracking: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_hwpt_vtd_s1 *"], init: Any = ..., /) -> iommu_hwpt_vtd_s1: ...
    @overload
    def new(
        self, cdecl: Literal["struct iommu_hwpt_vtd_s1_invalidate *"], init: Any = ..., /
    ) -> iommu_hwpt_vtd_s1_invalidate: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_ioas_alloc *"], init: Any = ..., /) -> iommu_ioas_alloc: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_ioas_allow_iovas *"], init: Any = ..., /) -> iommu_ioas_allow_iovas: ...
    @overload
    def new(
        self, cdecl: Literal["struct iommu_ioas_change_process *"], init: Any = ..., /
    ) -> iommu_ioas_change_process: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_ioas_copy *"], init: Any = ..., /) -> iommu_ioas_copy: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_ioas_iova_ranges *"], init: Any = ..., /) -> iommu_ioas_iova_ranges: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_ioas_map *"], init: Any = ..., /) -> iommu_ioas_map: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_ioas_map_file *"], init: Any = ..., /) -> iommu_ioas_map_file: ...
    @overload
    def new(
        self, cdecl: Literal["struct iommu_ioas_noiommu_get_pa *"], init: Any = ..., /
    ) -> iommu_ioas_noiommu_get_pa: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_ioas_unmap *"], init: Any = ..., /) -> iommu_ioas_unmap: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_iova_range *"], init: Any = ..., /) -> iommu_iova_range: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_option *"], init: Any = ..., /) -> iommu_option: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_vdevice_alloc *"], init: Any = ..., /) -> iommu_vdevice_alloc: ...
    @overload
    def new(
        self, cdecl: Literal["struct iommu_vevent_arm_smmuv3 *"], init: Any = ..., /
    ) -> iommu_vevent_arm_smmuv3: ...
    @overload
    def new(
        self, cdecl: Literal["struct iommu_vevent_tegra241_cmdqv *"], init: Any = ..., /
    ) -> iommu_vevent_tegra241_cmdqv: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_veventq_alloc *"], init: Any = ..., /) -> iommu_veventq_alloc: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_vfio_ioas *"], init: Any = ..., /) -> iommu_vfio_ioas: ...
    @overload
    def new(self, cdecl: Literal["struct iommu_viommu_alloc *"], init: Any = ..., /) -> iommu_viommu_alloc: ...
    @overload
    def new(
        self, cdecl: Literal["struct iommu_viommu_arm_smmuv3_invalidate *"], init: Any = ..., /
    ) -> iommu_viommu_arm_smmuv3_invalidate: ...
    @overload
    def new(
        self, cdecl: Literal["struct iommu_viommu_tegra241_cmdqv *"], init: Any = ..., /
    ) -> iommu_viommu_tegra241_cmdqv: ...
    @overload
    def new(self, cdecl: Literal["struct iommufd_vevent_header *"], init: Any = ..., /) -> iommufd_vevent_header: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_bitmap *"], init: Any = ..., /) -> vfio_bitmap: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_attach_iommufd_pt *"], init: Any = ..., /
    ) -> vfio_device_attach_iommufd_pt: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_bind_iommufd *"], init: Any = ..., /
    ) -> vfio_device_bind_iommufd: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_detach_iommufd_pt *"], init: Any = ..., /
    ) -> vfio_device_detach_iommufd_pt: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_device_feature *"], init: Any = ..., /) -> vfio_device_feature: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_feature_bus_master *"], init: Any = ..., /
    ) -> vfio_device_feature_bus_master: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_feature_dma_buf *"], init: Any = ..., /
    ) -> vfio_device_feature_dma_buf: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_feature_dma_logging_control *"], init: Any = ..., /
    ) -> vfio_device_feature_dma_logging_control: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_feature_dma_logging_range *"], init: Any = ..., /
    ) -> vfio_device_feature_dma_logging_range: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_feature_dma_logging_report *"], init: Any = ..., /
    ) -> vfio_device_feature_dma_logging_report: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_feature_mig_data_size *"], init: Any = ..., /
    ) -> vfio_device_feature_mig_data_size: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_feature_mig_state *"], init: Any = ..., /
    ) -> vfio_device_feature_mig_state: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_feature_migration *"], init: Any = ..., /
    ) -> vfio_device_feature_migration: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_feature_zpci_err *"], init: Any = ..., /
    ) -> vfio_device_feature_zpci_err: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_device_info *"], init: Any = ..., /) -> vfio_device_info: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_info_cap_pci_atomic_comp *"], init: Any = ..., /
    ) -> vfio_device_info_cap_pci_atomic_comp: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_info_cap_zpci_base *"], init: Any = ..., /
    ) -> vfio_device_info_cap_zpci_base: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_info_cap_zpci_group *"], init: Any = ..., /
    ) -> vfio_device_info_cap_zpci_group: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_info_cap_zpci_pfip *"], init: Any = ..., /
    ) -> vfio_device_info_cap_zpci_pfip: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_info_cap_zpci_util *"], init: Any = ..., /
    ) -> vfio_device_info_cap_zpci_util: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_device_ioeventfd *"], init: Any = ..., /) -> vfio_device_ioeventfd: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_low_power_entry_with_wakeup *"], init: Any = ..., /
    ) -> vfio_device_low_power_entry_with_wakeup: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_device_migration_info *"], init: Any = ..., /
    ) -> vfio_device_migration_info: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_group_status *"], init: Any = ..., /) -> vfio_group_status: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_info_cap_header *"], init: Any = ..., /) -> vfio_info_cap_header: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_iommu_type1_dirty_bitmap *"], init: Any = ..., /
    ) -> vfio_iommu_type1_dirty_bitmap: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_iommu_type1_dirty_bitmap_get *"], init: Any = ..., /
    ) -> vfio_iommu_type1_dirty_bitmap_get: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_iommu_type1_dma_map *"], init: Any = ..., /
    ) -> vfio_iommu_type1_dma_map: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_iommu_type1_dma_unmap *"], init: Any = ..., /
    ) -> vfio_iommu_type1_dma_unmap: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_iommu_type1_info *"], init: Any = ..., /) -> vfio_iommu_type1_info: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_iommu_type1_info_cap_iova_range *"], init: Any = ..., /
    ) -> vfio_iommu_type1_info_cap_iova_range: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_iommu_type1_info_cap_migration *"], init: Any = ..., /
    ) -> vfio_iommu_type1_info_cap_migration: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_iommu_type1_info_dma_avail *"], init: Any = ..., /
    ) -> vfio_iommu_type1_info_dma_avail: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_iova_range *"], init: Any = ..., /) -> vfio_iova_range: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_irq_info *"], init: Any = ..., /) -> vfio_irq_info: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_irq_set *"], init: Any = ..., /) -> vfio_irq_set: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_pci_dependent_device *"], init: Any = ..., /
    ) -> vfio_pci_dependent_device: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_pci_hot_reset *"], init: Any = ..., /) -> vfio_pci_hot_reset: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_pci_hot_reset_info *"], init: Any = ..., /
    ) -> vfio_pci_hot_reset_info: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_precopy_info *"], init: Any = ..., /) -> vfio_precopy_info: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_region_dma_range *"], init: Any = ..., /) -> vfio_region_dma_range: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_region_gfx_edid *"], init: Any = ..., /) -> vfio_region_gfx_edid: ...
    @overload
    def new(self, cdecl: Literal["struct vfio_region_info *"], init: Any = ..., /) -> vfio_region_info: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_region_info_cap_nvlink2_lnkspd *"], init: Any = ..., /
    ) -> vfio_region_info_cap_nvlink2_lnkspd: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_region_info_cap_nvlink2_ssatgt *"], init: Any = ..., /
    ) -> vfio_region_info_cap_nvlink2_ssatgt: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_region_info_cap_sparse_mmap *"], init: Any = ..., /
    ) -> vfio_region_info_cap_sparse_mmap: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_region_info_cap_type *"], init: Any = ..., /
    ) -> vfio_region_info_cap_type: ...
    @overload
    def new(
        self, cdecl: Literal["struct vfio_region_sparse_mmap_area *"], init: Any = ..., /
    ) -> vfio_region_sparse_mmap_area: ...
    @overload
    def new(self, cdecl: str | CType, init: Any = ..., /) -> Any: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_destroy *"], value: Any, /) -> iommu_destroy: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_fault_alloc *"], value: Any, /) -> iommu_fault_alloc: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_hw_info *"], value: Any, /) -> iommu_hw_info: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_hw_info_amd *"], value: Any, /) -> iommu_hw_info_amd: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_hw_info_arm_smmuv3 *"], value: Any, /) -> iommu_hw_info_arm_smmuv3: ...
    @overload
    def cast(
        self, cdecl: Literal["struct iommu_hw_info_tegra241_cmdqv *"], value: Any, /
    ) -> iommu_hw_info_tegra241_cmdqv: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_hw_info_vtd *"], value: Any, /) -> iommu_hw_info_vtd: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_hw_queue_alloc *"], value: Any, /) -> iommu_hw_queue_alloc: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_hwpt_alloc *"], value: Any, /) -> iommu_hwpt_alloc: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_hwpt_amd_guest *"], value: Any, /) -> iommu_hwpt_amd_guest: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_hwpt_arm_smmuv3 *"], value: Any, /) -> iommu_hwpt_arm_smmuv3: ...
    @overload
    def cast(
        self, cdecl: Literal["struct iommu_hwpt_get_dirty_bitmap *"], value: Any, /
    ) -> iommu_hwpt_get_dirty_bitmap: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_hwpt_invalidate *"], value: Any, /) -> iommu_hwpt_invalidate: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_hwpt_page_response *"], value: Any, /) -> iommu_hwpt_page_response: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_hwpt_pgfault *"], value: Any, /) -> iommu_hwpt_pgfault: ...
    @overload
    def cast(
        self, cdecl: Literal["struct iommu_hwpt_set_dirty_tracking *"], value: Any, /
    ) -> iommu_hwpt_set_dirty_tracking: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_hwpt_vtd_s1 *"], value: Any, /) -> iommu_hwpt_vtd_s1: ...
    @overload
    def cast(
        self, cdecl: Literal["struct iommu_hwpt_vtd_s1_invalidate *"], value: Any, /
    ) -> iommu_hwpt_vtd_s1_invalidate: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_ioas_alloc *"], value: Any, /) -> iommu_ioas_alloc: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_ioas_allow_iovas *"], value: Any, /) -> iommu_ioas_allow_iovas: ...
    @overload
    def cast(
        self, cdecl: Literal["struct iommu_ioas_change_process *"], value: Any, /
    ) -> iommu_ioas_change_process: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_ioas_copy *"], value: Any, /) -> iommu_ioas_copy: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_ioas_iova_ranges *"], value: Any, /) -> iommu_ioas_iova_ranges: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_ioas_map *"], value: Any, /) -> iommu_ioas_map: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_ioas_map_file *"], value: Any, /) -> iommu_ioas_map_file: ...
    @overload
    def cast(
        self, cdecl: Literal["struct iommu_ioas_noiommu_get_pa *"], value: Any, /
    ) -> iommu_ioas_noiommu_get_pa: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_ioas_unmap *"], value: Any, /) -> iommu_ioas_unmap: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_iova_range *"], value: Any, /) -> iommu_iova_range: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_option *"], value: Any, /) -> iommu_option: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_vdevice_alloc *"], value: Any, /) -> iommu_vdevice_alloc: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_vevent_arm_smmuv3 *"], value: Any, /) -> iommu_vevent_arm_smmuv3: ...
    @overload
    def cast(
        self, cdecl: Literal["struct iommu_vevent_tegra241_cmdqv *"], value: Any, /
    ) -> iommu_vevent_tegra241_cmdqv: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_veventq_alloc *"], value: Any, /) -> iommu_veventq_alloc: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_vfio_ioas *"], value: Any, /) -> iommu_vfio_ioas: ...
    @overload
    def cast(self, cdecl: Literal["struct iommu_viommu_alloc *"], value: Any, /) -> iommu_viommu_alloc: ...
    @overload
    def cast(
        self, cdecl: Literal["struct iommu_viommu_arm_smmuv3_invalidate *"], value: Any, /
    ) -> iommu_viommu_arm_smmuv3_invalidate: ...
    @overload
    def cast(
        self, cdecl: Literal["struct iommu_viommu_tegra241_cmdqv *"], value: Any, /
    ) -> iommu_viommu_tegra241_cmdqv: ...
    @overload
    def cast(self, cdecl: Literal["struct iommufd_vevent_header *"], value: Any, /) -> iommufd_vevent_header: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_bitmap *"], value: Any, /) -> vfio_bitmap: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_attach_iommufd_pt *"], value: Any, /
    ) -> vfio_device_attach_iommufd_pt: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_device_bind_iommufd *"], value: Any, /) -> vfio_device_bind_iommufd: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_detach_iommufd_pt *"], value: Any, /
    ) -> vfio_device_detach_iommufd_pt: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_device_feature *"], value: Any, /) -> vfio_device_feature: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_feature_bus_master *"], value: Any, /
    ) -> vfio_device_feature_bus_master: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_feature_dma_buf *"], value: Any, /
    ) -> vfio_device_feature_dma_buf: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_feature_dma_logging_control *"], value: Any, /
    ) -> vfio_device_feature_dma_logging_control: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_feature_dma_logging_range *"], value: Any, /
    ) -> vfio_device_feature_dma_logging_range: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_feature_dma_logging_report *"], value: Any, /
    ) -> vfio_device_feature_dma_logging_report: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_feature_mig_data_size *"], value: Any, /
    ) -> vfio_device_feature_mig_data_size: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_feature_mig_state *"], value: Any, /
    ) -> vfio_device_feature_mig_state: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_feature_migration *"], value: Any, /
    ) -> vfio_device_feature_migration: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_feature_zpci_err *"], value: Any, /
    ) -> vfio_device_feature_zpci_err: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_device_info *"], value: Any, /) -> vfio_device_info: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_info_cap_pci_atomic_comp *"], value: Any, /
    ) -> vfio_device_info_cap_pci_atomic_comp: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_info_cap_zpci_base *"], value: Any, /
    ) -> vfio_device_info_cap_zpci_base: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_info_cap_zpci_group *"], value: Any, /
    ) -> vfio_device_info_cap_zpci_group: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_info_cap_zpci_pfip *"], value: Any, /
    ) -> vfio_device_info_cap_zpci_pfip: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_info_cap_zpci_util *"], value: Any, /
    ) -> vfio_device_info_cap_zpci_util: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_device_ioeventfd *"], value: Any, /) -> vfio_device_ioeventfd: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_low_power_entry_with_wakeup *"], value: Any, /
    ) -> vfio_device_low_power_entry_with_wakeup: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_device_migration_info *"], value: Any, /
    ) -> vfio_device_migration_info: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_group_status *"], value: Any, /) -> vfio_group_status: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_info_cap_header *"], value: Any, /) -> vfio_info_cap_header: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_iommu_type1_dirty_bitmap *"], value: Any, /
    ) -> vfio_iommu_type1_dirty_bitmap: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_iommu_type1_dirty_bitmap_get *"], value: Any, /
    ) -> vfio_iommu_type1_dirty_bitmap_get: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_iommu_type1_dma_map *"], value: Any, /) -> vfio_iommu_type1_dma_map: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_iommu_type1_dma_unmap *"], value: Any, /
    ) -> vfio_iommu_type1_dma_unmap: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_iommu_type1_info *"], value: Any, /) -> vfio_iommu_type1_info: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_iommu_type1_info_cap_iova_range *"], value: Any, /
    ) -> vfio_iommu_type1_info_cap_iova_range: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_iommu_type1_info_cap_migration *"], value: Any, /
    ) -> vfio_iommu_type1_info_cap_migration: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_iommu_type1_info_dma_avail *"], value: Any, /
    ) -> vfio_iommu_type1_info_dma_avail: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_iova_range *"], value: Any, /) -> vfio_iova_range: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_irq_info *"], value: Any, /) -> vfio_irq_info: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_irq_set *"], value: Any, /) -> vfio_irq_set: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_pci_dependent_device *"], value: Any, /
    ) -> vfio_pci_dependent_device: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_pci_hot_reset *"], value: Any, /) -> vfio_pci_hot_reset: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_pci_hot_reset_info *"], value: Any, /) -> vfio_pci_hot_reset_info: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_precopy_info *"], value: Any, /) -> vfio_precopy_info: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_region_dma_range *"], value: Any, /) -> vfio_region_dma_range: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_region_gfx_edid *"], value: Any, /) -> vfio_region_gfx_edid: ...
    @overload
    def cast(self, cdecl: Literal["struct vfio_region_info *"], value: Any, /) -> vfio_region_info: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_region_info_cap_nvlink2_lnkspd *"], value: Any, /
    ) -> vfio_region_info_cap_nvlink2_lnkspd: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_region_info_cap_nvlink2_ssatgt *"], value: Any, /
    ) -> vfio_region_info_cap_nvlink2_ssatgt: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_region_info_cap_sparse_mmap *"], value: Any, /
    ) -> vfio_region_info_cap_sparse_mmap: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_region_info_cap_type *"], value: Any, /
    ) -> vfio_region_info_cap_type: ...
    @overload
    def cast(
        self, cdecl: Literal["struct vfio_region_sparse_mmap_area *"], value: Any, /
    ) -> vfio_region_sparse_mmap_area: ...
    @overload
    def cast(self, cdecl: str | CType, value: Any, /) -> Any: ...
    def typeof(self, of: Any, /) -> CType: ...
    def sizeof(self, of: str | CType | CValue, /) -> int: ...
    def alignof(self, of: str | CType, /) -> int: ...
    def offsetof(self, of: str | CType, /, *path: str | int) -> int: ...
    def addressof(self, of: CValue | _Lib, /, *path: str | int) -> CData: ...
    def getctype(self, of: str | CType, extra: str = "", /) -> str: ...
    def list_types(self) -> tuple[list[str], list[str], list[str]]: ...
    @overload
    def from_buffer(self, of: Buffer, /, require_writable: bool = False) -> CData: ...
    @overload
    def from_buffer(self, cdecl: str | CType, of: Buffer, /, require_writable: bool = False) -> CData: ...
    def memmove(self, dest: CValue | Buffer, src: CValue | Buffer, n: int) -> None: ...
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
    PYVFIO_TRACE_REQUEST: Final[int]
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
    def free(self, a0: CValue | bytes, /) -> None: ...
    def pyvfio_array_free(self, a0: CValue, /) -> None: ...
    def pyvfio_array_trim(self, a0: CValue, /) -> None: ...
    def pyvfio_bitmap_any(self, a0: CValue, a1: int, /) -> bool: ...
    def pyvfio_bitmap_clear(self, a0: CValue, a1: int, /) -> None: ...
    def pyvfio_bitmap_count(self, a0: CValue, a1: int, /) -> int: ...
    def pyvfio_bitmap_equal(self, a0: CValue, a1: CValue, a2: int, /) -> bool: ...
    def pyvfio_bitmap_or(self, a0: CValue, a1: int, a2: CValue, a3: int, a4: int, /) -> None: ...
    def pyvfio_bitmap_pages(self, a0: CValue, a1: CValue, a2: int, a3: int, a4: int, /) -> int: ...
    def pyvfio_bitmap_runs(self, a0: CValue, a1: CValue, a2: int, a3: int, a4: int, /) -> int: ...
    def pyvfio_hull(self, a0: CValue, a1: int, a2: CValue, /) -> None: ...
    def pyvfio_ioctl(self, a0: CValue, a1: int, a2: CValue | bytes, /) -> int: ...
    def pyvfio_linux_ioctl(self, a0: CValue | bytes, a1: int, a2: int, a3: CValue | bytes, /) -> int: ...
    def pyvfio_map_nothing(self, a0: CValue | bytes, a1: int, a2: int, /) -> int: ...
    def pyvfio_map_over(self, a0: CValue | bytes, a1: int, a2: int, a3: int, a4: int, /) -> int: ...
    def pyvfio_peek(self, a0: int, a1: CValue | bytes, a2: int, /) -> int: ...
    def pyvfio_pinnable(self, a0: int, a1: int, a2: int, /) -> int: ...
    def pyvfio_poke(self, a0: int, a1: CValue | bytes, a2: int, /) -> int: ...
    def pyvfio_ranges_coalesce(self, a0: CValue, a1: int, a2: int, /) -> int: ...
    def pyvfio_ranges_complement(self, a0: CValue, a1: CValue, a2: int, a3: int, a4: int, /) -> int: ...
    def pyvfio_ranges_intersect(self, a0: CValue, a1: CValue, a2: int, a3: CValue, a4: int, /) -> int: ...
    def pyvfio_ranges_normalise(self, a0: CValue, a1: CValue, /) -> int: ...
    def pyvfio_row_at_the_end(self, a0: CValue, a1: int, /) -> int: ...
    def pyvfio_same_places(self, a0: CValue, a1: CValue, a2: int, /) -> int: ...
    def pyvfio_trace_begin(self, a0: int, a1: CValue, a2: int, /) -> None: ...
    def pyvfio_trace_end(self, /) -> int: ...
    def pyvfio_trace_flush(self, /) -> int: ...
    def pyvfio_trace_forget(self, /) -> None: ...
    def pyvfio_trace_note(self, a0: int, a1: int, a2: int, a3: CValue | bytes, a4: int, /) -> None: ...
    def pyvfio_trace_now(self, /) -> int: ...
    def pyvfio_traced_linux(self, a0: CValue | bytes, a1: int, a2: int, a3: CValue | bytes, /) -> int: ...
    def pyvfio_traced_python(self, a0: CValue | bytes, a1: int, a2: int, a3: CValue | bytes, /) -> int: ...
    def pyvfio_wait(self, a0: int, a1: float, /) -> int: ...

ffi: Final[_FFI]
lib: Final[_Lib]
