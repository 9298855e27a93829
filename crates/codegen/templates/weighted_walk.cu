{
{%- if lefts == 0 %}
    // S[vi, kj] = decay_t[kj] S[vi, kj] + v_t[vi] k_t[kj], of a segment from a state of zeros, and the product of its
    // decays: for the segments after it. {{ chunk }} tokens come to the state at once, with keys that the phase before this one
    // weighted by decays.
{%- else %}
    // S[vi, kj] = decay_t[kj] S[vi, kj] + v_t[vi] k_t[kj], read by sums over kj of q_t[kj] S[vi, kj]. {{ chunk }} tokens come to the state
    // at once, with queries Q, keys K and products P of both that the phase before this one weighted by decays: results are
    // S Q^T + V^T P^T, the new state is decay S + V^T K.
{%- endif %}
    // All are products of warpgroups; each has 64 value columns of the state in f32 in its registers.
    constexpr int KEYS = {{ key }}, VALUES = {{ value }}, CHUNK = {{ chunk }}, SUB = 16, SUBS = CHUNK / SUB, LINE = 64, STEP = CHUNK * LINE;
    constexpr int WARPS = {{ warps }}, THREADS = 32 * WARPS{% if lefts > 0 %}, Y_PITCH = VALUES + {{ pad }}{% endif %};
    const int lane = tid % 32, warp = tid / 32;
    const int lane_row = lane / 4, lane_pair = lane % 4 * 2;        // places in accumulators
    const i64 steps = {{ steps }};
    // Swizzled tiles begin at a multiple of 1,024 bytes.
    float* const room = reinterpret_cast<float*>(smem) + (1024 - smem_u32(smem) % 1024) % 1024 / 4;
{%- if lefts > 0 %}
    bf16_t* const q_rows = reinterpret_cast<bf16_t*>(room);                                 // [2][KEYS / LINE][CHUNK][LINE]
    bf16_t* const scores = reinterpret_cast<bf16_t*>(room + {{ places.scores }});           // [2][CHUNK][LINE]: the two bf16 numbers of each, CHUNK and CHUNK of a line
    float* const y_rows = room + {{ places.results }};                                      // [CHUNK][Y_PITCH]
{%- endif %}
    bf16_t* const k_rows = reinterpret_cast<bf16_t*>(room + {{ places.keys }});             // [2][KEYS / LINE][CHUNK][LINE]
    bf16_t* const v_rows = reinterpret_cast<bf16_t*>(room + {{ places.values }});           // [2][VALUES / LINE][CHUNK][LINE]
    float* const decays = room + {{ places.decays }};                                       // [2][KEYS]
    // The place of an element in lines of 64: their 16-byte pieces are swizzled by the line's place among eight.
    auto place = [](int line, int element) { return element / LINE * STEP + line * LINE + ((element / 8 ^ line) & 7) * 8 + element % 8; };
    // Rows of a chunk arrive while the one before is worked on. Tokens past the end have values of zero.
    auto bring = [&](i64 chunk0, int turn) {
        const i64 of_chunk = {{ of_chunk }};
        const int tokens = int(min(steps - chunk0, i64(CHUNK)));
{%- if lefts > 0 %}
        const bf16_t* const from_queries = {{ from_queries }};
        const bf16_t* const from_scores = {{ from_scores }};
{%- endif %}
        const bf16_t* const from_keys = {{ from_keys }};
        const float* const from_decays = {{ from_decays }};
#pragma unroll
        for (int round = 0; round < CHUNK * KEYS / 8 / THREADS; ++round) {
            const int n = round * THREADS + tid;
{%- if lefts > 0 %}
            cp_async_16(q_rows + turn * CHUNK * KEYS + n * 8, from_queries + n * 8, true);
{%- endif %}
            cp_async_16(k_rows + turn * CHUNK * KEYS + n * 8, from_keys + n * 8, true);
        }
#pragma unroll
        for (int round = 0; round < CHUNK * VALUES / 8 / THREADS; ++round) {
            const int n = round * THREADS + tid;
            const int token = n / (VALUES / 8), vi = n % (VALUES / 8) * 8;
            const bool live = token < tokens;
            const i64 t = chunk0 + (live ? token : 0);
            cp_async_16(v_rows + turn * CHUNK * VALUES + place(token, vi), &{{ value_element }}, live);
        }
{%- if lefts > 0 %}
#pragma unroll
        for (int n = tid; n < 2 * CHUNK * CHUNK / 8; n += THREADS) {
            const int token = n / (CHUNK / 8) % CHUNK, column = n / (CHUNK * CHUNK / 8) * CHUNK + n % (CHUNK / 8) * 8;
            cp_async_16(scores + turn * STEP + place(token, column), from_scores + n * 8, true);
        }
{%- endif %}
        if (tid < KEYS / 4) cp_async_16(decays + turn * KEYS + tid * 4, from_decays + tid * 4, true);
    };
    {{ own }}if ({{ begin }} < steps) bring({{ begin }}, 0);
    cp_async_commit();
    float state[KEYS / 2] = {};     // accumulators of S: value columns by keys
    auto each_element = [&](auto visit) {
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int v = 0; v < 4; ++v)
                visit(state[4 * n + v], n * 8 + lane_pair + v % 2, warp * 16 + lane_row + v / 2 * 8);
    };
    {{ own }}{
        each_element([&](float& s, int kj, int vi) {
            float s_element = 0.0f;
            // ---- initial state: s_element = S[vi, kj]
            {{ load_state | indent(width=12) }}
            // ----
            s = s_element;
        });
{%- if bring_state %}
        // The state before this segment: what those before it made of zeros, put together.
        for (int before = 1; before < segment; ++before)
            each_element([&](float& s, int kj, int vi) {
                float s_element = s;
                // ---- s_element = S[vi, kj] after one more segment
                {{ bring_state | indent(width=16) }}
                // ----
                s = s_element;
            });
{%- endif %}
    }
{%- if store_product %}
    constexpr int PRODUCTS = (KEYS + THREADS - 1) / THREADS;
    float products[PRODUCTS];   // of the decays of the segment, of key channels tid, tid + THREADS ..
#pragma unroll
    for (int round = 0; round < PRODUCTS; ++round) products[round] = 1.0f;
{%- endif %}
    int turn = 0;
    for (i64 chunk0 = {{ begin }}; chunk0 < steps; chunk0 += CHUNK, turn = 1 - turn) {
        cp_async_wait<0>();
        shared_fence();
        // Rows of this chunk are there, and nobody reads those of the one before any more.
        __syncthreads();
        {{ own }}if (chunk0 + CHUNK < steps) bring(chunk0 + CHUNK, 1 - turn);
        cp_async_commit();
        const bf16_t* const v_now = v_rows + turn * CHUNK * VALUES;
        const float* const decays_now = decays + turn * KEYS;
        const u64 key_tile = operand_tile(k_rows + turn * CHUNK * KEYS, STEP * 2);
{%- if lefts > 0 %}
        const int tokens = int(min(steps - chunk0, i64(CHUNK)));
        const u64 query_tile = operand_tile(q_rows + turn * CHUNK * KEYS, 16), score_tile = operand_tile(scores + turn * STEP, 16);
{%- endif %}
        {{ own }}{
            u32 v_held[SUBS][4];
#pragma unroll
            for (int from = 0; from < SUBS; ++from)
                ldmatrix_x4_trans(v_held[from], v_now + place(from * SUB + lane % 8 + lane / 16 * 8, warp * 16 + lane / 8 % 2 * 8));
{%- if lefts > 0 %}
            float y[CHUNK / 2] = {};
            // The state is rounded for its products with queries, 64 keys at a time: as many are under way meanwhile.
            u32 state_held[2][4][4];
#pragma unroll
            for (int line = 0; line < KEYS / LINE; ++line) {
                if (line >= 2) warpgroup_wait<1>();
#pragma unroll
                for (int kt = 0; kt < 4; ++kt)
#pragma unroll
                    for (int word = 0; word < 4; ++word) {
                        const int of = (line * 8 + kt * 2 + word / 2) * 4 + word % 2 * 2;
                        state_held[line % 2][kt][word] = pack_bf16x2(state[of], state[of + 1]);
                    }
                warpgroup_fence();
#pragma unroll
                for (int kt = 0; kt < 4; ++kt)
                    wgmma_n32_held<bf16_t, false>(y, state_held[line % 2][kt], query_tile + line * (STEP / 8) + kt * 2);
                warpgroup_commit();
            }
            warpgroup_fence();
#pragma unroll
            for (int kt = 2 * SUBS - 1; kt >= 0; --kt) wgmma_n32_held<bf16_t, false>(y, v_held[kt % SUBS], score_tile + kt * 2);
            warpgroup_commit();
{%- endif %}
            // The decay of a key channel, and what the tokens bring.
#pragma unroll
            for (int n = 0; n < KEYS / 8; ++n) {
                float over[2];
                load_vec(decays_now + n * 8 + lane_pair, over);
#pragma unroll
                for (int v = 0; v < 4; ++v) state[4 * n + v] *= over[v % 2];
            }
            warpgroup_fence();
#pragma unroll
            for (int kt = 0; kt < SUBS; ++kt) wgmma_n{{ key }}_held<bf16_t, true>(state, v_held[kt], key_tile + kt * (SUB * LINE / 8));
            warpgroup_commit();
{%- if store_product %}
#pragma unroll
            for (int round = 0; round < PRODUCTS; ++round) {
                const int kj = round * THREADS + tid;
                if (kj < KEYS) products[round] *= decays_now[kj];
            }
{%- endif %}
{%- if lefts > 0 %}
            warpgroup_wait<1>();
#pragma unroll
            for (int n = 0; n < CHUNK / 8; ++n)
#pragma unroll
                for (int v = 0; v < 4; ++v)
                    y_rows[(n * 8 + lane_pair + v % 2) * Y_PITCH + warp * 16 + lane_row + v / 2 * 8] = y[4 * n + v];
        }
        __syncthreads();
        // A warp per token: the epilogue may sum over the value columns. It runs for tokens past the end as
        // well, and stores nothing of them.
        {{ own }}{
#pragma unroll {{ unroll }}
            for (int round = 0; round < CHUNK / WARPS; ++round) {
                const int token = round * WARPS + warp;
                const bool live = token < tokens;
                const int at = live ? token : tokens - 1;
                const i64 t = chunk0 + at;
                float* const y_row = y_rows + token * Y_PITCH;
                // ---- epilogue of token t
                {{ epilogue | indent(width=16) }}
                // ----
            }
{%- endif %}
            warpgroup_wait<0>();
        }
    }
{%- if store_product %}
    {{ own }}{
#pragma unroll
        for (int round = 0; round < PRODUCTS; ++round) {
            const int kj = round * THREADS + tid;
            if (kj < KEYS) {
                const float product_element = products[round];
                {{ store_product | indent(width=16) }}
            }
        }
    }
{%- endif %}
{%- if store_state %}
    {% if own and bring_state %}if (segment == {{ last_segment }} && tid < THREADS) {% elif bring_state %}if (segment == {{ last_segment }}) {% else %}{{ own }}{% endif %}{
        each_element([&](float& s, int kj, int vi) {
            const float s_element = s;
            // ---- final state
            {{ store_state | indent(width=12) }}
            // ----
        });
    }
{%- endif %}
}
