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
                {% if updates > 1 %}const int nth = update0 + at, update = nth % {{ updates }};
                const i64 t = token0 + nth / {{ updates }};{% else %}const i64 t = chunk0 + at;{% endif %}
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
                {% if updates > 1 %}const int nth = update0 + at, update = nth % {{ updates }};
                const i64 t = token0 + nth / {{ updates }};{% else %}const i64 t = chunk0 + at;{% endif %}
                float {% if lefts > 0 %}left_elements[LEFTS], {% endif %}right_elements[RIGHTS];
                // ---- left_elements (a, then the queries), right_elements ({% if along_key %}k{% else %}b, k{% endif %}) of key (t, kj)
                {{ keys | indent(width=16) }}
                // ----
                // From the middle through the token, or to before it; and from after the token to the middle.
{%- if lefts > 0 %}
                const float through = later ? along[own + 1] : against[own], before = later ? along[own] : against[own + 1];
{%- endif %}
                const float back = later ? against[own + 1] : along[own];
{%- if lefts > 0 %}
#pragma unroll
                for (int left = 0; left < LEFTS; ++left)
                    put(left_rows + left_at(left) + token * K_PITCH + column, K_PIECE,
                        live ? left_elements[left] * (THROUGH >> left & 1 ? through : before) : 0.0f, left_many(left));
{%- endif %}
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
{%- if lefts > 0 %}
            float sums[PAIRS] = {};
{%- endif %}
            for (int round = 0; round < ROUNDS; ++round) {
                const int column = ((round * SHARES + share) * 32 + lane) * COLUMNS;
                float {% if lefts > 0 %}q_columns[SPAN][COLUMNS], {% endif %}k_columns[SPAN][COLUMNS], factors[SPAN][COLUMNS];
#pragma unroll
                for (int own = 0; own < SPAN; ++own) {
                    const int token = first + own, at = token < tokens ? token : tokens - 1;
                    {% if updates > 1 %}const int nth = update0 + at, update = nth % {{ updates }};
                    const i64 t = token0 + nth / {{ updates }};{% else %}const i64 t = chunk0 + at;{% endif %}
#pragma unroll
                    for (int side = 0; side < COLUMNS; ++side) {
{%- if key == key_padded %}
                        const bool live = token < tokens;
                        const int kj = column + side;
{%- else %}
                        const bool live = token < tokens && column + side < KEYS;
                        const int kj = column + side < KEYS ? column + side : KEYS - 1;
{%- endif %}
                        float {% if lefts > 0 %}left_elements[LEFTS], {% endif %}right_elements[RIGHTS], decay_element;
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
{%- if lefts > 0 %}
                        q_columns[own][side] = live ? left_elements[0] : 0.0f;
{%- endif %}
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
{%- if lefts > 0 %}
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
{%- endif %}
                // Decays from the start of the span, and to its end.
                float forward[COLUMNS], backward[COLUMNS];
#pragma unroll
                for (int side = 0; side < COLUMNS; ++side) forward[side] = backward[side] = 1.0f;
#pragma unroll
                for (int own = 0; own < SPAN; ++own) {
{%- if lefts == 0 %}
#pragma unroll
                    for (int side = 0; side < COLUMNS; ++side) forward[side] *= factors[own][side];
{%- else %}
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
{%- endif %}
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
{%- if lefts > 0 %}
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
{%- endif %}
        }
{%- elif not all_arrive %}
        {{ own }}{
#pragma unroll {{ unroll }}
            for (int round = 0; round < (CHUNK * K_SIZE / 2 + THREADS - 1) / THREADS; ++round) {
                const int pair = round * THREADS + tid;
                if (CHUNK * K_SIZE / 2 % THREADS != 0 && pair >= CHUNK * K_SIZE / 2) break;
                const int token = pair / (K_SIZE / 2), column = pair % (K_SIZE / 2) * 2;
                const int at = token < tokens ? token : tokens - 1;
                {% if updates > 1 %}const int nth = update0 + at, update = nth % {{ updates }};
                const i64 t = token0 + nth / {{ updates }};{% else %}const i64 t = chunk0 + at;{% endif %}
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