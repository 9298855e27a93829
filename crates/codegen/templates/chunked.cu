{
{%- if lefts == 0 %}
    // S[vi, kj] = decay_t[kj] S[vi, kj] + v_t[vi] k_t[kj], of a segment from a state of zeros, and the product of its
    // decays: for the segments after it. {% if together %}{{ chunk }}{% elif spans %}8{% else %}16{% endif %} tokens come to the state at once. It is in f32 in registers: a warp has
    // 16 value columns of it.
{%- elif not factor %}
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
{%- if updates > 1 %}
    // A token has {{ updates }} updates one after the other, each of which is a token in all of the above and below; t is the
    // number of the token that it belongs to, update which of them it is. Results are those of number {{ read_at }}.
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
{%- if begin == "0" %}
    {{ own }}bring_early(0, 0);
{%- if arrive %}
    {{ own }}bring_operands(0);
{%- endif %}
{%- else %}
    {{ own }}if ({{ begin }} < steps) bring_early({% if updates > 1 %}({{ begin }}) / {{ updates }}{% else %}{{ begin }}{% endif %}, int({{ begin }} / CHUNK % 2));
{%- if arrive %}
    {{ own }}if ({{ begin }} < steps) bring_operands({{ begin }});
{%- endif %}
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
{%- if bring_state %}
        // The state before this segment: what those before it made of zeros, put together.
        for (int before = 1; before < segment; ++before)
#pragma unroll
            for (int n = 0; n < K_SIZE / 8; ++n)
#pragma unroll
                for (int v = 0; v < 4; ++v) {
                    const int vi = warp * 16 + lane_row + v / 2 * 8, kj = n * 8 + lane_pair + v % 2;
                    float s_element = state[n][v];
                    if (kj < KEYS && vi < VALUES) {
                        // ---- s_element = S[vi, kj] after one more segment
                        {{ bring_state | indent(width=24) }}
                        // ----
                    }
                    state[n][v] = s_element;
                }
{%- endif %}
    }
{%- if store_product %}
{%- if per_token %}
    float product = 1.0f;       // of the decays of the segment
{%- else %}
    constexpr int PRODUCTS = (K_SIZE + THREADS - 1) / THREADS;
    float products[PRODUCTS];   // of the decays of the segment, of key channels tid, tid + THREADS ..
#pragma unroll
    for (int round = 0; round < PRODUCTS; ++round) products[round] = 1.0f;
{%- endif %}
{%- endif %}
    for (i64 chunk0 = {{ begin }}; chunk0 < steps; chunk0 += CHUNK) {
        const int tokens = int(min(steps - chunk0, i64(CHUNK)));
{%- if updates > 1 %}
        const i64 token0 = chunk0 / {{ updates }};
        const int update0 = int(chunk0 % {{ updates }});
{%- endif %}
{%- if ahead %}
        const int turn = int(chunk0 / CHUNK % 2);
        cp_async_wait<0>();
        __syncthreads();
{%- if late %}
        {{ own }}bring_late(chunk0{% if updates > 1 %} / {{ updates }}{% endif %});
        cp_async_commit();
{%- endif %}
{%- endif %}
{%- if tokens or per_token %}
{%- include "chunked_decays.cu" %}
{%- if tokens or all_arrive %}
        // Decays alone are first read behind the barrier after the rows, where there is one.
        __syncthreads();
{%- endif %}
{%- endif %}
        // Tokens past the end change nothing: no key, no b, no value, no decay. What is loaded for them is that of
        // the last token, and not used: loads without conditions are under way together.
{%- include "chunked_keys.cu" %}
        {{ own }}{
#pragma unroll {{ unroll }}
            for (int round = 0; round < (CHUNK * V_SIZE / 2 + THREADS - 1) / THREADS; ++round) {
                const int pair = round * THREADS + tid;
                if (CHUNK * V_SIZE / 2 % THREADS != 0 && pair >= CHUNK * V_SIZE / 2) break;
                const int token = pair / (V_SIZE / 2), column = pair % (V_SIZE / 2) * 2;
                const int at = token < tokens ? token : tokens - 1;
                {% if updates > 1 %}const int nth = update0 + at, update = nth % {{ updates }};
                const i64 t = token0 + nth / {{ updates }};{% else %}const i64 t = chunk0 + at;{% endif %}
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
            {% if updates > 1 %}const int nth = update0 + at, update = nth % {{ updates }};
            const i64 t = token0 + nth / {{ updates }};{% else %}const i64 t = chunk0 + at;{% endif %}
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
        {{ own }}if (chunk0 + CHUNK < steps) bring_early({% if updates > 1 %}(chunk0 + CHUNK) / {{ updates }}{% else %}chunk0 + CHUNK{% endif %}, 1 - turn);
        cp_async_commit();
{%- endif %}
{%- endif %}
{%- if at_once > 0 %}
        // Whether the update in a row of L is contracted with a state that has not seen the one in a column: they are
        // of one token, and so are contracted all between, and the row.
        auto is_at_once = [](int row, int column) {
            constexpr int UPDATES = {{ updates }}, AT_ONCE = {{ at_once }};
            const int between = (2 << row % UPDATES) - (2 << column % UPDATES);
            return row / UPDATES == column / UPDATES && (between & ~AT_ONCE) == 0;
        };
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
{%- if lefts > 0 %}
{%- include "chunked_tokens.cu" %}
{%- endif %}
{%- if not spans %}
        __syncthreads();
{%- endif %}
{%- if all_arrive and ahead %}
        {{ own }}if (chunk0 + CHUNK < steps) bring_early({% if updates > 1 %}(chunk0 + CHUNK) / {{ updates }}{% else %}chunk0 + CHUNK{% endif %}, 1 - turn);
        cp_async_commit();
{%- endif %}
{%- if lefts > 0 %}
{%- include "chunked_walk.cu" %}
{%- else %}
{%- include "chunked_states.cu" %}
{%- endif %}
{%- if late %}
        cp_async_wait<1>();
{%- endif %}
        __syncthreads();
{%- if arrive %}
        {{ own }}if (chunk0 + CHUNK < steps) bring_operands(chunk0 + CHUNK);
        cp_async_commit();
{%- endif %}
{%- if outputs | length > 0 %}
        // A warp per token: the epilogue may sum over the value columns. It runs for tokens past the end as
        // well, and stores nothing of them.
        {{ own }}{
#pragma unroll {{ unroll }}
{%- if updates > 1 %}
            for (int round = 0; round < (CHUNK / {{ updates }} + WARPS{% if chunk % updates == 0 %} - 1{% endif %}) / WARPS; ++round) {
                const int token = (round * WARPS + warp) * {{ updates }} + {% if chunk % updates == 0 %}{{ read_at }}{% else %}({{ read_at }} + {{ updates }} - update0) % {{ updates }}{% endif %};
                if (token >= CHUNK) break;
{%- else %}
            for (int round = 0; round < (CHUNK + WARPS - 1) / WARPS; ++round) {
                const int token = round * WARPS + warp;
                if (CHUNK % WARPS != 0 && token >= CHUNK) break;
{%- endif %}
                const bool live = token < tokens;
                const int at = live ? token : tokens - 1;
                {% if updates > 1 %}const int nth = update0 + at, update = nth % {{ updates }};
                const i64 t = token0 + nth / {{ updates }};{% else %}const i64 t = chunk0 + at;{% endif %}
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
{%- endif %}
{%- if tokens and not ahead %}
        __syncthreads();
{%- endif %}
    }
{%- if store_product %}
{%- if per_token %}
    if (tid == 0) {
        const float product_element = product;
        {{ store_product | indent(width=8) }}
    }
{%- else %}
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
{%- endif %}
{%- if store_state %}
    if ({% if bring_state %}segment == {{ last_segment }} && {% endif %}warp < VALUE_WARPS) {
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
{%- endif %}
}
