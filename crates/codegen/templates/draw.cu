// Draws the next token of each sequence from its logits, by the law of docs/generation.md. A block has a
// sequence. Every sum is one of whole numbers, so that its order, and that of the atomics, changes nothing.
//
// The order of the law is that of keys, ascending: how far a logit is from the top, then the id. Whoever is
// cut off by top-k or top-p has a key beyond one that is searched: bins of how far the logit is below the largest, then
// digits of the key, until the rest fits a list whose members are compared with each other.

constexpr u32 THREADS = {{ threads }};
constexpr u32 WARPS = THREADS / 32;
constexpr u32 BINS = {{ bins }};
constexpr u32 LISTED = {{ listed }};
constexpr u32 PIECES = {{ pieces }};
// Bins of the first search in a factor of two of weight: the lightest weight that is none lies in the last.
constexpr float BINS_PER_OCTAVE = 48.0f;
constexpr u32 DIGIT_BITS = 11;
constexpr u64 ALL = ~0ull;

// What all sequences have in common, as the host writes it.
struct Settings {
    // What differences of logits are multiplied by to be powers of two.
    float scale;
    // Divides the logits above 0 of tokens seen before, multiplies the others.
    float penalty;
    // Tokens that stay; 0 for all.
    u32 top_k;
    // Whether the first of the order is taken, always.
    u32 greedy;
    // Share of the weight that stays, of 2^32.
    u64 share;
    u64 seed;
};

// A sequence: how far it is, and what went wrong.
struct Sequence {
    // Of the token that is drawn next.
    u64 position;
    u32 number;
    // Tokens drawn since the host last wrote this.
    u32 drawn;
    // The first token whose logit was no finite number, from 1 on, and its logit; 0 for none.
    u32 fault;
    float value;
};

// Shared memory of a block.
struct Shared {
    u64 weights[BINS];
    u32 counts[BINS];
    u64 list[LISTED];
    u64 list_weights[LISTED];
    u64 sums[PIECES];
    u64 warps[WARPS];
    u64 found[3];
    u32 listed;
    u32 first_fault;
};

// A sequence's logits, as the law sees them.
struct Row {
    const {{ element }}* logits;
    const u32* seen;
    u32 tokens;
    float penalty, scale, most;

    __device__ __forceinline__ float logit(u32 token) const {
        const float l = to_f32(logits[token]);
        if (penalty == 1.0f || !(seen[token / 32] >> token % 32 & 1)) return l;
        return l > 0.0f ? l / penalty : fproduct(l, penalty);
    }

    // How many powers of two a logit's weight is below that of the largest, as a number not above 0.
    __device__ __forceinline__ float power(float l) const { return fproduct(l - most, scale); }
};

// Orders f32 as numbers, the largest first, both zeros alike.
__device__ __forceinline__ u32 order_of(float l) {
    const u32 bits = __float_as_uint(l + 0.0f);
    return bits >> 31 ? bits : ~(bits | 0x80000000u);
}

__device__ __forceinline__ u64 key_of(float l, u32 token) { return u64(order_of(l)) << 32 | token; }

// floor(2^40 * 2^z).
__device__ __forceinline__ u64 weight_of(float z) {
    const float n = floorf(z);
    if (n < -41.0f) return 0;
    const float f = z - n;
    float power = 0.00020829192f;
    power = fmaf(power, f, 0.0012689352f);
    power = fmaf(power, f, 0.00965244f);
    power = fmaf(power, f, 0.055495936f);
    power = fmaf(power, f, 0.24022722f);
    power = fmaf(power, f, 0.69314718f);
    power = fmaf(power, f, 1.0f);
    const u64 mantissa = u64(power * 8388608.0f);
    const int shift = 17 + int(n);
    return shift >= 0 ? mantissa << shift : mantissa >> -shift;
}

// The bin of a logit that has weight: it never falls as the logit does.
__device__ __forceinline__ u32 bin_of(float z) { return min(u32(-z * BINS_PER_OCTAVE), BINS - 1); }

__device__ __forceinline__ u64 warp_total(u64 v) {
    for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}

// The sum of the lanes up to this one.
__device__ __forceinline__ u64 warp_running(u64 v) {
    for (int d = 1; d < 32; d <<= 1) {
        const u64 before = __shfl_up_sync(0xffffffffu, v, d);
        if ((threadIdx.x & 31) >= d) v += before;
    }
    return v;
}

// The sum of the threads up to this one. All threads must call it.
__device__ u64 block_running(u64 v, Shared* shared) {
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    v = warp_running(v);
    if (lane == 31) shared->warps[warp] = v;
    __syncthreads();
    u64 before = 0;
    for (u32 w = 0; w < warp; ++w) before += shared->warps[w];
    __syncthreads();
    return before + v;
}

// The largest of a block. All threads must call it.
__device__ u64 block_most(u64 v, Shared* shared) {
    for (int d = 16; d > 0; d >>= 1) {
        const u64 other = __shfl_xor_sync(0xffffffffu, v, d);
        v = other > v ? other : v;
    }
    if ((threadIdx.x & 31) == 0) shared->warps[threadIdx.x >> 5] = v;
    __syncthreads();
    for (u32 w = 0; w < WARPS; ++w) v = shared->warps[w] > v ? shared->warps[w] : v;
    __syncthreads();
    return v;
}

// The last key that stays when tokens are taken in order until there are `target` of them, or, `by_weight`,
// until they have that much weight. Tokens without weight, which come last, are none. ALL where there are fewer.
__device__ u64 search(const Row& row, bool by_weight, u64 target, Shared* shared) {
    const u32 tid = threadIdx.x;
    // Keys that are still looked at: those of a bin, that begin with these bits.
    u32 bin = 0;
    u64 begins = 0, fixed = 0, before = 0;
    int shift = 64;
    for (bool binned = false;; binned = true) {
        for (u32 i = tid; i < BINS; i += THREADS) shared->weights[i] = shared->counts[i] = 0;
        __syncthreads();
        for (u32 token = tid; token < row.tokens; token += THREADS) {
            const float l = row.logit(token), z = row.power(l);
            const u64 weight = weight_of(z);
            if (weight == 0) continue;
            u32 at = bin_of(z);
            if (binned) {
                const u64 key = key_of(l, token);
                if (at != bin || (key & fixed) != begins) continue;
                at = u32(key >> shift) & (BINS - 1);
            }
            atomicAdd(&shared->counts[at], 1u);
            atomicAdd(&shared->weights[at], weight);
        }
        __syncthreads();
        // Each thread has neighbouring bins, and looks whether the target is in one of them.
        constexpr u32 OWN = BINS / THREADS;
        u64 own = 0;
        for (u32 i = tid * OWN; i < (tid + 1) * OWN; ++i) own += by_weight ? shared->weights[i] : shared->counts[i];
        const u64 up_to = before + block_running(own, shared);
        if (tid == THREADS - 1) shared->found[0] = up_to < target ? ALL : 0;
        __syncthreads();
        if (shared->found[0] == ALL) return ALL;
        __syncthreads();
        if (up_to - own < target && target <= up_to) {
            u64 passed = up_to - own;
            u32 i = tid * OWN;
            for (;; ++i) {
                const u64 measure = by_weight ? shared->weights[i] : shared->counts[i];
                if (target <= passed + measure) break;
                passed += measure;
            }
            shared->found[0] = i;
            shared->found[1] = passed;
            shared->found[2] = shared->counts[i];
        }
        __syncthreads();
        const u64 digit = shared->found[0];
        before = shared->found[1];
        const u64 left = shared->found[2];
        if (binned) {
            fixed |= u64(BINS - 1) << shift;
            begins |= digit << shift;
        } else {
            bin = u32(digit);
        }
        if (left <= LISTED) break;
        // The last digit may have bits of the one before it, which are fixed already.
        shift = max(shift - int(DIGIT_BITS), 0);
        __syncthreads();
    }
    if (tid == 0) shared->listed = 0;
    __syncthreads();
    for (u32 token = tid; token < row.tokens; token += THREADS) {
        const float l = row.logit(token), z = row.power(l);
        const u64 weight = weight_of(z), key = key_of(l, token);
        if (weight == 0 || bin_of(z) != bin || (key & fixed) != begins) continue;
        const u32 at = atomicAdd(&shared->listed, 1u);
        shared->list[at] = key;
        shared->list_weights[at] = weight;
    }
    __syncthreads();
    const u32 listed = shared->listed;
    for (u32 i = tid; i < listed; i += THREADS) {
        const u64 key = shared->list[i];
        u64 passed = before;
        for (u32 j = 0; j < listed; ++j) {
            if (shared->list[j] < key) passed += by_weight ? shared->list_weights[j] : 1;
        }
        const u64 own = by_weight ? shared->list_weights[i] : 1;
        if (passed < target && target <= passed + own) shared->found[0] = key;
    }
    __syncthreads();
    const u64 last = shared->found[0];
    __syncthreads();
    return last;
}

// Tokens of a piece: there are at most PIECES.
__device__ __forceinline__ u32 piece_of(u32 tokens) { return (tokens + 32 * PIECES - 1) / (32 * PIECES) * 32; }

// The weight of a token that stays, else 0.
__device__ __forceinline__ u64 kept(const Row& row, u32 token, u64 last) {
    if (token >= row.tokens) return 0;
    const float l = row.logit(token);
    return key_of(l, token) <= last ? weight_of(row.power(l)) : 0;
}

// Sums of what stays, of every piece, and of all: what each thread gets.
__device__ u64 sum_pieces(const Row& row, u64 last, Shared* shared) {
    const u32 lane = threadIdx.x & 31, piece = piece_of(row.tokens);
    for (u32 at = threadIdx.x >> 5; at < PIECES; at += WARPS) {
        u64 sum = 0;
        for (u32 i = lane; i < piece && at * piece < row.tokens; i += 32) sum += kept(row, at * piece + i, last);
        sum = warp_total(sum);
        if (lane == 0) shared->sums[at] = sum;
    }
    __syncthreads();
    u64 total = 0;
    for (u32 at = 0; at < PIECES; at += 32) total += warp_total(shared->sums[at + lane]);
    return total;
}

// 64 bits of Philox 4x32-10, whose key is the seed.
__device__ u64 random_bits(u64 seed, u64 position, u32 number) {
    u32 c0 = u32(position), c1 = u32(position >> 32), c2 = number, c3 = 0;
    u32 k0 = u32(seed), k1 = u32(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const u64 a = u64(c0) * 0xd2511f53u, b = u64(c2) * 0xcd9e8d57u;
        c0 = u32(b >> 32) ^ c1 ^ k0;
        c1 = u32(b);
        c2 = u32(a >> 32) ^ c3 ^ k1;
        c3 = u32(a);
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return u64(c0) << 32 | c1;
}

extern "C" __global__ void __launch_bounds__(THREADS) {{ entry }}(
    const {{ element }}* const logits,  // [B, width]
    i32* const next,                    // [B], the input of the next step
    const char* const common,           // the settings
    char* const records,                // [B] sequences
    i32* const drawn,                   // [B, kept_steps], the tokens drawn; -1 where there was none to draw
    u32* const marks,                   // [B, words], a bit for each token that was there before
    const i64 width,
    const i64 tokens,
    const i64 kept_steps) {
    FUSEC_DYNAMIC_SMEM(shared_memory);
    Shared* const shared = reinterpret_cast<Shared*>(shared_memory);
    const i64 block = blockIdx.x;
    const u32 tid = threadIdx.x;
    const Settings settings = *reinterpret_cast<const Settings*>(common);
    Sequence* const sequence = reinterpret_cast<Sequence*>(records) + block;
    u32* const seen = marks + block * ((tokens + 31) / 32);
    Row row = {logits + block * width, seen, u32(tokens), settings.penalty, settings.scale, 0.0f};

    if (tid == 0) shared->first_fault = ~0u;
    __syncthreads();
    // The first of the order has the largest complement of a key.
    u64 best = 0;
#pragma unroll 8
    for (u32 token = tid; token < row.tokens; token += THREADS) {
        const float l = row.logit(token);
        if (!(fabs32(l) < FUSEC_INF)) atomicMin(&shared->first_fault, token);
        const u64 key = ~key_of(l, token);
        best = key > best ? key : best;
    }
    const u32 first = u32(~block_most(best, shared));
    const u32 fault = shared->first_fault;
    i32 token = i32(first);
    if (fault != ~0u) {
        token = -1;
        if (tid == 0 && sequence->fault == 0) {
            sequence->fault = fault + 1;
            sequence->value = row.logit(fault);
        }
    } else if (!settings.greedy) {
        row.most = row.logit(first);
        u64 last = ALL;
        if (settings.top_k > 0 && settings.top_k < row.tokens) last = search(row, false, settings.top_k, shared);
        u64 total = sum_pieces(row, last, shared);
        if (settings.share < 1ull << 32) {
            // Both factors are doubled or more to 64 bits, where there is room for them.
            u64 needed = mul_high(total << 1, settings.share << 31);
            needed = needed == 0 ? 1 : needed;
            last = search(row, true, needed, shared);
            total = sum_pieces(row, last, shared);
        }
        // One warp looks for the piece and then for the token.
        if (tid < 32) {
            u64 left = mul_high(total, random_bits(settings.seed, sequence->position, sequence->number));
            u32 at = 0;
            for (; at < PIECES - 1 && left >= shared->sums[at]; ++at) left -= shared->sums[at];
            const u32 piece = piece_of(row.tokens);
            for (u32 i = tid; i < piece; i += 32) {
                const u64 weight = kept(row, at * piece + i, last), up_to = warp_running(weight);
                const u32 here = lanes_where(left < up_to);
                if (here != 0) {
                    token = i32(at * piece + (i - tid) + lowest_bit(here));
                    break;
                }
                left -= __shfl_sync(0xffffffffu, up_to, 31);
            }
        }
    }
    if (tid == 0) {
        drawn[block * kept_steps + sequence->drawn % kept_steps] = token;
        sequence->drawn += 1;
        sequence->position += 1;
        next[block] = token < 0 ? 0 : token;
        if (token >= 0) seen[token / 32] |= 1u << token % 32;
    }
}
