// test_digest.c: hash64 against the reference implementation of XXH64, and the sample of a large file.
#include "llmc/digest.h"

#include "check.h"

enum { LONGEST = 4096 };

// From xxHash 0.8.4, of n bytes (131 i + 7) mod 256, with seeds 0 and SEED.
static const uint64_t SEED = UINT64_C(0x9E3779B185EBCA8D);
static const struct {
    size_t n;
    uint64_t unseeded, seeded;
} vectors[] = {
    {0, UINT64_C(0xef46db3751d8e999), UINT64_C(0x0b303d920ec349df)},
    {1, UINT64_C(0xa96c7f0ce858bbb7), UINT64_C(0x76349a430e97f416)},
    {3, UINT64_C(0xbed43740ee6332bb), UINT64_C(0x5bde7cc0c6b9fda0)},
    {4, UINT64_C(0xfa212ae44b3bb23d), UINT64_C(0xbeaa34e32eee8b3d)},
    {7, UINT64_C(0x2744460dd675d2c0), UINT64_C(0xa6f6b8935b53adee)},
    {8, UINT64_C(0x994b676b71ce94dd), UINT64_C(0xa2f8d42e3c57a4ff)},
    {31, UINT64_C(0x6711d55e306b5d8f), UINT64_C(0x1bb0ceeb5eb55765)},
    {32, UINT64_C(0x07f7b8e3bc5d6e25), UINT64_C(0xceaa085e9fe58428)},
    {33, UINT64_C(0x09f85eeb4e1cbe9f), UINT64_C(0x6613e855b6d5189a)},
    {63, UINT64_C(0xb7c9968c066cb6a5), UINT64_C(0xbc70b2d1f0e56425)},
    {64, UINT64_C(0x50d4159a0411632e), UINT64_C(0xeb828ec9fd6b56c5)},
    {100, UINT64_C(0x9ddada11d3dc2d8f), UINT64_C(0x7ee9617e36670e3a)},
    {4096, UINT64_C(0xcf05adf75aca30cf), UINT64_C(0x3e63c5de97f22274)},
};

static void test_hash64(void) {
    unsigned char bytes[LONGEST + 1];
    for (size_t offset = 0; offset < 2; offset++) {  // an odd address must not matter
        for (size_t i = 0; i < LONGEST; i++) { bytes[offset + i] = (unsigned char)(131 * i + 7); }
        for (size_t v = 0; v < sizeof vectors / sizeof vectors[0]; v++) {
            CHECK(hash64(bytes + offset, vectors[v].n, 0) == vectors[v].unseeded);
            CHECK(hash64(bytes + offset, vectors[v].n, SEED) == vectors[v].seeded);
        }
    }
}

// The two digests come from xxhash too: of the first 16 MiB whole, and of the sample of all.
static void test_digest(void) {
    const size_t size = 40000001, whole = (size_t)DIGEST_BLOCKS * DIGEST_BLOCK_SIZE;
    char *data = (char *)malloc(size);
    if (!CHECK(data != NULL)) { return; }
    for (size_t i = 0; i < size; i++) { data[i] = (char)(131 * i + 7 * (i >> 8) + (i >> 16)); }
    const uint64_t digest = digest_bytes(data, size);
    CHECK(digest == UINT64_C(0x8a6e07558199126a));
    CHECK(digest_bytes(data, whole) == UINT64_C(0xa23b801438582462));
    CHECK(digest_bytes(data, whole + 1) != digest_bytes(data, whole));

    // Of a large file a change is seen at both ends and in every block, and one between two blocks is not.
    const size_t gap = (size - DIGEST_BLOCK_SIZE) / (DIGEST_BLOCKS - 1);
    for (size_t k = 0; k < DIGEST_BLOCKS; k++) {
        size_t at = k == 0 ? 0 : k == DIGEST_BLOCKS - 1 ? size - 1 : k * gap + DIGEST_BLOCK_SIZE / 2;
        data[at] ^= 1;
        CHECK(digest_bytes(data, size) != digest);
        data[at] ^= 1;
    }
    data[DIGEST_BLOCK_SIZE + 1000] ^= 1;
    CHECK(digest_bytes(data, size) == digest);
    free(data);
}

int main(void) {
    test_hash64();
    test_digest();
    return check_report();
}
