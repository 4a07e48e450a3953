/*
 * page_hash.c: 64 lanes of 32 bits, then one
 *
 *     page, as 16 rows of 64 words         lane:  0     1     2          63
 *                                          row 0  w0    w1    w2   …     w63
 *                                          row 1  w64   w65   …
 *                                           …      ▼     ▼     ▼          ▼
 *     stir down each column                       s0    s1    s2   …     s63
 *     fold the lanes, in order, into one          ────────────────────────► hash
 *
 *   stir(s, w) = (rotl(s, 13) ^ premix(w)) * odd  is one to one in s for any w, and in w for any
 *   s. A change in one word thus changes its lane, whatever comes below; folding and the finish
 *   are one to one in each lane too. That is the promise about single words. The rotation brings
 *   the well-mixed high bits down, where the next product spreads them up again.
 *
 *   The premix is there for pairs of words: without it a flip of a word's top bit would leave the
 *   product as one flipped bit in a known place, and a flip there of the word below would undo it
 *   in every page alike. With it, what would undo a change depends on the page and the salt.
 *
 *   Written once, in the compiler's vectors of 8 words: AVX2 code and code for any machine are
 *   the same text compiled twice, and so cannot differ in value.
 */
#include "base/page_hash.h"

#define LANE_WORDS 8u
#define GROUPS     8u /* vectors in flight: enough to hide the latency of a product */
#define ROWS       (PAGE_HASH_BYTES / 4u / LANE_WORDS / GROUPS)

/* Odd, so that multiplying by them is one to one; else any numbers with bits all over. */
#define ODD          0x9e3779b1u
#define ODD_OF_WORDS 0xcc9e2d51u

typedef uint32_t lanes __attribute__((vector_size(LANE_WORDS * 4)));
typedef uint32_t lanes_anywhere __attribute__((vector_size(LANE_WORDS * 4), aligned(1), may_alias));

_Static_assert(sizeof(lanes) * GROUPS * ROWS == PAGE_HASH_BYTES, "rows fill the page");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the hash is of little-endian words");

#define ROTATE(s, bits) (((s) << (bits)) | ((s) >> (32 - (bits))))
#define PREMIX(w)       ((w)*ODD_OF_WORDS ^ ((w)*ODD_OF_WORDS) >> 15)

#define STIR(state, words) ((state) = (ROTATE(state, 13) ^ PREMIX(words)) * ODD)

/* splitmix64's last step: all of the salt shows in both halves. */
static inline uint64_t mix_salt(uint64_t salt)
{
	salt += UINT64_C(0x9e3779b97f4a7c15);
	salt = (salt ^ salt >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	salt = (salt ^ salt >> 27) * UINT64_C(0x94d049bb133111eb);
	return salt ^ salt >> 31;
}

__attribute__((always_inline)) static inline uint32_t hash(const void *page, uint64_t salt)
{
	const lanes_anywhere *row = page;
	const lanes step = {1, 2, 3, 4, 5, 6, 7, 8};
	uint64_t mixed = mix_salt(salt);
	uint32_t low = (uint32_t)mixed;
	uint32_t high = (uint32_t)(mixed >> 32);
	/* Every lane starts elsewhere, or words that change lanes would not show. */
	lanes s0 = (step * ODD) ^ low;
	lanes s1 = s0 + 1 * 0x85ebca6bu;
	lanes s2 = s0 + 2 * 0x85ebca6bu;
	lanes s3 = s0 + 3 * 0x85ebca6bu;
	lanes s4 = s0 + 4 * 0x85ebca6bu;
	lanes s5 = s0 + 5 * 0x85ebca6bu;
	lanes s6 = s0 + 6 * 0x85ebca6bu;
	lanes s7 = s0 + 7 * 0x85ebca6bu;
	uint32_t sum = high;

	for (uint32_t i = 0; i < ROWS; i++, row += GROUPS) {
		STIR(s0, row[0]);
		STIR(s1, row[1]);
		STIR(s2, row[2]);
		STIR(s3, row[3]);
		STIR(s4, row[4]);
		STIR(s5, row[5]);
		STIR(s6, row[6]);
		STIR(s7, row[7]);
	}

	/* A tree, so that neighbours fold side by side. */
	STIR(s0, s1);
	STIR(s2, s3);
	STIR(s4, s5);
	STIR(s6, s7);
	STIR(s0, s2);
	STIR(s4, s6);
	STIR(s0, s4);
	for (uint32_t lane = 0; lane < LANE_WORDS; lane++)
		STIR(sum, s0[lane]);

	/* murmur3's last step: all of the sum shows in every bit. */
	sum = (sum ^ sum >> 16) * 0x85ebca6bu;
	sum = (sum ^ sum >> 13) * 0xc2b2ae35u;
	return sum ^ sum >> 16;
}

uint32_t page_hash(const void *page, uint64_t salt)
{
	return hash(page, salt);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static uint32_t page_hash_avx2(const void *page, uint64_t salt)
{
	return hash(page, salt);
}

page_hash_fn *page_hash_choose(void)
{
	/* The compiler's own runtime asks cpuid, and whether the system saves the registers. */
	__builtin_cpu_init();
	return __builtin_cpu_supports("avx2") ? page_hash_avx2 : page_hash;
}
#else
page_hash_fn *page_hash_choose(void)
{
	return page_hash;
}
#endif

bool page_is_zero(const void *page)
{
	typedef uint64_t words __attribute__((vector_size(16), aligned(1), may_alias));
	const words *word = page;

	for (uint32_t i = 0; i < PAGE_HASH_BYTES / sizeof(*word); i += 8) {
		words any = word[i] | word[i + 1] | word[i + 2] | word[i + 3] | word[i + 4] |
			    word[i + 5] | word[i + 6] | word[i + 7];

		if ((any[0] | any[1]) != 0)
			return false;
	}
	return true;
}
