/* SPDX-License-Identifier: MIT */
/* The functions that ranges.h declares. No Python.h in here: this file compiles and runs without an interpreter. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static _Bool pyvfio_ranges_sorted(const uint64_t *pairs, size_t count)
{
	for (size_t i = 1; i < count; i++)
		if (pairs[2 * i] < pairs[2 * i - 2])
			return 0;
	return 1;
}

/* By start, a byte at a time from the lowest (radix sort): each pass keeps the order of the pass before. */
static int pyvfio_ranges_sort(uint64_t *pairs, size_t count)
{
	size_t sums[8][256] = { { 0 } };
	uint64_t *from = pairs, *to = malloc(count * 16);

	if (!to)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		for (unsigned byte = 0; byte < 8; byte++)
			sums[byte][pairs[2 * i] >> 8 * byte & 255]++;
	for (unsigned byte = 0; byte < 8; byte++) {
		size_t *at = sums[byte], sum = 0;
		uint64_t *swap;

		if (at[pairs[0] >> 8 * byte & 255] == count)
			continue; /* all have the same byte here */
		for (unsigned value = 0; value < 256; value++) {
			size_t here = at[value];

			at[value] = sum;
			sum += here;
		}
		for (size_t i = 0; i < count; i++) {
			uint64_t *slot = to + 2 * at[from[2 * i] >> 8 * byte & 255]++;

			slot[0] = from[2 * i];
			slot[1] = from[2 * i + 1];
		}
		swap = from;
		from = to;
		to = swap;
	}
	if (from != pairs) {
		memcpy(pairs, from, count * 16);
		to = from;
	}
	free(to);
	return 0;
}

int pyvfio_ranges_normalise(uint64_t *pairs, size_t *count)
{
	size_t left = 0;

	for (size_t i = 0; i < *count; i++)
		if (pairs[2 * i] > pairs[2 * i + 1]) {
			*count = i;
			return -EINVAL;
		}
	if (!pyvfio_ranges_sorted(pairs, *count)) {
		int result = pyvfio_ranges_sort(pairs, *count);

		if (result < 0)
			return result;
	}
	for (size_t i = 0; i < *count; i++) {
		uint64_t start = pairs[2 * i], last = pairs[2 * i + 1];

		/* start - 1 wraps for 0 only, and then the first condition holds. */
		if (left && (start <= pairs[2 * left - 1] || start - 1 == pairs[2 * left - 1])) {
			if (last > pairs[2 * left - 1])
				pairs[2 * left - 1] = last;
		} else {
			pairs[2 * left] = start;
			pairs[2 * left + 1] = last;
			left++;
		}
	}
	*count = left;
	return 0;
}

size_t pyvfio_ranges_coalesce(uint64_t *pairs, size_t count, size_t limit)
{
	uint64_t widest = 0, known = 0;
	size_t equal, left = 1;

	if (count <= limit)
		return count;
	/* A gap stays as wide as it is when another is closed, so the ones to close are just the smallest. The width of the
	 * widest of them is found a byte at a time from the highest; then `equal` are to be closed of that width. */
	equal = count - limit;
	for (int shift = 56; shift >= 0; shift -= 8) {
		size_t with[256] = { 0 };
		unsigned byte = 0;

		for (size_t i = 1; i < count; i++) {
			uint64_t gap = pairs[2 * i] - pairs[2 * i - 1];

			if ((gap & known) == widest)
				with[gap >> shift & 255]++;
		}
		while (equal > with[byte])
			equal -= with[byte++];
		widest |= (uint64_t)byte << shift;
		known |= (uint64_t)255 << shift;
	}
	for (size_t i = 1; i < count; i++) {
		uint64_t gap = pairs[2 * i] - pairs[2 * left - 1];

		if (gap < widest || (gap == widest && equal && equal--)) {
			pairs[2 * left - 1] = pairs[2 * i + 1];
		} else {
			pairs[2 * left] = pairs[2 * i];
			pairs[2 * left + 1] = pairs[2 * i + 1];
			left++;
		}
	}
	return left;
}

size_t pyvfio_ranges_intersect(uint64_t *out, const uint64_t *one, size_t one_count, const uint64_t *other,
			       size_t other_count)
{
	size_t made = 0;

	for (size_t i = 0, j = 0; i < one_count && j < other_count;) {
		uint64_t start = one[2 * i] > other[2 * j] ? one[2 * i] : other[2 * j];
		uint64_t last = one[2 * i + 1] < other[2 * j + 1] ? one[2 * i + 1] : other[2 * j + 1];

		if (start <= last) {
			out[2 * made] = start;
			out[2 * made + 1] = last;
			made++;
		}
		if (one[2 * i + 1] < other[2 * j + 1])
			i++;
		else
			j++;
	}
	return made;
}

size_t pyvfio_ranges_complement(uint64_t *out, const uint64_t *pairs, size_t count, uint64_t start, uint64_t last)
{
	size_t made = 0;

	for (size_t i = 0; i < count && pairs[2 * i] <= last; i++) {
		if (pairs[2 * i] > start) {
			out[2 * made] = start;
			out[2 * made + 1] = pairs[2 * i] - 1;
			made++;
		}
		if (pairs[2 * i + 1] >= last)
			return made;
		if (pairs[2 * i + 1] >= start)
			start = pairs[2 * i + 1] + 1;
	}
	out[2 * made] = start;
	out[2 * made + 1] = last;
	return made + 1;
}
