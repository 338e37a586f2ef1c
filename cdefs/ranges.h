/* SPDX-License-Identifier: MIT */
/* Sets of addresses: arrays of `count` (start, last) pairs, last inclusive. All functions but the first take and return
 * normalised sets: sorted, and no two pairs overlap or touch. */

/* Sort the pairs and merge those that overlap or touch, in place; `count` becomes the number left. Returns 0; -EINVAL if a
 * pair's start is beyond its last, and `count` becomes the index of that pair; -ENOMEM. */
int pyvfio_ranges_normalise(uint64_t *pairs, size_t *count);

/* Close the smallest gaps, the lower of two equal ones first, until at most `limit` pairs are left, in place. Returns the
 * number left. */
size_t pyvfio_ranges_coalesce(uint64_t *pairs, size_t count, size_t limit);

/* Write the intersection to `out`, which has room for one_count + other_count pairs. Returns the number written. */
size_t pyvfio_ranges_intersect(uint64_t *out, const uint64_t *one, size_t one_count, const uint64_t *other,
                               size_t other_count);

/* Write the parts of start .. last that are in no pair to `out`, which has room for count + 1 pairs. Returns the number
 * written. */
size_t pyvfio_ranges_complement(uint64_t *out, const uint64_t *pairs, size_t count, uint64_t start, uint64_t last);
