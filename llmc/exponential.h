// exponential.h: e^x without a branch or a call, so loops over it become vector code.
#ifndef LLMC_EXPONENTIAL_H
#define LLMC_EXPONENTIAL_H

#include <stdint.h>
#include <string.h>

// With n = round(x / ln 2) and r = x - n ln 2 in [-0.347, 0.347], e^x = 2^n e^r, and e^r is its Taylor
// polynomial of degree 7 (the next term is below 6e-9). x is clamped to [-87, 88], where 2^n is a normal
// number. NaN stays NaN. The relative error is below 2e-7 (test_exponential in dev/test/test_model.c).
static inline float exponential(float x) {
    const float round = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + round;
    float n = shifted - round;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts, the first exact times n
    float p = 1.0f / 5040.0f;
    p = p * r + 1.0f / 720.0f;
    p = p * r + 1.0f / 120.0f;
    p = p * r + 1.0f / 24.0f;
    p = p * r + 1.0f / 6.0f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000u;  // n moved into the exponent: the bits of 2^n
    float power = 0.0f;
    memcpy(&power, &bits, sizeof bits);
    return p * power;
}

#endif
