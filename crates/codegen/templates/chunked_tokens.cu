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
{%- if at_once > 0 %}
                        if (left == 0 && is_at_once(token, own)) score = 0.0f;
{%- endif %}
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
                        const bool seen = column + w + strict <= row{% if at_once > 0 %} && !(left == 0 && is_at_once(row, column + w)){% endif %};
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