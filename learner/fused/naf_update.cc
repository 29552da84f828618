// K updates of NAF in one call: what learner/trainer.py and learner/gradients.py do, without their overhead.
//
// A minibatch is worked through in chunks of 64 rows, so that a chunk's activations stay in the cache.
// Activations lie feature by feature ("panels", [features][64]): forward and backward are then products with
// vectors of rows, for any width of a layer, and read the parameters where they lie, W [out][in]. The gradient
// of W sums over the rows and needs its inputs row by row as well, so these are kept in both orders.
//
// Nothing is allocated here: learner/fused/engine.py owns the workspace and checks what it passes.

#include <cmath>
#include <cstdint>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE_VECTORS = 4;
#elif defined(__AVX__)
constexpr int LANES = 8, TILE_VECTORS = 2;  // 16 registers: 6 x 2 sums and what feeds them
#else
constexpr int LANES = 4, TILE_VECTORS = 4;
#endif
constexpr int TILE_ROWS = 6;
constexpr long CHUNK = 64;
constexpr int MAX_LAYERS = 18;

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float unaligned_vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

inline vec load(const float* p) { return *reinterpret_cast<const unaligned_vec*>(p); }
inline void store(float* p, vec x) { *reinterpret_cast<unaligned_vec*>(p) = x; }
inline vec all(float x) { return vec{} + x; }
inline float sum(vec x) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
}
constexpr long whole_vectors(long n) { return (n + LANES - 1) / LANES * LANES; }

// ---- exp and tanh; NaN stays NaN ----

// e^x = 2^n (1 + q) with n = round(x / ln 2): q from Taylor's series of e^r - 1, |r| < 0.35; error below 1e-7.
inline void split_exp(vec x, vec& power, vec& q) {
    const float to_integer = 12582912.0f;  // 1.5 * 2^23: adding it rounds, and leaves n in the low bits
    vec shifted = x * 1.44269504f + to_integer;
    vec n = shifted - to_integer;
    vec r = x - n * 0.693145752f;  // ln 2 in two parts, so that n ln 2 is exact enough
    r = r - n * 1.42860677e-6f;
    power = (vec)((((ivec)shifted) << 23) + (127 << 23));
    vec p = all(1.0f / 40320);
    p = p * r + 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    q = p * r * r + r;
}

inline vec clamp(vec x, vec low, vec high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

inline vec exp_of(vec x) {
    vec power, q;
    split_exp(clamp(x, all(-87.0f), all(89.0f)), power, q);  // 89: infinity
    return power + power * q;
}

// tanh x = m / (m + 2) with m = e^2x - 1, which keeps its digits near 0.
inline vec tanh_of(vec x) {
    vec power, q;
    split_exp(2.0f * clamp(x, all(-9.1f), all(9.1f)), power, q);  // beyond, tanh is 1 to the last bit
    vec m = power * q + (power - 1.0f);
    return m / (m + 2.0f);
}

// ---- matrix products ----

// out[m][n] = start + sum over k of a(m, k) * b[k][n], for M rows and N vectors of columns in registers;
// a(m, k) = a[m * stride + k], or with BY_COLUMN a[m + k * stride].
template <int M, int N, bool BY_COLUMN, class Start, class Finish>
inline void tile(long m0, long n0, long depth, const float* a, long stride, const float* b, long b_stride,
                 Start start, Finish finish) {
    vec c[M][N];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) c[m][n] = start(m0 + m, n0 + n);
    a += BY_COLUMN ? m0 : m0 * stride;
    b += n0 * LANES;
    for (long k = 0; k < depth; k++) {
        vec row[N];
        for (int n = 0; n < N; n++) row[n] = load(b + n * LANES);
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++) c[m][n] += a[BY_COLUMN ? m : m * stride] * row[n];
        a += BY_COLUMN ? stride : 1;
        b += b_stride;
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) finish(m0 + m, n0 + n, c[m][n]);
}

template <int N, bool BY_COLUMN, class... Rest>
void all_rows(long rows, long n0, Rest... rest) {
    long m = 0;
    for (; m + TILE_ROWS <= rows; m += TILE_ROWS) tile<TILE_ROWS, N, BY_COLUMN>(m, n0, rest...);
    switch (rows - m) {
        case 5: return tile<5, N, BY_COLUMN>(m, n0, rest...);
        case 4: return tile<4, N, BY_COLUMN>(m, n0, rest...);
        case 3: return tile<3, N, BY_COLUMN>(m, n0, rest...);
        case 2: return tile<2, N, BY_COLUMN>(m, n0, rest...);
        case 1: return tile<1, N, BY_COLUMN>(m, n0, rest...);
    }
}

template <bool BY_COLUMN, class... Rest>
void product(long rows, long vectors, Rest... rest) {
    long n = 0;
    for (; n + TILE_VECTORS <= vectors; n += TILE_VECTORS) all_rows<TILE_VECTORS, BY_COLUMN>(rows, n, rest...);
    switch (vectors - n) {
        case 3: return all_rows<3, BY_COLUMN>(rows, n, rest...);
        case 2: return all_rows<2, BY_COLUMN>(rows, n, rest...);
        case 1: return all_rows<1, BY_COLUMN>(rows, n, rest...);
    }
}

// ---- transposition ----

template <int S, int... I>
inline void exchange(vec& low, vec& high) {
    vec a = low, b = high;
#if defined(__clang__)
    low = __builtin_shufflevector(a, b, ((I & S) ? I - S + LANES : I)...);
    high = __builtin_shufflevector(a, b, ((I & S) ? I + LANES : I + S)...);
#else
    low = __builtin_shuffle(a, b, ivec{((I & S) ? I - S + LANES : I)...});
    high = __builtin_shuffle(a, b, ivec{((I & S) ? I + LANES : I + S)...});
#endif
}

template <int S>
inline void exchange_lanes(vec& low, vec& high) {
#if defined(__AVX512F__)
    exchange<S, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>(low, high);
#elif defined(__AVX__)
    exchange<S, 0, 1, 2, 3, 4, 5, 6, 7>(low, high);
#else
    exchange<S, 0, 1, 2, 3>(low, high);
#endif
}

// Swaps the S x S blocks off the diagonal, for S = 1, 2, 4 ...
template <int S>
inline void exchange_blocks(vec* rows) {
    if constexpr (S < LANES) {
        for (int i = 0; i < LANES; i++)
            if (!(i & S)) exchange_lanes<S>(rows[i], rows[i + S]);
        exchange_blocks<2 * S>(rows);
    }
}

// to[column][row] = from[row][column], in whole blocks of LANES x LANES.
void transpose(const float* from, long from_stride, long rows, long columns, float* to, long to_stride) {
    for (long r = 0; r < rows; r += LANES)
        for (long c = 0; c < columns; c += LANES) {
            vec block[LANES];
            for (int i = 0; i < LANES; i++) block[i] = load(from + (r + i) * from_stride + c);
            exchange_blocks<1>(block);
            for (int i = 0; i < LANES; i++) store(to + (c + i) * to_stride + r, block[i]);
        }
}

// ---- the network ----

struct Layer {
    long in, out, W, b;  // W and b: where they begin in the flat parameters
};

enum Diagonal { BOUNDED, SCALED, EXP };

struct Network {
    long nx, nu, values, diagonal, off_diagonal, batch, depth, head, parameters, width, widest;
    Layer layer[MAX_LAYERS];  // the head is layer[depth]

    // Rows of the batch, up to whole chunks.
    long padded_batch() const { return (batch + CHUNK - 1) / CHUNK * CHUNK; }

    // sizes: nx, nu, values, diagonal, off_diagonal, batch, number of hidden layers, their widths
    explicit Network(const int64_t* sizes)
        : nx(sizes[0]), nu(sizes[1]), values(sizes[2]), diagonal(sizes[3]), off_diagonal(sizes[4]), batch(sizes[5]),
          depth(sizes[6]), width(2 * nx + nu + 2) {
        head = values + 2 * nu + (off_diagonal ? nu * (nu - 1) / 2 : 0);
        long in = nx;
        parameters = widest = 0;
        for (long i = 0; i <= depth; i++) {
            long out = i < depth ? sizes[7 + i] : head;
            layer[i] = {in, out, parameters, parameters + in * out};
            parameters += (in + 1) * out;
            widest = out > widest ? out : widest;
            in = out;
        }
        if (diagonal == SCALED) parameters += nu;
    }
};

// Places in the workspace, in units of floats; with a null base it only counts.
struct Workspace {
    float* next;
    float *rows, *columns, *reward, *discount, *head, *scratch, *factor, *row_weight, *spare[2];
    float *panel[MAX_LAYERS], *by_row[MAX_LAYERS];  // of hidden layer i
    long stride_of_rows, stride[MAX_LAYERS];

    // One vector more than needed: rows of 1024 bytes would fall into the same few sets of the cache.
    static long row_stride(long n) { return whole_vectors(n) + LANES; }
    float* take(long n) {
        float* taken = next;
        next += whole_vectors(n);
        return taken;
    }
    float* take_panel(long features) { return take(whole_vectors(features) * CHUNK); }

    Workspace(const Network& net, float* base) : next(base) {
        stride_of_rows = row_stride(net.width);
        rows = take(CHUNK * stride_of_rows);
        columns = take_panel(net.width);
        reward = take(CHUNK);
        discount = take(CHUNK);
        for (float*& panel : spare) panel = take_panel(net.widest);
        head = take_panel(net.head);
        scratch = take((6 * net.nu + net.nu * net.nu) * LANES);
        row_weight = take(CHUNK);
        factor = take(net.nu);
        for (long i = 0; i < net.depth; i++) {
            stride[i] = row_stride(net.layer[i].out);
            panel[i] = take_panel(net.layer[i].out);
            by_row[i] = take(CHUNK * stride[i]);
        }
    }
};

}  // namespace

extern "C" {

// See FusedNaf in engine.py, which has the same fields.
struct Call {
    const float* rows;
    const int64_t* index;
    const float *mean, *scale;
    float *online, *target, *first, *second, *gradient, *td_error, *workspace;
    int64_t row_count, updates, steps_done;
    double learning_rate;
    float tau, gamma, reward_scale, clip, low, high, weight, behaviour_weight, temperature;
    const float* precision;
};

}

namespace {

// Rows of the mirror to normalised columns, rewards and discounts. Behind the last row, where it does not complete a
// vector, lie those of the chunk before, which have no gradient. The rows of the chunk after it are asked for
// meanwhile: they lie anywhere in memory, and to wait for them would take a tenth of the time.
void gather(const Network& net, const Call& call, Workspace& w, const int64_t* index, long rows) {
    const int64_t* end = call.index + (call.updates ? call.updates : 1) * net.batch;
    for (long i = 0; i < rows; i++) {
        if (const int64_t* next = index + rows + i; next < end)
            for (long j = 0; j < net.width + 15; j += 16) __builtin_prefetch(call.rows + *next * net.width + j);
        const float* from = call.rows + index[i] * net.width;
        float* to = w.rows + i * w.stride_of_rows;
        long j = 0;
        for (; j + LANES <= 2 * net.nx; j += LANES) {
            vec x = (load(from + j) - load(call.mean + j)) * load(call.scale + j);
            store(to + j, clamp(x, all(-call.clip), all(call.clip)));
        }
        for (; j < 2 * net.nx; j++) {
            float x = (from[j] - call.mean[j]) * call.scale[j];
            x = x < -call.clip ? -call.clip : x;
            to[j] = x > call.clip ? call.clip : x;
        }
        for (; j < 2 * net.nx + net.nu; j++) to[j] = from[j];
        w.reward[i] = from[j] * call.reward_scale;
        w.discount[i] = from[j + 1] * call.gamma;
    }
    transpose(w.rows, w.stride_of_rows, whole_vectors(rows), 2 * net.nx + net.nu, w.columns, CHUNK);
}

// to = W in + b, with max(0, .) of it for a hidden layer, over the panel's first vectors.
void forward(const Layer& layer, const float* parameters, long out, const float* in, float* to, long vectors,
             bool relu) {
    const float* b = parameters + layer.b;
    auto start = [=](long m, long) { return all(b[m]); };
    auto finish = [=](long m, long n, vec c) {
        store(to + m * CHUNK + n * LANES, relu ? (c < 0.0f ? vec{} : c) : c);
    };
    product<false>(out, vectors, layer.in, parameters + layer.W, layer.in, in, CHUNK, start, finish);
}

// The smallest of k values of each of LANES rows.
inline vec least(const float* values, long k) {
    vec value = load(values);
    for (long i = 1; i < k; i++) {
        vec other = load(values + i * CHUNK);
        value = other < value ? other : value;
    }
    return value;
}

inline vec td_target(const Call& call, const Workspace& w, const float* next_values, long k, long n) {
    vec y = load(w.reward + n) + load(w.discount + n) * least(next_values + n, k);
    return clamp(y, all(call.low), all(call.high));
}

// How much each row of a chunk counts in what keeps mu near the data, as learner/behaviour.py has it.
void weigh_rows(const Network& net, const Call& call, Workspace& w, const float* next_values, long rows) {
    float squares = 0, total = 0;
    for (long n = 0; n < whole_vectors(rows); n += LANES)
        store(w.row_weight + n, td_target(call, w, next_values, net.values, n) - least(w.head + n, net.values));
    for (long i = 0; i < rows; i++) squares += w.row_weight[i] * w.row_weight[i];
    const float scale = 1.0f / (call.temperature * std::sqrt(squares / rows) + 1e-8f);
    for (long n = 0; n < whole_vectors(rows); n += LANES) {
        vec e = exp_of(load(w.row_weight + n) * scale);
        store(w.row_weight + n, call.temperature > 0.0f ? (e > 20.0f ? all(20.0f) : e) : all(1.0f));
    }
    for (long i = 0; i < rows; i++) total += w.row_weight[i];
    for (long i = 0; i < rows; i++) w.row_weight[i] *= call.behaviour_weight * rows / total;
    for (long i = rows; i < whole_vectors(rows); i++) w.row_weight[i] = 0.0f;  // not rows of the batch
}

// TD errors and, in place of the head's outputs, the gradient of the loss with respect to them.
void head_gradient(const Network& net, const Call& call, Workspace& w, const float* next_values, long rows,
                   float* td_error) {
    const long nu = net.nu, k = net.values;
    const bool bent = net.diagonal != EXP;
    vec *d = (vec*)w.scratch, *L = d + nu, *v = L + nu, *Lv = v + nu, *slope = Lv + nu, *pull = slope + nu;
    vec* off = pull + nu;
    float* log_scale_gradient = call.gradient + net.parameters - nu;

    for (long n = 0; n < whole_vectors(rows); n += LANES) {
        float* head = w.head + n;
        float *mean = head + k * CHUNK, *diagonal = mean + nu * CHUNK, *below = diagonal + nu * CHUNK;
        vec y = td_target(call, w, next_values, k, n);
        for (long j = 0; j < nu; j++) {
            vec t = tanh_of(load(mean + j * CHUNK));
            store(mean + j * CHUNK, t);
            vec away = load(w.columns + (2 * net.nx + j) * CHUNK + n) - t;
            pull[j] = call.behaviour_weight > 0.0f ? load(w.row_weight + n) * call.precision[j] * away : vec{};
            d[j] = away * w.factor[j];
            vec z = load(diagonal + j * CHUNK);
            if (bent) z = tanh_of(z);
            slope[j] = bent ? 1.0f - z * z : all(1.0f);
            L[j] = exp_of(z);
            v[j] = L[j] * d[j];
        }
        for (long i = 1, p = 0; net.off_diagonal && i < nu; i++)
            for (long j = 0; j < i; j++, p++) {
                vec z = load(below + p * CHUNK);
                off[p] = bent ? tanh_of(z) : z;
                v[j] += off[p] * d[i];
            }
        vec squares = vec{}, g = vec{};
        for (long j = 0; j < nu; j++) squares += v[j] * v[j];
        for (long i = 0; i < k; i++) {
            vec td = load(head + i * CHUNK) - y - 0.5f * squares;
            store(td_error + i * net.padded_batch() + n, td);
            td *= call.weight;
            for (long lane = rows - n; lane < LANES; lane++) td[lane] = 0.0f;  // not rows of the batch
            store(head + i * CHUNK, td);
            g += td;
        }
        for (long i = 0; i < nu; i++) Lv[i] = L[i] * v[i];
        for (long i = 1, p = 0; net.off_diagonal && i < nu; i++)
            for (long j = 0; j < i; j++, p++) {
                Lv[i] += off[p] * v[j];
                store(below + p * CHUNK, -g * d[i] * v[j] * (bent ? 1.0f - off[p] * off[p] : all(1.0f)));
            }
        for (long j = 0; j < nu; j++) {
            vec t = load(mean + j * CHUNK);
            store(mean + j * CHUNK, (g * Lv[j] * w.factor[j] - pull[j]) * (1.0f - t * t));
            store(diagonal + j * CHUNK, -g * d[j] * v[j] * L[j] * slope[j]);
            if (net.diagonal == SCALED) log_scale_gradient[j] -= sum(g * d[j] * Lv[j]);
        }
    }
}

// Adds to a layer's gradient what one chunk gives, or writes it for the first one.
void layer_gradient(const Layer& layer, float* gradient, const float* delta, const float* by_row, long stride,
                    long rows, bool first) {
    float *W = gradient + layer.W, *b = gradient + layer.b;
    const long in = layer.in;
    auto lanes = [=](long n) { return in - n * LANES < LANES ? in - n * LANES : LANES; };
    auto start = [=](long m, long n) {
        vec c = vec{};
        if (first) return c;
        float* from = W + m * in + n * LANES;
        if (lanes(n) == LANES) return load(from);
        for (long i = 0; i < lanes(n); i++) c[i] = from[i];
        return c;
    };
    auto finish = [=](long m, long n, vec c) {
        float* to = W + m * in + n * LANES;
        if (lanes(n) == LANES) return store(to, c);
        for (long i = 0; i < lanes(n); i++) to[i] = c[i];
    };
    product<false>(layer.out, whole_vectors(in) / LANES, rows, delta, CHUNK, by_row, stride, start, finish);
    for (long o = 0; o < layer.out; o++) {
        vec total = vec{};
        for (long n = 0; n < whole_vectors(rows); n += LANES) total += load(delta + o * CHUNK + n);
        b[o] = (first ? 0.0f : b[o]) + sum(total);
    }
}

// The gradient of the loss of one minibatch.
void loss_gradient(const Network& net, const Call& call, Workspace& w, const int64_t* index) {
    for (long j = 0; j < net.nu; j++) {
        const long place = net.parameters - net.nu + j;
        w.factor[j] = net.diagonal == SCALED ? std::exp(call.online[place]) : 1.0f;
        if (net.diagonal == SCALED) call.gradient[place] = 0.0f;
    }
    for (long begin = 0; begin < net.batch; begin += CHUNK) {
        const long rows = net.batch - begin < CHUNK ? net.batch - begin : CHUNK;
        const long vectors = whole_vectors(rows) / LANES;
        gather(net, call, w, index + begin, rows);

        const float* in = w.columns + net.nx * CHUNK;
        for (long i = 0; i <= net.depth; i++) {
            float* to = w.spare[i % 2];
            forward(net.layer[i], call.target, i < net.depth ? net.layer[i].out : net.values, in, to, vectors,
                    i < net.depth);
            in = to;
        }
        const float* next_values = in;

        in = w.columns;
        for (long i = 0; i < net.depth; i++) {
            forward(net.layer[i], call.online, net.layer[i].out, in, w.panel[i], vectors, true);
            transpose(w.panel[i], CHUNK, net.layer[i].out, vectors * LANES, w.by_row[i], w.stride[i]);
            in = w.panel[i];
        }
        forward(net.layer[net.depth], call.online, net.head, in, w.head, vectors, false);
        if (call.behaviour_weight > 0.0f) weigh_rows(net, call, w, next_values, rows);
        head_gradient(net, call, w, next_values, rows, call.td_error + begin);

        const float* delta = w.head;
        for (long i = net.depth; i >= 0; i--) {
            const Layer& layer = net.layer[i];
            const float* inputs = i ? w.by_row[i - 1] : w.rows;
            const long stride = i ? w.stride[i - 1] : w.stride_of_rows;
            layer_gradient(layer, call.gradient, delta, inputs, stride, rows, begin == 0);
            if (!i) break;
            const float* panel = w.panel[i - 1];
            float* to = w.spare[i % 2];
            auto start = [](long, long) { return vec{}; };
            auto finish = [=](long m, long n, vec c) {
                const long place = m * CHUNK + n * LANES;
                store(to + place, load(panel + place) > 0.0f ? c : vec{});
            };
            product<true>(layer.in, vectors, layer.out, call.online + layer.W, layer.in, delta, CHUNK, start, finish);
            delta = to;
        }
    }
}

// Adam as in learner/adam.py, then the target network's step.
void step(const Network& net, const Call& call, double steps) {
    const double correction = std::sqrt(1.0 - std::pow(0.999, steps));
    const float rate = (float)(call.learning_rate * correction / (1.0 - std::pow(0.9, steps)));
    const float epsilon = (float)(1e-8 * correction), tau = call.tau;
    const float* __restrict gradient = call.gradient;
    float *__restrict online = call.online, *__restrict target = call.target;
    float *__restrict first = call.first, *__restrict second = call.second;
    for (long i = 0; i < net.parameters; i++) {
        const float g = gradient[i];
        const float m = first[i] + 0.1f * (g - first[i]);
        const float v = 0.999f * second[i] + 0.001f * g * g;
        const float p = online[i] - rate * m / (std::sqrt(v) + epsilon);
        first[i] = m;
        second[i] = v;
        online[i] = p;
        target[i] += tau * (p - target[i]);
    }
}

}  // namespace

extern "C" {

// Floats of the workspace for a network.
int64_t pnaf_workspace(const int64_t* sizes) {
    return Workspace(Network(sizes), nullptr).next - (float*)nullptr;
}

// The gradient of one minibatch if call->updates is 0, else so many updates. Returns 1, with nothing done, if an
// index is not that of a row, else 0.
int32_t pnaf_update(const int64_t* sizes, const Call* call) {
    const Network net(sizes);
    Workspace workspace(net, call->workspace);
    const long minibatches = call->updates ? call->updates : 1;
    for (long i = 0; i < minibatches * net.batch; i++)
        if (call->index[i] < 0 || call->index[i] >= call->row_count) return 1;
#ifdef __SSE__
    const unsigned control = _mm_getcsr();
    _mm_setcsr(control | 0x8040);  // numbers below 1e-38 are 0: moments of dead units would take 100 times as long
#endif
    for (long i = 0; i < minibatches; i++) {
        loss_gradient(net, *call, workspace, call->index + i * net.batch);
        if (call->updates) step(net, *call, (double)(call->steps_done + i + 1));
    }
#ifdef __SSE__
    _mm_setcsr(control);
#endif
    return 0;
}
}
