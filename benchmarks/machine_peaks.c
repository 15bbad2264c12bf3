/* Peak arithmetic and read bandwidth of this machine, with as many threads as the argument says.
 * Build: cc -O3 -march=native -pthread machine_peaks.c. Prints one `name value` per line, in
 * units per second: f32 (FLOP), bf16 (FLOP, the faster of AVX-512 dots and AMX tiles; absent where
 * there is neither), read (bytes). The best of several runs: a peak is what nothing exceeds.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__AVX512BF16__) || defined(__AMX_BF16__)
#include <immintrin.h>
#endif
#ifdef __AMX_BF16__
#include <sys/syscall.h>
#endif

#if defined(__AVX512F__)
#define WIDTH 64
#define CHAINS 20
#elif defined(__AVX__)
#define WIDTH 32
#define CHAINS 12
#else
#define WIDTH 16
#define CHAINS 12
#endif
/* Accumulators live in registers only if every loop over them is unrolled. */
#define UNROLLED _Pragma("GCC unroll 32")
typedef float vector __attribute__((vector_size(WIDTH)));
enum { LANES = WIDTH / 4, ROUNDS = 6 };
static const long STEPS = 4000000;
static const size_t STREAM_BYTES = (size_t)384 << 20;

static volatile float one = 0.999f, other = 0.001f, sink;
static vector *stream;
static int threads;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void *fma_f32(void *unused) {
    (void)unused;
    vector acc[CHAINS], x, y;
    for (int i = 0; i < LANES; i++) { x[i] = one; y[i] = other; }
    UNROLLED for (int c = 0; c < CHAINS; c++) acc[c] = x * (float)c;
    for (long k = 0; k < STEPS; k++)
        UNROLLED for (int c = 0; c < CHAINS; c++) acc[c] = acc[c] * x + y;
    vector total = acc[0];
    UNROLLED for (int c = 1; c < CHAINS; c++) total += acc[c];
    sink = total[0];
    return NULL;
}

static void *read_stream(void *rank) {
    size_t count = STREAM_BYTES / sizeof(vector) / threads / 8 * 8;
    const vector *p = stream + (size_t)rank * count;
    vector acc[8] = {{0}};
    for (size_t i = 0; i < count; i += 8)
        UNROLLED for (int c = 0; c < 8; c++) acc[c] += p[i + c];
    UNROLLED for (int c = 1; c < 8; c++) acc[0] += acc[c];
    sink = acc[0][0];
    return NULL;
}

#ifdef __AVX512BF16__
static void *dot_bf16(void *unused) {
    (void)unused;
    __m512 acc[CHAINS];
    __m512bh x = (__m512bh)_mm512_set1_epi16((short)0x3f80), y = (__m512bh)_mm512_set1_epi16(1);
    UNROLLED for (int c = 0; c < CHAINS; c++) acc[c] = _mm512_set1_ps(one);
    for (long k = 0; k < STEPS; k++) {
        __asm__ volatile("" : "+v"(x));
        UNROLLED for (int c = 0; c < CHAINS; c++) acc[c] = _mm512_dpbf16_ps(acc[c], x, y);
    }
    UNROLLED for (int c = 1; c < CHAINS; c++) acc[0] = _mm512_add_ps(acc[0], acc[c]);
    sink = _mm512_reduce_add_ps(acc[0]);
    return NULL;
}
#endif

#ifdef __AMX_BF16__
static int amx_allowed(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

static void *tiles_bf16(void *unused) {
    (void)unused;
    struct { unsigned char palette, row, reserved[14]; unsigned short width[16]; unsigned char rows[16]; }
        config __attribute__((aligned(64)));
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int t = 0; t < 8; t++) { config.width[t] = 64; config.rows[t] = 16; }
    /* The intrinsic of some compilers admits to reading eight bytes only. */
    __asm__ volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
    for (long k = 0; k < STEPS / 16; k++) {
        _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return NULL;
}
#endif

static double fastest(void *(*work)(void *)) {
    double best = 1e30;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t team[64];
        double begin = now();
        for (long i = 1; i < threads; i++) pthread_create(&team[i], NULL, work, (void *)i);
        work((void *)0);
        for (int i = 1; i < threads; i++) pthread_join(team[i], NULL);
        double seconds = now() - begin;
        if (seconds < best) best = seconds;
    }
    return best;
}

int main(int argc, char **argv) {
    threads = argc > 1 ? atoi(argv[1]) : 1;
    if (threads < 1 || threads > 64) return 1;
    printf("f32 %.6g\n", threads * (double)STEPS * CHAINS * LANES * 2 / fastest(fma_f32));
    double bf16 = 0;
#ifdef __AVX512BF16__
    bf16 = threads * (double)STEPS * CHAINS * 64 / fastest(dot_bf16);
#endif
#ifdef __AMX_BF16__
    if (amx_allowed()) {
        double tiles = threads * (double)(STEPS / 16) * 4 * 16 * 16 * 64 / fastest(tiles_bf16);
        if (tiles > bf16) bf16 = tiles;
    }
#endif
    if (bf16 > 0) printf("bf16 %.6g\n", bf16);
    if (posix_memalign((void **)&stream, 64, STREAM_BYTES)) return 1;
    memset(stream, 0, STREAM_BYTES);
    printf("read %.6g\n", STREAM_BYTES / fastest(read_stream));
    return 0;
}
