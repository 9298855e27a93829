{
{%- if lefts == 0 %}
    // S[vi, kj] = decay_t S[vi, kj] + v_t[vi] k_t[kj], of a segment from a state of zeros, and the product of its
    // decays: for the segments after it. {{ chunk }} tokens come to the state at once, as products of a warpgroup, which has
    // it in f32 in its registers.
{%- else %}
    // S[vi, kj] = decay_t S[vi, kj] + v_t[vi] k_t[kj], read by the sum over kj of q_t[kj] S[vi, kj]. {{ chunk }} tokens come to the state at
    // once: results are (Q K^T, weighted by decays) V + decays Q S^T, the new state is decay S + (decays V)^T K. All
    // are products of a warpgroup, which has results and the state in f32 in its registers.
{%- endif %}
    // Decays enter as products over runs of tokens, never as quotients: a decay of 0 is as good as any.
    constexpr int KEYS = {{ key }}, CHUNK = {{ chunk }}, SUB = 16, SUBS = CHUNK / SUB, LINE = 64, THREADS = 128;
    constexpr int STEP = CHUNK * LINE;          // elements of 64 channels of a chunk: lines of 128 bytes, swizzled
{%- if lefts > 0 %}
    constexpr int L_PITCH = SUB + 4, STRICT = {{ strict }};     // STRICT: results without the own token
{%- endif %}
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
{%- if ahead %}
    constexpr int COPIERS = 64;                 // threads that start copies, while the others compute decays
    const u32 copier = threadIdx.x % COPIERS;
    const bool copies = tid >= THREADS - COPIERS{% if own %} && tid < THREADS{% endif %};
{%- endif %}
    const int lane_row = lane / 4, lane_pair = lane % 4 * 2;        // places in accumulators
    const i64 steps = {{ steps }};
    // Swizzled tiles begin at a multiple of 1,024 bytes.
    float* const room = reinterpret_cast<float*>(smem) + (1024 - smem_u32(smem) % 1024) % 1024 / 4;
{%- if lefts > 0 %}
    bf16_t* const left_rows = reinterpret_cast<bf16_t*>(room);                              // queries {% if turns == 2 %}[2]{% endif %}[KEYS / LINE][CHUNK][LINE]
    bf16_t* const state_rows = reinterpret_cast<bf16_t*>(room + {{ places.states }});       // S before the chunk, [KEYS / LINE][64][LINE]
{%- endif %}
    bf16_t* const right_rows = reinterpret_cast<bf16_t*>(room + {{ places.keys }});         // k {% if turns == 2 %}[2]{% endif %}[KEYS / LINE][CHUNK][LINE]
    bf16_t* const v_rows = reinterpret_cast<bf16_t*>(room + {{ places.values }});           // {% if value_factor %}rows that values are multiples of [2]{% endif %}[CHUNK][LINE]
    float* const decays = room + {{ places.decays }};               // [CHUNK]
{%- if lefts > 0 %}
    float* const between = room + {{ places.between }};             // [CHUNK][L_PITCH]: from after one token through another
    float* const since = room + {{ places.since }};                 // [CHUNK]: from the start of the sub-chunk {% if not before %}through{% else %}to before{% endif %} the token
{%- endif %}
    float* const until = room + {{ places.until }};                 // [CHUNK]: from after the token to the end{% if value_factor %}, with the factor of its values{% endif %}
    float* const totals = room + {{ places.totals }};               // [SUBS]
    // The place of an element in lines of 64: their 16-byte pieces are swizzled by the line's place among eight.
    auto place = [](int line, int element) { return element / LINE * STEP + line * LINE + ((element / 8 ^ line) & 7) * 8 + element % 8; };
{%- if setup %}
    {{ setup | indent }}
{%- endif %}
{%- if tokens %}
    float* const token_values = room + {{ places.tokens }};         // [{{ token_values }}][CHUNK]
{%- endif %}
{%- if ahead %}
    // Rows of operands arrive in shared memory while the chunk before is worked on.
    float* const arrived = room + {{ places.staged }};
    {{ ahead | indent }}
    if (copies{% if begin != "0" %} && {{ begin }} < steps{% endif %}) {
{%- if begin == "0" %}
        bring_early(0, 0);
{%- if arrive %}
        bring_operands(0, 0);
{%- endif %}
{%- else %}
        bring_early({{ begin }}, int({{ begin }} / CHUNK % 2));
{%- if arrive %}
        bring_operands({{ begin }}, int({{ begin }} / CHUNK % 2));
{%- endif %}
{%- endif %}
    }
    cp_async_commit();
{%- endif %}
    float state[KEYS / 2] = {};     // accumulators of S: lines of values by keys
    auto each_element = [&](auto visit) {
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int v = 0; v < 4; ++v)
                visit(state[4 * n + v], n * 8 + lane_pair + v % 2, warp * 16 + lane_row + v / 2 * 8);
    };
{%- if lefts > 0 %}
    // Rounds the state for the products with queries.
    auto put_state = [&]() {
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                *reinterpret_cast<u32*>(state_rows + place(warp * 16 + lane_row + half * 8, n * 8 + lane_pair)) =
                    pack_bf16x2(state[4 * n + 2 * half], state[4 * n + 2 * half + 1]);
    };
{%- endif %}
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
{%- if lefts > 0 %}
        put_state();
{%- endif %}
    }
{%- if store_product %}
    float product = 1.0f;       // of the decays of the segment
{%- endif %}
    for (i64 chunk0 = {{ begin }}; chunk0 < steps; chunk0 += CHUNK) {
        const int tokens = int(min(steps - chunk0, i64(CHUNK)));
{%- if ahead %}
        const int turn = int(chunk0 / CHUNK % 2);
        cp_async_wait<0>();
{%- endif %}
{%- if not all_arrive %}
        __syncthreads();
{%- endif %}
{%- if late %}
        if (copies) bring_late(chunk0);
        cp_async_commit();
{%- endif %}
{%- if turns == 2 %}
{%- if lefts > 0 %}
        bf16_t* const left_now = left_rows + turn * (KEYS / LINE) * STEP;
{%- endif %}
        bf16_t* const right_now = right_rows + turn * (KEYS / LINE) * STEP;
{%- else %}
{%- if lefts > 0 %}
        bf16_t* const left_now = left_rows;
{%- endif %}
        bf16_t* const right_now = right_rows;
{%- endif %}
{%- if tokens and not all_arrive %}
{%- include "chunked_decays.cu" %}
        __syncthreads();
{%- endif %}
        // Tokens past the end change nothing: no key, no value, no decay. What is loaded for them is that of the last
        // token, and not used: loads without conditions are under way together.
{%- if not all_arrive %}
        {{ own }}{
#pragma unroll {{ unroll }}
            for (int round = 0; round < CHUNK * KEYS / 2 / THREADS; ++round) {
                const int pair = round * THREADS + tid;
                const int token = pair / (KEYS / 2), column = pair % (KEYS / 2) * 2;
                const int at = token < tokens ? token : tokens - 1;
                const i64 t = chunk0 + at;
                const bool live = token < tokens;
{%- if not query_arrives %}
                float left_pair[2];
{%- endif %}
{%- if not key_arrives %}
                float right_pair[2];
{%- endif %}
#pragma unroll
                for (int side = 0; side < 2; ++side) {
                    const int kj = column + side;
                    float {% if not query_arrives %}left_elements[1]{% endif %}{% if not query_arrives and not key_arrives %}, {% endif %}{% if not key_arrives %}right_elements[1]{% endif %};
                    // ---- {% if not query_arrives %}left_elements (the query){% endif %}{% if not query_arrives and not key_arrives %}, {% endif %}{% if not key_arrives %}right_elements (k){% endif %} of key (t, kj)
                    {{ keys | indent(width=20) }}
                    // ----
{%- if not query_arrives %}
                    left_pair[side] = live ? left_elements[0] : 0.0f;
{%- endif %}
{%- if not key_arrives %}
                    right_pair[side] = live ? right_elements[0] : 0.0f;
{%- endif %}
                }
{%- if not query_arrives %}
                *reinterpret_cast<u32*>(left_now + place(token, column)) = pack_bf16x2(left_pair[0], left_pair[1]);
{%- endif %}
{%- if not key_arrives %}
                *reinterpret_cast<u32*>(right_now + place(token, column)) = pack_bf16x2(right_pair[0], right_pair[1]);
{%- endif %}
            }
        }
{%- endif %}
        shared_fence();
        __syncthreads();
        const u64 right_tile = operand_tile(right_now, 16);
{%- if lefts > 0 %}
        // Products of queries with keys, and with the state before the chunk, are under way while values and decays
        // come into their places.
        const u64 left_tile = operand_tile(left_now, 16), state_tile = operand_tile(state_rows, 16);
        float weights[32], y[32];
        {{ own }}{
            warpgroup_fence();
            wgmma_n64_first<bf16_t, false>(weights, left_tile, right_tile);
#pragma unroll
            for (int kt = 1; kt < KEYS / 16; ++kt) {
                const int step = kt / 4 * (STEP / 8) + kt % 4 * 2;     // 16 keys on, in 16 bytes
                wgmma_n64<bf16_t, false>(weights, left_tile + step, right_tile + step);
            }
            warpgroup_commit();
            wgmma_n64_first<bf16_t, false>(y, left_tile, state_tile);
#pragma unroll
            for (int kt = 1; kt < KEYS / 16; ++kt) {
                const int step = kt / 4 * (STEP / 8) + kt % 4 * 2;
                wgmma_n64<bf16_t, false>(y, left_tile + step, state_tile + step);
            }
            warpgroup_commit();
        }
{%- endif %}
{%- if ahead %}
        if (copies && chunk0 + CHUNK < steps) {
            bring_early(chunk0 + CHUNK, 1 - turn);
{%- if turns == 2 %}
            bring_operands(chunk0 + CHUNK, 1 - turn);
{%- endif %}
        }
        cp_async_commit();
{%- endif %}
{%- if all_arrive or not tokens %}
{%- include "chunked_decays.cu" %}
{%- if tokens %}
        __syncthreads();
{%- endif %}
{%- endif %}
{%- if value_factor %}
        bf16_t* const v_now = v_rows + turn * STEP;
{%- else %}
        bf16_t* const v_now = v_rows;
        {{ own }}{
#pragma unroll
            for (int round = 0; round < CHUNK / 16; ++round) {
                const int token = round * 16 + tid / 8, column = tid % 8 * 8;
                const int at = token < tokens ? token : tokens - 1;
                const i64 t = chunk0 + at;
                const bool live = token < tokens;
{%- if value_runs %}
                {{ value_runs | indent(width=16) }}
{%- endif %}
                float v_run[8];
#pragma unroll
                for (int nth = 0; nth < 8; ++nth) {
                    const int vi = column + nth;
                    float v_element;
                    // ---- v_element of value (t, vi)
                    {{ values | indent(width=20) }}
                    // ----
                    v_run[nth] = live ? v_element : 0.0f;
                }
                store_vec(v_now + place(token, column), v_run);
            }
        }
        shared_fence();
{%- endif %}
        __syncthreads();
{%- if store_product %}
#pragma unroll
        for (int sub = 0; sub < SUBS; ++sub) product *= totals[sub];
{%- endif %}
        {{ own }}{
            // What values bring to the state, with the decay from their token to the end.
            u32 v_held[SUBS][4];
            float remaining = 1.0f;     // the decay over the sub-chunks after
#pragma unroll
            for (int from = SUBS - 1; from >= 0; --from) {
                ldmatrix_x4_trans(v_held[from], v_now + place(from * SUB + lane % 8 + lane / 16 * 8, warp * 16 + lane / 8 % 2 * 8));
#pragma unroll
                for (int word = 0; word < 4; ++word) {
                    float left_over[2];
                    load_vec(until + from * SUB + word / 2 * 8 + lane_pair, left_over);
                    const float low = __uint_as_float(v_held[from][word] << 16), high = __uint_as_float(v_held[from][word] & 0xffff0000u);
                    v_held[from][word] = pack_bf16x2(low * (left_over[0] * remaining), high * (left_over[1] * remaining));
                }
                remaining *= totals[from];
            }
#pragma unroll
            for (int n = 0; n < KEYS / 2; ++n) state[n] *= remaining;
{%- if lefts > 0 %}
            // Weights: the decay from the key's token through the query's, or to before it. A warp's queries are those
            // of one sub-chunk.
            const int token0 = warp * SUB + lane_row;
            const float reached[2] = {since[token0], since[token0 + 8]};
            u32 weights_held[SUBS][4];
            warpgroup_wait<1>();
            float apart = 1.0f;         // the decay over the sub-chunks between
#pragma unroll
            for (int of = SUBS - 1; of >= 0; --of) {
#pragma unroll
                for (int word = 0; word < 4; ++word) weights_held[of][word] = 0;
                if (of < warp) {
                    const float far[2] = {reached[0] * apart, reached[1] * apart};
#pragma unroll
                    for (int word = 0; word < 4; ++word) {
                        float left_over[2];
                        load_vec(until + of * SUB + word / 2 * 8 + lane_pair, left_over);
                        weights_held[of][word] = pack_bf16x2(weights[of * 8 + word * 2] * (far[word % 2] * left_over[0]),
                                                             weights[of * 8 + word * 2 + 1] * (far[word % 2] * left_over[1]));
                    }
                    apart *= totals[of];
                } else if (of == warp) {
#pragma unroll
                    for (int word = 0; word < 4; ++word) {
                        const int row = lane_row + word % 2 * 8, column = word / 2 * 8 + lane_pair;
                        float pair[2];
                        load_vec(between + (warp * SUB + {% if before %}(row > 0 ? row - 1 : 0){% else %}row{% endif %}) * L_PITCH + column, pair);
                        weights_held[of][word] = pack_bf16x2(column + STRICT <= row ? pair[0] * weights[of * 8 + word * 2] : 0.0f,
                                                             column + 1 + STRICT <= row ? pair[1] * weights[of * 8 + word * 2 + 1] : 0.0f);
                    }
                }
            }
            // What is left of `apart` is the decay from the start of the chunk.
            warpgroup_wait<0>();
#pragma unroll
            for (int n = 0; n < 32; ++n) y[n] *= reached[n / 2 % 2] * apart;
{%- endif %}
            warpgroup_fence();
            const u64 v_tile = operand_tile(v_now, 16), key_tile = operand_tile(right_now, STEP * 2);
{%- if lefts > 0 %}
#pragma unroll
            for (int kt = 0; kt < SUBS; ++kt) wgmma_n64_held<bf16_t, true>(y, weights_held[kt], v_tile + kt * (SUB * LINE / 8));
            warpgroup_commit();
{%- endif %}
#pragma unroll
            for (int kt = 0; kt < SUBS; ++kt) wgmma_n{{ key }}_held<bf16_t, true>(state, v_held[kt], key_tile + kt * (SUB * LINE / 8));
            warpgroup_commit();
{%- if outputs | length > 0 %}
            warpgroup_wait<1>();
{%- if late %}
        }
        cp_async_wait<1>();
        __syncthreads();
        {{ own }}{
{%- endif %}
            // Four lanes have a token's results, {{ run_columns }} of them each. The epilogue runs for tokens past the end as well,
            // and stores nothing of them.
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int token = warp * SUB + lane_row + half * 8;
                const bool live = token < tokens;
                const int at = live ? token : tokens - 1;
                const i64 t = chunk0 + at;
                float y_row[{{ run_columns }}];
#pragma unroll
                for (int nth = 0; nth < {{ run_columns }}; ++nth) y_row[nth] = y[nth / 2 * 4 + half * 2 + nth % 2];
                // ---- epilogue of token t
                {{ epilogue | indent(width=16) }}
                // ----
            }
{%- endif %}
            warpgroup_wait<0>();
        }
        // All products with what is overwritten now have been waited for.
        __syncthreads();
{%- if lefts > 0 %}
        {{ own }}put_state();
{%- endif %}
{%- if arrive and turns == 1 %}
        if (copies && chunk0 + CHUNK < steps) bring_operands(chunk0 + CHUNK, 0);
        cp_async_commit();
{%- endif %}
    }
{%- if store_product %}
    if (tid == 0) {
        const float product_element = product;
        {{ store_product | indent(width=8) }}
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
