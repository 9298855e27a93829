{%- if per_token %}
#pragma unroll
        for (int sub = 0; sub < SUBS; ++sub) product *= totals[sub];
        if (warp < VALUE_WARPS) {
            // What values bring to the state, with the decay from their token to the end.
            u32 v_pieces[SUBS][PIECES][4];
            float remaining = 1.0f;     // the decay over the sub-chunks after
#pragma unroll
            for (int from = SUBS - 1; from >= 0; --from) {
                load_transposed(v_pieces[from], v_rows + (from * SUB + near_row) * V_PITCH + warp * 16 + near_column, V_PIECE, PIECES);
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
                for (int v = 0; v < 8; ++v) state[2 * kt + v / 4][v % 4] *= remaining;
#pragma unroll
                for (int from = 0; from < SUBS; ++from) {
                    u32 right_pieces[PIECES][4];
                    load_transposed(right_pieces, right_start + from * SUB * K_PITCH + kt * 16, K_PIECE, PIECES);
#pragma unroll
                    for (int n = 0; n < 2; ++n) multiply(state[2 * kt + n], v_pieces[from], right_pieces, n);
                }
            }
        }
{%- else %}
        {{ own }}{
#pragma unroll
            for (int round = 0; round < PRODUCTS; ++round) {
                const int kj = round * THREADS + tid;
                if (kj < K_SIZE) {
                    for (int part = 0; part < {% if spans %}SPANS{% else %}SUBS{% endif %}; ++part) products[round] *= {% if centred %}early[part * K_SIZE + kj] * {% endif %}totals[part * K_SIZE + kj];
                }
            }
        }
        if (warp < VALUE_WARPS) {
            for (int first = 0; first < CHUNK && first < tokens; first += SUB) {
                u32 v_pieces[MANY][4];
                load_transposed(v_pieces, v_rows + (first + near_row) * V_PITCH + warp * 16 + near_column, V_PIECE, MANY);
{%- if spans %}
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int start = first + half * SPAN;
                    // Rows of the span, four matrices of 8 keys at a time.
                    const bf16_t* const right_start = right_rows + (start + lane % 8) * K_PITCH + lane / 8 * 8;
                    u32 rows[2][PIECES][4];
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
                }
{%- else %}
                const float* const lead = early + first / SUB * K_SIZE + lane_pair;
                const float* const total = totals + first / SUB * K_SIZE + lane_pair;
                const bf16_t* const right_start = right_rows + (first + far_row) * K_PITCH + far_column;
                u32 right_pieces[2][PIECES][4];
                load_transposed(right_pieces[0], right_start, K_PIECE, PIECES);
#pragma unroll
                for (int kt = 0; kt < K_SIZE / 16; ++kt) {
                    if (kt + 1 < K_SIZE / 16) load_transposed(right_pieces[(kt + 1) % 2], right_start + (kt + 1) * 16, K_PIECE, PIECES);
#pragma unroll
                    for (int v = 0; v < 8; ++v) state[2 * kt + v / 4][v % 4] *= lead[kt * 16 + v / 4 * 8 + v % 2];
#pragma unroll
                    for (int n = 0; n < 2; ++n) multiply(state[2 * kt + n], v_pieces, right_pieces[kt % 2], n);
#pragma unroll
                    for (int v = 0; v < 8; ++v) state[2 * kt + v / 4][v % 4] *= total[kt * 16 + v / 4 * 8 + v % 2];
                }
{%- endif %}
            }
        }
{%- endif %}