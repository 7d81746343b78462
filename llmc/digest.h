// digest.h: a 64-bit digest of a file's bytes, to notice that its content has changed.
//
//   hash64(data, size, seed)   XXH64 of these bytes
//   digest_bytes(data, size)   the digest of a file that holds these bytes
//
// XXH64 is Yann Collet's hash (github.com/Cyan4973/xxHash, doc/xxhash_spec.md). It reads its input as
// little-endian numbers, so every machine computes the same value. It guards against accidents, not against
// an attacker.
#ifndef LLMC_DIGEST_H
#define LLMC_DIGEST_H

#include <sys/mman.h>

#include "utils.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "hash64 reads little-endian numbers with memcpy");

static inline uint64_t hash64(const void *data, size_t size, uint64_t seed);

// Files of up to 16 MiB are hashed whole: their digest is what the program xxh64sum prints. Of a larger file
// 16 blocks of 1 MiB are hashed, at equal distances from its first byte to its last, so terabytes take
// seconds. An edit that moves what follows it always shows in the last block; one that replaces bytes in
// place shows only if it meets a block.
enum { DIGEST_BLOCKS = 16, DIGEST_BLOCK_SIZE = 1 << 20 };

// The first byte of block k of a large file: floor(last * k / gaps), without overflow.
static inline size_t digest_block(size_t size, size_t k) {
    const size_t last = size - DIGEST_BLOCK_SIZE, gaps = DIGEST_BLOCKS - 1;
    return last / gaps * k + last % gaps * k / gaps;
}

// Asks the system to begin reading a part of a mapped file: many pages at once, not one after the other when
// they are touched.
static inline void digest_read_ahead(const char *data, size_t size) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGE_SIZE), into_page = (uintptr_t)data % page;
    madvise((void *)((uintptr_t)data - into_page), size + into_page, MADV_WILLNEED);
}

static inline uint64_t digest_bytes(const char *data, size_t size) {
    if (size <= (size_t)DIGEST_BLOCKS * DIGEST_BLOCK_SIZE) {
        if (size > 0) { digest_read_ahead(data, size); }
        return hash64(data, size, 0);
    }
    uint64_t hash = 0;  // of each block: the seed of the next
    for (size_t k = 0; k < DIGEST_BLOCKS; k++) {
        digest_read_ahead(data + digest_block(size, k), DIGEST_BLOCK_SIZE);
    }
    for (size_t k = 0; k < DIGEST_BLOCKS; k++) {
        hash = hash64(data + digest_block(size, k), DIGEST_BLOCK_SIZE, hash);
    }
    return hash;
}

// ---------------------------------------------------------------------------------------------
// XXH64

#define HASH64_PRIME_1 UINT64_C(0x9E3779B185EBCA87)
#define HASH64_PRIME_2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define HASH64_PRIME_3 UINT64_C(0x165667B19E3779F9)
#define HASH64_PRIME_4 UINT64_C(0x85EBCA77C2B2AE63)
#define HASH64_PRIME_5 UINT64_C(0x27D4EB2F165667C5)

static inline uint64_t hash64_rotate(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

static inline uint64_t hash64_read(const unsigned char *bytes, size_t size) {
    uint64_t value = 0;
    memcpy(&value, bytes, size);
    return value;
}

static inline uint64_t hash64_round(uint64_t sum, uint64_t lane) {
    return hash64_rotate(sum + lane * HASH64_PRIME_2, 31) * HASH64_PRIME_1;
}

static inline uint64_t hash64(const void *data, size_t size, uint64_t seed) {
    const unsigned char *at = (const unsigned char *)data, *end = at + size;
    uint64_t hash = seed + HASH64_PRIME_5;
    if (size >= 32) {
        uint64_t sums[4] = {seed + HASH64_PRIME_1 + HASH64_PRIME_2, seed + HASH64_PRIME_2, seed,
                            seed - HASH64_PRIME_1};
        for (; end - at >= 32; at += 32) {
            for (size_t i = 0; i < 4; i++) { sums[i] = hash64_round(sums[i], hash64_read(at + 8 * i, 8)); }
        }
        hash = hash64_rotate(sums[0], 1) + hash64_rotate(sums[1], 7) + hash64_rotate(sums[2], 12) +
               hash64_rotate(sums[3], 18);
        for (size_t i = 0; i < 4; i++) {
            hash = (hash ^ hash64_round(0, sums[i])) * HASH64_PRIME_1 + HASH64_PRIME_4;
        }
    }
    hash += size;
    for (; end - at >= 8; at += 8) {
        hash =
            hash64_rotate(hash ^ hash64_round(0, hash64_read(at, 8)), 27) * HASH64_PRIME_1 + HASH64_PRIME_4;
    }
    for (; end - at >= 4; at += 4) {
        hash =
            hash64_rotate(hash ^ hash64_read(at, 4) * HASH64_PRIME_1, 23) * HASH64_PRIME_2 + HASH64_PRIME_3;
    }
    for (; at < end; at++) { hash = hash64_rotate(hash ^ *at * HASH64_PRIME_5, 11) * HASH64_PRIME_1; }
    hash = (hash ^ hash >> 33) * HASH64_PRIME_2;
    hash = (hash ^ hash >> 29) * HASH64_PRIME_3;
    return hash ^ hash >> 32;
}

#endif
