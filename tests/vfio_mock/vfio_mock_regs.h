/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * vfio-mock: the device as a program sees it.
 *
 * Literals and comments only, so that C includes it and anything else can read it.
 * Every register has one width, named in its comment; any other access is EINVAL.
 * All values are little-endian. RO: writing is EINVAL; WO: reading is. What the words mean is in README.md.
 */
#ifndef VFIO_MOCK_REGS_H
#define VFIO_MOCK_REGS_H

/* The columns are aligned by hand over the whole file. */
/* clang-format off */

/* Regions: index, found at file offset index << 40 */
#define MOCK_REGION_REGISTERS           0       /* read, write; the registers below */
#define MOCK_REGION_MEMORY              1       /* read, write, mmap; module parameter "memory" bytes */
#define MOCK_REGION_SPARSE              2       /* read, write; mmap in two areas (SPARSE_MMAP) */
#define MOCK_REGION_TYPED               3       /* read, write; mmap in one area; TYPE, SPARSE_MMAP */
#define MOCK_REGION_EMPTY               4       /* size 0, no flags */
#define MOCK_REGION_ROM                 5       /* read only; byte n is n & 0xff */
#define MOCK_NUM_REGIONS                6

#define MOCK_REGISTERS_SIZE             0x1000
#define MOCK_SPARSE_SIZE                0x10000
#define MOCK_SPARSE_AREA0_OFFSET        0x1000
#define MOCK_SPARSE_AREA0_SIZE          0x2000
#define MOCK_SPARSE_AREA1_OFFSET        0x8000
#define MOCK_SPARSE_AREA1_SIZE          0x1000
#define MOCK_TYPED_SIZE                 0x4000
#define MOCK_TYPED_AREA_OFFSET          0x2000
#define MOCK_TYPED_AREA_SIZE            0x1000
#define MOCK_ROM_SIZE                   0x1000
#define MOCK_REGION_TYPE                0x6d6f636b      /* VFIO_REGION_INFO_CAP_TYPE type */
#define MOCK_REGION_SUBTYPE             1               /* and subtype */

/* Interrupts: the numbers of vfio-pci */
#define MOCK_IRQ_INTX                   0       /* 1, level, automasked */
#define MOCK_IRQ_MSI                    1       /* module parameter "msi" vectors, NORESIZE */
#define MOCK_IRQ_MSIX                   2       /* module parameter "msix" vectors */
#define MOCK_IRQ_ERR                    3
#define MOCK_IRQ_REQ                    4
#define MOCK_NUM_IRQS                   5
/* How registers name an interrupt: index << 16 | vector */
#define MOCK_IRQ_NONE                   0xffffffff

/* Identity */
#define MOCK_REG_MAGIC                  0x000   /* 32 RO */
#define MOCK_REG_VERSION                0x004   /* 32 RO */
#define MOCK_REG_INDEX                  0x008   /* 32 RO  n of vfio-mock.n */
#define MOCK_REG_CAPS                   0x00c   /* 32 RO  MOCK_CAP_* */
#define MOCK_REG_SCRATCH64              0x010   /* 64 RW  no meaning: for trying widths */
#define MOCK_REG_SCRATCH32              0x018   /* 32 RW */
#define MOCK_REG_SCRATCH16              0x01c   /* 16 RW */
#define MOCK_REG_SCRATCH8               0x01e   /*  8 RW */
#define MOCK_REG_TRANSFER_MAX           0x020   /* 32 RW  most bytes one read or write of a memory region moves; 0: any */

#define MOCK_MAGIC                      0x4b434f4d      /* "MOCK" */
#define MOCK_VERSION                    1
#define MOCK_CAP_LOG                    0x1
#define MOCK_CAP_MIGRATION              0x2
#define MOCK_CAP_PIN                    0x4

/* DMA engine */
#define MOCK_REG_DMA_IOVA               0x100   /* 64 RW  target (of READ: source) */
#define MOCK_REG_DMA_LENGTH             0x108   /* 64 RW  bytes */
#define MOCK_REG_DMA_SOURCE             0x110   /* 64 RW  COPY: the IOVA to read */
#define MOCK_REG_DMA_MEMORY             0x118   /* 64 RW  offset in the memory region */
#define MOCK_REG_DMA_PATTERN            0x120   /* 64 RW */
#define MOCK_REG_DMA_COUNT              0x128   /* 64 RW  LIST, SCATTER: number of writes */
#define MOCK_REG_DMA_STRIDE             0x130   /* 64 RW  TOUCH, SCATTER: bytes from one write to the next */
#define MOCK_REG_DMA_SEED               0x138   /* 64 RW  SCATTER */
#define MOCK_REG_DMA_DELAY              0x140   /* 32 RW  microseconds between two steps in the background */
#define MOCK_REG_DMA_IRQ                0x144   /* 32 RW  the interrupt at completion */
#define MOCK_REG_DMA_COMMAND            0x148   /* 32 RW  writing starts or stops; reads as the last one */
#define MOCK_REG_DMA_STATUS             0x14c   /* 32 RO  MOCK_DMA_IDLE ... */
#define MOCK_REG_DMA_ERRNO              0x150   /* 32 RO  errno of the last transfer, positive; 0: none */
#define MOCK_REG_DMA_STEPS              0x158   /* 64 RO  steps done by the last transfer */
#define MOCK_REG_DMA_BYTES              0x160   /* 64 RO  bytes moved by the last transfer */
#define MOCK_REG_DMA_FAULT              0x168   /* 64 RO  first IOVA that failed */
#define MOCK_REG_DMA_ROUNDS             0x170   /* 64 RO  rounds done (REPEAT) */

#define MOCK_DMA_STOP                   0x0     /* returns when nothing runs any more */
#define MOCK_DMA_WRITE                  0x1     /* memory region -> IOVA */
#define MOCK_DMA_READ                   0x2     /* IOVA -> memory region */
#define MOCK_DMA_FILL                   0x3     /* pattern -> IOVA .. + LENGTH */
#define MOCK_DMA_COPY                   0x4     /* SOURCE -> IOVA */
#define MOCK_DMA_LIST                   0x5     /* pattern -> each of COUNT 64-bit IOVAs in the memory region */
#define MOCK_DMA_TOUCH                  0x6     /* pattern -> every STRIDE bytes of IOVA .. + LENGTH */
#define MOCK_DMA_SCATTER                0x7     /* pattern -> COUNT random multiples of STRIDE in IOVA .. + LENGTH */
#define MOCK_DMA_OPERATION              0xff    /* mask of the above */
#define MOCK_DMA_BACKGROUND             0x100   /* in the device's own thread */
#define MOCK_DMA_REPEAT                 0x200   /* again and again until STOP; in the background */
#define MOCK_DMA_RAISE                  0x400   /* raise DMA_IRQ at the end, of each round too */
#define MOCK_DMA_COUNTING               0x800   /* pattern word k of round r is PATTERN + k + r */
#define MOCK_DMA_LOCAL                  0x1000  /* FILL, LIST, TOUCH, SCATTER: target is the memory region */
#define MOCK_DMA_PINNED                 0x2000  /* by pages pinned with PIN_COMMAND, instead of a copy by the CPU */
#define MOCK_DMA_KEEP                   0x4000  /* FILL, TOUCH, SCATTER: also into the memory region, n bytes into it what goes to IOVA + n */

#define MOCK_DMA_IDLE                   0
#define MOCK_DMA_BUSY                   1
#define MOCK_DMA_DONE                   2
#define MOCK_DMA_ERROR                  3

/* Interrupts */
#define MOCK_REG_IRQ_RAISE              0x180   /* 32 RW  writing raises this interrupt, as the device would */
#define MOCK_REG_IRQ_LINE               0x184   /* 32 RW  bit 0: INTx is asserted; writing 1 deasserts */
#define MOCK_REG_IRQ_MASKED             0x188   /* 32 RO  bit 0: INTx is masked */

/* DMA logging. The limits hold from the next start on and are those of the module parameters after open. */
#define MOCK_REG_LOG_MAX_RANGES         0x200   /* 32 RW */
#define MOCK_REG_LOG_OVERFLOW           0x204   /* 32 RW  more ranges than that: MOCK_LOG_COMBINE or _REFUSE */
#define MOCK_REG_LOG_PAGE_MIN           0x208   /* 64 RW  smallest page size, a power of two >= 4096 */
#define MOCK_REG_LOG_PAGE_MAX           0x210   /* 64 RW  largest, a power of two */
#define MOCK_REG_LOG_SIZE_MIN           0x218   /* 32 RW  ceil(log2(sum of lengths)) is at least this */
#define MOCK_REG_LOG_SIZE_MAX           0x21c   /* 32 RW  and at most this, else EOPNOTSUPP */
#define MOCK_REG_LOG_ACTIVE             0x220   /* 32 RO */
#define MOCK_REG_LOG_NUM_RANGES         0x224   /* 32 RO  ranges tracked, after combining */
#define MOCK_REG_LOG_PAGE_SIZE          0x228   /* 64 RO  as negotiated */
#define MOCK_REG_LOG_RANGE              0x230   /* 32 RW  selects the range that the next two show */
#define MOCK_REG_LOG_RANGE_START        0x238   /* 64 RO */
#define MOCK_REG_LOG_RANGE_LAST         0x240   /* 64 RO  inclusive */
#define MOCK_REG_LOG_DIRTY              0x248   /* 64 RO  4 KiB pages dirty now and not reported yet */
#define MOCK_LOG_COMBINE                0
#define MOCK_LOG_REFUSE                 1       /* E2BIG */

/* Counters since open */
#define MOCK_REG_BYTES_WRITTEN          0x280   /* 64 RO  to IOVAs */
#define MOCK_REG_BYTES_READ             0x288   /* 64 RO  from IOVAs */
#define MOCK_REG_PAGES_MARKED           0x290   /* 64 RO  4 KiB pages that became dirty in the log */
#define MOCK_REG_IRQS_SIGNALED          0x298   /* 64 RO  eventfds signaled, loopback too */
#define MOCK_REG_UNMAPS                 0x2a0   /* 64 RO  unmap notices (the core sends one only where pages are pinned) */
#define MOCK_REG_RESETS                 0x2a8   /* 64 RO */

/* Pinning */
#define MOCK_REG_PIN_IOVA               0x300   /* 64 RW */
#define MOCK_REG_PIN_COUNT              0x308   /* 64 RW  pages of the host's size */
#define MOCK_REG_PIN_COMMAND            0x310   /* 32 WO  writing does it; a failure is the write's errno */
#define MOCK_REG_PIN_PINNED             0x318   /* 64 RO  pages held now */
#define MOCK_PIN_PIN                    1       /* hold the pages until unpinned, unmapped or closed */
#define MOCK_PIN_UNPIN                  2       /* release what is held in the range */

/* Migration */
#define MOCK_REG_MIG_STATE              0x380   /* 32 RO  enum vfio_device_mig_state */
#define MOCK_REG_MIG_REINIT             0x384   /* 32 WO  1: new initial data is present; EINVAL but in PRE_COPY */
#define MOCK_REG_MIG_SENT               0x388   /* 64 RO  bytes read from the last data descriptor */
#define MOCK_REG_MIG_RECEIVED           0x390   /* 64 RO  bytes written to the last data descriptor */
#define MOCK_REG_MIG_PATH               0x398   /* 64 RO  states that the last request reached, 4 bits each, the last lowest */

/*
 * Failures: the n-th call of a kind fails. Four 32-bit registers per kind, at
 * MOCK_REG_FAULT + kind * MOCK_FAULT_SIZE. Accesses to them are not counted as calls.
 */
#define MOCK_REG_FAULT                  0x400
#define MOCK_FAULT_SIZE                 0x10
#define MOCK_FAULT_NTH                  0x0     /* 32 RW  1: the next call fails; counts down; 0: none */
#define MOCK_FAULT_ERRNO                0x4     /* 32 RW  with this errno, 1..4095; EIO after open */
#define MOCK_FAULT_CALLS                0x8     /* 32 RO  calls since open */
#define MOCK_FAULT_FIRED                0xc     /* 32 RO  calls that were failed since open */

#define MOCK_FAULT_LOG_START            0
#define MOCK_FAULT_LOG_STOP             1
#define MOCK_FAULT_LOG_REPORT           2
#define MOCK_FAULT_DMA                  3       /* one piece of at most a page, read or written at an IOVA */
#define MOCK_FAULT_RESET                4
#define MOCK_FAULT_REGION_READ          5
#define MOCK_FAULT_REGION_WRITE         6
#define MOCK_FAULT_REGION_MMAP          7
#define MOCK_FAULT_GET_INFO             8
#define MOCK_FAULT_REGION_INFO          9
#define MOCK_FAULT_IRQ_INFO             10
#define MOCK_FAULT_SET_IRQS             11
#define MOCK_FAULT_OPEN                 12      /* survives close and open */
#define MOCK_FAULT_PIN                  13
#define MOCK_FAULT_MIG_SET_STATE        14      /* one step of the state machine */
#define MOCK_FAULT_MIG_GET_STATE        15
#define MOCK_FAULT_MIG_DATA_SIZE        16
#define MOCK_FAULT_MIG_READ             17
#define MOCK_FAULT_MIG_WRITE            18
#define MOCK_FAULT_MIG_PRECOPY_INFO     19
#define MOCK_NUM_FAULTS                 20

#endif
