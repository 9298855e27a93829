{
{%- if not factor %}
    // S[vi, kj] = decay_t[kj] S[vi, kj] + v_t[vi] k_t[kj], read by sums over kj of q_t[kj] S[vi, kj]. The {{ chunk }} tokens of a chunk are brought
    // into products together; {% if together %}all of them{% elif spans %}8 of them, a span,{% else %}16 of them, a sub-chunk,{% endif %} come to the state at once. It is in f32 in registers: a warp has 16
    // value columns of it.
{%- elif along_key %}
    // S[vi, kj] = decay_t[kj] S[vi, kj] + u_t[vi] k_t[kj] with u_t[vi] = v_t[vi] + sum over kj of S[vi, kj] a_t[kj] (S {% if through_a %}after its decay{% else %}before the step{% endif %}),
    // read by sums over kj of q_t[kj] S[vi, kj]. The {{ chunk }} tokens of a chunk are brought into products together; 16 of
    // them, a sub-chunk, are solved at once: U = (I - L)^-1 (A S + V), where L is the products of a with the k of
    // earlier tokens. The state is in f32 in registers: a warp has 16 value columns of it.
{%- else %}
    // S[vi, kj] = decay_t[kj] S[vi, kj] + u_t[vi] b_t[kj] + v_t[vi] k_t[kj] with u_t[vi] = sum over kj of S[vi, kj] a_t[kj] (S {% if through_a %}after its
    // decay{% else %}before the step{% endif %}), read by sums over kj of q_t[kj] S[vi, kj]. The {{ chunk }} tokens of a chunk are brought into products together;
    // 16 of them, a sub-chunk, are solved at once: U = (I - L)^-1 (A S + M V), where L and M are the products of
    // a with the b and k of earlier tokens. The state is in f32 in registers: a warp has 16 value columns of it.
{%- endif %}
{%- if centred %}
    // Decays enter as products from the middle of a sub-chunk; that none of these underflows is proven.
{%- elif spans %}
    // Decays enter as products over at most 8 tokens, never as quotients: a decay of 0 is as good as any.
{%- elif together %}
    // Decays enter as products over runs of tokens, never as quotients: a decay of 0 is as good as any.
{%- else %}
    // Decays enter as products over at most 16 tokens, never as quotients: a decay of 0 is as good as any.
{%- endif %}
    constexpr int KEYS = {{ key }}, VALUES = {{ value }}, CHUNK = {{ chunk }}, SUB = 16, SUBS = CHUNK / SUB;
    constexpr int K_SIZE = {{ key_padded }}, V_SIZE = {{ value_padded }};       // up to whole tiles of the tensor cores
    constexpr int WARPS = {{ warps }}, THREADS = 32 * WARPS, VALUE_WARPS = V_SIZE / 16;
{%- if factor %}
    constexpr int LEFTS = {{ lefts }}, RIGHTS = {{ rights }}, QUERY = 1;                   // a and, from number QUERY on, the queries; {% if along_key %}k{% else %}b and k{% endif %}
{%- else %}
    constexpr int LEFTS = {{ lefts }}, RIGHTS = 1, QUERY = 0;                   // the queries; k
{%- endif %}
    constexpr int STRICT = {{ strict }}, THROUGH = {{ through }};                           // a bit each: without the own token, with its decay
    constexpr int PIECES = {{ pieces }}, FINE = {{ fine }};                              // bf16 numbers that an operand is split into; the same
                                                                    // of queries, keys and their products: most of a result
    constexpr int MANY = {% if along_key %}FINE{% else %}PIECES{% endif %};                                    // the same of {% if factor %}u and v{% else %}v{% endif %}
    constexpr int K_PITCH = K_SIZE + 8, V_PITCH = V_SIZE + 8, S_PITCH = {% if together %}CHUNK{% else %}SUB{% endif %} + 8, L_PITCH = SUB + 4, Y_PITCH = V_SIZE + 4;
{%- if together %}
    constexpr int PAIRS = SUBS * (SUBS + 1) / 2;                    // of sub-chunks, the second not after the first
{%- elif spans %}
    constexpr int SPAN = 8, SPANS = CHUNK / SPAN, PAIRS = SPAN * (SPAN + 1) / 2;    // tokens that come to the state at once; pairs of them
    constexpr int SHARES = {{ shares }}, TASKS = SPANS * SHARES;                        // of the key channels of a span: a warp has one,
    constexpr int COLUMNS = {{ columns }}, ROUNDS = K_SIZE / (32 * COLUMNS * SHARES);       // a lane some neighbouring ones, some times
{%- endif %}
    constexpr int K_PIECE = CHUNK * K_PITCH, V_PIECE = CHUNK * V_PITCH, S_PIECE = CHUNK * S_PITCH;
    const int tid = threadIdx.x, lane = tid % 32, warp = tid / 32;
    const int lane_row = lane / 4, lane_pair = lane % 4 * 2;        // places in an mma fragment
    const int near_row = lane % 8 + lane / 16 * 8, near_column = lane / 8 % 2 * 8;  // rows that a lane names to ldmatrix,
    const int far_row = lane % 16, far_column = lane / 16 * 8;                      // by rows and by columns first
    const i64 steps = {{ steps }};
    float* const room = reinterpret_cast<float*>(smem);
    bf16_t* const left_rows = reinterpret_cast<bf16_t*>(room);                              // {% if factor %}a [PIECES][CHUNK][K_PITCH], then queries [FINE]..{% else %}queries [LEFTS][FINE][CHUNK][K_PITCH]{% endif %}
    bf16_t* const right_rows = reinterpret_cast<bf16_t*>(room + {{ places.right_rows }});   // {% if not factor %}k [FINE][CHUNK][K_PITCH]{% elif along_key %}k [FINE]..{% else %}b [PIECES][CHUNK][K_PITCH], then k [FINE]..{% endif %}
    bf16_t* const v_rows = reinterpret_cast<bf16_t*>(room + {{ places.v_rows }});           // [MANY][CHUNK][V_PITCH]
{%- if spans %}
    float* const pair_scores = room + {{ places.scores }};          // [SHARES][CHUNK][SPAN]: of a token's query with the keys of its span
{%- else %}
    bf16_t* const scores = reinterpret_cast<bf16_t*>(room + {{ places.scores }});           // [LEFTS][RIGHTS][PIECES, or FINE][CHUNK][S_PITCH]
{%- endif %}
{%- if factor %}
    float* const solved = room + {{ places.solved }};               // [CHUNK][L_PITCH]: L, a column after the other
{%- endif %}
    float* const y_rows = room + {{ places.y_rows }};               // [{{ outputs | length }}][CHUNK][Y_PITCH]
{%- if per_token %}
    float* const decays = room + {{ places.decays }};               // [CHUNK]
    float* const between = room + {{ places.between }};             // [CHUNK][L_PITCH]: from after one token through another
    float* const since = room + {{ places.since }};                 // [CHUNK]: from the start of the sub-chunk {% if together and not before %}through{% else %}to before{% endif %} the token
    float* const until = room + {{ places.until }};                 // [CHUNK]: from after the token to the end
    float* const totals = room + {{ places.totals }};               // [SUBS]
{%- elif centred %}
    float* const early = room + {{ places.early }};                 // [SUBS][K_SIZE]: from the start of a sub-chunk to its middle
    float* const totals = room + {{ places.totals }};               // [SUBS][K_SIZE]: from there to the end
{%- elif spans %}
    float* const totals = room + {{ places.totals }};               // [SPANS][K_SIZE]: product over a span
{%- else %}
    float* const decays = room + {{ places.decays }};               // [CHUNK][K_PITCH]
    float* const totals = room + {{ places.totals }};               // [SUBS][K_SIZE]: product over a sub-chunk
{%- endif %}
{%- if bonuses and not spans %}
    float* const bonuses = room + {{ places.bonuses }};             // [LEFTS - QUERY][CHUNK]: sum over kj of bonus q k
{%- endif %}
{%- if factor %}
    auto left_at = [](int left) { return left == 0 ? 0 : (PIECES + (left - 1) * FINE) * K_PIECE; };
    auto right_at = [](int right) { return right * PIECES * K_PIECE; };
    auto score_at = [](int left, int right) {
        return (left == 0 ? right * PIECES : RIGHTS * PIECES + (left - 1) * ((RIGHTS - 1) * PIECES + FINE) + right * PIECES) * S_PIECE;
    };
    // Numbers of a left operand, of a right one, and of their products.
    auto left_many = [](int left) { return left == 0 ? PIECES : FINE; };
    auto right_many = [](int right) { return right == RIGHTS - 1 ? FINE : PIECES; };
    auto score_many = [](int left, int right) { return left > 0 && right == RIGHTS - 1 ? FINE : PIECES; };
{%- elif not spans %}
    auto left_at = [](int left) { return left * FINE * K_PIECE; };
    auto right_at = [](int) { return 0; };
    auto score_at = [](int left, int) { return left * FINE * S_PIECE; };
    auto left_many = [](int) { return FINE; };
    auto right_many = left_many;
    auto score_many = [](int, int) { return FINE; };
{%- endif %}
    // f32 numbers as sums of PIECES bf16 numbers, and products of such fragments: the terms that are left out are
    // as small as the last piece's rounding.
    auto put = [](bf16_t* to, int apart, float number, int many) {
#pragma unroll
        for (int p = 0; p < FINE; ++p) {
            if (p >= many) break;
            const bf16_t piece = from_f32<bf16_t>(number);
            number -= to_f32(piece);
            to[p * apart] = piece;
        }
    };
{%- if spans %}
    auto put_columns = [](bf16_t* to, float (&row)[COLUMNS], int many) {
#pragma unroll
        for (int p = 0; p < FINE; ++p) {
            if (p >= many) break;
            const u32 packed = pack_bf16x2(row[0], row[COLUMNS - 1]);
            row[0] -= __uint_as_float(packed << 16);
{%- if columns == 2 %}
            row[1] -= __uint_as_float(packed & 0xffff0000u);
            *reinterpret_cast<u32*>(to + p * K_PIECE) = packed;
{%- else %}
            *reinterpret_cast<u16*>(to + p * K_PIECE) = u16(packed);
{%- endif %}
        }
    };
{%- endif %}
    auto put_pair = [](bf16_t* to, int apart, float low, float high, int many) {
#pragma unroll
        for (int p = 0; p < FINE; ++p) {
            if (p >= many) break;
            const u32 packed = pack_bf16x2(low, high);
            low -= __uint_as_float(packed << 16);
            high -= __uint_as_float(packed & 0xffff0000u);
            *reinterpret_cast<u32*>(to + p * apart) = packed;
        }
    };
    auto split = [](float (&values)[8], u32 (*pieces)[4], int many) {
#pragma unroll
        for (int p = 0; p < FINE; ++p) {
            if (p >= many) break;
#pragma unroll
            for (int word = 0; word < 4; ++word) {
                const u32 packed = pack_bf16x2(values[2 * word], values[2 * word + 1]);
                values[2 * word] -= __uint_as_float(packed << 16);
                values[2 * word + 1] -= __uint_as_float(packed & 0xffff0000u);
                pieces[p][word] = packed;
            }
        }
    };
    auto multiply_many = [](float (&sums)[4], const u32 (*a_pieces)[4], const u32 (*b_pieces)[4], int tile, int a_many, int b_many) {
        // Smallest terms first.
#pragma unroll
        for (int order = FINE - 1; order >= 0; --order)
#pragma unroll
            for (int p = 0; p <= order; ++p) {
                if (p >= a_many || order - p >= b_many) continue;
                const u32 half[2] = {b_pieces[order - p][2 * tile], b_pieces[order - p][2 * tile + 1]};
                mma_m16n8k16_bf16(sums, a_pieces[p], half);
            }
    };
    auto multiply = [&](float (&sums)[4], const u32 (*a_pieces)[4], const u32 (*b_pieces)[4], int tile) {
        multiply_many(sums, a_pieces, b_pieces, tile, PIECES, PIECES);
    };
    auto load_many = [](u32 (*pieces)[4], const bf16_t* rows, int apart, int many) {
#pragma unroll
        for (int p = 0; p < FINE; ++p) {
            if (p < many) ldmatrix_x4(pieces[p], rows + p * apart);
        }
    };
    auto load = [&](u32 (*pieces)[4], const bf16_t* rows, int apart) { load_many(pieces, rows, apart, PIECES); };
    auto load_transposed = [](u32 (*pieces)[4], const bf16_t* rows, int apart, int many) {
#pragma unroll
        for (int p = 0; p < FINE; ++p) {
            if (p < many) ldmatrix_x4_trans(pieces[p], rows + p * apart);
        }
    };
    // Two tiles of accumulators side by side are one fragment of 16 columns.
    auto split_pair = [&](const float (&low)[4], const float (&high)[4], u32 (*pieces)[4], int many) {
        float both[8] = {low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]};
        split(both, pieces, many);
    };
{%- if spans %}
    // Of 8 tokens: half of a fragment of 16 values by 16 tokens with one of tokens by 8 keys, or of 8 tokens.
    auto multiply_half = [](float (&sums)[4], const u32 (*a_pieces)[4], int half, const u32 (*b_pieces)[4], int tile, int a_many, int b_many) {
#pragma unroll
        for (int order = FINE - 1; order >= 0; --order)
#pragma unroll
            for (int p = 0; p <= order; ++p) {
                if (p >= a_many || order - p >= b_many) continue;
                const u32 a_half[2] = {a_pieces[p][2 * half], a_pieces[p][2 * half + 1]}, b_half[1] = {b_pieces[order - p][tile]};
                mma_m16n8k8_bf16(sums, a_half, b_half);
            }
    };
{%- endif %}
{%- if along_key or per_token %}
    // Element v of a fragment.
    auto whole = [](const u32 (*pieces)[4], int v) {
        float number = 0.0f;
#pragma unroll
        for (int p = MANY - 1; p >= 0; --p) number += __uint_as_float(v % 2 ? pieces[p][v / 2] & 0xffff0000u : pieces[p][v / 2] << 16);
        return number;
    };
{%- endif %}
{%- if per_key and not spans %}
    auto get = [](const bf16_t* from, int apart, int many) {
        float number = 0.0f;
#pragma unroll
        for (int p = FINE - 1; p >= 0; --p) {
            if (p < many) number += to_f32(from[p * apart]);
        }
        return number;
    };
{%- endif %}
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
    {{ own }}bring_early(0, 0);
{%- if arrive %}
    {{ own }}bring_operands(0);
{%- endif %}
    cp_async_commit();
{%- endif %}
    float state[K_SIZE / 8][4];     // S[vi, kj]: rows vi, columns kj
    if (warp < VALUE_WARPS) {
#pragma unroll
        for (int n = 0; n < K_SIZE / 8; ++n)
#pragma unroll
            for (int v = 0; v < 4; ++v) {
                const int vi = warp * 16 + lane_row + v / 2 * 8, kj = n * 8 + lane_pair + v % 2;
                float s_element = 0.0f;
                if (kj < KEYS && vi < VALUES) {
                    // ---- initial state: s_element = S[vi, kj]
                    {{ load_state | indent(width=20) }}
                    // ----
                }
                state[n][v] = s_element;
            }
    }
    for (i64 chunk0 = 0; chunk0 < steps; chunk0 += CHUNK) {
        const int tokens = steps - chunk0 < CHUNK ? int(steps - chunk0) : CHUNK;
{%- if ahead %}
        const int turn = int(chunk0 / CHUNK % 2);
        cp_async_wait<0>();
        __syncthreads();
{%- if late %}
        {{ own }}bring_late(chunk0);
        cp_async_commit();
{%- endif %}
{%- endif %}
{%- if tokens or per_token %}
        if (tid < CHUNK) {
            const int token = tid, at = token < tokens ? token : tokens - 1;
            const i64 t = chunk0 + at;
{%- if tokens %}
            {
                // ---- token_values of token t
                {{ tokens | indent(width=16) }}
                // ----
            }
{%- endif %}
{%- if per_token %}
            float decay_element = 1.0f;
            // ---- decay_element of token t
            {{ decay | indent(width=12) }}
            // ----
            decays[token] = token < tokens ? decay_element : 1.0f;
{%- endif %}
        }
{%- if per_token %}
        __syncwarp();   // the tokens of a sub-chunk are lanes of one warp
        if (tid < CHUNK) {
            const int token = tid, own = token % SUB, first = token - own;
            float carried = 1.0f, before = 1.0f;
#pragma unroll
            for (int later = 0; later < SUB; ++later) {
                const float decay_element = decays[first + later];
                carried *= later > own ? decay_element : 1.0f;
                before *= later < own ? decay_element : 1.0f;
                between[(first + later) * L_PITCH + own] = later >= own ? carried : 0.0f;
            }
            until[token] = carried;
            since[token] = {% if together and not before %}before * decays[token]{% else %}before{% endif %};
            if (own == SUB - 1) totals[token / SUB] = before * decays[token];
        }
{%- endif %}
        __syncthreads();
{%- endif %}
        // Tokens past the end change nothing: no key, no b, no value, no decay. What is loaded for them is that of
        // the last token, and not used: loads without conditions are under way together.
{%- if centred %}
        {{ own }}for (int round = 0; round < (2 * SUBS * K_SIZE + THREADS - 1) / THREADS; ++round) {
            const int element = round * THREADS + tid;
            if (2 * SUBS * K_SIZE % THREADS != 0 && element >= 2 * SUBS * K_SIZE) break;
            // Half a sub-chunk, from its middle outwards: later tokens, or earlier ones.
            constexpr int HALF = SUB / 2;
            const int half = element / K_SIZE, column = element % K_SIZE;
            const bool later = half % 2;
            const int start = half * HALF + (later ? 0 : HALF - 1), step = later ? 1 : -1;
            const int kj = column < KEYS ? column : KEYS - 1;
            float factors[HALF];
#pragma unroll
            for (int own = 0; own < HALF; ++own) {
                const int token = start + own * step;
                const bool live = token < tokens && column < KEYS;
                const int at = token < tokens ? token : tokens - 1;
                const i64 t = chunk0 + at;
                float decay_element;
                // ---- decay_element of key (t, kj)
                {{ decay | indent(width=16) }}
                // ----
                factors[own] = live ? decay_element : 1.0f;
            }
            // The decay over the first tokens, and its inverse.
            float along[HALF + 1], against[HALF + 1];
            along[0] = 1.0f;
#pragma unroll
            for (int own = 0; own < HALF; ++own) along[own + 1] = along[own] * factors[own];
            against[HALF] = 1.0f / along[HALF];
#pragma unroll
            for (int own = HALF; own > 0; --own) against[own - 1] = against[own] * factors[own - 1];
            (later ? totals : early)[half / 2 * K_SIZE + column] = along[HALF];
#pragma unroll
            for (int own = 0; own < HALF; ++own) {
                const int token = start + own * step;
                const bool live = token < tokens && column < KEYS;
                const int at = token < tokens ? token : tokens - 1;
                const i64 t = chunk0 + at;
                float left_elements[LEFTS], right_elements[RIGHTS];
                // ---- left_elements (a, then the queries), right_elements ({% if along_key %}k{% else %}b, k{% endif %}) of key (t, kj)
                {{ keys | indent(width=16) }}
                // ----
                // From the middle through the token, or to before it; and from after the token to the middle.
                const float through = later ? along[own + 1] : against[own], before = later ? along[own] : against[own + 1];
                const float back = later ? against[own + 1] : along[own];
#pragma unroll
                for (int left = 0; left < LEFTS; ++left)
                    put(left_rows + left_at(left) + token * K_PITCH + column, K_PIECE,
                        live ? left_elements[left] * (THROUGH >> left & 1 ? through : before) : 0.0f, left_many(left));
#pragma unroll
                for (int right = 0; right < RIGHTS; ++right)
                    put(right_rows + right_at(right) + token * K_PITCH + column, K_PIECE,
                        live ? right_elements[right] * back : 0.0f, right_many(right));
            }
        }
{%- elif spans %}
        {{ own }}for (int task = warp; task < TASKS; task += WARPS) {
            // A lane has the 8 tokens of a span of some key channels: their products with each other, and q and k as
            // the state takes them, with the decay from the start of the span and to its end.
            const int span = task / SHARES, share = task % SHARES, first = span * SPAN;
            float sums[PAIRS] = {};
            for (int round = 0; round < ROUNDS; ++round) {
                const int column = ((round * SHARES + share) * 32 + lane) * COLUMNS;
                float q_columns[SPAN][COLUMNS], k_columns[SPAN][COLUMNS], factors[SPAN][COLUMNS];
#pragma unroll
                for (int own = 0; own < SPAN; ++own) {
                    const int token = first + own, at = token < tokens ? token : tokens - 1;
                    const i64 t = chunk0 + at;
#pragma unroll
                    for (int side = 0; side < COLUMNS; ++side) {
{%- if key == key_padded %}
                        const bool live = token < tokens;
                        const int kj = column + side;
{%- else %}
                        const bool live = token < tokens && column + side < KEYS;
                        const int kj = column + side < KEYS ? column + side : KEYS - 1;
{%- endif %}
                        float left_elements[LEFTS], right_elements[RIGHTS], decay_element;
                        {
                            // ---- left_elements (queries), right_elements (k) of key (t, kj)
                            {{ keys | indent(width=28) }}
                            // ----
                        }
                        {
                            // ---- decay_element of key (t, kj)
                            {{ decay | indent(width=28) }}
                            // ----
                        }
                        q_columns[own][side] = live ? left_elements[0] : 0.0f;
                        k_columns[own][side] = live ? right_elements[0] : 0.0f;
                        factors[own][side] = live ? decay_element : 1.0f;
{%- for bonus in bonuses %}
                        float bonus_element;
                        {
                            // ---- bonus_element: bonus q k of key (t, kj)
                            {{ bonus.text | indent(width=28) }}
                            // ----
                        }
                        sums[own * (own + 1) / 2 + own] += live ? bonus_element : 0.0f;
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
                            carried *= factors[later][side];
{%- else %}
                            carried *= factors[later][side];
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
                        forward[side] *= factors[own][side];
{%- else %}
                        forward[side] *= factors[own][side];
                        row[side] = q_columns[own][side] * forward[side];
{%- endif %}
                    }
                    put_columns(left_rows + (first + own) * K_PITCH + column, row, FINE);
                }
                store_vec(totals + span * K_SIZE + column, forward);
#pragma unroll
                for (int own = SPAN - 1; own >= 0; --own) {
                    float row[COLUMNS];
#pragma unroll
                    for (int side = 0; side < COLUMNS; ++side) {
                        row[side] = k_columns[own][side] * backward[side];
                        backward[side] *= factors[own][side];
                    }
                    put_columns(right_rows + (first + own) * K_PITCH + column, row, PIECES);
                }
            }
            // Number n is that of token `later` with token `earlier`: later (later + 1) / 2 + earlier.
            float many[32], few[4];
#pragma unroll
            for (int n = 0; n < PAIRS; ++n) (n < 32 ? many[n % 32] : few[n % 4]) = sums[n];
            float* const score_rows = pair_scores + (share * CHUNK + first) * SPAN;
            int later = 0, earlier = lane;
            while (earlier > later) earlier -= ++later;
            score_rows[later * SPAN + earlier] = warp_sum_each(many);
            const float own_sum = warp_sum_each(few);
            if (lane % 8 == 0) score_rows[SPAN * SPAN - 4 + lane / 8] = own_sum;
        }
{%- elif not all_arrive %}
        {{ own }}{
#pragma unroll {{ unroll }}
            for (int round = 0; round < (CHUNK * K_SIZE / 2 + THREADS - 1) / THREADS; ++round) {
                const int pair = round * THREADS + tid;
                if (CHUNK * K_SIZE / 2 % THREADS != 0 && pair >= CHUNK * K_SIZE / 2) break;
                const int token = pair / (K_SIZE / 2), column = pair % (K_SIZE / 2) * 2;
                const int at = token < tokens ? token : tokens - 1;
                const i64 t = chunk0 + at;
                float {% if not query_arrives %}left_pair[LEFTS][2]{% if not key_arrives %}, {% endif %}{% endif %}{% if not key_arrives %}right_pair[RIGHTS][2]{% endif %}{% if per_key %}, decay_pair[2]{% endif %};
#pragma unroll
                for (int side = 0; side < 2; ++side) {
{%- if key == key_padded %}
                    const bool live = token < tokens;
                    const int kj = column + side;
{%- else %}
                    const bool live = token < tokens && column + side < KEYS;
                    const int kj = column + side < KEYS ? column + side : KEYS - 1;
{%- endif %}
                    float {% if not query_arrives %}left_elements[LEFTS]{% if not key_arrives %}, {% endif %}{% endif %}{% if not key_arrives %}right_elements[RIGHTS]{% endif %};
                    // ---- left_elements (a, then the queries), right_elements ({% if along_key %}k{% else %}b, k{% endif %}) of key (t, kj)
                    {{ keys | indent(width=20) }}
                    // ----
{%- if not query_arrives %}
#pragma unroll
                    for (int left = 0; left < LEFTS; ++left) left_pair[left][side] = live ? left_elements[left] : 0.0f;
{%- endif %}
{%- if not key_arrives %}
#pragma unroll
                    for (int right = 0; right < RIGHTS; ++right) right_pair[right][side] = live ? right_elements[right] : 0.0f;
{%- endif %}
{%- if per_key %}
                    float decay_element;
                    {
                        // ---- decay_element of key (t, kj)
                        {{ decay | indent(width=24) }}
                        // ----
                    }
                    decay_pair[side] = live ? decay_element : 1.0f;
{%- endif %}
                }
{%- if not query_arrives %}
#pragma unroll
                for (int left = 0; left < LEFTS; ++left)
                    put_pair(left_rows + left_at(left) + token * K_PITCH + column, K_PIECE, left_pair[left][0], left_pair[left][1], left_many(left));
{%- endif %}
{%- if not key_arrives %}
#pragma unroll
                for (int right = 0; right < RIGHTS; ++right)
                    put_pair(right_rows + right_at(right) + token * K_PITCH + column, K_PIECE, right_pair[right][0], right_pair[right][1], right_many(right));
{%- endif %}
{%- if per_key %}
                store_vec(decays + token * K_PITCH + column, decay_pair);
{%- endif %}
            }
        }
{%- endif %}
        {{ own }}{
#pragma unroll {{ unroll }}
            for (int round = 0; round < (CHUNK * V_SIZE / 2 + THREADS - 1) / THREADS; ++round) {
                const int pair = round * THREADS + tid;
                if (CHUNK * V_SIZE / 2 % THREADS != 0 && pair >= CHUNK * V_SIZE / 2) break;
                const int token = pair / (V_SIZE / 2), column = pair % (V_SIZE / 2) * 2;
                const int at = token < tokens ? token : tokens - 1;
                const i64 t = chunk0 + at;
                float v_pair[2];
#pragma unroll
                for (int side = 0; side < 2; ++side) {
{%- if value == value_padded %}
                    const bool live = token < tokens;
                    const int vi = column + side;
{%- else %}
                    const bool live = token < tokens && column + side < VALUES;
                    const int vi = column + side < VALUES ? column + side : VALUES - 1;
{%- endif %}
                    float v_element;
                    // ---- v_element of value (t, vi)
                    {{ values | indent(width=20) }}
                    // ----
                    v_pair[side] = live ? v_element : 0.0f;
                }
                put_pair(v_rows + token * V_PITCH + column, V_PIECE, v_pair[0], v_pair[1], MANY);
            }
        }
{%- if not spans %}
{%- for bonus in bonuses %}
        {{ own }}for (int token = warp; token < CHUNK; token += WARPS) {
            const int at = token < tokens ? token : tokens - 1;
            const i64 t = chunk0 + at;
            float sum = 0.0f;
            for (int kj = lane; kj < KEYS; kj += 32) {
                float bonus_element;
                // ---- bonus_element: bonus q k of key (t, kj)
                {{ bonus.text | indent(width=16) }}
                // ----
                sum += bonus_element;
            }
            sum = warp_sum(sum);
            if (lane == 0) bonuses[{{ bonus.read }} * CHUNK + token] = token < tokens ? sum : 0.0f;
        }
{%- endfor %}
{%- endif %}
{%- if not all_arrive %}
        __syncthreads();
{%- if ahead %}
        {{ own }}if (chunk0 + CHUNK < steps) bring_early(chunk0 + CHUNK, 1 - turn);
        cp_async_commit();
{%- endif %}
{%- endif %}
{%- if factor %}
        // x = (I - L)^-1, a column to a lane, by substitution; what is kept is x - I.
        auto solve = [&](int first) {
            const int column = lane % SUB;
            float x[SUB];
#pragma unroll
            for (int row = 0; row < SUB; ++row) x[row] = row == column ? 1.0f : 0.0f;
#pragma unroll
            for (int known = 0; known < SUB - 1; ++known)
#pragma unroll
                for (int part = known / 4 * 4; part < SUB; part += 4) {
                    float factors[4];
                    load_vec(solved + (first + known) * L_PITCH + part, factors);
#pragma unroll
                    for (int v = 0; v < 4; ++v)
                        if (part + v > known) x[part + v] += factors[v] * x[known];
                }
            if (lane < SUB) {
#pragma unroll
                for (int row = 0; row < SUB; ++row)
                    put(scores + (first + row) * S_PITCH + column, S_PIECE, row > column ? x[row] : 0.0f, PIECES);
            }
        };
{%- endif %}
{%- if spans %}
{%- elif per_key %}
        {{ own }}for (int task = warp; task < 2 * SUBS; task += WARPS) {
            // Products inside a sub-chunk: four lanes take the {% if factor and not along_key %}b and k{% else %}k{% endif %} of one token on through the tokens after it.
            const int first = task / 2 * SUB, own = task % 2 * (SUB / 2) + lane / 4;
            float sums[LEFTS][RIGHTS][SUB] = {};
            for (int kj = lane % 4 * 4; kj < K_SIZE; kj += 16) {
                float carried[RIGHTS][4];
#pragma unroll
                for (int right = 0; right < RIGHTS; ++right)
#pragma unroll
                    for (int v = 0; v < 4; ++v)
                        carried[right][v] = get(right_rows + right_at(right) + (first + own) * K_PITCH + kj + v, K_PIECE, right_many(right));
#pragma unroll
                for (int token = 0; token < SUB; ++token) {
                    if (token < own) continue;
                    float decay_vec[4];
                    load_vec(decays + (first + token) * K_PITCH + kj, decay_vec);
#pragma unroll
                    for (int v = 0; v < 4; ++v) {
                        const float decay_element = token > own ? decay_vec[v] : 1.0f;
                        float through[RIGHTS];
#pragma unroll
                        for (int right = 0; right < RIGHTS; ++right) through[right] = carried[right][v] * decay_element;
#pragma unroll
                        for (int left = 0; left < LEFTS; ++left) {
                            const float element = get(left_rows + left_at(left) + (first + token) * K_PITCH + kj + v, K_PIECE, left_many(left));
#pragma unroll
                            for (int right = 0; right < RIGHTS; ++right)
                                sums[left][right][token] += element * (THROUGH >> left & 1 ? through[right] : carried[right][v]);
                        }
#pragma unroll
                        for (int right = 0; right < RIGHTS; ++right) carried[right][v] = through[right];
                    }
                }
            }
#pragma unroll
            for (int token = 0; token < SUB; ++token)
#pragma unroll
                for (int left = 0; left < LEFTS; ++left)
#pragma unroll
                    for (int right = 0; right < RIGHTS; ++right) {
                        float score = lane_sum<4>(sums[left][right][token]);
                        if (token < own + (STRICT >> left & 1)) score = 0.0f;
{%- for bonus in bonuses %}{% if not along_key %}
                        if (left == {{ bonus.read }} + QUERY && right == RIGHTS - 1 && token == own) score += bonuses[{{ bonus.read }} * CHUNK + first + token];
{%- endif %}{% endfor %}
                        if (lane % 4 != 0) continue;
{%- if factor %}
                        if (left + right == 0) solved[(first + own) * L_PITCH + token] = score;
                        else{% endif %} put(scores + score_at(left, right) + (first + token) * S_PITCH + own, S_PIECE, score, score_many(left, right));
                    }
        }
        __syncthreads();
{%- if factor %}
        {{ own }}for (int sub = warp; sub < SUBS; sub += WARPS) solve(sub * SUB);
{%- endif %}
        // From here on {% if factor %}a and q carry{% else %}q carries{% endif %} the decay since the start of {% if factor %}their{% else %}its{% endif %} sub-chunk, {% if factor and not along_key %}b and k that{% else %}k that{% endif %} to its end.
        {{ own }}for (int round = 0; round < (SUBS * K_SIZE + THREADS - 1) / THREADS; ++round) {
            const int element = round * THREADS + tid;
            if (SUBS * K_SIZE % THREADS != 0 && element >= SUBS * K_SIZE) break;
            const int first = element / K_SIZE * SUB, column = element % K_SIZE;
            float forward = 1.0f, backward = 1.0f;
#pragma unroll
            for (int own = 0; own < SUB; ++own) {
                const float through = forward * decays[(first + own) * K_PITCH + column];
#pragma unroll
                for (int left = 0; left < LEFTS; ++left) {
                    bf16_t* const place = left_rows + left_at(left) + (first + own) * K_PITCH + column;
                    put(place, K_PIECE, get(place, K_PIECE, left_many(left)) * (THROUGH >> left & 1 ? through : forward), left_many(left));
                }
                forward = through;
            }
            totals[element] = forward;
#pragma unroll
            for (int own = SUB - 1; own >= 0; --own) {
#pragma unroll
                for (int right = 0; right < RIGHTS; ++right) {
                    bf16_t* const place = right_rows + right_at(right) + (first + own) * K_PITCH + column;
                    put(place, K_PIECE, get(place, K_PIECE, right_many(right)) * backward, right_many(right));
                }
                backward *= decays[(first + own) * K_PITCH + column];
            }
        }
{%- else %}
{%- if together %}
        {{ own }}for (int task = warp; task < LEFTS * PAIRS; task += WARPS) {
            // Products of one query of a sub-chunk with the keys of that one or of one before.
            int sub = 0, of = task % PAIRS;
            while (of > sub) of -= ++sub;
            const int left = task / PAIRS, first = sub * SUB, from = of * SUB;
{%- else %}
        {{ own }}for (int task = warp; task < LEFTS * SUBS; task += WARPS) {
            // Products inside a sub-chunk of one left operand with the right ones.
            const int left = task / SUBS, first = task % SUBS * SUB, from = first;
{%- endif %}
            const bf16_t* const left_start = left_rows + left_at(left) + (first + far_row) * K_PITCH + far_column;
            const bf16_t* const right_start = right_rows + (from + near_row) * K_PITCH + near_column;
            float sums[RIGHTS][2][4] = {};
            // Fragments are on their way while those before are multiplied.
            u32 left_pieces[2][FINE][4], right_pieces[2][RIGHTS][FINE][4];
            auto fetch = [&](int kt) {
                load_many(left_pieces[kt % 2], left_start + kt * 16, K_PIECE, left_many(left));
#pragma unroll
                for (int right = 0; right < RIGHTS; ++right)
                    load_many(right_pieces[kt % 2][right], right_start + right_at(right) + kt * 16, K_PIECE, score_many(left, right));
            };
            fetch(0);
#pragma unroll
            for (int kt = 0; kt < K_SIZE / 16; ++kt) {
                if (kt + 1 < K_SIZE / 16) fetch(kt + 1);
#pragma unroll
                for (int right = 0; right < RIGHTS; ++right)
#pragma unroll
                    for (int n = 0; n < 2; ++n) {
                        const int many = score_many(left, right);
                        multiply_many(sums[right][n], left_pieces[kt % 2], right_pieces[kt % 2][right], n, many, many);
                    }
            }
{%- if together %}
            // Weights: the decay from the key's token through the query's, or to before it.
            bf16_t* const score_start = scores + (first + lane_row) * S_PITCH + from + lane_pair;
            if (of < sub) {
                float apart = 1.0f;     // over the sub-chunks between
                for (int other = of + 1; other < sub; ++other) apart *= totals[other];
                const float reached[2] = {since[first + lane_row] * apart, since[first + lane_row + 8] * apart};
#pragma unroll
                for (int tile = 0; tile < 2; ++tile) {
                    float left_over[2];
                    load_vec(until + from + tile * 8 + lane_pair, left_over);
#pragma unroll
                    for (int row = 0; row < 2; ++row)
                        put_pair(score_start + row * 8 * S_PITCH + tile * 8, S_PIECE, sums[0][tile][2 * row] * (reached[row] * left_over[0]),
                                 sums[0][tile][2 * row + 1] * (reached[row] * left_over[1]), FINE);
                }
            } else {
#pragma unroll
                for (int v = 0; v < 8; v += 2) {
                    const int row = lane_row + v / 2 % 2 * 8, column = v / 4 * 8 + lane_pair;
                    float pair[2];
                    load_vec(between + (first + {% if before %}(row > 0 ? row - 1 : 0){% else %}row{% endif %}) * L_PITCH + column, pair);
#pragma unroll
                    for (int w = 0; w < 2; ++w) {
                        pair[w] = column + w + STRICT <= row ? pair[w] * sums[0][v / 4][v % 4 + w] : 0.0f;
{%- for bonus in bonuses %}
                        if (row == column + w) pair[w] += bonuses[first + row];
{%- endfor %}
                    }
                    put_pair(score_start + (row - lane_row) * S_PITCH + v / 4 * 8, S_PIECE, pair[0], pair[1], FINE);
                }
            }
{%- else %}
            const int strict = STRICT >> left & 1{% if per_token %}, through = THROUGH >> left & 1{% endif %};
#pragma unroll
            for (int right = 0; right < RIGHTS; ++right)
#pragma unroll
                for (int v = 0; v < 8; v += 2) {
                    const int row = lane_row + v / 2 % 2 * 8, column = v / 4 * 8 + lane_pair;
                    float pair[2];
#pragma unroll
                    for (int w = 0; w < 2; ++w) {
                        const bool seen = column + w + strict <= row;
                        pair[w] = seen ? sums[right][v / 4][v % 4 + w]{% if per_token %} * between[(first + row - (through ? 0 : strict)) * L_PITCH + column + w]{% endif %} : 0.0f;
{%- for bonus in bonuses %}{% if not along_key %}
                        if (left == {{ bonus.read }} + QUERY && right == RIGHTS - 1 && row == column + w) pair[w] += bonuses[{{ bonus.read }} * CHUNK + first + row];
{%- endif %}{% endfor %}
                    }
{%- if factor %}
                    if (left + right == 0) {
                        solved[(first + column) * L_PITCH + row] = pair[0];
                        solved[(first + column + 1) * L_PITCH + row] = pair[1];
                    } else {
                        put_pair(scores + score_at(left, right) + (first + row) * S_PITCH + column, S_PIECE, pair[0], pair[1], score_many(left, right));
                    }
{%- else %}
                    put_pair(scores + score_at(left, right) + (first + row) * S_PITCH + column, S_PIECE, pair[0], pair[1], FINE);
{%- endif %}
                }
{%- endif %}
{%- if factor %}
            if (left == 0) {
                __syncwarp();
                solve(first);
            }
{%- endif %}
        }
{%- endif %}
{%- if not spans %}
        __syncthreads();
{%- endif %}
{%- if all_arrive and ahead %}
        {{ own }}if (chunk0 + CHUNK < steps) bring_early(chunk0 + CHUNK, 1 - turn);
        cp_async_commit();
{%- endif %}
{%- if together %}
        if (warp < VALUE_WARPS) {
            float y[SUBS][2][4] = {};
            const bf16_t* const left_start = left_rows + near_row * K_PITCH + near_column;
#pragma unroll
            for (int kt = 0; kt < K_SIZE / 16; ++kt) {
                u32 state_pieces[PIECES][4];
                split_pair(state[2 * kt], state[2 * kt + 1], state_pieces, PIECES);
#pragma unroll
                for (int sub = 0; sub < SUBS; ++sub) {
                    u32 left_pieces[PIECES][4];
                    load(left_pieces, left_start + sub * SUB * K_PITCH + kt * 16, K_PIECE);
#pragma unroll
                    for (int n = 0; n < 2; ++n) multiply(y[sub][n], state_pieces, left_pieces, n);
                }
            }
            float total = 1.0f;     // the decay over the sub-chunks before
#pragma unroll
            for (int sub = 0; sub < SUBS; ++sub) {
#pragma unroll
                for (int v = 0; v < 8; ++v) {
                    const int token = sub * SUB + v / 4 * 8 + lane_pair + v % 2;
                    y[sub][v / 4][v % 4] *= since[token] * total;
                }
                total *= totals[sub];
            }
            // What values bring to results and, with the decay from their token to the end, to the state.
            u32 v_pieces[SUBS][PIECES][4];
            float remaining = 1.0f;     // the decay over the sub-chunks after
#pragma unroll
            for (int from = SUBS - 1; from >= 0; --from) {
                load_transposed(v_pieces[from], v_rows + (from * SUB + near_row) * V_PITCH + warp * 16 + near_column, V_PIECE, PIECES);
#pragma unroll
                for (int sub = from; sub < SUBS; ++sub) {
                    u32 score_pieces[PIECES][4];
                    load(score_pieces, scores + (sub * SUB + near_row) * S_PITCH + from * SUB + near_column, S_PIECE);
#pragma unroll
                    for (int n = 0; n < 2; ++n) multiply(y[sub][n], v_pieces[from], score_pieces, n);
                }
                float v_part[8];
#pragma unroll
                for (int v = 0; v < 8; ++v)
                    v_part[v] = whole(v_pieces[from], v) * (until[from * SUB + v / 4 * 8 + lane_pair + v % 2] * remaining);
                split(v_part, v_pieces[from], PIECES);
                remaining *= totals[from];
            }
            const bf16_t* const right_start = right_rows + far_row * K_PITCH + far_column;
#pragma unroll
            for (int kt = 0; kt < K_SIZE / 16; ++kt) {
#pragma unroll
                for (int v = 0; v < 8; ++v) state[2 * kt + v / 4][v % 4] *= total;
#pragma unroll
                for (int from = 0; from < SUBS; ++from) {
                    u32 right_pieces[PIECES][4];
                    load_transposed(right_pieces, right_start + from * SUB * K_PITCH + kt * 16, K_PIECE, PIECES);
#pragma unroll
                    for (int n = 0; n < 2; ++n) multiply(state[2 * kt + n], v_pieces[from], right_pieces, n);
                }
            }
#pragma unroll
            for (int sub = 0; sub < SUBS; ++sub)
#pragma unroll
                for (int v = 0; v < 8; ++v) {
                    float* const y_place = y_rows + (sub * SUB + v / 4 * 8 + lane_pair + v % 2) * Y_PITCH + warp * 16 + lane_row + v / 2 % 2 * 8;
{%- for output in outputs %}
                    y_place[{{ loop.index0 }} * CHUNK * Y_PITCH] = {% for read in output.reads %}{% if not loop.first %} + {% endif %}y[sub][v / 4][v % 4]{% else %}0.0f{% endfor %};
{%- endfor %}
                }
        }
{%- elif spans %}
        if (warp < VALUE_WARPS) {
            for (int first = 0; first < CHUNK && first < tokens; first += SUB) {
                u32 v_pieces[MANY][4];
                load_transposed(v_pieces, v_rows + (first + near_row) * V_PITCH + warp * 16 + near_column, V_PIECE, MANY);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int start = first + half * SPAN;
                    // Rows of the span, four matrices of 8 keys at a time.
                    const bf16_t* const left_start = left_rows + (start + lane % 8) * K_PITCH + lane / 8 * 8;
                    const bf16_t* const right_start = right_rows + (start + lane % 8) * K_PITCH + lane / 8 * 8;
                    float y[2][FINE][4] = {};
                    u32 rows[2][FINE][4];
                    load_many(rows[0], left_start, K_PIECE, FINE);
#pragma unroll
                    for (int kt = 0; kt < K_SIZE / 32; ++kt) {
                        if (kt + 1 < K_SIZE / 32) load_many(rows[(kt + 1) % 2], left_start + (kt + 1) * 32, K_PIECE, FINE);
#pragma unroll
                        for (int n = 0; n < 2; ++n) {
                            u32 state_pieces[PIECES][4];
                            split_pair(state[4 * kt + 2 * n], state[4 * kt + 2 * n + 1], state_pieces, PIECES);
#pragma unroll
                            for (int p = 0; p < FINE; ++p)
#pragma unroll
                                for (int of = 0; of < PIECES && of + p < FINE; ++of) {
                                    const u32 keys[2] = {rows[kt % 2][p][2 * n], rows[kt % 2][p][2 * n + 1]};
                                    mma_m16n8k16_bf16(y[n][p], state_pieces[of], keys);
                                }
                        }
                    }
                    // Scores of the span as a fragment: a pair of keys' tokens to a lane.
                    float pair[2] = {};
#pragma unroll
                    for (int share = 0; share < SHARES; ++share) {
                        float of_share[2];
                        load_vec(pair_scores + (share * CHUNK + start + lane_row) * SPAN + lane_pair, of_share);
                        pair[0] += of_share[0];
                        pair[1] += of_share[1];
                    }
                    u32 score_pieces[FINE][4];
                    float both[8] = {lane_pair <= lane_row ? pair[0] : 0.0f, lane_pair < lane_row ? pair[1] : 0.0f};
                    split(both, score_pieces, FINE);
                    multiply_half(y[0][0], v_pieces, half, score_pieces, 0, MANY, FINE);
                    load_transposed(rows[0], right_start, K_PIECE, PIECES);
                    const float* const total = totals + start / SPAN * K_SIZE + lane_pair;
#pragma unroll
                    for (int kt = 0; kt < K_SIZE / 32; ++kt) {
                        if (kt + 1 < K_SIZE / 32) load_transposed(rows[(kt + 1) % 2], right_start + (kt + 1) * 32, K_PIECE, PIECES);
#pragma unroll
                        for (int n = 0; n < 4; ++n) {
                            float factors[2];
                            load_vec(total + kt * 32 + n * 8, factors);
#pragma unroll
                            for (int v = 0; v < 4; ++v) state[4 * kt + n][v] *= factors[v % 2];
                            multiply_half(state[4 * kt + n], v_pieces, half, rows[kt % 2], n, MANY, PIECES);
                        }
                    }
#pragma unroll
                    for (int v = 0; v < 4; ++v) {
                        float sum = 0.0f;
#pragma unroll
                        for (int p = FINE - 1; p >= 0; --p) sum += y[1][p][v] + y[0][p][v];
                        y_rows[(start + lane_pair + v % 2) * Y_PITCH + warp * 16 + lane_row + v / 2 * 8] = sum;
                    }
                }
            }
        }
{%- else %}
        if (warp < VALUE_WARPS) {
            for (int first = 0; first < CHUNK && first < tokens; first += SUB) {
                float {% if factor %}u[2][4] = {}, {% endif %}y[LEFTS - QUERY][2][4] = {};
{%- if centred %}
                const float* const lead = early + first / SUB * K_SIZE + lane_pair;
{%- endif %}
                const bf16_t* const left_start = left_rows + (first + near_row) * K_PITCH + near_column;
                const bf16_t* const score_start = scores + (first + near_row) * S_PITCH + near_column;
                u32 v_pieces[MANY][4]{% if factor %}, u_pieces[MANY][4], solved_pieces[PIECES][4]{% if not along_key %}, mixed_pieces[PIECES][4]{% endif %}{% endif %};
                load_transposed(v_pieces, v_rows + (first + near_row) * V_PITCH + warp * 16 + near_column, V_PIECE, MANY);
{%- if factor and not along_key %}
                load(mixed_pieces, score_start + score_at(0, 1), S_PIECE);
{%- endif %}
{%- if factor %}
                load(solved_pieces, score_start, S_PIECE);
{%- endif %}
                // Fragments are on their way while those before are multiplied.
                u32 left_pieces[2][LEFTS][PIECES][4];
#pragma unroll
                for (int left = 0; left < LEFTS; ++left) load(left_pieces[0][left], left_start + left_at(left), K_PIECE);
#pragma unroll
                for (int kt = 0; kt < K_SIZE / 16; ++kt) {
{%- if centred %}
#pragma unroll
                    for (int v = 0; v < 8; ++v) state[2 * kt + v / 4][v % 4] *= lead[kt * 16 + v / 4 * 8 + v % 2];
{%- endif %}
                    u32 state_pieces[PIECES][4];
                    split_pair(state[2 * kt], state[2 * kt + 1], state_pieces, PIECES);
                    if (kt + 1 < K_SIZE / 16) {
#pragma unroll
                        for (int left = 0; left < LEFTS; ++left)
                            load(left_pieces[(kt + 1) % 2][left], left_start + left_at(left) + (kt + 1) * 16, K_PIECE);
                    }
#pragma unroll
                    for (int left = 0; left < LEFTS; ++left)
#pragma unroll
                        for (int n = 0; n < 2; ++n)
                            multiply({% if factor %}left == 0 ? u[n] : y[left > 0 ? left - 1 : 0][n]{% else %}y[left][n]{% endif %}, state_pieces, left_pieces[kt % 2][left], n);
                }
{%- if per_token %}
#pragma unroll
                for (int v = 0; v < 8; ++v) {
                    const int token = first + v / 4 * 8 + lane_pair + v % 2;
                    const float before = since[token], after = before * decays[token];
{%- if factor %}
                    u[v / 4][v % 4] *= THROUGH & 1 ? after : before;
{%- endif %}
#pragma unroll
                    for (int left = QUERY; left < LEFTS; ++left) y[left - QUERY][v / 4][v % 4] *= THROUGH >> left & 1 ? after : before;
                }
{%- endif %}
{%- if factor %}
                // U = (I - L)^-1 (A S + {% if along_key %}V{% else %}M V{% endif %}): the sum itself and, by products, what the inverse adds to it.
{%- if along_key %}
#pragma unroll
                for (int v = 0; v < 8; ++v) u[v / 4][v % 4] += whole(v_pieces, v);
{%- for bonus in bonuses %}
#pragma unroll
                for (int v = 0; v < 8; ++v)
                    y[{{ bonus.read }}][v / 4][v % 4] += bonuses[{{ bonus.read }} * CHUNK + first + v / 4 * 8 + lane_pair + v % 2] * whole(v_pieces, v);
{%- endfor %}
{%- else %}
#pragma unroll
                for (int n = 0; n < 2; ++n) multiply(u[n], v_pieces, mixed_pieces, n);
{%- endif %}
                split_pair(u[0], u[1], u_pieces, MANY);
{%- endif %}
                u32 right_pieces[2][RIGHTS][PIECES][4];
                const bf16_t* const right_start = right_rows + (first + far_row) * K_PITCH + far_column;
#pragma unroll
                for (int right = 0; right < RIGHTS; ++right) load_transposed(right_pieces[0][right], right_start + right_at(right), K_PIECE, PIECES);
{%- if factor %}
#pragma unroll
                for (int n = 0; n < 2; ++n) multiply(u[n], u_pieces, solved_pieces, n);
                split_pair(u[0], u[1], u_pieces, MANY);
{%- endif %}
                u32 score_pieces[RIGHTS][FINE][4];
#pragma unroll
                for (int left = QUERY; left < LEFTS; ++left) {
#pragma unroll
                    for (int right = 0; right < RIGHTS; ++right)
                        load_many(score_pieces[right], score_start + score_at(left, right), S_PIECE, score_many(left, right));
#pragma unroll
                    for (int n = 0; n < 2; ++n) {
{%- if not factor %}
                        multiply_many(y[left][n], v_pieces, score_pieces[0], n, MANY, FINE);
{%- else %}
{%- if not along_key %}
                        multiply_many(y[left - 1][n], v_pieces, score_pieces[1], n, MANY, FINE);
{%- endif %}
                        multiply_many(y[left - 1][n], u_pieces, score_pieces[0], n, MANY, MANY);
{%- endif %}
                    }
                }
{%- if per_token %}
                // To the end of the sub-chunk: {% if not factor %}v carries what k does not{% elif along_key %}u carries what k does not{% else %}u and v carry what b and k do not{% endif %}.
                {
{%- if not along_key %}
                    float v_part[8];
{%- endif %}
#pragma unroll
                    for (int v = 0; v < 8; ++v) {
                        const float weight = until[first + v / 4 * 8 + lane_pair + v % 2];
{%- if not along_key %}
                        v_part[v] = whole(v_pieces, v) * weight;
{%- endif %}
{%- if factor %}
                        u[v / 4][v % 4] *= weight;
{%- endif %}
                    }
{%- if not along_key %}
                    split(v_part, v_pieces, MANY);
{%- endif %}
{%- if factor %}
                    split_pair(u[0], u[1], u_pieces, MANY);
{%- endif %}
                }
                const float total = totals[first / SUB];
{%- else %}
                const float* const total = totals + first / SUB * K_SIZE + lane_pair;
{%- endif %}
#pragma unroll
                for (int kt = 0; kt < K_SIZE / 16; ++kt) {
{%- if not centred %}
#pragma unroll
                    for (int v = 0; v < 8; ++v) state[2 * kt + v / 4][v % 4] *= total{% if per_key %}[kt * 16 + v / 4 * 8 + v % 2]{% endif %};
{%- endif %}
                    if (kt + 1 < K_SIZE / 16) {
#pragma unroll
                        for (int right = 0; right < RIGHTS; ++right)
                            load_transposed(right_pieces[(kt + 1) % 2][right], right_start + right_at(right) + (kt + 1) * 16, K_PIECE, PIECES);
                    }
#pragma unroll
                    for (int n = 0; n < 2; ++n) {
{%- if not factor %}
                        multiply(state[2 * kt + n], v_pieces, right_pieces[kt % 2][0], n);
{%- else %}
{%- if not along_key %}
                        multiply(state[2 * kt + n], v_pieces, right_pieces[kt % 2][1], n);
{%- endif %}
                        multiply(state[2 * kt + n], u_pieces, right_pieces[kt % 2][0], n);
{%- endif %}
                    }
{%- if centred %}
#pragma unroll
                    for (int v = 0; v < 8; ++v) state[2 * kt + v / 4][v % 4] *= total[kt * 16 + v / 4 * 8 + v % 2];
{%- endif %}
                }
#pragma unroll
                for (int v = 0; v < 8; ++v) {
                    float* const y_place = y_rows + (first + v / 4 * 8 + lane_pair + v % 2) * Y_PITCH + warp * 16 + lane_row + v / 2 % 2 * 8;
{%- for output in outputs %}
                    y_place[{{ loop.index0 }} * CHUNK * Y_PITCH] = {% for read in output.reads %}{% if not loop.first %} + {% endif %}y[{{ read }}][v / 4][v % 4]{% else %}0.0f{% endfor %};
{%- endfor %}
                }
            }
        }
{%- endif %}
{%- if late %}
        cp_async_wait<1>();
{%- endif %}
        __syncthreads();
{%- if arrive %}
        {{ own }}if (chunk0 + CHUNK < steps) bring_operands(chunk0 + CHUNK);
        cp_async_commit();
{%- endif %}
        // A warp per token: the epilogue may sum over the value columns. It runs for tokens past the end as
        // well, and stores nothing of them.
        {{ own }}{
#pragma unroll {{ unroll }}
            for (int round = 0; round < (CHUNK + WARPS - 1) / WARPS; ++round) {
                const int token = round * WARPS + warp;
                if (CHUNK % WARPS != 0 && token >= CHUNK) break;
                const bool live = token < tokens;
                const int at = live ? token : tokens - 1;
                const i64 t = chunk0 + at;
                float* const y_row = y_rows + token * Y_PITCH;
{%- for output in outputs %}
{%- if not loop.first %}
                float* const y{{ loop.index0 }}_row = y_row + {{ loop.index0 }} * CHUNK * Y_PITCH;
{%- endif %}
{%- endfor %}
                // ---- epilogue of token t
                {{ epilogue | indent(width=16) }}
                // ----
            }
        }
{%- if tokens and not ahead %}
        __syncthreads();
{%- endif %}
    }
    if (warp < VALUE_WARPS) {
#pragma unroll
        for (int n = 0; n < K_SIZE / 8; ++n)
#pragma unroll
            for (int v = 0; v < 4; ++v) {
                const int vi = warp * 16 + lane_row + v / 2 * 8, kj = n * 8 + lane_pair + v % 2;
                const float s_element = state[n][v];
                if (kj < KEYS && vi < VALUES) {
                    // ---- final state
                    {{ store_state | indent(width=20) }}
                    // ----
                }
            }
    }
}
