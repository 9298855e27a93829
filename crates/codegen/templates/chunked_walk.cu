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