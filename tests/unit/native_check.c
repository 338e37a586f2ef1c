/* SPDX-License-Identifier: MIT */
/* Checks bitmap.c and ranges.c against loops over single bits. test_native.py builds it with gcc's sanitizers. The argument is the
 * kind of processor, of those that bitmap.c knows: 0 as it is, 1 without AVX-512, 2 portable C only. Exit code 0, or the line of
 * the first check that failed. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What bitmap.c asks the processor. */
static int processor;
#define __builtin_cpu_supports(feature) \
	(processor == 0 ? __builtin_cpu_supports(feature) \
			: processor == 1 && *(feature) != 'a' && __builtin_cpu_supports(feature))

#include "ranges.h"
#include "bitmap.h"
#include "ranges.c"
#include "bitmap.c"

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			exit(1); \
		} \
	} while (0)

static uint64_t state = 1;

static uint64_t random64(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t below(uint64_t limit)
{
	return random64() % limit;
}

static _Bool bit(const uint64_t *words, uint64_t number)
{
	return words[number / 64] >> number % 64 & 1;
}

/* Words for exactly `bits` bits, so that the sanitizer sees a read beyond; what lies beyond in the last word is garbage. */
static uint64_t *bitmap(uint64_t bits, unsigned kind)
{
	size_t count = (bits + 63) / 64;
	uint64_t *words = calloc(count, 8);

	CHECK(words);
	for (size_t i = 0; i < count; i++)
		switch (kind) {
		case 0: break;
		case 1: words[i] = ~(uint64_t)0; break;
		case 2: words[i] = random64(); break;
		case 3: words[i] = random64() & random64() & random64() & random64() & random64(); break;
		case 4: words[i] = below(20) ? 0 : (uint64_t)1 << below(64); break;
		case 5: words[i] = below(20) ? ~(uint64_t)0 : ~((uint64_t)1 << below(64)); break;
		case 6: words[i] = 0x5555555555555555; break;
		case 7: words[i] = i / 10 % 2 ? ~(uint64_t)0 : 0; break;
		}
	if (bits % 64)
		words[count - 1] ^= random64() << bits % 64;
	return words;
}

static void check_runs(const uint64_t *bits, const unsigned *kinds, const uint64_t *iovas, unsigned segments,
		       unsigned shift)
{
	pyvfio_array runs = { 0 }, pages = { 0 };
	size_t run = 0, page = 0;
	uint64_t run_last = 0;

	for (unsigned s = 0; s < segments; s++) {
		uint64_t *words = bitmap(bits[s], kinds[s]);
		uint64_t count = 0;

		CHECK(!pyvfio_bitmap_runs(&runs, words, bits[s], iovas[s], shift));
		CHECK(!pyvfio_bitmap_pages(&pages, words, bits[s], iovas[s], shift));
		for (uint64_t i = 0; i < bits[s]; i++) {
			uint64_t start = iovas[s] + (i << shift), last = start + ((uint64_t)1 << shift) - 1;

			if (!bit(words, i))
				continue;
			CHECK(page < pages.count && pages.values[page] == start);
			page++;
			count++;
			if (run && run_last == start - 1) {
				run_last = last;
			} else {
				if (run)
					CHECK(runs.values[2 * run - 1] == run_last);
				CHECK(2 * run + 1 < runs.count && runs.values[2 * run] == start);
				run_last = last;
				run++;
			}
		}
		CHECK(pyvfio_bitmap_count(words, bits[s]) == count);
		CHECK(pyvfio_bitmap_any(words, bits[s]) == (count != 0));
		free(words);
	}
	CHECK(runs.count == 2 * run && pages.count == page);
	if (run)
		CHECK(runs.values[2 * run - 1] == run_last);
	pyvfio_array_trim(&runs);
	pyvfio_array_trim(&pages);
	if (run)
		CHECK(runs.values[2 * run - 1] == run_last);
	else
		CHECK(!runs.values);
	pyvfio_array_free(runs.values);
	pyvfio_array_free(pages.values);
}

static void check_all_runs(void)
{
	for (unsigned round = 0; round < 4000; round++) {
		uint64_t bits[3], iovas[3], at = below(2) << 40;
		unsigned kinds[3], segments = 1 + (unsigned)below(3), shift = 12 + (unsigned)below(10);

		for (unsigned s = 0; s < segments; s++) {
			bits[s] = below(2) ? 1 + below(1100) : 64 * (1 + below(17));
			kinds[s] = (unsigned)below(8);
			iovas[s] = at;
			at += (bits[s] + below(2)) << shift; /* touching, or not */
		}
		check_runs(bits, kinds, iovas, segments, shift);
	}
	for (unsigned kind = 0; kind < 8; kind++) { /* up to the last address */
		uint64_t bits[] = { 640, 1024 }, iovas[] = { -((uint64_t)1664 << 12), -((uint64_t)1024 << 12) };
		unsigned kinds[] = { kind, kind };

		check_runs(bits, kinds, iovas, 2, 12);
	}
	for (unsigned round = 0; round < 2; round++) /* more than is made room for at first; then in used memory */
		for (unsigned kind = 0; kind < 8; kind++) {
			uint64_t bits[] = { 3000000, 100, 1500000 },
				 iovas[] = { 0, (uint64_t)1 << 40, (uint64_t)1 << 41 };
			unsigned kinds[] = { kind, 1, 6 };

			check_runs(bits, kinds, iovas, 3, 12);
		}
}

static void check_or(void)
{
	for (unsigned round = 0; round < 20000; round++) {
		uint64_t bits = 1 + below(400), from_bit = below(130), into_bit = below(3) ? below(130) : from_bit;
		uint64_t *from = bitmap(from_bit + bits, 2), *into = bitmap(into_bit + bits, 3), *old;
		size_t size = (into_bit + bits + 63) / 64 * 8;

		old = malloc(size);
		CHECK(old);
		memcpy(old, into, size);
		pyvfio_bitmap_or(into, into_bit, from, from_bit, bits);
		for (uint64_t i = 0; i < 8 * size; i++) {
			_Bool inside = i >= into_bit && i < into_bit + bits;

			CHECK(bit(into, i) == (bit(old, i) || (inside && bit(from, from_bit + i - into_bit))));
		}
		free(from);
		free(into);
		free(old);
	}
}

static void check_equal(void)
{
	for (unsigned round = 0; round < 2000; round++) {
		uint64_t bits = 1 + below(1100), changed = below(bits + 64);
		uint64_t *one = bitmap(bits, 2), *other = malloc((bits + 63) / 64 * 8);

		CHECK(other);
		memcpy(other, one, (bits + 63) / 64 * 8);
		if (changed < (bits + 63) / 64 * 64)
			other[changed / 64] ^= (uint64_t)1 << changed % 64;
		CHECK(pyvfio_bitmap_equal(one, other, bits) == (changed >= bits));
		pyvfio_bitmap_clear(one, bits);
		CHECK(!pyvfio_bitmap_any(one, bits));
		free(one);
		free(other);
	}
}

enum { WORLD = 70 };

/* Which of WORLD addresses, from `base` on, are in the pairs; they are checked to be normalised. */
static void members(_Bool *in, const uint64_t *pairs, size_t count, uint64_t base)
{
	memset(in, 0, WORLD);
	for (size_t i = 0; i < count; i++) {
		CHECK(pairs[2 * i] <= pairs[2 * i + 1]);
		CHECK(!i || (pairs[2 * i] > pairs[2 * i - 1] && pairs[2 * i] - 1 > pairs[2 * i - 1]));
		for (uint64_t at = pairs[2 * i] - base; at <= pairs[2 * i + 1] - base; at++)
			in[at] = 1;
	}
}

static size_t some(uint64_t **pairs, _Bool *in, uint64_t base)
{
	size_t count = below(12);
	_Bool expected[WORLD] = { 0 };

	*pairs = malloc(count * 16);
	for (size_t i = 0; i < count; i++) {
		uint64_t start = below(WORLD), last = start + below(WORLD - start < 8 ? WORLD - start : 8);

		(*pairs)[2 * i] = base + start;
		(*pairs)[2 * i + 1] = base + last;
		memset(expected + start, 1, last - start + 1);
	}
	CHECK(!pyvfio_ranges_normalise(*pairs, &count));
	members(in, *pairs, count, base);
	CHECK(!memcmp(in, expected, WORLD));
	return count;
}

static void check_ranges(void)
{
	for (unsigned round = 0; round < 20000; round++) {
		uint64_t base = round % 2 ? -(uint64_t)WORLD : 0, *one, *other, *out;
		_Bool in_one[WORLD], in_other[WORLD], in_out[WORLD];
		size_t one_count = some(&one, in_one, base), other_count = some(&other, in_other, base), count, limit;
		uint64_t start = below(WORLD), last = start + below(WORLD - start);

		out = malloc((one_count + other_count) * 16);
		count = pyvfio_ranges_intersect(out, one, one_count, other, other_count);
		members(in_out, out, count, base);
		for (unsigned i = 0; i < WORLD; i++)
			CHECK(in_out[i] == (in_one[i] && in_other[i]));
		free(out);

		out = malloc((one_count + 1) * 16);
		count = pyvfio_ranges_complement(out, one, one_count, base + start, base + last);
		members(in_out, out, count, base);
		for (unsigned i = 0; i < WORLD; i++)
			CHECK(in_out[i] == (!in_one[i] && i >= start && i <= last));
		free(out);

		limit = 1 + below(8);
		count = pyvfio_ranges_coalesce(one, one_count, limit);
		CHECK(count == (one_count < limit ? one_count : limit));
		members(in_out, one, count, base);
		for (unsigned i = 0; i < WORLD; i++)
			CHECK(in_out[i] >= in_one[i]);
		free(one);
		free(other);
	}
}

int main(int count, char **arguments)
{
	CHECK(count == 2);
	processor = atoi(arguments[1]);
	check_all_runs();
	check_or();
	check_equal();
	check_ranges();
	return 0;
}
