/*
 * patch.h: redirecting a function of machine code that is already loaded
 *
 *   The first bytes of the function are overwritten with a jump. Two shapes: a *far* jump goes
 *   anywhere; a *near* one is shorter and reaches PATCH_NEAR_REACH bytes either way. Whoever
 *   still wants the old function moves its first instructions elsewhere and lets them be followed
 *   by a jump back; patch_movable() says how many bytes that takes, and refuses any instruction
 *   whose meaning depends on where it stands, or that it does not know.
 *
 *   Nothing here changes the protection of memory: the caller makes the code writable.
 */
#ifndef AFAR_BASE_PATCH_H
#define AFAR_BASE_PATCH_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)

#define PATCH_FAR_BYTES  14u /* jmp *0(%rip), and the address */
#define PATCH_NEAR_BYTES 5u  /* jmp rel32 */
#define PATCH_NEAR_REACH INT64_C(0x7fff0000)
#define PATCH_ALIGNMENT  1u

static inline void patch_far_jump(unsigned char *bytes, uintptr_t target)
{
	static const unsigned char jump[6] = {0xff, 0x25, 0, 0, 0, 0};
	uint64_t address = target;

	memcpy(bytes, jump, sizeof(jump));
	memcpy(bytes + sizeof(jump), &address, sizeof(address));
}

/* The jump will stand at `at`. -ERANGE: too far. */
static inline int patch_near_jump(unsigned char *bytes, uintptr_t at, uintptr_t target)
{
	int64_t distance = (int64_t)(target - at) - (int64_t)PATCH_NEAR_BYTES;
	int32_t relative = (int32_t)distance;

	if (distance > PATCH_NEAR_REACH || distance < -PATCH_NEAR_REACH)
		return -ERANGE;
	bytes[0] = 0xe9;
	memcpy(bytes + 1, &relative, sizeof(relative));
	return 0;
}

/* Bytes of the operands that a ModRM byte asks for, itself included; 0: relative to %rip. */
static inline size_t patch_modrm_bytes(const unsigned char *code, size_t left)
{
	unsigned mod = left ? code[0] >> 6 : 0, rm = left ? code[0] & 7u : 0;
	size_t bytes = 1;

	if (left < 2)
		return left && mod == 3 ? 1 : 0;
	if (mod == 3)
		return 1;
	if (mod == 0 && rm == 5)
		return 0;
	if (rm == 4) {
		bytes++;
		if (mod == 0 && (code[1] & 7u) == 5)
			bytes += 4;
	}
	return bytes + (mod == 1 ? 1 : 0) + (mod == 2 ? 4 : 0);
}

/*
 * The length of one instruction that means the same wherever it stands, 0 if it may not. Only what
 * compilers put at the start of a function is known: moves, arithmetic, pushes.
 */
static inline size_t patch_instruction_bytes(const unsigned char *code, size_t left)
{
	static const unsigned char endbr64[4] = {0xf3, 0x0f, 0x1e, 0xfa};
	size_t at = 0, operands = 0, immediate = 0;
	bool wide = false;

	if (left >= sizeof(endbr64) && memcmp(code, endbr64, sizeof(endbr64)) == 0)
		return sizeof(endbr64);
	if (at < left && code[at] == 0x64) /* relative to %fs */
		at++;
	if (at < left && (code[at] & 0xf0u) == 0x40)
		wide = code[at++] & 8u;
	if (at >= left)
		return 0;

	unsigned char opcode = code[at++];

	if ((opcode & 0xf0u) == 0x50 || opcode == 0x90) /* push, pop, nop */
		return at;
	if ((opcode & 0xf8u) == 0xb8) { /* mov $immediate, %register */
		immediate = wide ? 8 : 4;
	} else {
		switch (opcode) {
		case 0x83: /* arithmetic with a byte */
			immediate = 1;
			break;
		case 0x81: /* with four */
		case 0xc7: /* mov $immediate, operand */
			immediate = 4;
			break;
		case 0x01: /* add */
		case 0x03:
		case 0x09: /* or */
		case 0x0b:
		case 0x21: /* and */
		case 0x23:
		case 0x29: /* sub */
		case 0x2b:
		case 0x31: /* xor */
		case 0x33:
		case 0x39: /* cmp */
		case 0x3b:
		case 0x63: /* movslq */
		case 0x85: /* test */
		case 0x88: /* mov */
		case 0x89:
		case 0x8a:
		case 0x8b:
		case 0x8d: /* lea */
			break;
		default:
			return 0;
		}
		operands = patch_modrm_bytes(code + at, left - at);
		if (operands == 0)
			return 0;
	}
	at += operands + immediate;
	return at <= left ? at : 0;
}

#elif defined(__aarch64__)

#define PATCH_FAR_BYTES  16u /* ldr x16, .+8; br x16; and the address */
#define PATCH_NEAR_BYTES 4u  /* b */
#define PATCH_NEAR_REACH INT64_C(0x7ff0000)
#define PATCH_ALIGNMENT  4u

static inline void patch_far_jump(unsigned char *bytes, uintptr_t target)
{
	static const uint32_t jump[2] = {0x58000050, 0xd61f0200};
	uint64_t address = target;

	memcpy(bytes, jump, sizeof(jump));
	memcpy(bytes + sizeof(jump), &address, sizeof(address));
}

/* The jump will stand at `at`. -ERANGE: too far. */
static inline int patch_near_jump(unsigned char *bytes, uintptr_t at, uintptr_t target)
{
	int64_t distance = (int64_t)(target - at);
	uint32_t word = 0x14000000u | ((uint32_t)(distance / 4) & 0x03ffffffu);

	if (distance > PATCH_NEAR_REACH || distance < -PATCH_NEAR_REACH || distance % 4 != 0)
		return -ERANGE;
	memcpy(bytes, &word, sizeof(word));
	return 0;
}

/* 4, or 0 for an instruction that counts from the program counter, or may. */
static inline size_t patch_instruction_bytes(const unsigned char *code, size_t left)
{
	uint32_t word;

	if (left < sizeof(word))
		return 0;
	memcpy(&word, code, sizeof(word));
	bool branch_or_system = (word >> 26 & 7u) == 5;     /* x101: b, bl, cbz, tbz, svc */
	bool address = (word & 0x1f000000u) == 0x10000000u; /* adr, adrp */
	bool load_literal = (word & 0x3b000000u) == 0x18000000u;
	bool thread_pointer = (word & 0xffffffe0u) == 0xd53bd040u; /* mrs x, tpidr_el0 */
	bool hint = (word & 0xfffff01fu) == 0xd503201fu;           /* bti, paciasp, nop */

	if (thread_pointer || hint)
		return sizeof(word);
	return branch_or_system || address || load_literal ? 0 : sizeof(word);
}

#else
#error "no patching for this processor yet"
#endif

/*
 * How many bytes the whole instructions take that cover the first `want` bytes of a function of
 * `size` bytes, when all of them may be moved; else 0.
 */
static inline size_t patch_movable(const unsigned char *code, size_t size, size_t want)
{
	size_t bytes = 0;

	while (bytes < want) {
		size_t one = patch_instruction_bytes(code + bytes, size - bytes);

		if (one == 0)
			return 0;
		bytes += one;
	}
	return bytes;
}

/* The processor may have the old instructions in its cache. */
static inline void patch_flush(void *code, size_t len)
{
	__builtin___clear_cache((char *)code, (char *)code + len);
}

#endif
