{
    // Of the {{ chunk }} tokens of a chunk and one head, for the phase after this one: queries with the decay from the start of
    // the chunk, keys with the decay to its end, products of queries with the keys of earlier tokens, and the decay
    // of the chunk. Decays enter as products over runs of tokens, never as quotients: a decay of 0 is as good as any.
    constexpr int KEYS = {{ key }}, CHUNK = {{ chunk }}, SPAN = {{ span }}, SPANS = CHUNK / SPAN, LINE = 64, STEP = CHUNK * LINE;
    constexpr int WARPS = {{ warps }}, THREADS = 32 * WARPS, SHARES = WARPS / SPANS, PAIRS = SPAN * (SPAN + 1) / 2;
    constexpr int COLUMNS = {{ columns }}, ROUNDS = KEYS / (32 * COLUMNS * SHARES), PITCH = KEYS + {{ pad }};
    const int lane = tid % 32, warp = tid / 32;
    const int lane_row = lane / 4, lane_pair = lane % 4 * 2;        // places in accumulators
    float* const q_rows = smem + {{ places.queries }};              // [CHUNK][PITCH]: queries with the decay from the start of the span {% if before %}to before{% else %}through{% endif %} the token
    float* const k_rows = smem + {{ places.keys }};                 // [CHUNK][PITCH]: keys with the decay from after the token to the end of the span
    float* const totals = smem + {{ places.totals }};               // [SPANS][KEYS]
    float* const to_start = smem + {{ places.starts }};             // [SPANS][KEYS]: decays from the start of the chunk to that of a span
    float* const to_end = smem + {{ places.ends }};                 // [SPANS][KEYS]: from its end to that of the chunk
    float* const pair_sums = smem + {{ places.pairs }};             // [SHARES][CHUNK][SPAN]
{%- if value_factor %}
    float* const factors = smem + {{ places.factors }};             // [CHUNK]: what rows of values are multiplied by, here in their keys
{%- endif %}
{%- if tokens %}
    float* const token_values = smem + {{ places.tokens }};         // [{{ token_values }}][CHUNK]
{%- endif %}
    const i64 chunk0 = i64(run) * CHUNK;
    const int tokens = int(min(T - chunk0, i64(CHUNK)));
    bf16_t* const to_queries = {{ to_queries }};
    bf16_t* const to_keys = {{ to_keys }};
    bf16_t* const to_scores = {{ to_scores }};
    float* const to_decays = {{ to_decays }};
    // The place of an element in lines of 64: their 16-byte pieces are swizzled by the line's place among eight, as
    // products of warpgroups read them.
    auto place = [](int line, int element) { return element / LINE * STEP + line * LINE + ((element / 8 ^ line) & 7) * 8 + element % 8; };
    // Takes what a bf16 number holds of each of a pair.
    auto take_bf16x2 = [](float (&pair)[2]) {
        const u32 packed = pack_bf16x2(pair[0], pair[1]);
        pair[0] -= __uint_as_float(packed << 16);
        pair[1] -= __uint_as_float(packed & 0xffff0000u);
        return packed;
    };
    // Scores are two bf16 numbers each.
    auto put_scores = [&](int at, float low, float high) {
        float pair[2] = {low, high};
#pragma unroll
        for (int piece = 0; piece < 2; ++piece) *reinterpret_cast<u32*>(to_scores + piece * CHUNK * CHUNK + at) = take_bf16x2(pair);
    };
{%- if tokens or value_factor %}
    if (tid < CHUNK) {
        const int token = tid, at = token < tokens ? token : tokens - 1;
        const i64 t = chunk0 + at;
{%- if tokens %}
        {
            // ---- token_values of token t
            {{ tokens | indent(width=12) }}
            // ----
        }
{%- endif %}
{%- if value_factor %}
        float v_factor;
        // ---- v_factor of token t: what its row of values is multiplied by
        {{ value_factor | indent(width=8) }}
        // ----
        factors[token] = v_factor;
{%- endif %}
    }
    __syncthreads();
{%- endif %}
    {{ own }}{
        // A lane has the 8 tokens of a span of some key channels.
        const int span = warp / SHARES, share = warp % SHARES, first = span * SPAN;
        float sums[PAIRS] = {};
#pragma unroll 1
        for (int round = 0; round < ROUNDS; ++round) {
            const int column = ((round * SHARES + share) * 32 + lane) * COLUMNS;
            float q_columns[SPAN][COLUMNS], k_columns[SPAN][COLUMNS], decays[SPAN][COLUMNS];
#pragma unroll
            for (int own = 0; own < SPAN; ++own) {
                const int token = first + own, at = token < tokens ? token : tokens - 1;
                const i64 t = chunk0 + at;
                const bool live = token < tokens;
{%- if runs %}
                {{ runs | indent(width=16) }}
{%- endif %}
#pragma unroll
                for (int nth = 0; nth < COLUMNS; ++nth) {
                    const int kj = column + nth;
                    float left_elements[1], right_elements[1], decay_element;
                    {
                        // ---- left_elements (the query), right_elements (k) of key (t, kj)
                        {{ keys | indent(width=24) }}
                        // ----
                    }
                    {
                        // ---- decay_element of key (t, kj)
                        {{ decay | indent(width=24) }}
                        // ----
                    }
                    q_columns[own][nth] = live ? left_elements[0] : 0.0f;
                    k_columns[own][nth] = live ? right_elements[0]{% if value_factor %} * factors[token]{% endif %} : 0.0f;
                    decays[own][nth] = live ? decay_element : 1.0f;
{%- for bonus in bonuses %}
                    float bonus_element;
                    {
                        // ---- bonus_element: bonus q k of key (t, kj)
                        {{ bonus.text | indent(width=24) }}
                        // ----
                    }
                    sums[own * (own + 1) / 2 + own] += live ? bonus_element{% if value_factor %} * factors[token]{% endif %} : 0.0f;
{%- endfor %}
                }
            }
#pragma unroll
            for (int side = 0; side < COLUMNS; ++side)
#pragma unroll
                for (int earlier = 0; earlier < SPAN; ++earlier) {
                    float carried = k_columns[earlier][side];
{%- if not before %}
                    sums[earlier * (earlier + 1) / 2 + earlier] += q_columns[earlier][side] * carried;
{%- endif %}
#pragma unroll
                    for (int later = earlier + 1; later < SPAN; ++later) {
{%- if before %}
                        sums[later * (later + 1) / 2 + earlier] += q_columns[later][side] * carried;
                        carried *= decays[later][side];
{%- else %}
                        carried *= decays[later][side];
                        sums[later * (later + 1) / 2 + earlier] += q_columns[later][side] * carried;
{%- endif %}
                    }
                }
            // Decays from the start of the span, and to its end.
            float forward[COLUMNS], backward[COLUMNS];
#pragma unroll
            for (int side = 0; side < COLUMNS; ++side) forward[side] = backward[side] = 1.0f;
#pragma unroll
            for (int own = 0; own < SPAN; ++own) {
                float row[COLUMNS];
#pragma unroll
                for (int side = 0; side < COLUMNS; ++side) {
{%- if before %}
                    row[side] = q_columns[own][side] * forward[side];
                    forward[side] *= decays[own][side];
{%- else %}
                    forward[side] *= decays[own][side];
                    row[side] = q_columns[own][side] * forward[side];
{%- endif %}
                }
                store_vec(q_rows + (first + own) * PITCH + column, row);
            }
            store_vec(totals + span * KEYS + column, forward);
#pragma unroll
            for (int own = SPAN - 1; own >= 0; --own) {
                float row[COLUMNS];
#pragma unroll
                for (int side = 0; side < COLUMNS; ++side) {
                    row[side] = k_columns[own][side] * backward[side];
                    backward[side] *= decays[own][side];
                }
                store_vec(k_rows + (first + own) * PITCH + column, row);
            }
        }
        // Number n is that of token `later` with token `earlier`: later (later + 1) / 2 + earlier.
        float many[32], few[4];
#pragma unroll
        for (int n = 0; n < PAIRS; ++n) (n < 32 ? many[n % 32] : few[n % 4]) = sums[n];
        float* const sum_rows = pair_sums + (share * CHUNK + first) * SPAN;
        int later = 0, earlier = lane;
        while (earlier > later) earlier -= ++later;
        sum_rows[later * SPAN + earlier] = warp_sum_each(many);
        const float own_sum = warp_sum_each(few);
        if (lane % 8 == 0) sum_rows[SPAN * SPAN - 4 + lane / 8] = own_sum;
    }
    __syncthreads();
    {{ own }}{
        // What keeps a span from the start of the chunk, and from its end.
        for (int kj = tid; kj < KEYS; kj += THREADS) {
            float total = 1.0f, after = 1.0f;
#pragma unroll
            for (int span = 0; span < SPANS; ++span) {
                to_start[span * KEYS + kj] = total;
                total *= totals[span * KEYS + kj];
            }
            to_decays[kj] = total;
#pragma unroll
            for (int span = SPANS - 1; span >= 0; --span) {
                to_end[span * KEYS + kj] = after;
                after *= totals[span * KEYS + kj];
            }
        }
        if (warp < SPANS) {
            // Tokens of one span, columns, with those of two later ones, rows, of which the first may be that span itself.
            const int pair = warp == 0 ? 0 : 1, earlier = warp == 0 ? 0 : warp - 1;
            const int low = 2 * pair;
            const float* const q_low = q_rows + (low * SPAN + lane_row) * PITCH + lane_pair;
            const float* const k_row = k_rows + (earlier * SPAN + lane_row) * PITCH + lane_pair;
            float scores[4] = {};
#pragma unroll 2
            for (int kt = 0; kt < KEYS; kt += 16) {
                // Two bf16 numbers each: scores are as exact as values that are rounded between operations.
                u32 q_held[2][4], k_held[2][2];
#pragma unroll
                for (int side = 0; side < 2; ++side) {
                    const int column = kt + side * 8;
                    float of_low[2], of_high[2], of_key[2], gap[2] = {1.0f, 1.0f};
                    load_vec(q_low + column, of_low);
                    load_vec(q_low + SPAN * PITCH + column, of_high);
                    load_vec(k_row + column, of_key);
                    // The decay over the spans between.
                    if (earlier + 2 <= low) {
                        load_vec(totals + (earlier + 1) * KEYS + column + lane_pair, gap);
                        of_low[0] *= gap[0];
                        of_low[1] *= gap[1];
                    }
                    if (earlier < low) {
                        float over[2];
                        load_vec(totals + low * KEYS + column + lane_pair, over);
                        gap[0] *= over[0];
                        gap[1] *= over[1];
                    }
                    of_high[0] *= gap[0];
                    of_high[1] *= gap[1];
#pragma unroll
                    for (int piece = 0; piece < 2; ++piece) {
                        q_held[piece][2 * side] = take_bf16x2(of_low);
                        q_held[piece][2 * side + 1] = take_bf16x2(of_high);
                        k_held[piece][side] = take_bf16x2(of_key);
                    }
                }
                mma_m16n8k16_bf16(scores, q_held[1], k_held[0]);
                mma_m16n8k16_bf16(scores, q_held[0], k_held[1]);
                mma_m16n8k16_bf16(scores, q_held[0], k_held[0]);
            }
            const int to = (low * SPAN + lane_row) * CHUNK + earlier * SPAN + lane_pair;
            if (earlier < low) put_scores(to, scores[0], scores[1]);
            put_scores(to + SPAN * CHUNK, scores[2], scores[3]);
        }
        // Inside of spans, and nothing of later tokens.
        for (int n = tid; n < CHUNK * CHUNK / 2; n += THREADS) {
            const int token = n / (CHUNK / 2), column = n % (CHUNK / 2) * 2;
            if (column / SPAN < token / SPAN) continue;
            float pair[2] = {};
            if (column / SPAN == token / SPAN) {
#pragma unroll
                for (int share = 0; share < SHARES; ++share)
#pragma unroll
                    for (int side = 0; side < 2; ++side)
                        if (column + side <= token) pair[side] += pair_sums[(share * CHUNK + token) * SPAN + column % SPAN + side];
            }
            put_scores(token * CHUNK + column, pair[0], pair[1]);
        }
    }
    __syncthreads();
    {{ own }}{
        // From the start of the chunk, and to its end.
#pragma unroll 2
        for (int n = tid; n < CHUNK * KEYS / 8; n += THREADS) {
            const int token = n / (KEYS / 8), column = n % (KEYS / 8) * 8, own = token / SPAN;
            float row[8], over[8];
            load_vec(q_rows + token * PITCH + column, row);
            load_vec(to_start + own * KEYS + column, over);
#pragma unroll
            for (int nth = 0; nth < 8; ++nth) row[nth] *= over[nth];
            store_vec(to_queries + place(token, column), row);
            load_vec(k_rows + token * PITCH + column, row);
            load_vec(to_end + own * KEYS + column, over);
#pragma unroll
            for (int nth = 0; nth < 8; ++nth) row[nth] *= over[nth];
            store_vec(to_keys + place(token, column), row);
        }
    }
}
