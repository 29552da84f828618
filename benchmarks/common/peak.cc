// As many fused multiply-adds as a core can do: sums that never leave its registers.

#if defined(__AVX512F__)
constexpr int LANES = 16, SUMS = 24;
#elif defined(__AVX__)
constexpr int LANES = 8, SUMS = 12;
#else
constexpr int LANES = 4, SUMS = 12;
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));

// Does so many rounds; returns the floating-point operations of each.
extern "C" long peak(long rounds, float factor, float* out) {
    vec sums[SUMS], a = vec{} + factor, b = vec{} + 0.5f;
    for (int s = 0; s < SUMS; s++) sums[s] = vec{} + factor * (float)s;  // different ones, or one would do for all
    for (long i = 0; i < rounds; i++)
#pragma GCC unroll 24
        for (int s = 0; s < SUMS; s++) sums[s] = sums[s] * a + b;
    for (int s = 1; s < SUMS; s++) sums[0] += sums[s];
    *out = sums[0][0];
    return 2L * LANES * SUMS;
}
