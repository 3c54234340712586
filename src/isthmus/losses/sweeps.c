// The sweeps of sweeps.py for a tile of logits on the CPU, where every number is read once, and once written if need be.
// Built and called by compiled.py. A tile has `rows` rows of `width` numbers; each of `threads` threads takes rows of
// its own, and columns' sums and room to work in are [threads, width]. -inf marks a logit that does not count.
#include <float.h>
#include <stdint.h>

#define BLOCK 32 // rows whose column sums are added up in float before they go on in double

static inline float read_f32(float x) { return x; }
static inline float write_f32(float x) { return x; }

static inline float read_bf16(uint16_t x) {
    union { uint32_t bits; float value; } u = {(uint32_t)x << 16};
    return u.value;
}

static inline uint16_t write_bf16(float x) { // to nearest, ties to even
    union { float value; uint32_t bits; } u = {x};
    return (uint16_t)((u.bits + 0x7fff + ((u.bits >> 16) & 1)) >> 16);
}

// exp(x) for x <= 88, within 3e-7 of itself; 0 below -87.
static inline float exp_of(float x) {
    float y = x < -87.f ? -87.f : x;
    float shifted = y * 1.44269504f + 12582912.f; // 1.5 * 2^23: its last bits are the nearest whole number
    float n = shifted - 12582912.f;
    float r = y - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.f / 5040;
    p = p * r + 1.f / 720, p = p * r + 1.f / 120, p = p * r + 1.f / 24, p = p * r + 1.f / 6;
    p = p * r + .5f, p = p * r + 1.f, p = p * r + 1.f;
    union { float value; uint32_t bits; } s = {shifted}, power = {.bits = (s.bits + 127) << 23};
    return x < -87.f ? 0.f : p * power.value;
}

// log(1 + e) for 0 <= e <= 1, within 3e-7 of itself, as 2 artanh(e / (2 + e)).
static inline float log1p_of(float e) {
    float s = e / (2.f + e), q = s * s;
    float p = 1.f / 13;
    p = p * q + 1.f / 11, p = p * q + 1.f / 9, p = p * q + 1.f / 7, p = p * q + 1.f / 5, p = p * q + 1.f / 3;
    return 2.f * s * (p * q + 1.f);
}

static inline float larger(float a, float b) { return a < b ? b : a; }
static inline long at(long thread, long threads, long rows) { return rows * thread / threads; }

#define SWEEPS(T, NAME)                                                                                                \
    /* row_sums [rows] and column_sums, both 0 so far, become the sums of exp(z), for |z| < 60. */                     \
    static void exp_sums_part_##NAME(const T *tile, long rows, long width, double *row_sums, double *column_sums,      \
                                     float *spare) {                                                                   \
        for (long start = 0; start < rows; start += BLOCK) {                                                           \
            long stop = start + BLOCK < rows ? start + BLOCK : rows;                                                   \
            for (long j = 0; j < width; j++) spare[j] = 0.f;                                                           \
            for (long i = start; i < stop; i++) {                                                                      \
                const T *z = tile + i * width;                                                                         \
                float sum = 0.f;                                                                                       \
                _Pragma("omp simd reduction(+ : sum)") for (long j = 0; j < width; j++) {                              \
                    float e = exp_of(read_##NAME(z[j]));                                                               \
                    sum += e, spare[j] += e;                                                                           \
                }                                                                                                      \
                row_sums[i] = sum;                                                                                     \
            }                                                                                                          \
            for (long j = 0; j < width; j++) column_sums[j] += spare[j];                                               \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    void exp_sums_##NAME(const T *tile, long rows, long width, long threads, double *row_sums, double *column_sums,    \
                         float *spare) {                                                                               \
        _Pragma("omp parallel for num_threads(threads) schedule(static, 1)") for (long t = 0; t < threads; t++) {      \
            long start = at(t, threads, rows), stop = at(t + 1, threads, rows);                                        \
            exp_sums_part_##NAME(tile + start * width, stop - start, width, row_sums + start, column_sums + t * width, \
                                 spare + t * width);                                                                   \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* For any z: sums of exp(z - m) with m the greatest z, in row_most and column_most (-FLT_MAX so far). */          \
    static void shifted_exp_sums_part_##NAME(const T *tile, long rows, long width, double *row_sums,                   \
                                             double *column_sums, float *spare, float *row_most, float *column_most) { \
        for (long start = 0; start < rows; start += BLOCK) {                                                           \
            long stop = start + BLOCK < rows ? start + BLOCK : rows;                                                   \
            for (long j = 0; j < width; j++) spare[j] = column_most[j];                                                \
            for (long i = start; i < stop; i++) {                                                                      \
                const T *z = tile + i * width;                                                                         \
                float most = -FLT_MAX;                                                                                 \
                _Pragma("omp simd reduction(max : most)") for (long j = 0; j < width; j++) {                           \
                    float x = read_##NAME(z[j]);                                                                       \
                    most = larger(most, x), spare[j] = larger(spare[j], x);                                            \
                }                                                                                                      \
                row_most[i] = most;                                                                                    \
            }                                                                                                          \
            for (long j = 0; j < width; j++) {                                                                         \
                column_sums[j] *= exp_of(column_most[j] - spare[j]);                                                   \
                column_most[j] = spare[j], spare[j] = 0.f;                                                             \
            }                                                                                                          \
            for (long i = start; i < stop; i++) {                                                                      \
                const T *z = tile + i * width;                                                                         \
                float sum = 0.f, most = row_most[i];                                                                   \
                _Pragma("omp simd reduction(+ : sum)") for (long j = 0; j < width; j++) {                              \
                    float x = read_##NAME(z[j]);                                                                       \
                    sum += exp_of(x - most), spare[j] += exp_of(x - column_most[j]);                                   \
                }                                                                                                      \
                row_sums[i] = sum;                                                                                     \
            }                                                                                                          \
            for (long j = 0; j < width; j++) column_sums[j] += spare[j];                                               \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    void shifted_exp_sums_##NAME(const T *tile, long rows, long width, long threads, double *row_sums,                 \
                                 double *column_sums, float *spare, float *row_most, float *column_most) {             \
        _Pragma("omp parallel for num_threads(threads) schedule(static, 1)") for (long t = 0; t < threads; t++) {      \
            long start = at(t, threads, rows), stop = at(t + 1, threads, rows), own = t * width;                       \
            shifted_exp_sums_part_##NAME(tile + start * width, stop - start, width, row_sums + start,                  \
                                         column_sums + own, spare + own, row_most + start, column_most + own);         \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* z becomes exp(z) (row_weights[i] + column_weights[j]), for |z| < 60. */                                         \
    void softmax_##NAME(T *tile, long rows, long width, long threads, const float *row_weights,                        \
                        const float *column_weights) {                                                                 \
        _Pragma("omp parallel for num_threads(threads) schedule(static)") for (long i = 0; i < rows; i++) {            \
            T *z = tile + i * width;                                                                                   \
            float weight = row_weights[i];                                                                             \
            _Pragma("omp simd") for (long j = 0; j < width; j++)                                                       \
                z[j] = write_##NAME(exp_of(read_##NAME(z[j])) * (weight + column_weights[j]));                         \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* z becomes exp(z - row_shift[i]) row_weights[i] + exp(z - column_shift[j]) column_weights[j]. */                 \
    void shifted_softmax_##NAME(T *tile, long rows, long width, long threads, const float *row_weights,                \
                                const float *column_weights, const float *row_shift, const float *column_shift) {      \
        _Pragma("omp parallel for num_threads(threads) schedule(static)") for (long i = 0; i < rows; i++) {            \
            T *z = tile + i * width;                                                                                   \
            float weight = row_weights[i], shift = row_shift[i];                                                       \
            _Pragma("omp simd") for (long j = 0; j < width; j++) {                                                     \
                float x = read_##NAME(z[j]);                                                                           \
                float p = exp_of(x - shift) * weight + exp_of(x - column_shift[j]) * column_weights[j];                \
                z[j] = write_##NAME(p);                                                                                \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* z becomes sigmoid(z + bias); losses [rows]: sums of log(1 + exp(z + bias)), pushes [rows]: of the new z. */     \
    void sigmoid_##NAME(T *tile, long rows, long width, long threads, float bias, double *losses, double *pushes) {    \
        _Pragma("omp parallel for num_threads(threads) schedule(static)") for (long i = 0; i < rows; i++) {            \
            T *row = tile + i * width;                                                                                 \
            float loss = 0.f, push = 0.f;                                                                              \
            _Pragma("omp simd reduction(+ : loss, push)") for (long j = 0; j < width; j++) {                           \
                float z = read_##NAME(row[j]) + bias;                                                                  \
                float e = exp_of(z < 0 ? z : -z), inverse = 1.f / (1.f + e);                                           \
                float p = z < 0 ? e * inverse : inverse;                                                               \
                loss += larger(z, 0.f) + log1p_of(e), push += p;                                                       \
                row[j] = write_##NAME(p);                                                                              \
            }                                                                                                          \
            losses[i] = loss, pushes[i] = push;                                                                        \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    /* total, whose rows are `stride` apart, += part */                                                                \
    void add_##NAME(const T *part, long rows, long width, long threads, float *total, long stride) {                   \
        _Pragma("omp parallel for num_threads(threads) schedule(static)") for (long i = 0; i < rows; i++) {            \
            const T *row = part + i * width;                                                                           \
            float *sum = total + i * stride;                                                                           \
            _Pragma("omp simd") for (long j = 0; j < width; j++) sum[j] += read_##NAME(row[j]);                        \
        }                                                                                                              \
    }

SWEEPS(float, f32)
SWEEPS(uint16_t, bf16)
