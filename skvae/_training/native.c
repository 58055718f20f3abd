/* Training steps of an autoencoder or a VAE, on the packed layout of `PackedMLP`.
 *
 * Only the vector extensions that GCC and Clang share: what the processor can do is said by the compiler's flags, and
 * one source makes an object for each instruction set. No static state, so that threads and forks need no care.
 * Matrices are stored by rows. A layer's matrix holds the biases in its last row, and every buffer of a layer's inputs
 * a column of ones behind them; widths are multiples of 16, and what fills them up is zero.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef SOURCE
#define SOURCE "unknown" /* what this file's text comes to, which the build says */
#endif
#define MAX_HIDDEN 8
#define MAX_MEMBERS 8     /* of a mixture */
#define FARTHEST 1000.0f /* what the masked network sees of a number, at most */
#define PAD 16 /* between the rows of a buffer: room for the ones, and no two rows in the same lines of the cache */

#if defined(__AVX512F__)
#define LANES 16
#define MAX_VECTORS 4
#elif defined(__AVX2__)
#define LANES 8
#define MAX_VECTORS 2
#else
#define LANES 4
#define MAX_VECTORS 4
#endif
#define MAX_ROWS 6 /* with MAX_VECTORS it fills the registers: 24 of 32, or 12 of 16 */

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#define INLINE static inline __attribute__((always_inline))
#define LOG_2PI 1.8378770664093454836
#define PI 3.14159265358979323846

typedef int64_t whole;
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

typedef struct {
    whole n_inputs, n_outputs, n_hidden, activation;
    whole hidden[MAX_HIDDEN];       /* packed widths */
    whole units[MAX_HIDDEN];        /* the layers' own widths */
    whole matrices[MAX_HIDDEN + 1]; /* where the first network's matrix of each layer begins */
} Network;

/* Columns of one family, whose outputs and free parameters lie side by side. */
typedef struct {
    whole family, n_columns, first_output, first_free, is_in_place; /* in place: its columns follow each other in x */
    whole n_members;                                                /* of a mixture; 0 for other families */
    double floor_squared;
    const whole *columns, *n_levels; /* of x; and of categorical columns */
} Segment;

/* What adds to the decoder's outputs by the cells of a row: a network over values of the cells, then which of them are not
 * shown. Its parameters, among the free ones, are packed for each step; here its matrices begin in those. */
typedef struct {
    whole n_inputs, n_outputs, n_values, first_free, n_packed; /* inputs are 0 where there is no such network */
    const whole *owners, *levels; /* of each value: its column, and the level it indicates, below 0 for a number */
    const float *masks;           /* of the linear path and of each layer, one behind the other */
    Network net;
} Masked;

typedef struct {
    whole n_networks, n_rows, n_components, variational, n_inputs, n_free, free_start, tile;
    whole n_segments, n_gathered; /* cells of a row that are brought together for one segment, at most */
    whole is_general;             /* whether the cells of a batch have weights, or some are missing */
    whole n_draws, drawn;         /* of each row; rows whose draws go through the decoder at once */
    const Segment *segments;
    Network encoder, decoder;
    Masked masked;
} Plan;

typedef struct {
    const float *data;
    whole row, network; /* steps, in floats */
} Table;

typedef struct {
    const uint8_t *data; /* 0 where a cell is missing */
    whole row, network;
} Mask;

typedef struct {
    const float *values;
    float *gradient, *loss, *scratch;
    double kl_weight;
    Table x, inputs, noise, weight; /* noise.data may be null: then it is zero; weight.data as well: then it is one */
    Mask mask, shown; /* null where all cells are there, and where the masked network sees all of these */
    Table factors[2 * MAX_HIDDEN]; /* dropout's, of the encoder's and the decoder's layers; null without */
} Call;

enum { IDENTITY, RELU, TANH, SILU };
enum { GAUSSIAN_UNIT, GAUSSIAN_CONSTANT, GAUSSIAN_DEPENDENT, STUDENT_T_DEPENDENT, BERNOULLI, CATEGORICAL,
       STUDENT_T_CONSTANT, MIXTURE_DEPENDENT, MIXTURE_CONSTANT }; /* mixtures of Student's t's */

/* --- Vectors ------------------------------------------------------------------------------------------------------ */

INLINE vec load(const float *p) { return *(const loose *)p; }
INLINE void store(float *p, vec v) { *(loose *)p = v; }
INLINE vec all(float value) { return value - (vec){0}; }

INLINE vec choose(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }
INLINE vec smaller(vec a, vec b) { return choose(a < b, a, b); } /* b where a is NaN */
INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }  /* the same */

/* The first n lanes. */
INLINE ivec first_lanes(whole n) {
    static const int32_t index[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    ivec lane;
    memcpy(&lane, index, sizeof lane);
    return lane < (int32_t)(n < LANES ? n : LANES);
}

/* Write the lanes of the mask and leave what lies between; there is room for all. */
INLINE void store_masked(float *p, vec v, ivec mask) { store(p, choose(mask, v, load(p))); }

/* The first n lanes; zeros beyond. */
INLINE vec load_some(const float *p, whole n) {
    if (n >= LANES) return load(p);
    float lanes[LANES] = {0};
    for (whole i = 0; i < n; i++) lanes[i] = p[i];
    return load(lanes);
}

INLINE void store_some(float *p, vec v, whole n) {
    if (n >= LANES) {
        store(p, v);
        return;
    }
    float lanes[LANES];
    store(lanes, v);
    for (whole i = 0; i < n; i++) p[i] = lanes[i];
}

/* The first n lanes, and what there is beyond if it lies before ``end``. */
INLINE vec load_before(const float *p, whole n, const float *end) { return p + LANES <= end ? load(p) : load_some(p, n); }

INLINE double total(vec v) {
    float lanes[LANES];
    double sum = 0.0;
    store(lanes, v);
    for (int i = 0; i < LANES; i++) sum += lanes[i];
    return sum;
}

#if LANES == 16
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif LANES == 8
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#endif
#if defined(__clang__)
#define INTERLEAVE(A, B, HALF) __builtin_shufflevector(A, B, HALF)
#else
#define INTERLEAVE(A, B, HALF) __builtin_shuffle(A, B, (ivec){HALF})
#endif

/* Of all lanes, in each lane: each round halves the number of lanes that differ. */
#define REDUCE(COMBINE) \
    for (int left = LANES; left > 1; left /= 2) { \
        vec low = INTERLEAVE(v, v, LOW), high = INTERLEAVE(v, v, HIGH); \
        v = COMBINE; \
    } \
    return v;

INLINE vec highest(vec v) { REDUCE(larger(low, high)) }
INLINE vec summed(vec v) { REDUCE(low + high) }

INLINE ivec bits(vec v) {
    union { vec v; ivec i; } both = {v};
    return both.i;
}

INLINE vec number(ivec i) {
    union { ivec i; vec v; } both = {i};
    return both.v;
}

/* e^x = 2^n e^r with |r| <= ln(2) / 2, where Taylor's series of e^r to the seventh power is off by 5e-9. NaN stays. */
INLINE vec exponential(vec x) {
    x = choose(x > 88.0f, all(88.0f), choose(x < -87.0f, all(-87.0f), x));
    vec shifted = x * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: rounds to a whole number */
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693145751953125f; /* ln 2 in two parts: the product with the first is exact */
    r = r - n * 1.42860682030941723e-6f;
    vec p = r * (1.0f / 5040.0f) + (1.0f / 720.0f);
    p = p * r + (1.0f / 120.0f);
    p = p * r + (1.0f / 24.0f);
    p = p * r + (1.0f / 6.0f);
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return number(bits(p) + (bits(shifted) << 23));
}

/* log x = e log 2 + 2 artanh((m - 1) / (m + 1)) for x = m 2^e with m in [sqrt(1/2), sqrt(2)); x normal and positive. */
INLINE vec logarithm(vec x) {
    ivec raw = bits(x), above = (raw - 0x3f3504f3) >> 23;
    vec m = number(raw - (above << 23));
    vec e = __builtin_convertvector(above, vec);
    vec s = (m - 1.0f) / (m + 1.0f), q = s * s;
    vec p = q * (1.0f / 11.0f) + (1.0f / 9.0f);
    p = p * q + (1.0f / 7.0f);
    p = p * q + (1.0f / 5.0f);
    p = p * q + (1.0f / 3.0f);
    p = s + s * q * p;
    return e * 0.693147180559945309f + (p + p);
}

/* --- Products ----------------------------------------------------------------------------------------------------- */

enum { WRITE, ADD, SCALE }; /* what a product does to its place: overwrite it, add to it, multiply it */

INLINE void block(int n_rows, int n_vectors, whole depth, const float *a, whole a_row, whole a_column, const float *b,
                  whole b_row, float *c, whole c_row, int how) {
    vec sum[MAX_ROWS][MAX_VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < n_vectors; j++) sum[i][j] = (vec){0};
    for (whole p = 0; p < depth; p++, a += a_column, b += b_row) {
        vec line[MAX_VECTORS];
#pragma GCC unroll 8
        for (int j = 0; j < n_vectors; j++) line[j] = load(b + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < n_rows; i++) {
            float value = a[i * a_row];
#pragma GCC unroll 8
            for (int j = 0; j < n_vectors; j++) sum[i][j] += value * line[j];
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n_rows; i++)
#pragma GCC unroll 8
        for (int j = 0; j < n_vectors; j++) {
            float *place = c + i * c_row + j * LANES;
            vec v = sum[i][j];
            store(place, how == WRITE ? v : how == ADD ? load(place) + v : load(place) * v);
        }
}

#define BLOCK(N) \
    case N: block(N, n_vectors, depth, a, a_row, a_column, b, b_row, c, c_row, how); break;

/* A column of blocks; n_vectors, and one of A's steps, are constants where it is inlined. */
INLINE void panel(int n_vectors, whole n_rows, whole depth, const float *a, whole a_row, whole a_column, const float *b,
                  whole b_row, float *c, whole c_row, int how) {
    for (; n_rows > 0; n_rows -= MAX_ROWS, a += MAX_ROWS * a_row, c += MAX_ROWS * c_row) {
        switch (n_rows) {
            BLOCK(1) BLOCK(2) BLOCK(3) BLOCK(4) BLOCK(5)
            default: block(MAX_ROWS, n_vectors, depth, a, a_row, a_column, b, b_row, c, c_row, how);
        }
    }
}

#define PANEL(N) \
    for (; n_columns >= N * LANES; n_columns -= N * LANES, b += N * LANES, c += N * LANES) \
        panel(N, n_rows, depth, a, a_row, a_column, b, b_row, c, c_row, how);

INLINE void product(whole n_rows, whole n_columns, whole depth, const float *a, whole a_row, whole a_column,
                    const float *b, whole b_row, float *c, whole c_row, int how) {
#if MAX_VECTORS == 4
    PANEL(4)
#endif
#if LANES == 16
    PANEL(3)
    PANEL(2)
    PANEL(1)
#elif LANES == 8
    PANEL(2)
#endif
}

/* C = A B, with n_columns a multiple of 16 */
static void multiply(whole n_rows, whole n_columns, whole depth, const float *a, whole a_row, const float *b,
                     whole b_row, float *c, whole c_row, int how) {
    product(n_rows, n_columns, depth, a, a_row, 1, b, b_row, c, c_row, how);
}

/* C = A^T B */
static void multiply_transposed(whole n_rows, whole n_columns, whole depth, const float *a, whole a_row,
                                const float *b, whole b_row, float *c, whole c_row, int how) {
    product(n_rows, n_columns, depth, a, 1, a_row, b, b_row, c, c_row, how);
}

/* A square of LANES: interleaving row i with row i + LANES / 2, log2(LANES) times over, transposes it. */
INLINE void transpose_square(const float *from, whole from_row, float *to, whole to_row) {
    vec r[LANES], s[LANES];
    for (int i = 0; i < LANES; i++) r[i] = load(from + i * from_row);
#pragma GCC unroll 4
    for (int round = 1; round < LANES; round *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; i++) {
            s[2 * i] = INTERLEAVE(r[i], r[i + LANES / 2], LOW);
            s[2 * i + 1] = INTERLEAVE(r[i], r[i + LANES / 2], HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) r[i] = s[i];
    }
    for (int i = 0; i < LANES; i++) store(to + i * to_row, r[i]);
}

static void transpose(whole n_rows, whole n_columns, const float *from, float *to, whole to_row) {
    for (whole i = 0; i < n_rows; i += LANES)
        for (whole j = 0; j < n_columns; j += LANES)
            transpose_square(from + i * n_columns + j, n_columns, to + j * to_row + i, to_row);
}

/* --- Layers ------------------------------------------------------------------------------------------------------- */

#define EACH_VECTOR(STATEMENTS) \
    for (whole r = 0; r < n_rows; r++) \
        for (whole j = 0; j < width; j += LANES) { \
            vec a = load(d + r * d_row + j), f, slope; \
            STATEMENTS \
            store(h + r * h_row + j, f); \
            store(d + r * d_row + j, slope); \
        }

/* From A in d: H = f(A) into h, and f'(A) into d. */
static void activate(whole kind, whole n_rows, whole width, float *d, whole d_row, float *h, whole h_row) {
    switch (kind) {
        case IDENTITY: EACH_VECTOR(f = a; slope = all(1.0f);) break;
        case RELU: EACH_VECTOR(ivec on = a > 0.0f; f = choose(a <= 0.0f, all(0.0f), a);
                               slope = choose(on, all(1.0f), all(0.0f));) break;
        case TANH: EACH_VECTOR(f = 2.0f / (1.0f + exponential(-2.0f * a)) - 1.0f; slope = 1.0f - f * f;) break;
        default: EACH_VECTOR(vec share = 1.0f / (1.0f + exponential(-a)); f = a * share;
                             slope = share + f * (1.0f - share);)
    }
}

/* Dropout's factors m, of the layer's own width: H = m f(A), and m f'(A). */
static void drop(const Table *factors, whole network, whole first, whole n_rows, whole n_units, float *d, whole d_row,
                 float *h, whole h_row) {
    for (whole r = 0; r < n_rows; r++) {
        const float *m = factors->data + network * factors->network + (first + r) * factors->row;
        for (whole j = 0; j < n_units; j++) {
            d[r * d_row + j] *= m[j];
            h[r * h_row + j] *= m[j];
        }
    }
}

/* What a network writes while a tile of rows goes through it. */
typedef struct {
    const Network *net;
    float *joint, *between[MAX_HIDDEN], *slopes[MAX_HIDDEN]; /* [H X 1], [H_i 1], f'(A_i) */
    float *turned[MAX_HIDDEN + 1];                           /* transposes of the matrices */
    whole joint_row, n_last;
    const float *added; /* to the first layer, or null: then the outputs are written, else added to what is there */
    whole added_row;
} Space;

static float *take(float **free, whole n) {
    float *taken = *free;
    *free += n;
    return taken;
}

/* How many inputs layer i has; the last one sees the network's inputs beside the layer before. */
static whole width_before(const Network *net, whole i) {
    if (i == 0) return net->n_inputs;
    return net->hidden[i - 1] + (i == net->n_hidden ? net->n_inputs : 0);
}

static Space make_space(const Network *net, whole tile, float **free) {
    Space s = {.net = net};
    whole n = net->n_hidden;
    s.n_last = n ? net->hidden[n - 1] : 0;
    s.joint_row = s.n_last + net->n_inputs + PAD;
    s.joint = take(free, tile * s.joint_row);
    for (whole i = 0; i < n; i++) {
        if (i < n - 1) s.between[i] = take(free, tile * (net->hidden[i] + PAD));
        s.slopes[i] = take(free, tile * (net->hidden[i] + PAD));
    }
    for (whole i = 0; i <= n; i++)
        s.turned[i] = take(free, (i == n ? net->n_outputs : net->hidden[i]) * (width_before(net, i) + PAD));
    return s;
}

/* Where layer i reads its inputs, how far its rows lie apart, and how many inputs it has. */
static float *source(const Space *s, whole i, whole *row, whole *width) {
    int is_joint = i == 0 || i == s->net->n_hidden;
    *width = width_before(s->net, i);
    *row = is_joint ? s->joint_row : *width + PAD;
    return i == s->net->n_hidden ? s->joint : i == 0 ? s->joint + s->n_last : s->between[i - 1];
}

static void set_ones(const Space *s, whole tile) {
    for (whole i = 0; i <= s->net->n_hidden; i++) {
        whole row, width;
        float *in = source(s, i, &row, &width);
        for (whole r = 0; r < tile; r++) in[r * row + width] = 1.0f;
    }
}

static whole matrix_start(const Network *net, whole i, whole network, whole width) {
    whole n_outputs = i == net->n_hidden ? net->n_outputs : net->hidden[i];
    return net->matrices[i] + network * (width + 1) * n_outputs;
}

static void add_rows(whole n_rows, whole n, const float *from, whole from_row, float *to, whole to_row) {
    for (whole r = 0; r < n_rows; r++, from += from_row, to += to_row)
        for (whole j = 0; j < n; j++) to[j] += from[j];
}

static void forward(const Call *call, const Space *s, whole network, whole first, whole n_rows,
                    const Table *factors, float *out, whole out_row) {
    const Network *net = s->net;
    for (whole i = 0; i <= net->n_hidden; i++) {
        whole row, width;
        const float *in = source(s, i, &row, &width);
        const float *matrix = call->values + matrix_start(net, i, network, width);
        if (i == net->n_hidden) {
            int how = s->added ? ADD : WRITE;
            multiply(n_rows, net->n_outputs, width + 1, in, row, matrix, net->n_outputs, out, out_row, how);
            return;
        }
        whole n = net->hidden[i], h_row = i == net->n_hidden - 1 ? s->joint_row : n + PAD;
        float *d = s->slopes[i], *h = i == net->n_hidden - 1 ? s->joint : s->between[i];
        multiply(n_rows, n, width + 1, in, row, matrix, n, d, n + PAD, WRITE);
        if (i == 0 && s->added) add_rows(n_rows, net->units[0], s->added, s->added_row, d, n + PAD);
        activate(net->activation, n_rows, n, d, n + PAD, h, h_row);
        if (factors && factors[i].data) drop(&factors[i], network, first, n_rows, net->units[i], d, n + PAD, h, h_row);
    }
}

/* From dL/dY in ``d`` to the matrices' gradient, and to dL/dX where ``d_inputs`` is given. */
static void backward(const Call *call, const Space *s, whole network, whole first, whole n_rows,
                     const float *d, whole d_row, float *d_inputs, whole d_inputs_row) {
    const Network *net = s->net;
    int how = first ? ADD : WRITE;
    for (whole i = net->n_hidden; i >= 0; i--) {
        whole row, width, n = i == net->n_hidden ? net->n_outputs : net->hidden[i];
        const float *in = source(s, i, &row, &width);
        whole start = matrix_start(net, i, network, width);
        /* dL/dW_i = [H_{i-1} 1]^T dL/dA_i */
        multiply_transposed(width + 1, n, n_rows, in, row, d, d_row, call->gradient + start, n, how);
        whole needed = d_inputs ? width : i == net->n_hidden ? s->n_last : i ? width : 0;
        if (!needed) break;
        if (!first) transpose(needed, n, call->values + start, s->turned[i], needed + PAD);
        /* dL/dA_{i-1} = dL/dA_i W_i^T f'(A_{i-1}), in the place of f' */
        whole n_hidden = i == net->n_hidden ? s->n_last : i ? width : 0;
        if (n_hidden)
            multiply(n_rows, n_hidden, n, d, d_row, s->turned[i], needed + PAD, s->slopes[i - 1], n_hidden + PAD, SCALE);
        /* dL/dX, of the linear path and of the first layer */
        if (d_inputs && (i == net->n_hidden || i == 0))
            multiply(n_rows, net->n_inputs, n, d, d_row, s->turned[i] + n_hidden, needed + PAD, d_inputs, d_inputs_row,
                     i == net->n_hidden ? WRITE : ADD);
        if (i) d = s->slopes[i - 1], d_row = n_hidden + PAD;
    }
}

/* --- Likelihoods -------------------------------------------------------------------------------------------------- */

/* Of each column: what it reads, and sums over the rows. */
typedef struct {
    float *scale, *shape, *constant, *tail, *pull, *d_scale, *log_variance, *count;
    float *norm, *shift, *d_shift; /* of mixtures */
} Columns;

/* Cells of a segment in rows of a tile, NaN where missing; weights of the rows, or null where all count once. */
typedef struct {
    const float *x, *weight;
    whole row, weight_row;
} Cells;

INLINE float weight_of(const Cells *cells, whole r) {
    return cells->weight ? cells->weight[r * cells->weight_row] : 1.0f;
}

INLINE vec clamp(vec h, float low, float high) {
    return choose(h < low, all(low), choose(h > high, all(high), h));
}

INLINE int is_t(whole family) { return family == STUDENT_T_DEPENDENT || family == STUDENT_T_CONSTANT; }

/* sum += the terms of rows at columns j to j + n, dL/dy in the place of y; ``family`` and ``general`` are constants
 * where inlined. Lanes beyond n hold anything, which nobody reads; behind the rows of y there is room for them. */
INLINE double column_cells(int family, int general, const Segment *s, const Columns *c, whole j, whole n_rows,
                           const Cells *cells, float *y, whole y_row) {
    whole n = s->n_columns - j, shift = s->n_columns;
    const float *x = cells->x, *end = x + (n_rows - 1) * cells->row + s->n_columns;
    ivec mine = first_lanes(n);
    vec scale = load(c->scale + j), df = load(c->shape + j), loss = {0}, one = all(1.0f);
    vec tails = {0}, pulls = {0}, d_scales = {0}, log_variances = {0}, counts = {0};
    for (whole r = 0; r < n_rows; r++) {
        float *place = y + r * y_row + j;
        vec output = load(place), value = load_before(x + r * cells->row + j, n, end), residual = output - value;
        vec weight = one; /* of the cells */
        if (general) {
            ivec seen = value == value;
            weight = choose(seen, all(weight_of(cells, r)), all(0.0f));
            value = choose(seen, value, all(0.0f));
            residual = choose(seen, residual, all(0.0f));
            counts += weight;
        }
        if (family == GAUSSIAN_UNIT) {
            residual = choose(mine, residual, all(0.0f));
            vec d = general ? residual * weight : residual;
            loss += residual * d;
            store_masked(place, d, mine);
            continue;
        }
        if (family == BERNOULLI) { /* softplus(y) = max(y, 0) + log(1 + e^-|y|) */
            vec ratio = exponential(choose(output > 0.0f, -output, output)), w = 1.0f + ratio;
            vec share = choose(output > 0.0f, one, ratio) / w;
            vec tail = logarithm(w) + (ratio - (w - 1.0f)) / w;
            vec term = choose(output <= 0.0f, all(0.0f), output) + tail - value * output;
            loss += choose(mine, general ? term * weight : term, all(0.0f));
            store_masked(place, general ? (share - value) * weight : share - value, mine);
            continue;
        }
        if (family == GAUSSIAN_CONSTANT) { /* dL/dm = r / v, with 1 / v as scale */
            vec d = residual * scale;
            if (general) d *= weight;
            pulls += residual * d;
            store_masked(place, d, mine);
            continue;
        }
        if (family == STUDENT_T_CONSTANT) { /* dL/dm = (nu + 1) r / (r^2 + nu v), with v as scale */
            vec square = residual * residual, spread = df * scale, ratio = square / spread, w = 1.0f + ratio;
            vec tail = logarithm(w) + (ratio - (w - 1.0f)) / w;
            vec d = (df + 1.0f) * residual / (square + spread);
            if (general) d *= weight;
            pulls += residual * d;
            tails += general ? tail * weight : tail;
            store_masked(place, d, mine);
            continue;
        }
        vec h = load(place + shift), above = exponential(2.0f * (scale + clamp(h, -4.0f, 4.0f)));
        vec variance = above + (float)s->floor_squared, inverse = 1.0f / variance, d, pull;
        if (family == GAUSSIAN_DEPENDENT) {
            d = residual * inverse;
            if (general) d *= weight;
            pull = residual * d;
        } else { /* dL/dm = (nu + 1) r / (r^2 + nu v) */
            vec square = residual * residual, spread = df * variance, ratio = square / spread, w = 1.0f + ratio;
            vec tail = logarithm(w) + (ratio - (w - 1.0f)) / w; /* log(1 + ratio), what 1 + ratio rounds off included */
            d = (df + 1.0f) * residual / (square + spread);
            if (general) d *= weight;
            pull = residual * d;
            tails += general ? tail * weight : tail;
        }
        vec d_log_scale = above * inverse * (weight - pull), log_variance = logarithm(variance);
        log_variances += general ? log_variance * weight : log_variance;
        pulls += pull;
        d_scales += d_log_scale;
        store_masked(place, d, mine);
        store_masked(place + shift, choose((h > -4.0f) & (h < 4.0f), d_log_scale, all(0.0f)), mine);
    }
    store(c->tail + j, load(c->tail + j) + tails);
    store(c->pull + j, load(c->pull + j) + pulls);
    store(c->d_scale + j, load(c->d_scale + j) + d_scales);
    store(c->log_variance + j, load(c->log_variance + j) + log_variances);
    if (general) store(c->count + j, load(c->count + j) + counts);
    return (family == BERNOULLI ? 1.0 : 0.5) * total(loss);
}

/* w (log sum e^y - y_code), and its derivatives w (e^y / sum e^y - [code]) in the place of a row's n outputs y. */
INLINE double level_cell(whole n, float code, float weight, float *y) {
    vec top = all(-INFINITY), sum = {0};
    if (!(code >= 0.0f && code < (float)n)) return NAN;
    for (whole j = 0; j < n; j += LANES) top = larger(choose(first_lanes(n - j), load(y + j), top), top);
    top = highest(top); /* without it e^y may be too large for a number, or its sum zero */
    float own = y[(whole)code];
    for (whole j = 0; j < n; j += LANES) {
        ivec mine = first_lanes(n - j);
        vec power = choose(mine, exponential(load(y + j) - top), all(0.0f));
        store_masked(y + j, power, mine);
        sum += power;
    }
    sum = summed(sum);
    vec factor = weight / sum;
    for (whole j = 0; j < n; j += LANES) store_masked(y + j, load(y + j) * factor, first_lanes(n - j));
    y[(whole)code] -= weight;
    return (double)weight * ((double)(top[0] - own) + (double)logarithm(sum)[0]);
}

/* Column by column: a row's next column shares a vector with the last, which is still on its way to the memory. */
static double level_cells(const Segment *s, whole general, whole n_rows, const Cells *cells, float *y, whole y_row) {
    double loss = 0.0;
    for (whole j = 0; j < s->n_columns; y += s->n_levels[j], j++)
        for (whole r = 0; r < n_rows; r++) {
            float code = cells->x[r * cells->row + j], *place = y + r * y_row;
            if (general && code != code)
                memset(place, 0, s->n_levels[j] * sizeof(float));
            else
                loss += level_cell(s->n_levels[j], code, weight_of(cells, r), place);
        }
    return loss;
}

#define COLUMNS(FAMILY) \
    case FAMILY: \
        loss += general ? column_cells(FAMILY, 1, s, c, j, n_rows, cells, y, y_row) \
                        : column_cells(FAMILY, 0, s, c, j, n_rows, cells, y, y_row); \
        break;

static double segment_cells(const Segment *s, whole general, const Columns *c, whole n_rows, const Cells *cells,
                            float *y, whole y_row) {
    double loss = 0.0;
    if (s->family == CATEGORICAL) return level_cells(s, general, n_rows, cells, y, y_row);
    for (whole j = 0; j < s->n_columns; j += LANES) {
        switch (s->family) {
            COLUMNS(GAUSSIAN_UNIT)
            COLUMNS(GAUSSIAN_CONSTANT)
            COLUMNS(GAUSSIAN_DEPENDENT)
            COLUMNS(STUDENT_T_DEPENDENT)
            COLUMNS(BERNOULLI)
            COLUMNS(STUDENT_T_CONSTANT)
        }
    }
    return loss;
}

/* The cells of a segment: where they lie, or brought together in ``to``. */
static Cells find_cells(const Plan *plan, const Call *call, const Segment *s, whole network, whole first,
                        whole n_rows, float *to) {
    const float *x = call->x.data + network * call->x.network + first * call->x.row;
    const uint8_t *mask = call->mask.data;
    Cells cells = {.x = x + s->columns[0], .row = call->x.row, .weight = call->weight.data};
    cells.weight_row = call->weight.row;
    if (cells.weight) cells.weight += network * call->weight.network + first * call->weight.row;
    if (mask) mask += network * call->mask.network + first * call->mask.row;
    if (s->is_in_place && !mask) return cells;
    cells.x = to, cells.row = plan->n_gathered;
    for (whole r = 0; r < n_rows; r++, x += call->x.row, to += cells.row) {
        for (whole j = 0; j < s->n_columns; j++) to[j] = x[s->columns[j]];
        if (!mask) continue;
        for (whole j = 0; j < s->n_columns; j++)
            if (!mask[r * call->mask.row + s->columns[j]]) to[j] = NAN;
    }
    return cells;
}

static Columns make_columns(const Segment *s, float **free) {
    whole n = s->family == CATEGORICAL ? 0 : (s->n_columns + 15) / 16 * 16, of_mixture = s->n_members * n;
    Columns c;
    if (s->n_members) n = of_mixture;
    c.scale = take(free, n), c.shape = take(free, n), c.constant = take(free, n), c.tail = take(free, n);
    c.pull = take(free, n), c.d_scale = take(free, n), c.log_variance = take(free, n), c.count = take(free, n);
    c.norm = take(free, of_mixture), c.shift = take(free, of_mixture), c.d_shift = take(free, of_mixture);
    return c;
}

static double softplus(double x) { return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x))); }

/* log Gamma and its derivative for x >= 1: Stirling's series at x + 8, from which eight steps lead down. */
static double log_gamma(double x, double *derivative) {
    double rise = 1.0, d_rise = 0.0;
    for (int i = 0; i < 8; i++, x += 1.0) {
        d_rise = d_rise * x + rise;
        rise *= x;
    }
    double log_x = log(x), q = 1.0 / x, s = q * q;
    *derivative = log_x - 0.5 * q - s * (1.0 / 12.0 - s * (1.0 / 120.0 - s * (1.0 / 252.0 - s / 240.0)));
    *derivative -= d_rise / rise;
    double series = q * (1.0 / 12.0 - s * (1.0 / 360.0 - s * (1.0 / 1260.0 - s / 1680.0)));
    return (x - 0.5) * log_x - x + 0.5 * LOG_2PI + series - log(rise);
}

/* Minus the log-density at the location, for a variance of 1. */
static double log_norm(whole family, double df) {
    double d;
    if (!is_t(family)) return 0.5 * LOG_2PI;
    return log_gamma(0.5 * df, &d) - log_gamma(0.5 * (df + 1.0), &d) + 0.5 * log(PI * df);
}

static void open_columns(const Plan *plan, const Segment *s, const Columns *c, const float *free) {
    whole n = (s->n_columns + 15) / 16 * 16;
    if (s->family == CATEGORICAL) return;
    memset(c->tail, 0, 5 * n * sizeof(float)); /* the five sums lie one behind the other */
    for (whole j = 0; j < s->n_columns; j++) {
        double variance = 1.0, df = 0.0;
        if (s->family == GAUSSIAN_CONSTANT || s->family == STUDENT_T_CONSTANT) {
            variance = exp(2.0 * free[j]) + s->floor_squared;
            c->scale[j] = (float)(s->family == GAUSSIAN_CONSTANT ? 1.0 / variance : variance);
        } else if (s->family == GAUSSIAN_DEPENDENT || s->family == STUDENT_T_DEPENDENT) {
            c->scale[j] = free[j];
        }
        if (is_t(s->family)) {
            df = 2.0 + softplus(free[s->n_columns + j]);
            c->shape[j] = (float)df;
        }
        if (plan->n_draws > 1) c->constant[j] = (float)(log_norm(s->family, df) + 0.5 * log(variance));
        if (!plan->is_general) c->count[j] = (float)plan->n_rows;
    }
}

/* From the sums over the rows to the loss and the derivatives by the free parameters. */
static double close_columns(const Segment *s, const Columns *c, const float *free, float *d_free) {
    whole n = s->n_columns;
    double twice = 0.0;
    if (s->family == BERNOULLI || s->family == CATEGORICAL) return 0.0;
    for (whole j = 0; j < n; j++) {
        double count = (double)c->count[j]; /* sum of the weights of the cells that are there */
        if (s->family == GAUSSIAN_UNIT) {
            twice += count * LOG_2PI;
        } else if (s->family == GAUSSIAN_CONSTANT) {
            double above = exp(2.0 * free[j]), variance = above + s->floor_squared;
            d_free[j] = (float)((count - c->pull[j]) * above / variance);
            twice += c->pull[j] + count * (log(variance) + LOG_2PI);
        } else {
            if (s->family == STUDENT_T_CONSTANT) {
                double above = exp(2.0 * free[j]), variance = above + s->floor_squared;
                d_free[j] = (float)((count - c->pull[j]) * above / variance);
                twice += count * log(variance);
            } else {
                d_free[j] = c->d_scale[j];
                twice += c->log_variance[j];
            }
            if (s->family == GAUSSIAN_DEPENDENT) {
                twice += c->pull[j] + count * LOG_2PI;
                continue;
            }
            double raw = free[n + j], df = 2.0 + softplus(raw), d_low, d_high;
            double low = log_gamma(0.5 * df, &d_low), high = log_gamma(0.5 * (df + 1.0), &d_high);
            /* the density's norm: log Gamma(df / 2) - log Gamma((df + 1) / 2) + log(pi df) / 2, count times */
            twice += (df + 1.0) * c->tail[j] + count * (2.0 * (low - high) + log(PI * df));
            double d_df = 0.5 * (c->tail[j] + count * (d_low - d_high) + (count - c->pull[j]) / df);
            d_free[n + j] = (float)(d_df / (1.0 + exp(-raw)));
        }
    }
    return 0.5 * twice;
}

#include "native_autoregressive.h"

/* --- The posterior ------------------------------------------------------------------------------------------------ */

/* z = mu + sigma epsilon from [mu | log sigma^2] in y; sigma and sigma epsilon are kept. Lanes as in `column_cells`. */
static void draw(whole n, whole n_rows, const float *y, whole y_row, const float *noise, whole noise_row, float *scale,
                 float *spread, whole own_row, float *z, whole z_row) {
    const float *end = noise ? noise + (n_rows - 1) * noise_row + n : NULL;
    for (whole j = 0; j < n; j += LANES) {
        ivec mine = first_lanes(n - j);
        for (whole r = 0; r < n_rows; r++) {
            const float *mean = y + r * y_row + j;
            vec log_variance = clamp(load(mean + n), -14.0f, 6.0f), s = exponential(0.5f * log_variance);
            vec shift = noise ? s * load_before(noise + r * noise_row + j, n - j, end) : all(0.0f);
            store(scale + r * own_row + j, s);
            store(spread + r * own_row + j, shift);
            store_masked(z + r * z_row + j, load(mean) + shift, mine);
        }
    }
}

/* dL/dmu = d_z + beta w mu, dL/dlog sigma^2 = (d_z sigma epsilon + beta w (sigma^2 - 1)) / 2, in the place of both, for
 * rows of weight w. */
static double posterior_gradient(whole n, whole n_rows, float *y, whole y_row, const float *d_z, whole d_z_row,
                                 const float *scale, const float *spread, whole own_row, float beta,
                                 const Cells *cells) {
    vec kl = {0};
    for (whole j = 0; j < n; j += LANES) {
        ivec mine = first_lanes(n - j);
        vec sum = {0};
        for (whole r = 0; r < n_rows; r++) {
            float *place = y + r * y_row + j;
            vec mean = load(place), raw = load(place + n);
            vec s = load(scale + r * own_row + j), d = load(d_z + r * d_z_row + j);
            float weight = weight_of(cells, r), share = beta * weight;
            vec excess = s * s - 1.0f;
            vec d_log_variance = 0.5f * (d * load(spread + r * own_row + j) + share * excess);
            sum += weight * (mean * mean + excess - clamp(raw, -14.0f, 6.0f));
            store_masked(place, d + share * mean, mine);
            store_masked(place + n, choose((raw > -14.0f) & (raw < 6.0f), d_log_variance, all(0.0f)), mine);
        }
        kl += choose(mine, sum, all(0.0f));
    }
    return 0.5 * total(kl);
}

/* --- The step ----------------------------------------------------------------------------------------------------- */

typedef struct {
    Space encoder, decoder;
    float *columns, *cells; /* of the segments, one after another; of one */
    float *codes, *outputs, *d_codes, *scale, *spread; /* of a VAE: [mu | log sigma^2], dL/dz */
    float *log_weight;                                 /* of several draws: log w_k, then v_k */
    whole own_row;
    Space masked;
    float *packed; /* the masked network's parameters and their gradient */
    float *end;
} Layout;

static Layout lay_out(const Plan *plan, float *scratch) {
    Layout l = {0};
    l.encoder = make_space(&plan->encoder, plan->tile, &scratch);
    whole decoded = plan->n_draws > 1 ? plan->drawn * plan->n_draws : plan->tile;
    l.decoder = make_space(&plan->decoder, decoded, &scratch);
    l.columns = scratch;
    for (whole i = 0; i < plan->n_segments; i++) make_columns(&plan->segments[i], &scratch);
    l.cells = take(&scratch, decoded * plan->n_gathered);
    l.own_row = plan->decoder.n_inputs + PAD;
    l.codes = take(&scratch, plan->tile * (plan->encoder.n_outputs + PAD));
    l.outputs = take(&scratch, decoded * (plan->decoder.n_outputs + PAD));
    l.d_codes = take(&scratch, decoded * l.own_row);
    l.scale = take(&scratch, plan->tile * l.own_row);
    l.spread = take(&scratch, decoded * l.own_row);
    l.log_weight = take(&scratch, decoded);
    if (plan->masked.n_inputs) {
        l.masked = make_space(&plan->masked.net, plan->tile, &scratch);
        l.masked.added = l.outputs + plan->masked.n_outputs, l.masked.added_row = plan->decoder.n_outputs + PAD;
        l.packed = take(&scratch, 2 * plan->masked.n_packed);
    }
    l.end = scratch;
    return l;
}

/* Loss of a tile, and its derivatives in the place of the outputs. */
static double likelihood_cells(const Plan *plan, const Call *call, const Layout *l, whole network, whole first,
                               whole n_rows) {
    double loss = 0.0;
    float *columns = l->columns;
    for (whole i = 0; i < plan->n_segments; i++) {
        const Segment *s = &plan->segments[i];
        Columns c = make_columns(s, &columns);
        Cells cells = find_cells(plan, call, s, network, first, n_rows, l->cells);
        float *y = l->outputs + s->first_output;
        whole y_row = plan->decoder.n_outputs + PAD;
        loss += s->n_members ? mixture_cells(s, plan->is_general, &c, n_rows, &cells, y, y_row)
                             : segment_cells(s, plan->is_general, &c, n_rows, &cells, y, y_row);
    }
    return loss;
}

/* --- The bound of several draws ----------------------------------------------------------------------------------- */

/* -log p of cells at columns j to j + LANES, of the first outputs of which ``place`` is. */
INLINE vec cell_losses(int family, const Segment *s, const Columns *c, whole j, vec value, const float *place) {
    vec output = load(place), residual = output - value, square = residual * residual, norm = load(c->constant + j);
    if (family == BERNOULLI) {
        vec ratio = exponential(choose(output > 0.0f, -output, output)), w = 1.0f + ratio;
        vec tail = logarithm(w) + (ratio - (w - 1.0f)) / w;
        return choose(output <= 0.0f, all(0.0f), output) + tail - value * output;
    }
    if (family == GAUSSIAN_UNIT) return 0.5f * square + norm;
    vec variance = load(c->scale + j);
    if (family == GAUSSIAN_CONSTANT) return 0.5f * square * variance + norm; /* it holds 1 / v */
    if (family != STUDENT_T_CONSTANT) {
        vec h = load(place + s->n_columns);
        variance = exponential(2.0f * (variance + clamp(h, -4.0f, 4.0f))) + (float)s->floor_squared;
        norm += 0.5f * logarithm(variance);
    }
    if (family == GAUSSIAN_DEPENDENT) return 0.5f * square / variance + norm;
    vec df = load(c->shape + j), ratio = square / (df * variance), w = 1.0f + ratio;
    return 0.5f * (df + 1.0f) * (logarithm(w) + (ratio - (w - 1.0f)) / w) + norm;
}

/* log_weight -= the losses of each row. */
INLINE void column_losses(int family, const Segment *s, const Columns *c, whole n_rows, const Cells *cells,
                          const float *y, whole y_row, float *log_weight) {
    const float *end = cells->x + (n_rows - 1) * cells->row + s->n_columns;
    for (whole r = 0; r < n_rows; r++) {
        vec sum = {0};
        for (whole j = 0; j < s->n_columns; j += LANES) {
            vec value = load_before(cells->x + r * cells->row + j, s->n_columns - j, end);
            ivec seen = first_lanes(s->n_columns - j) & (value == value);
            sum += choose(seen, cell_losses(family, s, c, j, value, y + r * y_row + j), all(0.0f));
        }
        log_weight[r] -= (float)total(sum);
    }
}

/* log sum e^y - y_code of a row's n outputs y. */
INLINE double level_loss(whole n, float code, const float *y) {
    vec top = all(-INFINITY), sum = {0};
    if (!(code >= 0.0f && code < (float)n)) return NAN;
    for (whole j = 0; j < n; j += LANES) top = larger(choose(first_lanes(n - j), load(y + j), top), top);
    top = highest(top);
    for (whole j = 0; j < n; j += LANES)
        sum += choose(first_lanes(n - j), exponential(load(y + j) - top), all(0.0f));
    return (double)(top[0] - y[(whole)code]) + (double)logarithm(summed(sum))[0];
}

#define LOSSES(FAMILY) \
    case FAMILY: column_losses(FAMILY, s, c, n_rows, cells, y, y_row, log_weight); break;

static void segment_losses(const Segment *s, const Columns *c, whole n_rows, const Cells *cells, const float *y,
                           whole y_row, float *log_weight) {
    switch (s->family) {
        LOSSES(GAUSSIAN_UNIT)
        LOSSES(GAUSSIAN_CONSTANT)
        LOSSES(GAUSSIAN_DEPENDENT)
        LOSSES(STUDENT_T_DEPENDENT)
        LOSSES(BERNOULLI)
        LOSSES(STUDENT_T_CONSTANT)
        default:
            for (whole j = 0; j < s->n_columns; y += s->n_levels[j], j++)
                for (whole r = 0; r < n_rows; r++) {
                    float code = cells->x[r * cells->row + j];
                    if (code == code) log_weight[r] -= (float)level_loss(s->n_levels[j], code, y + r * y_row);
                }
    }
}

/* z_k = mu + sigma epsilon_k of each row, and log_weight = log p(z_k) - log q(z_k | x), whose constants cancel. */
static void draw_several(const Plan *plan, whole n_rows, const float *y, whole y_row, const float *noise,
                         whole noise_row, const Layout *l, float *z, whole z_row) {
    whole n = plan->n_components, n_draws = plan->n_draws;
    const float *end = noise ? noise + (n_rows - 1) * noise_row + n_draws * n : NULL;
    for (whole i = 0; i < n_rows * n_draws; i++) {
        const float *mean = y + i / n_draws * y_row;
        const float *own = noise ? noise + i / n_draws * noise_row + i % n_draws * n : NULL;
        vec sum = {0};
        for (whole j = 0; j < n; j += LANES) {
            ivec mine = first_lanes(n - j);
            vec centre = load(mean + j), log_variance = clamp(load(mean + n + j), -14.0f, 6.0f);
            vec epsilon = noise ? load_before(own + j, n - j, end) : all(0.0f);
            vec shift = exponential(0.5f * log_variance) * epsilon, drawn = centre + shift;
            store(l->spread + i * l->own_row + j, shift);
            store_masked(z + i * z_row + j, drawn, mine);
            sum += choose(mine, epsilon * epsilon - drawn * drawn + log_variance, all(0.0f));
        }
        l->log_weight[i] = 0.5f * (float)total(sum);
    }
}

static int has_cell(const Plan *plan, const uint8_t *mask) {
    for (whole i = 0; i < plan->n_segments; i++)
        for (whole j = 0; j < plan->segments[i].n_columns; j++)
            if (mask[plan->segments[i].columns[j]]) return 1;
    return 0;
}

/* The row's -L_K times its weight; v_k = w_k / sum_l w_l times the weight in the place of log w_k. */
static double share_out(whole n_draws, float weight, float *log_weight) {
    double top = -INFINITY, sum = 0.0;
    for (whole k = 0; k < n_draws; k++) top = log_weight[k] > top ? log_weight[k] : top;
    for (whole k = 0; k < n_draws; k++) sum += exp(log_weight[k] - top);
    for (whole k = 0; k < n_draws; k++) log_weight[k] = (float)(exp(log_weight[k] - top) / sum) * weight;
    return -weight * (top + log(sum / (double)n_draws));
}

/* dL/dmu = sum_k dL/dz_k, dL/dlog sigma^2 = sum_k (dL/dz_k sigma epsilon_k - v_k) / 2, in the place of both, with
 * dL/dz_k = d_z + v_k z_k. */
static void several_gradient(const Plan *plan, whole n_rows, float *y, whole y_row, const Layout *l, const float *z,
                             whole z_row) {
    whole n = plan->n_components, n_draws = plan->n_draws;
    for (whole r = 0; r < n_rows; r++) {
        const float *share = l->log_weight + r * n_draws;
        float all_shares = 0.0f;
        for (whole k = 0; k < n_draws; k++) all_shares += share[k];
        for (whole j = 0; j < n; j += LANES) {
            ivec mine = first_lanes(n - j);
            float *place = y + r * y_row + j;
            vec raw = load(place + n), d_mean = {0}, d_spread = {0};
            for (whole k = 0, i = r * n_draws; k < n_draws; k++, i++) {
                vec d = load(l->d_codes + i * l->own_row + j) + share[k] * load(z + i * z_row + j);
                d_mean += d;
                d_spread += d * load(l->spread + i * l->own_row + j);
            }
            vec d_log_variance = 0.5f * (d_spread - all_shares);
            store_masked(place, d_mean, mine);
            store_masked(place + n, choose((raw > -14.0f) & (raw < 6.0f), d_log_variance, all(0.0f)), mine);
        }
    }
}

/* The cells of a segment, once for each draw. */
static Cells drawn_cells(const Plan *plan, const Call *call, const Segment *s, whole network, whole first,
                         whole n_rows, float *to) {
    const float *x = call->x.data + network * call->x.network + first * call->x.row;
    const uint8_t *mask = call->mask.data;
    Cells cells = {.x = to, .row = plan->n_gathered};
    if (mask) mask += network * call->mask.network + first * call->mask.row;
    for (whole r = 0; r < n_rows; r++, x += call->x.row, to += plan->n_draws * cells.row) {
        for (whole j = 0; j < s->n_columns; j++)
            to[j] = mask && !mask[r * call->mask.row + s->columns[j]] ? NAN : x[s->columns[j]];
        for (whole k = 1; k < plan->n_draws; k++) memcpy(to + k * cells.row, to, s->n_columns * sizeof(float));
    }
    return cells;
}

/* From the log-weights without log p(x | z_k) to the v_k, and the loss. */
static double weigh(const Plan *plan, const Call *call, const Layout *l, whole network, whole first, whole n_rows) {
    double loss = 0.0;
    float *columns = l->columns, *cells = l->cells;
    whole n_drawn = n_rows * plan->n_draws;
    for (whole i = 0; i < plan->n_segments; cells += plan->segments[i].n_columns, i++) {
        const Segment *s = &plan->segments[i];
        Columns c = make_columns(s, &columns);
        Cells found = drawn_cells(plan, call, s, network, first, n_rows, cells);
        segment_losses(s, &c, n_drawn, &found, l->outputs + s->first_output, plan->decoder.n_outputs + PAD,
                       l->log_weight);
    }
    for (whole r = 0; r < n_rows; r++) {
        float *log_weight = l->log_weight + r * plan->n_draws;
        const float *weight = call->weight.data;
        if (weight) weight += network * call->weight.network + (first + r) * call->weight.row;
        const uint8_t *mask = call->mask.data;
        if (mask && !has_cell(plan, mask + network * call->mask.network + (first + r) * call->mask.row))
            memset(log_weight, 0, plan->n_draws * sizeof(float)); /* the density of no cell is one */
        else
            loss += share_out(plan->n_draws, weight ? *weight : 1.0f, log_weight);
    }
    return loss;
}

/* Of rows whose posteriors are in ``codes``, from their draws to the gradient by them, in their place. */
static double run_draws(const Plan *plan, const Call *call, const Layout *l, whole network, whole first, whole n_rows,
                        float *codes) {
    const Space *decoder = &l->decoder;
    float *z = decoder->joint + decoder->n_last, *columns = l->columns, *cells = l->cells;
    const float *noise = call->noise.data;
    whole codes_row = plan->encoder.n_outputs + PAD, outputs_row = plan->decoder.n_outputs + PAD;
    whole n_drawn = n_rows * plan->n_draws;
    if (noise) noise += network * call->noise.network + first * call->noise.row;
    draw_several(plan, n_rows, codes, codes_row, noise, call->noise.row, l, z, decoder->joint_row);
    forward(call, decoder, network, first, n_drawn, call->factors + MAX_HIDDEN, l->outputs, outputs_row);
    double loss = weigh(plan, call, l, network, first, n_rows);
    for (whole i = 0; i < plan->n_segments; cells += plan->segments[i].n_columns, i++) {
        const Segment *s = &plan->segments[i];
        Columns c = make_columns(s, &columns);
        Cells found = {.x = cells, .row = plan->n_gathered, .weight = l->log_weight, .weight_row = 1};
        segment_cells(s, 1, &c, n_drawn, &found, l->outputs + s->first_output, outputs_row);
    }
    backward(call, decoder, network, first, n_drawn, l->outputs, outputs_row, l->d_codes, l->own_row);
    several_gradient(plan, n_rows, codes, codes_row, l, z, decoder->joint_row);
    return loss;
}

/* The importance-weighted bound, as `_BoundStep` of steps.py has it, of rows that are the encoder's inputs already. */
static double bound_of_tile(const Plan *plan, const Call *call, const Layout *l, whole network, whole first,
                            whole n_rows) {
    double loss = 0.0;
    whole codes_row = plan->encoder.n_outputs + PAD;
    forward(call, &l->encoder, network, first, n_rows, call->factors, l->codes, codes_row);
    for (whole r = 0; r < n_rows; r += plan->drawn) {
        whole left = n_rows - r;
        loss += run_draws(plan, call, l, network, first + r, left < plan->drawn ? left : plan->drawn,
                          l->codes + r * codes_row);
    }
    backward(call, &l->encoder, network, first, n_rows, l->codes, codes_row, NULL, 0);
    return loss;
}

static double run_tile(const Plan *plan, const Call *call, const Layout *l, whole network, whole first, whole n_rows) {
    const Space *encoder = &l->encoder, *decoder = &l->decoder;
    const float *inputs = call->inputs.data + network * call->inputs.network + first * call->inputs.row;
    float *to = encoder->joint + encoder->n_last, *z = decoder->joint + decoder->n_last;
    whole codes_row = plan->encoder.n_outputs + PAD;
    whole outputs_row = plan->decoder.n_outputs + PAD, n = plan->n_components;
    for (whole r = 0; r < n_rows; r++)
        memcpy(to + r * encoder->joint_row, inputs + r * call->inputs.row, plan->n_inputs * sizeof(float));
    if (plan->n_draws > 1) return bound_of_tile(plan, call, l, network, first, n_rows);
    if (plan->variational) {
        const float *noise = call->noise.data;
        if (noise) noise += network * call->noise.network + first * call->noise.row;
        forward(call, encoder, network, first, n_rows, call->factors, l->codes, codes_row);
        draw(n, n_rows, l->codes, codes_row, noise, call->noise.row, l->scale, l->spread, l->own_row, z,
             decoder->joint_row);
    } else {
        forward(call, encoder, network, first, n_rows, call->factors, z, decoder->joint_row);
    }
    forward(call, decoder, network, first, n_rows, call->factors + MAX_HIDDEN, l->outputs, outputs_row);
    if (plan->masked.n_inputs)
        masked_forward(&plan->masked, call, &l->masked, l->packed, network, first, n_rows, l->outputs, outputs_row);
    double loss = likelihood_cells(plan, call, l, network, first, n_rows);
    if (plan->masked.n_inputs)
        masked_backward(&plan->masked, &l->masked, l->packed, first, n_rows, l->outputs, outputs_row);
    backward(call, decoder, network, first, n_rows, l->outputs, outputs_row, l->d_codes, l->own_row);
    if (!plan->variational) {
        backward(call, encoder, network, first, n_rows, l->d_codes, l->own_row, NULL, 0);
        return loss;
    }
    Cells rows = {.weight = call->weight.data, .weight_row = call->weight.row};
    if (rows.weight) rows.weight += network * call->weight.network + first * call->weight.row;
    loss += call->kl_weight * posterior_gradient(n, n_rows, l->codes, codes_row, l->d_codes, l->own_row, l->scale,
                                                 l->spread, l->own_row, (float)call->kl_weight, &rows);
    backward(call, encoder, network, first, n_rows, l->codes, codes_row, NULL, 0);
    return loss;
}

/* Digest of the source that this was made from: `native.py` refuses an object that is older or newer than itself. */
EXPORT const char *skvae_source(void) { return SOURCE; }

/* Floats of scratch memory that each network needs. */
EXPORT whole skvae_scratch(const Plan *plan) { return lay_out(plan, NULL).end - (float *)NULL; }

/* Make scratch memory, which is zero, ready. */
EXPORT void skvae_prepare(const Plan *plan, float *scratch) {
    Layout l = lay_out(plan, scratch);
    set_ones(&l.encoder, plan->tile);
    set_ones(&l.decoder, plan->n_draws > 1 ? plan->drawn * plan->n_draws : plan->tile);
    if (plan->masked.n_inputs) set_ones(&l.masked, plan->tile);
}

/* Each network has scratch memory of its own, so that threads may share them. */
static void step_network(const Plan *plan, const Call *call, whole network) {
    Layout l = lay_out(plan, call->scratch + network * skvae_scratch(plan));
    whole free_start = plan->free_start + network * plan->n_free;
    const float *free = call->values + free_start;
    float *d_free = call->gradient + free_start, *columns = l.columns;
    double loss = 0.0;
    for (whole i = 0; i < plan->n_segments; i++) {
        const Segment *s = &plan->segments[i];
        Columns c = make_columns(s, &columns);
        if (s->n_members)
            open_mixture(s, &c, free + s->first_free);
        else
            open_columns(plan, s, &c, free + s->first_free);
    }
    const Masked *m = &plan->masked;
    if (m->n_inputs) pack_weights(m, free + m->first_free, l.packed);
    for (whole first = 0; first < plan->n_rows; first += plan->tile) {
        whole left = plan->n_rows - first;
        loss += run_tile(plan, call, &l, network, first, left < plan->tile ? left : plan->tile);
    }
    columns = l.columns;
    for (whole i = 0; i < plan->n_segments; i++) {
        const Segment *s = &plan->segments[i];
        Columns c = make_columns(s, &columns);
        if (s->n_members) {
            close_mixture(s, &c, free + s->first_free, d_free + s->first_free);
            continue;
        }
        double of_columns = close_columns(s, &c, free + s->first_free, d_free + s->first_free);
        if (plan->n_draws == 1) loss += of_columns; /* that of several draws is no sum over them */
    }
    if (m->n_inputs) unpack_gradient(m, l.packed + m->n_packed, d_free + m->first_free);
    call->loss[network] = (float)loss;
}

/* Write the gradients and the losses of one batch. */
EXPORT void skvae_step(const Plan *plan, const Call *call) {
    for (whole network = 0; network < plan->n_networks; network++) step_network(plan, call, network);
}

/* --- Several steps ------------------------------------------------------------------------------------------------ */

/* Adam's state, and what holds for all of its steps; `Adam` of optimiser.py has the formula's sources. */
typedef struct {
    float *values, *first, *second, *gradient, *n_steps;
    double beta1, beta2, eps, decay, max_norm;
} Optimiser;

typedef struct {
    const Plan *plan;
    const Call *call;
} Batch;

/* Network's part of block ``index``: the encoder's matrices, the decoder's, the free parameters. */
static whole find_block(const Plan *plan, whole index, whole network, whole *start) {
    const Network *net = &plan->encoder;
    if (index > net->n_hidden) index -= net->n_hidden + 1, net = &plan->decoder;
    if (index > net->n_hidden) {
        *start = plan->free_start + network * plan->n_free;
        return plan->n_free;
    }
    whole width = width_before(net, index);
    *start = matrix_start(net, index, network, width);
    return (width + 1) * (index == net->n_hidden ? net->n_outputs : net->hidden[index]);
}

static whole count_blocks(const Plan *plan) { return plan->encoder.n_hidden + plan->decoder.n_hidden + 3; }

/* Shorten a network's gradient if its norm exceeds ``most``. */
static void bound_norm(const Plan *plan, whole network, float *gradient, double most) {
    whole start, n_blocks = count_blocks(plan);
    double square = 0.0;
    for (whole b = 0; b < n_blocks; b++) {
        whole size = find_block(plan, b, network, &start);
        vec sum = {0};
        for (whole i = 0; i < size; i += LANES) {
            vec g = load_some(gradient + start + i, size - i);
            sum += g * g;
        }
        square += total(sum);
    }
    double norm = sqrt(square);
    if (norm <= most) return;
    float factor = (float)(most / norm); /* NaN stays */
    for (whole b = 0; b < n_blocks; b++) {
        whole size = find_block(plan, b, network, &start);
        for (whole i = start; i < start + size; i++) gradient[i] *= factor;
    }
}

/* Adam's step ``done`` of a network, with the gradient divided by the rows. */
static void update(const Optimiser *o, const Plan *plan, whole network, double rate, double done) {
    float root = (float)(1.0 / sqrt(1.0 - pow(o->beta2, done))), size = (float)(rate / (1.0 - pow(o->beta1, done)));
    float share1 = (float)(1.0 - o->beta1), share2 = (float)(1.0 - o->beta2), beta2 = (float)o->beta2;
    float keep = (float)(1.0 - rate * o->decay), eps = (float)o->eps, part = 1.0f / (float)plan->n_rows;
    whole start, n_blocks = count_blocks(plan);
    for (whole b = 0; b < n_blocks; b++) {
        whole end = find_block(plan, b, network, &start);
        end += start;
        for (whole i = start; i < end; i += LANES) {
            whole left = end - i;
            vec g = load_some(o->gradient + i, left) * part, m = load_some(o->first + i, left);
            vec v = load_some(o->second + i, left) * beta2 + g * g * share2;
            float lanes[LANES];
            m = m + (g - m) * share1;
            store(lanes, v);
            for (int j = 0; j < LANES; j++) lanes[j] = sqrtf(lanes[j]);
            store_some(o->first + i, m, left);
            store_some(o->second + i, v, left);
            vec moved = load_some(o->values + i, left) * keep - size * m / (load(lanes) * root + eps);
            store_some(o->values + i, moved, left);
        }
    }
}

/* Gradient and update of a network by one batch after another, each with its rate and its weight of the KL; writes
   their losses. Whoever calls counts the steps, when all networks have done them. */
EXPORT void skvae_steps(const Optimiser *o, const Batch *batches, whole n, const double *rates,
                        const double *kl_weights, float *losses, whole network) {
    for (whole i = 0; i < n; i++) {
        const Plan *plan = batches[i].plan;
        Call call = *batches[i].call;
        call.kl_weight = kl_weights[i], call.loss = losses + i * plan->n_networks;
        step_network(plan, &call, network);
        if (o->max_norm < INFINITY) bound_norm(plan, network, o->gradient, o->max_norm * (double)plan->n_rows);
        update(o, plan, network, rates[i], *o->n_steps + (double)(i + 1));
    }
}
