{
    // S[kj, vi] = decay_t[kj] S[kj, vi] + k_t[kj] v_t[vi], y_t[vi] = sum over kj of q_t[kj] S[kj, vi] (S {% if before %}before{% else %}after{% endif %} the update{% if bonus %},
    // plus bonus_t[kj] k_t[kj] v_t[vi]{% endif %}): {{ chunk }} tokens at a time, the products on the tensor cores (mma.sync m16n8k16), the
    // state in f32 in shared memory. Decays only ever enter as products over runs of tokens, at most 16 per
    // factor, never as quotients: a decay of 0 is as good as any.
    constexpr int KEYS = {{ key }}, VALUES = {{ value }}, CHUNK = {{ chunk }}, SUB = 16, SUBS = CHUNK / SUB;
    constexpr int K_SIZE = {{ key_padded }}, V_SIZE = {{ value_padded }};       // up to whole tiles of the tensor cores
    constexpr int WARPS = {{ warps }}, PARTS = WARPS / SUBS, THREADS = 32 * WARPS;
    constexpr int N_TILES = V_SIZE / 8 / PARTS;                     // of y, per warp
    constexpr int M_TILES = K_SIZE / 16, STATE_PARTS = {{ state_parts }}, STATE_TILES = V_SIZE / 8 / STATE_PARTS;
    constexpr int PIECES = {{ pieces }};                                        // bf16 numbers that an operand is split into
    constexpr int K_PITCH = K_SIZE + 8, V_PITCH = V_SIZE + 4, Y_PITCH = V_SIZE + 8, LOCAL_PITCH = SUB + 8;
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int sub = warp % SUBS, part = warp / SUBS;                // 16 tokens and some value columns per warp
    const int lane_row = lane / 4, lane_pair = lane % 4 * 2;        // places in an mma fragment
{%- if segments %}
    // Segments of the sequence run side by side, each on blocks of its own. This phase: {{ segments.what }}.
    // A slot of memory has a state and the decay over the segment before it: [{{ segments.count }}][KEYS * VALUES + {% if per_key %}KEYS{% else %}1{% endif %}].
    constexpr int SEGMENTS = {{ segments.count }}, SLOT = KEYS * VALUES + {% if per_key %}KEYS{% else %}1{% endif %};
    float* const slots = {{ segments.slots }};
    const i64 segment_rows = ((T + 63) / 64 + SEGMENTS - 1) / SEGMENTS * 64;
    const i64 start = segment * segment_rows < T ? segment * segment_rows : T;
    const i64 steps = start + segment_rows < T ? start + segment_rows : T;
{%- else %}
    const i64 steps = {{ steps }};
{%- endif %}
    float* const q_rows = reinterpret_cast<float*>(smem);           // [CHUNK][K_PITCH], later y
    float* const y_rows = q_rows;                                   // [CHUNK][Y_PITCH]
    float* const k_rows = q_rows + {{ places.k_rows }};             // [CHUNK][K_PITCH]
    float* const v_rows = q_rows + {{ places.v_rows }};             // [CHUNK][V_PITCH]
    float* const state = q_rows + {{ places.state }};               // [K_SIZE][V_PITCH]
    float* const decays = q_rows + {{ places.decays }};             // {% if per_key %}[CHUNK][K_PITCH]{% else %}[CHUNK]{% endif %}
    float* const totals = q_rows + {{ places.totals }};             // {% if per_key %}[SUBS][K_SIZE]{% else %}[SUBS]{% endif %}: product over a sub-chunk
    float* const local = q_rows + {{ places.local }};               // [CHUNK][LOCAL_PITCH]: {% if per_key %}scores{% else %}decay{% endif %} inside a sub-chunk
{%- if not per_key %}
    float* const q_weights = q_rows + {{ places.q_weights }};       // [CHUNK]: from the start of the sub-chunk to the token
    float* const k_weights = q_rows + {{ places.k_weights }};       // [CHUNK]: from the token to the end of the sub-chunk
{%- endif %}
{%- if bonus %}
    float* const bonuses = q_rows + {{ places.bonuses }};           // [CHUNK]: sum over kj of bonus q k
{%- endif %}
    // Fragments of f32 numbers as sums of PIECES bf16 numbers, and products of such fragments: the terms that
    // are left out are as small as the last piece's rounding.
    auto split_a = [](float (&values)[8], u32 (&pieces)[PIECES][4]) {
#pragma unroll
        for (int p = 0; p < PIECES; ++p)
#pragma unroll
            for (int word = 0; word < 4; ++word) {
                const u32 packed = pack_bf16x2(values[2 * word], values[2 * word + 1]);
                values[2 * word] -= __uint_as_float(packed << 16);
                values[2 * word + 1] -= __uint_as_float(packed & 0xffff0000u);
                pieces[p][word] = packed;
            }
    };
    auto split_b = [](float (&values)[4], u32 (&pieces)[PIECES][2]) {
#pragma unroll
        for (int p = 0; p < PIECES; ++p)
#pragma unroll
            for (int word = 0; word < 2; ++word) {
                const u32 packed = pack_bf16x2(values[2 * word], values[2 * word + 1]);
                values[2 * word] -= __uint_as_float(packed << 16);
                values[2 * word + 1] -= __uint_as_float(packed & 0xffff0000u);
                pieces[p][word] = packed;
            }
    };
    auto multiply = [](float (&sums)[4], const u32 (&a_pieces)[PIECES][4], const u32 (&b_pieces)[PIECES][2]) {
        // Smallest terms first.
#pragma unroll
        for (int order = PIECES - 1; order >= 0; --order)
#pragma unroll
            for (int p = 0; p <= order; ++p) mma_m16n8k16_bf16(sums, a_pieces[p], b_pieces[order - p]);
    };
{%- if setup %}
    {{ setup | indent }}
{%- endif %}
{%- if tokens %}
    float* const token_values = q_rows + {{ places.tokens }};       // [{{ token_values }}][CHUNK]
{%- endif %}
{%- if ahead %}
    // Rows of operands arrive in shared memory while the chunk before is worked on.
    float* const arrived = q_rows + {{ places.staged }};
    {{ ahead | indent }}
    {{ own }}bring_early({% if segments %}start{% else %}0{% endif %}, 0);
    cp_async_commit();
{%- endif %}
    {{ own }}for (int element = tid; element < K_SIZE * V_SIZE; element += THREADS) {
        const int {% if keys_first %}vi = element / K_SIZE, kj = element % K_SIZE{% else %}kj = element / V_SIZE, vi = element % V_SIZE{% endif %};
        float s_element = 0.0f;
        if (kj < KEYS && vi < VALUES) {
            // ---- initial state: s_element = S[kj, vi]
            {{ load_state | indent(width=12) }}
            // ----
        }
        state[kj * V_PITCH + vi] = s_element;
    }
{%- if states_only %}
    // The decay over the segment{% if per_key %}, of some keys for each thread{% endif %}.
    float through[{% if per_key %}(K_SIZE + THREADS - 1) / THREADS{% else %}1{% endif %}];
#pragma unroll
    for (float& factor : through) factor = 1.0f;
{%- endif %}
    for (i64 chunk0 = {% if segments %}start{% else %}0{% endif %}; chunk0 < steps; chunk0 += CHUNK) {
        const int tokens = steps - chunk0 < CHUNK ? int(steps - chunk0) : CHUNK;
{%- if ahead %}
        const int turn = int({% if segments %}(chunk0 - start){% else %}chunk0{% endif %} / CHUNK % 2);
        cp_async_wait<0>();
        __syncthreads();
{%- if late %}
        {{ own }}bring_late(chunk0);
        cp_async_commit();
{%- endif %}
{%- endif %}
{%- if tokens %}
        if (tid < CHUNK) {
            const int token = tid;
            const int at = token < tokens ? token : tokens - 1;
            const i64 t = chunk0 + at;
            // ---- token_values of token t
            {{ tokens | indent(width=12) }}
            // ----
        }
{%- endif %}
{%- if not per_key %}
        if (tid < CHUNK) {
            const int token = tid;
            float decay_element = 1.0f;
            if (token < tokens) {
                const int at = token;
                const i64 t = chunk0 + at;
                // ---- decay_element of token t
                {{ decay | indent(width=16) }}
                // ----
            }
            decays[token] = decay_element;
        }
{%- endif %}
{%- if tokens or not per_key %}
        __syncthreads();
{%- endif %}
        // Tokens past the end change nothing: no key, no value, no decay. What is loaded for them is that of
        // the last token, and not used: loads without conditions are under way together.
        {{ own }}{
#pragma unroll {{ unroll }}
            for (int round = 0; round < (CHUNK * K_SIZE + THREADS - 1) / THREADS; ++round) {
                const int element = round * THREADS + tid;
                if (CHUNK * K_SIZE % THREADS != 0 && element >= CHUNK * K_SIZE) break;
                const int token = element / K_SIZE, column = element % K_SIZE;
                const bool live = token < tokens && column < KEYS;
                const int at = token < tokens ? token : tokens - 1;
                const i64 t = chunk0 + at;
                const int kj = column < KEYS ? column : KEYS - 1;
                float q_element, k_element{% if per_key %}, decay_element{% endif %};
                // ---- q_element, k_element{% if per_key %}, decay_element{% endif %} of key (t, kj)
                {{ keys | indent(width=16) }}
                // ----
{%- if not states_only %}
                q_rows[token * K_PITCH + column] = live ? q_element : 0.0f;
{%- endif %}
                k_rows[token * K_PITCH + column] = live ? k_element : 0.0f;
{%- if per_key %}
                decays[token * K_PITCH + column] = live ? decay_element : 1.0f;
{%- endif %}
            }
#pragma unroll {{ unroll }}
            for (int round = 0; round < (CHUNK * V_SIZE + THREADS - 1) / THREADS; ++round) {
                const int element = round * THREADS + tid;
                if (CHUNK * V_SIZE % THREADS != 0 && element >= CHUNK * V_SIZE) break;
                const int token = element / V_SIZE, column = element % V_SIZE;
                const bool live = token < tokens && column < VALUES;
                const int at = token < tokens ? token : tokens - 1;
                const i64 t = chunk0 + at;
                const int vi = column < VALUES ? column : VALUES - 1;
                float v_element;
                // ---- v_element of value (t, vi)
                {{ values | indent(width=16) }}
                // ----
                v_rows[token * V_PITCH + column] = live ? v_element : 0.0f;
            }
        }
{%- if not per_key %}
        if (tid < CHUNK) {
            const int token = tid, own = token % SUB, first = token - own;
            float carried = 1.0f;
#pragma unroll
            for (int later = 0; later < SUB; ++later) {
                const float decay = later > own ? decays[first + later] : 1.0f;
{%- if before %}
                local[(first + later) * LOCAL_PITCH + own] = later > own ? carried : 0.0f;
                carried *= decay;
{%- else %}
                carried *= decay;
                local[(first + later) * LOCAL_PITCH + own] = later >= own ? carried : 0.0f;
{%- endif %}
            }
            k_weights[token] = carried;
            float since = 1.0f;
#pragma unroll
            for (int earlier = 0; earlier < SUB; ++earlier) since *= earlier < own ? decays[first + earlier] : 1.0f;
            const float through = since * decays[token];
            q_weights[token] = {% if before %}since{% else %}through{% endif %};
            if (own == SUB - 1) totals[token / SUB] = through;
        }
{%- endif %}
        __syncthreads();
{%- if bonus and not states_only %}
        {{ own }}for (int token = warp; token < CHUNK; token += WARPS) {
            const int at = token;
            const i64 t = chunk0 + at;
            float sum = 0.0f;
            for (int kj = lane; token < tokens && kj < KEYS; kj += 32) {
                float bonus_element = 0.0f;
                // ---- bonus_element of key (t, kj)
                {{ bonus | indent(width=16) }}
                // ----
                sum += bonus_element * q_rows[token * K_PITCH + kj] * k_rows[token * K_PITCH + kj];
            }
            sum = warp_sum(sum);
            if (lane == 0) bonuses[token] = sum;
        }
        __syncthreads();
{%- endif %}
{%- if ahead %}
        {{ own }}if (chunk0 + CHUNK < steps) bring_early(chunk0 + CHUNK, 1 - turn);
        cp_async_commit();
{%- endif %}
{%- if per_key %}
{%- if not states_only %}
        {{ own }}{
            // Scores inside a sub-chunk: a group of lanes takes one token's key on through the tokens after it.
            constexpr int GROUP = 2 * PARTS;
            const int own = lane / GROUP * PARTS + part;
            const int first = sub * SUB;
            float scores[SUB] = {};
            for (int kj = lane % GROUP * 4; kj < K_SIZE; kj += GROUP * 4) {
                float carried[4];
                load_vec(k_rows + (first + own) * K_PITCH + kj, carried);
#pragma unroll
                for (int token = 0; token < SUB; ++token) {
                    if (token >= own) {
                        float q_vec[4], decay_vec[4];
                        load_vec(q_rows + (first + token) * K_PITCH + kj, q_vec);
                        load_vec(decays + (first + token) * K_PITCH + kj, decay_vec);
#pragma unroll
                        for (int nth = 0; nth < 4; ++nth) {
{%- if before %}
                            if (token > own) {
                                scores[token] += q_vec[nth] * carried[nth];
                                carried[nth] *= decay_vec[nth];
                            }
{%- else %}
                            if (token > own) carried[nth] *= decay_vec[nth];
                            scores[token] += q_vec[nth] * carried[nth];
{%- endif %}
                        }
                    }
                }
            }
#pragma unroll
            for (int token = 0; token < SUB; ++token) {
                float score = lane_sum<GROUP>(scores[token]);
{%- if bonus %}
                if (token == own) score += bonuses[first + token];
{%- endif %}
                if (lane % GROUP == 0) local[(first + token) * LOCAL_PITCH + own] = score;
            }
        }
        __syncthreads();
{%- endif %}
        // From here on q carries the decay since the start of its sub-chunk, k that to the end of its own.
        {{ own }}for (int round = 0; round < (SUBS * K_SIZE + THREADS - 1) / THREADS; ++round) {
            const int element = round * THREADS + tid;
            if (SUBS * K_SIZE % THREADS != 0 && element >= SUBS * K_SIZE) break;
            const int first = element / K_SIZE * SUB, kj = element % K_SIZE;
            // All loads first: none of them then waits for a store.
            float factors[SUB], {% if not states_only %}q_column[SUB], {% endif %}k_column[SUB];
#pragma unroll
            for (int token = 0; token < SUB; ++token) {
                factors[token] = decays[(first + token) * K_PITCH + kj];
{%- if not states_only %}
                q_column[token] = q_rows[(first + token) * K_PITCH + kj];
{%- endif %}
                k_column[token] = k_rows[(first + token) * K_PITCH + kj];
            }
            float forward = 1.0f, backward = 1.0f;
#pragma unroll
            for (int token = 0; token < SUB; ++token) {
{%- if states_only %}
                forward *= factors[token];
{%- elif before %}
                q_rows[(first + token) * K_PITCH + kj] = q_column[token] * forward;
                forward *= factors[token];
{%- else %}
                forward *= factors[token];
                q_rows[(first + token) * K_PITCH + kj] = q_column[token] * forward;
{%- endif %}
            }
            totals[element] = forward;
#pragma unroll
            for (int token = SUB - 1; token >= 0; --token) {
                k_rows[(first + token) * K_PITCH + kj] = k_column[token] * backward;
                backward *= factors[token];
            }
        }
        __syncthreads();
{%- endif %}
{%- if not states_only %}
        float y_sums[N_TILES][4] = {};
        {{ own }}{
            const int row_low = sub * SUB + lane_row, row_high = row_low + 8;
            float scores[SUBS][2][4] = {};  // with the sub-chunk `distance` before this one
            for (int j0 = 0; j0 < K_SIZE; j0 += 16) {
                const int column = j0 + lane_pair;
                float q_part[8];
#pragma unroll
                for (int nth = 0; nth < 8; nth += 2) {
                    float pair[2];
                    load_vec(q_rows + (nth / 2 % 2 ? row_high : row_low) * K_PITCH + column + nth / 4 * 8, pair);
                    q_part[nth] = pair[0];
                    q_part[nth + 1] = pair[1];
                }
                u32 q_pieces[PIECES][4];
{%- if not per_key %}
                split_a(q_part, q_pieces);
{%- endif %}
#pragma unroll
                for (int distance = {% if per_key %}1{% else %}0{% endif %}; distance < SUBS; ++distance) {
                    if (distance <= sub) {
                        const int first = (sub - distance) * SUB;
{%- if per_key %}
                        float q_copy[8];
#pragma unroll
                        for (int nth = 0; nth < 8; ++nth) q_copy[nth] = q_part[nth];
                        split_a(q_copy, q_pieces);
{%- endif %}
#pragma unroll
                        for (int tile = 0; tile < 2; ++tile) {
                            const float* const k_row = k_rows + (first + tile * 8 + lane_row) * K_PITCH + column;
                            float near[2], far[2];
                            load_vec(k_row, near);
                            load_vec(k_row + 8, far);
                            float k_part[4] = {near[0], near[1], far[0], far[1]};
                            u32 k_pieces[PIECES][2];
                            split_b(k_part, k_pieces);
                            multiply(scores[distance][tile], q_pieces, k_pieces);
                        }
{%- if per_key %}
                        // On to the start of that sub-chunk.
#pragma unroll
                        for (int nth = 0; nth < 8; ++nth) q_part[nth] *= totals[(sub - distance) * K_SIZE + column + nth / 4 * 8 + nth % 2];
{%- endif %}
                    }
                }
{%- if per_key %}
                split_a(q_part, q_pieces);
{%- endif %}
#pragma unroll
                for (int tile = 0; tile < N_TILES; ++tile) {
                    const float* const s_row = state + column * V_PITCH + (part * N_TILES + tile) * 8 + lane_row;
                    float s_part[4] = {s_row[0], s_row[V_PITCH], s_row[8 * V_PITCH], s_row[9 * V_PITCH]};
                    u32 s_pieces[PIECES][2];
                    split_b(s_part, s_pieces);
                    multiply(y_sums[tile], q_pieces, s_pieces);
                }
            }
{%- if not per_key %}
            float low_weight = q_weights[row_low], high_weight = q_weights[row_high];
#pragma unroll
            for (int distance = 0; distance < SUBS; ++distance) {
                if (distance <= sub) {
                    const int first = (sub - distance) * SUB;
#pragma unroll
                    for (int nth = 0; nth < 8; ++nth) {
                        const int column = nth / 4 * 8 + lane_pair + nth % 2;
                        const float weight = distance == 0 ? local[(nth / 2 % 2 ? row_high : row_low) * LOCAL_PITCH + column]
                                                           : (nth / 2 % 2 ? high_weight : low_weight) * k_weights[first + column];
                        scores[distance][nth / 4][nth % 4] *= weight;
                    }
                    if (distance > 0) {
                        low_weight *= totals[sub - distance];
                        high_weight *= totals[sub - distance];
                    }
                }
            }
#pragma unroll
            for (int tile = 0; tile < N_TILES; ++tile)
#pragma unroll
                for (int nth = 0; nth < 4; ++nth) y_sums[tile][nth] *= nth / 2 ? high_weight : low_weight;
{%- if bonus %}
#pragma unroll
            for (int nth = 0; nth < 8; ++nth) {
                const int row = lane_row + nth / 2 % 2 * 8, column = nth / 4 * 8 + lane_pair + nth % 2;
                if (row == column) scores[0][nth / 4][nth % 4] += bonuses[sub * SUB + row];
            }
{%- endif %}
{%- else %}
#pragma unroll
            for (int nth = 0; nth < 8; ++nth)
                scores[0][nth / 4][nth % 4] = local[(nth / 2 % 2 ? row_high : row_low) * LOCAL_PITCH + nth / 4 * 8 + lane_pair + nth % 2];
{%- endif %}
            // y = scores v: two tiles of scores side by side are one fragment of 16 columns.
#pragma unroll
            for (int distance = 0; distance < SUBS; ++distance) {
                if (distance <= sub) {
                    const int first = (sub - distance) * SUB;
                    float score_part[8];
#pragma unroll
                    for (int nth = 0; nth < 8; ++nth) score_part[nth] = scores[distance][nth / 4][nth % 4];
                    u32 score_pieces[PIECES][4];
                    split_a(score_part, score_pieces);
#pragma unroll
                    for (int tile = 0; tile < N_TILES; ++tile) {
                        const float* const v_row = v_rows + (first + lane_pair) * V_PITCH + (part * N_TILES + tile) * 8 + lane_row;
                        float v_part[4] = {v_row[0], v_row[V_PITCH], v_row[8 * V_PITCH], v_row[9 * V_PITCH]};
                        u32 v_pieces[PIECES][2];
                        split_b(v_part, v_pieces);
                        multiply(y_sums[tile], score_pieces, v_pieces);
                    }
                }
            }
        }
        __syncthreads();  // nobody reads q or the old state any more
        {{ own }}{
#pragma unroll
            for (int tile = 0; tile < N_TILES; ++tile)
#pragma unroll
                for (int nth = 0; nth < 4; ++nth)
                    y_rows[(sub * SUB + lane_row + nth / 2 * 8) * Y_PITCH + (part * N_TILES + tile) * 8 + lane_pair + nth % 2] = y_sums[tile][nth];
        }
{%- endif %}
        {{ own }}for (int round = 0; round < (M_TILES * STATE_PARTS + WARPS - 1) / WARPS; ++round) {
            const int task = round * WARPS + warp;
            if (M_TILES * STATE_PARTS % WARPS != 0 && task >= M_TILES * STATE_PARTS) break;
            const int j_low = task % M_TILES * 16 + lane_row, tile0 = task / M_TILES * STATE_TILES;
            float s_sums[STATE_TILES][4] = {};
            float low_weight = 1.0f, high_weight = 1.0f;  // decay from the end of the sub-chunk to that of the chunk
            for (int at = SUBS - 1; at >= 0; --at) {
                float k_part[8];
#pragma unroll
                for (int nth = 0; nth < 8; ++nth) {
                    const int token = at * SUB + lane_pair + nth / 4 * 8 + nth % 2;
                    k_part[nth] = k_rows[token * K_PITCH + j_low + nth / 2 % 2 * 8] * (nth / 2 % 2 ? high_weight : low_weight){% if not per_key %} * k_weights[token]{% endif %};
                }
{%- if per_key %}
                low_weight *= totals[at * K_SIZE + j_low];
                high_weight *= totals[at * K_SIZE + j_low + 8];
{%- else %}
                low_weight *= totals[at];
                high_weight = low_weight;
{%- endif %}
                u32 k_pieces[PIECES][4];
                split_a(k_part, k_pieces);
#pragma unroll
                for (int tile = 0; tile < STATE_TILES; ++tile) {
                    const float* const v_row = v_rows + (at * SUB + lane_pair) * V_PITCH + (tile0 + tile) * 8 + lane_row;
                    float v_part[4] = {v_row[0], v_row[V_PITCH], v_row[8 * V_PITCH], v_row[9 * V_PITCH]};
                    u32 v_pieces[PIECES][2];
                    split_b(v_part, v_pieces);
                    multiply(s_sums[tile], k_pieces, v_pieces);
                }
            }
#pragma unroll
            for (int tile = 0; tile < STATE_TILES; ++tile)
#pragma unroll
                for (int nth = 0; nth < 4; ++nth) {
                    float* const s_element = state + (j_low + nth / 2 * 8) * V_PITCH + (tile0 + tile) * 8 + lane_pair + nth % 2;
                    *s_element = *s_element * (nth / 2 ? high_weight : low_weight) + s_sums[tile][nth];
                }
        }
{%- if states_only %}
{%- if per_key %}
        {{ own }}{
#pragma unroll
            for (int round = 0; round < (K_SIZE + THREADS - 1) / THREADS; ++round) {
                const int kj = round * THREADS + tid;
                if (kj < K_SIZE)
#pragma unroll
                    for (int at = 0; at < SUBS; ++at) through[round] *= totals[at * K_SIZE + kj];
            }
        }
{%- else %}
#pragma unroll
        for (int at = 0; at < SUBS; ++at) through[0] *= totals[at];
{%- endif %}
{%- else %}
{%- if late %}
        cp_async_wait<1>();
{%- endif %}
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
        }
{%- endif %}
        __syncthreads();
    }
{%- if states_only %}
    {{ own }}{
{%- if per_key %}
#pragma unroll
        for (int round = 0; round < (K_SIZE + THREADS - 1) / THREADS; ++round) {
            const int kj = round * THREADS + tid;
            if (kj < KEYS) slots[(segment + 1) * SLOT + KEYS * VALUES + kj] = through[round];
        }
{%- else %}
        if (tid == 0) slots[(segment + 1) * SLOT + KEYS * VALUES] = through[0];
{%- endif %}
    }
{%- endif %}
    {{ own }}for (int element = tid; element < K_SIZE * V_SIZE; element += THREADS) {
        const int {% if keys_first %}vi = element / K_SIZE, kj = element % K_SIZE{% else %}kj = element / V_SIZE, vi = element % V_SIZE{% endif %};
        const float s_element = state[kj * V_PITCH + vi];
        if (kj < KEYS && vi < VALUES) {
            // ---- final state
            {{ store_state | indent(width=12) }}
            // ----
        }
    }
}
