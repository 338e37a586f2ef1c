/* SPDX-License-Identifier: MIT */
/* The functions that bitmap.h declares. No Python.h in here: this file compiles and runs without an interpreter. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

enum {
	PYVFIO_BLOCK = 8,		      /* words examined together: a cache line */
	PYVFIO_ROOM = 64 * PYVFIO_BLOCK + 16, /* values a block may write: 16 more than it has */
	PYVFIO_MANY = 1 << 19		      /* values (4 MiB) to have room for before they are counted */
};

#define PYVFIO_INLINE static inline __attribute__((always_inline))

/* A walk over the whole blocks of a bitmap. A mark is a bit that becomes a value: for pages, each bit that is set; for runs,
 * each bit that differs from the one below it. The latter are, in turns, the start of a run and the bit after its end, so
 * their list is the list of pairs. */
typedef struct {
	const uint64_t *words;
	size_t blocks; /* still to do */
	uint64_t iova; /* of the next block */
	unsigned page_shift;
	uint64_t carry;	  /* for runs: whether the page before is dirty */
	uint64_t *values; /* where the next value goes */
	uint64_t *full;	  /* the last place from which there is room for a block */
} pyvfio_walk;

PYVFIO_INLINE uint64_t pyvfio_marks(uint64_t word, uint64_t carry, _Bool runs)
{
	return runs ? word ^ (word << 1 | carry) : word;
}

/* Whether any word of a block differs from `filler`. */
PYVFIO_INLINE _Bool pyvfio_unlike(const uint64_t *words, uint64_t filler)
{
	return ((words[0] ^ filler) | (words[1] ^ filler) | (words[2] ^ filler) | (words[3] ^ filler) |
		(words[4] ^ filler) | (words[5] ^ filler) | (words[6] ^ filler) | (words[7] ^ filler)) != 0;
}

PYVFIO_INLINE uint64_t pyvfio_count_marks(const uint64_t *words, size_t blocks, uint64_t carry, const _Bool runs)
{
	uint64_t count = 0;

	for (size_t i = 0; i < blocks * PYVFIO_BLOCK; i++) {
		count += (uint64_t)__builtin_popcountll(pyvfio_marks(words[i], carry, runs));
		carry = words[i] >> 63;
	}
	return count;
}

/* Both kinds of walk continue until all blocks are done or there is no room. The number of marks in a word cannot be predicted, and
 * a branch that is predicted wrong costs more than a few values too many. So they write in groups, and advance by the true count. */
PYVFIO_INLINE void pyvfio_walk_words(pyvfio_walk *walk, const _Bool runs)
{
	const uint64_t *words = walk->words;
	const unsigned shift = walk->page_shift;
	uint64_t carry = walk->carry, iova = walk->iova, *values = walk->values;
	size_t blocks = walk->blocks;

	for (; blocks; blocks--, words += PYVFIO_BLOCK, iova += (uint64_t)64 * PYVFIO_BLOCK << shift) {
		if (!pyvfio_unlike(words, -carry))
			continue;
		if (values > walk->full)
			break;
#pragma GCC unroll 8
		for (unsigned i = 0; i < PYVFIO_BLOCK; i++) {
			uint64_t marks = pyvfio_marks(words[i], carry, runs);
			uint64_t first = iova + ((uint64_t)64 * i << shift);
			unsigned count = (unsigned)__builtin_popcountll(marks);

			/* For the end of a run the last address is one below the mark. ctz of 0 is undefined, hence the top bit. */
#define PYVFIO_PUT(n) \
	(values[n] = first + ((uint64_t)__builtin_ctzll(marks | (uint64_t)1 << 63) << shift) - \
		     (runs ? carry ^ ((n) & 1) : 0), \
	 marks &= marks - 1)
#define PYVFIO_PUT4(n) (PYVFIO_PUT(n), PYVFIO_PUT((n) + 1), PYVFIO_PUT((n) + 2), PYVFIO_PUT((n) + 3))
			PYVFIO_PUT4(0);
			if (__builtin_expect(count > 4, 0)) {
				PYVFIO_PUT4(4);
				if (count > 8) {
					PYVFIO_PUT4(8);
					PYVFIO_PUT4(12);
					for (unsigned n = 16; n < count; n++)
						PYVFIO_PUT(n);
				}
			}
#undef PYVFIO_PUT4
#undef PYVFIO_PUT
			values += count;
			if (runs)
				carry = words[i] >> 63;
		}
	}
	walk->words = words;
	walk->blocks = blocks;
	walk->iova = iova;
	walk->carry = carry;
	walk->values = values;
}

#ifdef __x86_64__
#define PYVFIO_POPCNT __attribute__((target("popcnt,bmi")))
#define PYVFIO_AVX512 __attribute__((target("popcnt,avx512f,avx512bw,avx512vbmi2")))

/* One compress gives the positions of a word's marks, and each store writes eight values. Twice as fast as pyvfio_walk_words where much
 * is dirty. */
PYVFIO_AVX512 PYVFIO_INLINE void pyvfio_walk_avx512(pyvfio_walk *walk, const _Bool runs)
{
	const uint64_t *words = walk->words;
	const unsigned shift = walk->page_shift;
	const __m128i shifts = _mm_cvtsi32_si128((int)shift);
	const __m512i numbers =
		_mm512_set_epi64(0x3f3e3d3c3b3a3938, 0x3736353433323130, 0x2f2e2d2c2b2a2928, 0x2726252423222120,
				 0x1f1e1d1c1b1a1918, 0x1716151413121110, 0x0f0e0d0c0b0a0908, 0x0706050403020100);
	const __m512i ends = _mm512_set_epi64(1, 0, 1, 0, 1, 0, 1, 0);
	uint64_t carry = walk->carry, iova = walk->iova, *values = walk->values;
	size_t blocks = walk->blocks;

	for (; blocks; blocks--, words += PYVFIO_BLOCK, iova += (uint64_t)64 * PYVFIO_BLOCK << shift) {
		if (!_mm512_cmpneq_epi64_mask(_mm512_loadu_si512(words), _mm512_set1_epi64(-(int64_t)carry)))
			continue;
		if (values > walk->full)
			break;
#pragma GCC unroll 8
		for (unsigned i = 0; i < PYVFIO_BLOCK; i++) {
			uint64_t marks = pyvfio_marks(words[i], carry, runs), *to = values;
			int left = __builtin_popcountll(marks);
			__m512i first = _mm512_set1_epi64((int64_t)(iova + ((uint64_t)64 * i << shift)));
			__m512i set = _mm512_maskz_compress_epi8(marks, numbers);

			values += left;
			if (runs) {
				first = _mm512_sub_epi64(first,
							 _mm512_xor_si512(ends, _mm512_set1_epi64((int64_t)carry)));
				carry = words[i] >> 63;
			}
			for (;;) {
				__m512i eight = _mm512_cvtepu8_epi64(_mm512_castsi512_si128(set));

				_mm512_storeu_si512(to, _mm512_add_epi64(first, _mm512_sll_epi64(eight, shifts)));
				if (__builtin_expect(left <= 8, 1))
					break;
				set = _mm512_alignr_epi64(set, set, 1);
				to += 8;
				left -= 8;
			}
		}
	}
	walk->words = words;
	walk->blocks = blocks;
	walk->iova = iova;
	walk->carry = carry;
	walk->values = values;
}

PYVFIO_AVX512 static void pyvfio_walk_runs_avx512(pyvfio_walk *walk)
{
	pyvfio_walk_avx512(walk, 1);
}

PYVFIO_AVX512 static void pyvfio_walk_pages_avx512(pyvfio_walk *walk)
{
	pyvfio_walk_avx512(walk, 0);
}

PYVFIO_POPCNT static void pyvfio_walk_runs_popcnt(pyvfio_walk *walk)
{
	pyvfio_walk_words(walk, 1);
}

PYVFIO_POPCNT static void pyvfio_walk_pages_popcnt(pyvfio_walk *walk)
{
	pyvfio_walk_words(walk, 0);
}

PYVFIO_POPCNT static uint64_t pyvfio_count_popcnt(const uint64_t *words, size_t blocks, uint64_t carry, _Bool runs)
{
	return runs ? pyvfio_count_marks(words, blocks, carry, 1) : pyvfio_count_marks(words, blocks, 0, 0);
}
#endif

static void pyvfio_walk_on(pyvfio_walk *walk, _Bool runs)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512bw")) {
		(runs ? pyvfio_walk_runs_avx512 : pyvfio_walk_pages_avx512)(walk);
		return;
	}
	if (__builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi")) {
		(runs ? pyvfio_walk_runs_popcnt : pyvfio_walk_pages_popcnt)(walk);
		return;
	}
#endif
	pyvfio_walk_words(walk, runs);
}

static uint64_t pyvfio_count(const uint64_t *words, size_t blocks, uint64_t carry, _Bool runs)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi"))
		return pyvfio_count_popcnt(words, blocks, carry, runs);
#endif
	return pyvfio_count_marks(words, blocks, carry, runs);
}

/* The memory of the last large array, kept for the next one: zeroing and mapping new pages costs more than finding the
 * values that are written there. MADV_FREE lets the kernel take the pages back whenever it needs them. */
static uint64_t *pyvfio_spare;

/* Give advice on the whole pages that `count` values take up. */
static int pyvfio_array_advise(uint64_t *values, size_t count, int advice)
{
	uintptr_t from = ((uintptr_t)values + 4095) & ~(uintptr_t)4095;
	uintptr_t to = (uintptr_t)(values + count) & ~(uintptr_t)4095;

	return to > from ? madvise((void *)from, to - from, advice) : 0;
}

/* The capacity of an array is stored in front of it, in a separate cache line. */
enum { PYVFIO_FRONT = 8 };

static size_t pyvfio_array_room(const uint64_t *values)
{
	return values ? values[-PYVFIO_FRONT] : 0;
}

/* realloc() of an array; NULL without memory, and the array is unchanged then. */
static uint64_t *pyvfio_array_resize(uint64_t *values, size_t capacity)
{
	uint64_t *front = values ? values - PYVFIO_FRONT : NULL;

	if (capacity > SIZE_MAX / sizeof(*front) - PYVFIO_FRONT)
		return NULL;
	front = realloc(front, (capacity + PYVFIO_FRONT) * sizeof(*front));
	if (!front)
		return NULL;
	front[0] = capacity;
	return front + PYVFIO_FRONT;
}

static void pyvfio_array_release(uint64_t *values)
{
	if (values)
		free(values - PYVFIO_FRONT);
}

/* Free an array, of which no more than the first `written` values have been written to since it was handed out. */
static void pyvfio_array_drop(uint64_t *values, size_t written)
{
	size_t room = pyvfio_array_room(values);

	if (room >= PYVFIO_MANY && !pyvfio_array_advise(values, written < room ? written : room, MADV_FREE))
		values = __atomic_exchange_n(&pyvfio_spare, values, __ATOMIC_ACQ_REL);
	pyvfio_array_release(values);
}

void pyvfio_array_free(uint64_t *values)
{
	pyvfio_array_drop(values, SIZE_MAX);
}

static int pyvfio_array_grow(pyvfio_array *array, size_t capacity)
{
	uint64_t *values = array->values;

	if (!values && capacity >= PYVFIO_MANY)
		values = __atomic_exchange_n(&pyvfio_spare, NULL, __ATOMIC_ACQ_REL);
	if (pyvfio_array_room(values) < capacity) {
		uint64_t *larger = pyvfio_array_resize(values, capacity);

		if (!larger) {
			if (!array->values)
				pyvfio_array_release(values);
			return -ENOMEM;
		}
		values = larger;
		if (capacity >= PYVFIO_MANY)
			pyvfio_array_advise(values, capacity, MADV_HUGEPAGE); /* a failure does not matter */
	}
	array->values = values;
	array->capacity = pyvfio_array_room(values);
	return 0;
}

void pyvfio_array_trim(pyvfio_array *array)
{
	size_t count = array->count, enough = count + count / 16 + PYVFIO_ROOM;
	uint64_t *values = NULL;

	if (count > PYVFIO_MANY) {
		/* Keep a little room, so that the memory suffices for a next array of about this size. */
		if (array->capacity > enough + enough / 4)
			values = pyvfio_array_resize(array->values, enough);
		if (values)
			array->values = values;
		return;
	}
	if (count) {
		values = pyvfio_array_resize(NULL, count);
		if (!values)
			return;
		memcpy(values, array->values, count * sizeof(*values));
	}
	pyvfio_array_drop(array->values, count + PYVFIO_ROOM);
	array->values = values;
}

static int pyvfio_walk_blocks(pyvfio_array *array, pyvfio_walk *walk, _Bool runs)
{
	do {
		if (array->capacity - array->count < PYVFIO_ROOM) {
			uint64_t more = (uint64_t)64 * PYVFIO_BLOCK * walk->blocks;

			/* At first make room for every possible mark, but for at most PYVFIO_MANY. If there are more, count the rest. */
			if (more > PYVFIO_MANY)
				more = array->capacity ? pyvfio_count(walk->words, walk->blocks, walk->carry, runs)
						       : PYVFIO_MANY;
			if (pyvfio_array_grow(array, array->count + more + 2 * PYVFIO_ROOM) < 0)
				return -ENOMEM;
		}
		walk->values = array->values + array->count;
		walk->full = array->values + array->capacity - PYVFIO_ROOM;
		pyvfio_walk_on(walk, runs);
		array->count = (size_t)(walk->values - array->values);
	} while (walk->blocks);
	return 0;
}

/* Fills a block with the last words of a bitmap, those that make no whole block, and zeros; the number of words. */
static size_t pyvfio_tail(uint64_t *block, const uint64_t *words, uint64_t bits)
{
	size_t whole = bits / 64, count = (bits + 63) / 64, from = whole / PYVFIO_BLOCK * PYVFIO_BLOCK;

	memset(block, 0, PYVFIO_BLOCK * sizeof(*block));
	memcpy(block, words + from, (count - from) * sizeof(*block));
	if (bits % 64)
		block[whole - from] &= ((uint64_t)1 << bits % 64) - 1;
	return count - from;
}

static int pyvfio_bitmap_values(pyvfio_array *array, const uint64_t *words, uint64_t bits, uint64_t iova,
				unsigned page_shift, _Bool runs)
{
	uint64_t tail[PYVFIO_BLOCK];
	pyvfio_walk walk = {
		.words = words,
		.blocks = bits / (64 * PYVFIO_BLOCK),
		.iova = iova,
		.page_shift = page_shift,
	};
	int result;

	if (runs && array->count && array->values[array->count - 1] == iova - 1) {
		array->count--; /* the last run of the range before touches this range, and may continue here */
		walk.carry = 1;
	}
	result = pyvfio_walk_blocks(array, &walk, runs);
	if (result < 0)
		return result;
	if (pyvfio_tail(tail, words, bits)) {
		walk.words = tail;
		walk.blocks = 1;
		result = pyvfio_walk_blocks(array, &walk, runs);
		if (result < 0)
			return result;
	}
	/* There is room for this value: PYVFIO_ROOM is more than the marks of a block. */
	if (walk.carry)
		array->values[array->count++] = iova + (bits << page_shift) - 1;
	return 0;
}

int pyvfio_bitmap_runs(pyvfio_array *runs, const uint64_t *words, uint64_t bits, uint64_t iova, unsigned page_shift)
{
	return pyvfio_bitmap_values(runs, words, bits, iova, page_shift, 1);
}

int pyvfio_bitmap_pages(pyvfio_array *pages, const uint64_t *words, uint64_t bits, uint64_t iova, unsigned page_shift)
{
	return pyvfio_bitmap_values(pages, words, bits, iova, page_shift, 0);
}

uint64_t pyvfio_bitmap_count(const uint64_t *words, uint64_t bits)
{
	uint64_t tail[PYVFIO_BLOCK];

	pyvfio_tail(tail, words, bits);
	return pyvfio_count(words, bits / (64 * PYVFIO_BLOCK), 0, 0) + pyvfio_count(tail, 1, 0, 0);
}

_Bool pyvfio_bitmap_any(const uint64_t *words, uint64_t bits)
{
	uint64_t tail[PYVFIO_BLOCK];

	pyvfio_tail(tail, words, bits);
	for (size_t i = 0; i < bits / (64 * PYVFIO_BLOCK); i++)
		if (pyvfio_unlike(words + PYVFIO_BLOCK * i, 0))
			return 1;
	return pyvfio_unlike(tail, 0);
}

_Bool pyvfio_bitmap_equal(const uint64_t *one, const uint64_t *other, uint64_t bits)
{
	uint64_t one_tail[PYVFIO_BLOCK], other_tail[PYVFIO_BLOCK];

	pyvfio_tail(one_tail, one, bits);
	pyvfio_tail(other_tail, other, bits);
	return !memcmp(one, other, bits / (64 * PYVFIO_BLOCK) * sizeof(one_tail)) &&
	       !memcmp(one_tail, other_tail, sizeof(one_tail));
}

void pyvfio_bitmap_clear(uint64_t *words, uint64_t bits)
{
	memset(words, 0, (bits + 63) / 64 * sizeof(*words));
}

void pyvfio_bitmap_or(uint64_t *into, uint64_t into_bit, const uint64_t *from, uint64_t from_bit, uint64_t bits)
{
	while (bits) {
		unsigned up = into_bit % 64, down = from_bit % 64, count = 64 - up;
		uint64_t word = from[from_bit / 64] >> down;

		if (count > bits)
			count = (unsigned)bits;
		if (down + count > 64)
			word |= from[from_bit / 64 + 1] << (64 - down);
		if (count < 64)
			word &= ((uint64_t)1 << count) - 1;
		if (word) /* do not touch pages of the bitmap without need: they may never have been written to */
			into[into_bit / 64] |= word << up;
		into_bit += count;
		from_bit += count;
		bits -= count;
	}
}
