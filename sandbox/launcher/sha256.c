/* sha256.c: SHA-256. Source: FIPS 180-4. Pure. */
#include "sha256.h"

static const uint32_t constants[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
	0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
	0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
	0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
	0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
	0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t turned(uint32_t word, int bits)
{
	return word >> bits | word << (32 - bits);
}

static uint32_t word_at(const unsigned char *bytes)
{
	return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static void take_block(struct sha256 *hash)
{
	uint32_t words[64], v[8];

	for (int i = 0; i < 16; i++)
		words[i] = word_at(hash->block + 4 * i);
	for (int i = 16; i < 64; i++) {
		uint32_t near = words[i - 2], far = words[i - 15];

		words[i] = words[i - 16] + words[i - 7] + (turned(far, 7) ^ turned(far, 18) ^ far >> 3) +
			   (turned(near, 17) ^ turned(near, 19) ^ near >> 10);
	}
	__builtin_memcpy(v, hash->state, sizeof v);
	for (int i = 0; i < 64; i++) {
		uint32_t first = v[7] + (turned(v[4], 6) ^ turned(v[4], 11) ^ turned(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) +
				 constants[i] + words[i];
		uint32_t second = (turned(v[0], 2) ^ turned(v[0], 13) ^ turned(v[0], 22)) +
				  ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));

		for (int at = 7; at > 0; at--)
			v[at] = v[at - 1];
		v[4] += first;
		v[0] = first + second;
	}
	for (int i = 0; i < 8; i++)
		hash->state[i] += v[i];
}

void sha256_begin(struct sha256 *hash)
{
	static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

	__builtin_memcpy(hash->state, start, sizeof start);
	hash->size = 0;
}

void sha256_add(struct sha256 *hash, const void *bytes, size_t size)
{
	const unsigned char *next = bytes;

	while (size--) {
		hash->block[hash->size++ % 64] = *next++;
		if (hash->size % 64 == 0)
			take_block(hash);
	}
}

void sha256_end(struct sha256 *hash, unsigned char digest[32])
{
	uint64_t bits = hash->size * 8;

	sha256_add(hash, "\x80", 1);
	while (hash->size % 64 != 56)
		sha256_add(hash, "", 1);
	for (int i = 7; i >= 0; i--) {
		unsigned char byte = (unsigned char)(bits >> 8 * i);

		sha256_add(hash, &byte, 1);
	}
	for (int i = 0; i < 32; i++)
		digest[i] = (unsigned char)(hash->state[i / 4] >> (24 - i % 4 * 8));
}
