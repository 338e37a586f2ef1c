/* SPDX-License-Identifier: MIT */
/* The comparison for scripts/bench_bitmap: plain loops over 64-bit words, compiled with -O2. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/* Read the bitmap once. */
uint64_t read_once(const uint64_t *words, size_t count)
{
	uint64_t a = 0, b = 0, c = 0, d = 0;

	for (size_t i = 0; i < count; i += 4) {
		a |= words[i];
		b |= words[i + 1];
		c |= words[i + 2];
		d |= words[i + 3];
	}
	return a | b | c | d;
}

/* Write the runs to `pairs`, which must have room for all, as (start, last), and return their number. A word that only
 * continues the run or gap before it costs one comparison. */
size_t runs(const uint64_t *words, size_t count, uint64_t iova, unsigned page_shift, uint64_t *pairs)
{
	size_t made = 0;
	uint64_t before = 0; /* the bit of the page before */

	for (size_t i = 0; i < count; i++) {
		uint64_t word = words[i], changes;

		if (word == -before)
			continue;
		changes = word ^ (word << 1 | before);
		before = word >> 63;
		for (; changes; changes &= changes - 1, made++)
			pairs[made] = iova + ((64 * i + (uint64_t)__builtin_ctzll(changes)) << page_shift) - (made & 1);
	}
	if (before)
		pairs[made++] = iova + ((uint64_t)64 * count << page_shift) - 1;
	return made / 2;
}

/* Do the same with an allocated result buffer, which grows as needed. */
size_t runs_allocating(const uint64_t *words, size_t count, uint64_t iova, unsigned page_shift)
{
	size_t made = 0, room = 1024;
	uint64_t before = 0, *pairs = malloc(room * sizeof(*pairs));

	for (size_t i = 0; pairs && i < count; i++) {
		uint64_t word = words[i], changes;

		if (word == -before)
			continue;
		if (room - made < 65) {
			uint64_t *more = realloc(pairs, (room *= 2) * sizeof(*pairs));

			if (!more)
				break;
			pairs = more;
		}
		changes = word ^ (word << 1 | before);
		before = word >> 63;
		for (; changes; changes &= changes - 1, made++)
			pairs[made] = iova + ((64 * i + (uint64_t)__builtin_ctzll(changes)) << page_shift) - (made & 1);
	}
	if (pairs && before)
		pairs[made++] = iova + ((uint64_t)64 * count << page_shift) - 1;
	free(pairs);
	return made / 2;
}

static uint64_t state = 88172645463325252;

static uint64_t random64(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* Make `amount` clusters dirty, each of 1 to `longest` pages. */
void fill(uint64_t *words, size_t count, size_t amount, size_t longest)
{
	while (amount--) {
		size_t page = random64() % (64 * count - longest), length = 1 + random64() % longest;

		for (; length--; page++)
			words[page / 64] |= (uint64_t)1 << page % 64;
	}
}

/* Make each page dirty with a probability of one half. */
void toss(uint64_t *words, size_t count)
{
	for (size_t i = 0; i < count; i++)
		words[i] = random64();
}

void set_all(uint64_t *words, size_t count)
{
	for (size_t i = 0; i < count; i++)
		words[i] = ~(uint64_t)0;
}
