/* SPDX-License-Identifier: MIT */
/* Sets of addresses: arrays of `count` (start, last) pairs, last inclusive. All but the first function take and make
 * normalised ones: sorted, no two overlap or touch. */

/* Sort the pairs and merge those that overlap or touch, in place; `count` becomes the number left. 0; -EINVAL for a pair
 * whose start is beyond its last, whose index `count` becomes; -ENOMEM. */
int pyvfio_ranges_normalise(uint64_t *pairs, size_t *count);

/* Close the smallest gaps, of equal ones the lowest, until at most `limit` pairs are left, in place; the number left. */
size_t pyvfio_ranges_coalesce(uint64_t *pairs, size_t count, size_t limit);

/* What is in both; `out` has room for one_count + other_count pairs. The number written. */
size_t pyvfio_ranges_intersect(uint64_t *out, const uint64_t *one, size_t one_count, const uint64_t *other,
                               size_t other_count);

/* What of start .. last is in no pair; `out` has room for count + 1 pairs. The number written. */
size_t pyvfio_ranges_complement(uint64_t *out, const uint64_t *pairs, size_t count, uint64_t start, uint64_t last);
