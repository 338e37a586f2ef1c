/* SPDX-License-Identifier: MIT */
/*
 * The VFIO user ABI of Linux 7.3: what /dev/vfio/vfio, a group, a device and a migration stream understand.
 *
 * Read twice, by cffi and by the C compiler, so it keeps to what both understand: literals, enums, stdint types,
 * flexible arrays, anonymous unions. Names are the kernel's; left out are sPAPR, EEH, the GFX plane and s390 channel
 * I/O (tests/abi/excluded.toml). tests/abi compares every name, value and offset with the kernel's own headers.
 *
 * Requests are _IO(';', 100 + n) without size or direction: structs begin with argsz instead, and the same number
 * means different things on different kinds of descriptor.
 */

/* ---- Container: /dev/vfio/vfio ---- */

#define VFIO_API_VERSION 0
#define VFIO_TYPE 59                            /* ';' */
#define VFIO_BASE 100

enum {                                          /* VFIO_CHECK_EXTENSION, VFIO_SET_IOMMU */
    VFIO_TYPE1_IOMMU = 1,
    VFIO_TYPE1v2_IOMMU = 3,
    VFIO_DMA_CC_IOMMU = 4,                      /* changes as groups come and go */
    __VFIO_RESERVED_TYPE1_NESTING_IOMMU = 6,    /* removed in 6.13, the number stays taken */
    VFIO_NOIOMMU_IOMMU = 8,
    VFIO_UNMAP_ALL = 9,                         /* 5.12 */
    VFIO_UPDATE_VADDR = 10,                     /* 5.12; changes as groups come and go */
};

enum {
    VFIO_GET_API_VERSION = (';' << 8) | 100,
    VFIO_CHECK_EXTENSION = (';' << 8) | 101,
    VFIO_SET_IOMMU = (';' << 8) | 102,
};

/* Heads each entry of a capability chain; next counts from the start of the info struct, 0 ends the chain. */
struct vfio_info_cap_header {
    uint16_t id;
    uint16_t version;
    uint32_t next;
};

/* ---- Group: /dev/vfio/N ---- */

enum {
    VFIO_GROUP_GET_STATUS = (';' << 8) | 103,
    VFIO_GROUP_SET_CONTAINER = (';' << 8) | 104,
    VFIO_GROUP_UNSET_CONTAINER = (';' << 8) | 105,
    VFIO_GROUP_GET_DEVICE_FD = (';' << 8) | 106,
};

enum {
    VFIO_GROUP_FLAGS_VIABLE = 1 << 0,
    VFIO_GROUP_FLAGS_CONTAINER_SET = 1 << 1,
};

struct vfio_group_status {
    uint32_t argsz;
    uint32_t flags;
};

/* ---- Device ---- */

enum {
    VFIO_DEVICE_GET_INFO = (';' << 8) | 107,
    VFIO_DEVICE_GET_REGION_INFO = (';' << 8) | 108,
    VFIO_DEVICE_GET_IRQ_INFO = (';' << 8) | 109,
    VFIO_DEVICE_SET_IRQS = (';' << 8) | 110,
    VFIO_DEVICE_RESET = (';' << 8) | 111,
    VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = (';' << 8) | 112,
    VFIO_DEVICE_PCI_HOT_RESET = (';' << 8) | 113,
    VFIO_DEVICE_IOEVENTFD = (';' << 8) | 116,
    VFIO_DEVICE_FEATURE = (';' << 8) | 117,
    VFIO_DEVICE_BIND_IOMMUFD = (';' << 8) | 118,        /* these three: 6.6, on a cdev only */
    VFIO_DEVICE_ATTACH_IOMMUFD_PT = (';' << 8) | 119,
    VFIO_DEVICE_DETACH_IOMMUFD_PT = (';' << 8) | 120,
};

enum {
    VFIO_DEVICE_FLAGS_RESET = 1 << 0,
    VFIO_DEVICE_FLAGS_PCI = 1 << 1,
    VFIO_DEVICE_FLAGS_PLATFORM = 1 << 2,
    VFIO_DEVICE_FLAGS_AMBA = 1 << 3,
    VFIO_DEVICE_FLAGS_AP = 1 << 5,
    VFIO_DEVICE_FLAGS_FSL_MC = 1 << 6,
    VFIO_DEVICE_FLAGS_CAPS = 1 << 7,
    VFIO_DEVICE_FLAGS_CDX = 1 << 8,
};

struct vfio_device_info {
    uint32_t argsz;
    uint32_t flags;
    uint32_t num_regions;
    uint32_t num_irqs;
    uint32_t cap_offset;
    uint32_t pad;
};

/* What a mediated device's device_api attribute in sysfs says. */
#define VFIO_DEVICE_API_PCI_STRING "vfio-pci"
#define VFIO_DEVICE_API_PLATFORM_STRING "vfio-platform"
#define VFIO_DEVICE_API_AMBA_STRING "vfio-amba"
#define VFIO_DEVICE_API_AP_STRING "vfio-ap"

enum {                                          /* capabilities of VFIO_DEVICE_GET_INFO */
    VFIO_DEVICE_INFO_CAP_ZPCI_BASE = 1,
    VFIO_DEVICE_INFO_CAP_ZPCI_GROUP = 2,
    VFIO_DEVICE_INFO_CAP_ZPCI_UTIL = 3,
    VFIO_DEVICE_INFO_CAP_ZPCI_PFIP = 4,
    VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP = 5,   /* 6.5 */
};

enum {                                          /* widths of AtomicOps that the root port completes */
    VFIO_PCI_ATOMIC_COMP32 = 1 << 0,
    VFIO_PCI_ATOMIC_COMP64 = 1 << 1,
    VFIO_PCI_ATOMIC_COMP128 = 1 << 2,
};

struct vfio_device_info_cap_pci_atomic_comp {
    struct vfio_info_cap_header header;
    uint32_t flags;
    uint32_t reserved;
};

/* s390 zPCI, from the kernel's vfio_zdev.h. Which tail is there depends on header.version. */
enum {
    VFIO_DEVICE_INFO_ZPCI_FLAG_REFRESH = 1,
};

struct vfio_device_info_cap_zpci_base {
    struct vfio_info_cap_header header;
    uint64_t start_dma;
    uint64_t end_dma;
    uint16_t pchid;
    uint16_t vfn;
    uint16_t fmb_length;
    uint8_t pft;
    uint8_t gid;
    uint32_t fh;                                /* version 2 */
    uint32_t ccdf_err_length;                   /* version 3, 7.3 */
};

struct vfio_device_info_cap_zpci_group {
    struct vfio_info_cap_header header;
    uint64_t dasm;
    uint64_t msi_addr;
    uint64_t flags;
    uint16_t mui;
    uint16_t noi;
    uint16_t maxstbl;
    uint8_t version;
    uint8_t reserved;
    uint16_t imaxstbl;                          /* version 2 */
};

struct vfio_device_info_cap_zpci_util {
    struct vfio_info_cap_header header;
    uint32_t size;
    uint8_t util_str[];                         /* EBCDIC */
};

struct vfio_device_info_cap_zpci_pfip {
    struct vfio_info_cap_header header;
    uint32_t size;
    uint8_t pfip[];
};

/* ---- Regions ---- */

enum {
    VFIO_REGION_INFO_FLAG_READ = 1 << 0,
    VFIO_REGION_INFO_FLAG_WRITE = 1 << 1,
    VFIO_REGION_INFO_FLAG_MMAP = 1 << 2,
    VFIO_REGION_INFO_FLAG_CAPS = 1 << 3,
};

struct vfio_region_info {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t cap_offset;
    uint64_t size;                              /* bytes; 0: not implemented */
    uint64_t offset;                            /* where pread, pwrite and mmap of the device find it */
};

enum {                                          /* capabilities of VFIO_DEVICE_GET_REGION_INFO */
    VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1,
    VFIO_REGION_INFO_CAP_TYPE = 2,
    VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3,     /* 4.16; a bare header */
    VFIO_REGION_INFO_CAP_NVLINK2_SSATGT = 4,    /* the two NVLINK2: no driver since 5.13 */
    VFIO_REGION_INFO_CAP_NVLINK2_LNKSPD = 5,
};

struct vfio_region_sparse_mmap_area {
    uint64_t offset;                            /* from the start of the region */
    uint64_t size;
};

struct vfio_region_info_cap_sparse_mmap {
    struct vfio_info_cap_header header;
    uint32_t nr_areas;
    uint32_t reserved;
    struct vfio_region_sparse_mmap_area areas[];
};

struct vfio_region_info_cap_type {
    struct vfio_info_cap_header header;
    uint32_t type;
    uint32_t subtype;
};

struct vfio_region_info_cap_nvlink2_ssatgt {
    struct vfio_info_cap_header header;
    uint64_t tgt;
};

struct vfio_region_info_cap_nvlink2_lnkspd {
    struct vfio_info_cap_header header;
    uint32_t link_speed;
    uint32_t __pad;
};

/* type is PCI_VENDOR_TYPE | vendor id, or one of the rest. Unsigned here, as in the struct; a negative int in C. */
#define VFIO_REGION_TYPE_PCI_VENDOR_TYPE 0x80000000
#define VFIO_REGION_TYPE_PCI_VENDOR_MASK 0xffff

enum {
    VFIO_REGION_TYPE_GFX = 1,
    VFIO_REGION_TYPE_MIGRATION_DEPRECATED = 3,  /* migration before v2, gone since 5.18 */
};

enum {                                          /* vendor 8086 */
    VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION = 1,
    VFIO_REGION_SUBTYPE_INTEL_IGD_HOST_CFG = 2,
    VFIO_REGION_SUBTYPE_INTEL_IGD_LPC_CFG = 3,
};

enum {                                          /* vendors 10de and 1014 */
    VFIO_REGION_SUBTYPE_NVIDIA_NVLINK2_RAM = 1,
    VFIO_REGION_SUBTYPE_IBM_NVLINK2_ATSD = 1,
};

enum {
    VFIO_REGION_SUBTYPE_GFX_EDID = 1,
    VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED = 1,
};

enum {
    VFIO_DEVICE_GFX_LINK_STATE_UP = 1,
    VFIO_DEVICE_GFX_LINK_STATE_DOWN = 2,
};

struct vfio_region_gfx_edid {                   /* what the region holds: set link down, change, set link up */
    uint32_t edid_offset;
    uint32_t edid_max_size;
    uint32_t edid_size;
    uint32_t max_xres;
    uint32_t max_yres;
    uint32_t link_state;
};

enum {
    VFIO_DEVICE_STATE_V1_STOP = 0,
    VFIO_DEVICE_STATE_V1_RUNNING = 1 << 0,
    VFIO_DEVICE_STATE_V1_SAVING = 1 << 1,
    VFIO_DEVICE_STATE_V1_RESUMING = 1 << 2,
    VFIO_DEVICE_STATE_MASK = 7,
};

struct vfio_device_migration_info {
    uint32_t device_state;
    uint32_t reserved;
    uint64_t pending_bytes;
    uint64_t data_offset;
    uint64_t data_size;
};

enum {
    VFIO_PCI_BAR0_REGION_INDEX = 0,
    VFIO_PCI_BAR1_REGION_INDEX = 1,
    VFIO_PCI_BAR2_REGION_INDEX = 2,
    VFIO_PCI_BAR3_REGION_INDEX = 3,
    VFIO_PCI_BAR4_REGION_INDEX = 4,
    VFIO_PCI_BAR5_REGION_INDEX = 5,
    VFIO_PCI_ROM_REGION_INDEX = 6,
    VFIO_PCI_CONFIG_REGION_INDEX = 7,
    VFIO_PCI_VGA_REGION_INDEX = 8,
    VFIO_PCI_NUM_REGIONS = 9,                   /* fixed; regions with a type capability come after */
};

/* ---- Interrupts ---- */

enum {
    VFIO_IRQ_INFO_EVENTFD = 1 << 0,
    VFIO_IRQ_INFO_MASKABLE = 1 << 1,
    VFIO_IRQ_INFO_AUTOMASKED = 1 << 2,
    VFIO_IRQ_INFO_NORESIZE = 1 << 3,            /* more vectors only after disabling all */
};

struct vfio_irq_info {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t count;
};

enum {                                          /* one of DATA, one of ACTION */
    VFIO_IRQ_SET_DATA_NONE = 1 << 0,
    VFIO_IRQ_SET_DATA_BOOL = 1 << 1,            /* data: uint8_t per vector */
    VFIO_IRQ_SET_DATA_EVENTFD = 1 << 2,         /* data: int32_t per vector, -1 takes one away */
    VFIO_IRQ_SET_ACTION_MASK = 1 << 3,
    VFIO_IRQ_SET_ACTION_UNMASK = 1 << 4,
    VFIO_IRQ_SET_ACTION_TRIGGER = 1 << 5,
    VFIO_IRQ_SET_DATA_TYPE_MASK = 0x07,
    VFIO_IRQ_SET_ACTION_TYPE_MASK = 0x38,
};

struct vfio_irq_set {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t start;
    uint32_t count;
    uint8_t data[];
};

enum {
    VFIO_PCI_INTX_IRQ_INDEX = 0,
    VFIO_PCI_MSI_IRQ_INDEX = 1,
    VFIO_PCI_MSIX_IRQ_INDEX = 2,
    VFIO_PCI_ERR_IRQ_INDEX = 3,
    VFIO_PCI_REQ_IRQ_INDEX = 4,                 /* the kernel asks to have the device back */
    VFIO_PCI_NUM_IRQS = 5,
};

enum {                                          /* s390 crypto (AP) */
    VFIO_AP_REQ_IRQ_INDEX = 0,
    VFIO_AP_CFG_CHG_IRQ_INDEX = 1,
    VFIO_AP_NUM_IRQS = 2,
};

/* ---- Hot reset ---- */

/* Instead of a devid; 0xffffffff is the kernel's -1 as it comes out of the unsigned field. */
#define VFIO_PCI_DEVID_OWNED 0
#define VFIO_PCI_DEVID_NOT_OWNED 0xffffffff

struct vfio_pci_dependent_device {
    union {
        uint32_t group_id;
        uint32_t devid;                         /* 6.6, with FLAG_DEV_ID: iommufd's id of the device */
    };
    uint16_t segment;
    uint8_t bus;
    uint8_t devfn;
};

enum {
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID = 1 << 0,
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED = 1 << 1,
};

struct vfio_pci_hot_reset_info {                /* ENOSPC with count written when devices[] is too short */
    uint32_t argsz;
    uint32_t flags;
    uint32_t count;
    struct vfio_pci_dependent_device devices[];
};

struct vfio_pci_hot_reset {                     /* count 0 for cdevs: all affected are of one iommufd */
    uint32_t argsz;
    uint32_t flags;
    uint32_t count;
    int32_t group_fds[];
};

/* ---- A write to a region by eventfd ---- */

enum {
    VFIO_DEVICE_IOEVENTFD_8 = 1 << 0,
    VFIO_DEVICE_IOEVENTFD_16 = 1 << 1,
    VFIO_DEVICE_IOEVENTFD_32 = 1 << 2,
    VFIO_DEVICE_IOEVENTFD_64 = 1 << 3,
    VFIO_DEVICE_IOEVENTFD_SIZE_MASK = 0xf,
};

struct vfio_device_ioeventfd {
    uint32_t argsz;
    uint32_t flags;
    uint64_t offset;                            /* from the start of the device's file, as in region_info */
    uint64_t data;
    int32_t fd;                                 /* -1 takes the event away */
    uint32_t reserved;
};

/* ---- cdev and iommufd ---- */

enum {
    VFIO_DEVICE_BIND_FLAG_TOKEN = 1 << 0,
};

struct vfio_device_bind_iommufd {
    uint32_t argsz;
    uint32_t flags;
    int32_t iommufd;
    uint32_t out_devid;
    uint64_t token_uuid_ptr;                    /* 16 bytes */
};

enum {
    VFIO_DEVICE_ATTACH_PASID = 1 << 0,          /* 6.15 */
};

struct vfio_device_attach_iommufd_pt {
    uint32_t argsz;
    uint32_t flags;
    uint32_t pt_id;                             /* an IOAS or HWPT; comes back as the HWPT that was used */
    uint32_t pasid;
};

enum {
    VFIO_DEVICE_DETACH_PASID = 1 << 0,
};

struct vfio_device_detach_iommufd_pt {
    uint32_t argsz;
    uint32_t flags;
    uint32_t pasid;
};

/* ---- Device features ---- */

enum {                                          /* flags: a feature's number and GET, SET or PROBE */
    VFIO_DEVICE_FEATURE_MASK = 0xffff,
    VFIO_DEVICE_FEATURE_GET = 1 << 16,
    VFIO_DEVICE_FEATURE_SET = 1 << 17,
    VFIO_DEVICE_FEATURE_PROBE = 1 << 18,        /* with GET and/or SET: is it there? */
};

struct vfio_device_feature {
    uint32_t argsz;
    uint32_t flags;
    uint8_t data[];
};

enum {
    VFIO_DEVICE_FEATURE_PCI_VF_TOKEN = 0,                   /* set: 16 bytes; 5.7 */
    VFIO_DEVICE_FEATURE_MIGRATION = 1,                      /* get; 5.18 */
    VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE = 2,               /* get, set; 5.18 */
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY = 3,                /* set, no data; 6.1, as the next two */
    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP = 4,
    VFIO_DEVICE_FEATURE_LOW_POWER_EXIT = 5,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_START = 6,              /* set; 6.1, as the next two */
    VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP = 7,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT = 8,             /* get */
    VFIO_DEVICE_FEATURE_MIG_DATA_SIZE = 9,                  /* get; 6.2 */
    VFIO_DEVICE_FEATURE_BUS_MASTER = 10,                    /* set; 6.7 */
    VFIO_DEVICE_FEATURE_DMA_BUF = 11,                       /* get, returns a descriptor; 6.19 */
    VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 = 12,            /* set, no data: allows PRECOPY_INFO_REINIT */
    VFIO_DEVICE_FEATURE_ZPCI_ERROR = 13,                    /* get, s390 only; 7.3 */
};

enum {
    VFIO_MIGRATION_STOP_COPY = 1 << 0,
    VFIO_MIGRATION_P2P = 1 << 1,
    VFIO_MIGRATION_PRE_COPY = 1 << 2,           /* 6.2 */
};

struct vfio_device_feature_migration {
    uint64_t flags;
};

enum vfio_device_mig_state {
    VFIO_DEVICE_STATE_ERROR = 0,
    VFIO_DEVICE_STATE_STOP = 1,
    VFIO_DEVICE_STATE_RUNNING = 2,
    VFIO_DEVICE_STATE_STOP_COPY = 3,
    VFIO_DEVICE_STATE_RESUMING = 4,
    VFIO_DEVICE_STATE_RUNNING_P2P = 5,
    VFIO_DEVICE_STATE_PRE_COPY = 6,
    VFIO_DEVICE_STATE_PRE_COPY_P2P = 7,
    VFIO_DEVICE_STATE_NR = 8,
};

struct vfio_device_feature_mig_state {
    uint32_t device_state;                      /* on failure as it was given: get tells where the device is */
    int32_t data_fd;                            /* -1: this change made no stream, or failed */
};

enum {                                          /* on the stream that a saving device gave */
    VFIO_MIG_GET_PRECOPY_INFO = (';' << 8) | 121,
};

enum {
    VFIO_PRECOPY_INFO_REINIT = 1 << 0,          /* initial_bytes starts anew; only after MIG_PRECOPY_INFOv2 */
};

struct vfio_precopy_info {
    uint32_t argsz;
    uint32_t flags;
    uint64_t initial_bytes;
    uint64_t dirty_bytes;
};

struct vfio_device_feature_mig_data_size {
    uint64_t stop_copy_length;
};

struct vfio_device_low_power_entry_with_wakeup {
    int32_t wakeup_eventfd;
    uint32_t reserved;
};

struct vfio_device_feature_dma_logging_control {
    uint64_t page_size;                         /* comes back as what the device really uses */
    uint32_t num_ranges;
    uint32_t __reserved;
    uint64_t ranges;                            /* address of an array of dma_logging_range */
};

struct vfio_device_feature_dma_logging_range {
    uint64_t iova;
    uint64_t length;
};

struct vfio_device_feature_dma_logging_report {
    uint64_t iova;
    uint64_t length;
    uint64_t page_size;
    uint64_t bitmap;                            /* address; bits are set, never cleared */
};

enum {
    VFIO_DEVICE_FEATURE_CLEAR_MASTER = 0,
    VFIO_DEVICE_FEATURE_SET_MASTER = 1,
};

struct vfio_device_feature_bus_master {
    uint32_t op;
};

struct vfio_region_dma_range {
    uint64_t offset;                            /* from the start of the region */
    uint64_t length;
};

struct vfio_device_feature_dma_buf {
    uint32_t region_index;
    uint32_t open_flags;
    uint32_t flags;
    uint32_t nr_ranges;
    struct vfio_region_dma_range dma_ranges[];
};

struct vfio_device_feature_zpci_err {           /* ENOMSG: no error is pending */
    uint64_t data;                              /* address of cap_zpci_base.ccdf_err_length bytes */
};

/* ---- Type 1 IOMMU, on the container ---- */

enum {
    VFIO_IOMMU_GET_INFO = (';' << 8) | 112,
    VFIO_IOMMU_MAP_DMA = (';' << 8) | 113,
    VFIO_IOMMU_UNMAP_DMA = (';' << 8) | 114,
    VFIO_IOMMU_DIRTY_PAGES = (';' << 8) | 117,  /* 5.8 */
};

enum {
    VFIO_IOMMU_INFO_PGSIZES = 1 << 0,
    VFIO_IOMMU_INFO_CAPS = 1 << 1,
};

struct vfio_iommu_type1_info {
    uint32_t argsz;
    uint32_t flags;
    uint64_t iova_pgsizes;                      /* a bit per size in bytes */
    uint32_t cap_offset;
    uint32_t pad;
};

enum {                                          /* capabilities of VFIO_IOMMU_GET_INFO */
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1,   /* 5.4; absent while only emulated devices are attached */
    VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION = 2,    /* 5.8 */
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3,        /* 5.10 */
};

struct vfio_iova_range {
    uint64_t start;
    uint64_t end;                               /* inclusive */
};

struct vfio_iommu_type1_info_cap_iova_range {
    struct vfio_info_cap_header header;
    uint32_t nr_iovas;
    uint32_t reserved;
    struct vfio_iova_range iova_ranges[];
};

struct vfio_iommu_type1_info_cap_migration {
    struct vfio_info_cap_header header;
    uint32_t flags;
    uint64_t pgsize_bitmap;
    uint64_t max_dirty_bitmap_size;             /* bytes */
};

struct vfio_iommu_type1_info_dma_avail {
    struct vfio_info_cap_header header;
    uint32_t avail;                             /* mappings left */
};

enum {
    VFIO_DMA_MAP_FLAG_READ = 1 << 0,            /* by the device */
    VFIO_DMA_MAP_FLAG_WRITE = 1 << 1,
    VFIO_DMA_MAP_FLAG_VADDR = 1 << 2,           /* gives a mapping a new vaddr after UNMAP_FLAG_VADDR */
};

struct vfio_iommu_type1_dma_map {
    uint32_t argsz;
    uint32_t flags;
    uint64_t vaddr;
    uint64_t iova;
    uint64_t size;
};

struct vfio_bitmap {
    uint64_t pgsize;
    uint64_t size;                              /* of the bitmap, in bytes */
    uint64_t *data;
};

enum {
    VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1 << 0,  /* data: struct vfio_bitmap */
    VFIO_DMA_UNMAP_FLAG_ALL = 1 << 1,               /* iova and size 0 */
    VFIO_DMA_UNMAP_FLAG_VADDR = 1 << 2,             /* the IOVA stays mapped, the vaddr is forgotten */
};

struct vfio_iommu_type1_dma_unmap {
    uint32_t argsz;
    uint32_t flags;
    uint64_t iova;
    uint64_t size;                              /* comes back as the bytes unmapped */
    uint8_t data[];
};

enum {                                          /* exactly one */
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START = 1 << 0,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP = 1 << 1,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP = 1 << 2,
};

struct vfio_iommu_type1_dirty_bitmap {
    uint32_t argsz;
    uint32_t flags;
    uint8_t data[];                             /* GET_BITMAP: struct vfio_iommu_type1_dirty_bitmap_get */
};

struct vfio_iommu_type1_dirty_bitmap_get {
    uint64_t iova;
    uint64_t size;
    struct vfio_bitmap bitmap;
};
