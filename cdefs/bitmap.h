/* SPDX-License-Identifier: MIT */
/* Bitmaps of pages as the kernel's dirty reports write them: bit 0 of word 0 is the first page of the range asked for, words
 * are u64, little endian. Bits beyond the last page are ignored.
 *
 * The functions call the OS only to get memory, and need no door. */

/* An array that grows; pyvfio_array_free() frees the values. All zero is an empty array. */
typedef struct {
    uint64_t *values;
    size_t count;
    size_t capacity;
} pyvfio_array;

/* Append the (start, last) pairs of the runs of dirty pages of a range that begins at `iova`, or the address of each dirty
 * page; a page is 1 << page_shift bytes. Ranges must come in ascending order; a run that continues from one range into a
 * range that touches it is one run. Returns 0, or -ENOMEM; the caller frees the array then too. */
int pyvfio_bitmap_runs(pyvfio_array *runs, const uint64_t *words, uint64_t bits, uint64_t iova, unsigned page_shift);
int pyvfio_bitmap_pages(pyvfio_array *pages, const uint64_t *words, uint64_t bits, uint64_t iova, unsigned page_shift);

/* Free the unused room; values becomes NULL if the array is empty. */
void pyvfio_array_trim(pyvfio_array *array);
void pyvfio_array_free(uint64_t *values);

uint64_t pyvfio_bitmap_count(const uint64_t *words, uint64_t bits);
_Bool pyvfio_bitmap_any(const uint64_t *words, uint64_t bits);
_Bool pyvfio_bitmap_equal(const uint64_t *one, const uint64_t *other, uint64_t bits);
void pyvfio_bitmap_clear(uint64_t *words, uint64_t bits);

/* into[into_bit ...] |= from[from_bit ...]; the two do not overlap. */
void pyvfio_bitmap_or(uint64_t *into, uint64_t into_bit, const uint64_t *from, uint64_t from_bit, uint64_t bits);

void *calloc(size_t count, size_t size);
void free(void *memory);
